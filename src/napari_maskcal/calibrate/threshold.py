"""The threshold of one image: how far uncertainty may go before the trusted part is too far from the truth."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.grid import THRESHOLD_GRID, prefix_threshold, walk
from napari_maskcal.calibrate.segments import SortedPixels, ratio_powers, sort_pixels
from napari_maskcal.calibrate.sums import ErrorSums, MaskKind, bin_of, budget_of, trust_mask
from napari_maskcal.distance.linf import LInfinity
from napari_maskcal.distance.lp import Lp, safe_unit
from napari_maskcal.distance.registry import Distance, parse_distance
from napari_maskcal.settings import check_tolerance

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["MaskKind", "image_threshold", "is_exact", "lp_threshold_of_tiles", "threshold_curve", "trust_mask"]


def image_threshold(
    uncertainty: ArrayLike,
    restored: ArrayLike,
    truth: ArrayLike,
    distance: str | Distance = "l1",
    tolerance: float = 0.02,
    mask: MaskKind = "soft",
) -> float:
    """Return the largest threshold up to which the trusted part of one image is close enough to the truth.

    That is the supremum of all t such that every t' <= t keeps
    ``distance(trust(t') * restored, trust(t') * truth) <= tolerance``, with the trust mask
    ``min(t / uncertainty, 1)`` (soft) or ``uncertainty <= t`` (binary).

    Parameters
    ----------
    uncertainty
        Positive map of the image's shape, larger where it is less sure.
    restored, truth
        Images of that shape, or with one leading axis of channels; their error is then the norm over channels.
    distance
        ``"l1"``, ``"l2"``, ``"l3"``, ..., ``"linf"``, ``"lpips"``, ``"ssim"``, or a distance of
        `napari_maskcal.distance`.
    tolerance
        The largest distance accepted, in the units of the images; above 0.
    mask
        ``"soft"`` or ``"binary"``.

    Returns
    -------
    float
        Infinity when the whole image passes. The returned threshold itself passes.
        For binary masks it is the number right below the uncertainty of the first group of equal pixels that
        may not be trusted, in the dtype of `uncertainty`.
        For a distance that is not exact (see `is_exact`) it is the largest of `THRESHOLD_GRID` up to which all
        of that grid pass, or 0.

    Raises
    ------
    ValueError
        If the shapes differ, a value is not finite, an uncertainty is not positive, or the tolerance is not.

    Notes
    -----
    Lp: one pass sums |e|^p and (|e| / u)^p over narrow bins of uncertainty (`ErrorSums`); the bin in which the sum
    over the trust mask reaches the tolerance is sorted, and the answer follows in closed form. Sums are in
    float64; the result is evaluated once more and lowered until it passes.
    """
    rule = parse_distance(distance)
    tolerance = check_tolerance(tolerance)
    _check_mask(mask)
    u, restored, truth = checked_field(uncertainty, restored, truth)
    if not isinstance(rule, Lp | LInfinity):
        found = next(walk([("the image", u, restored, truth)], rule, mask=mask, stop_above=tolerance))
        return float(prefix_threshold(found[None], THRESHOLD_GRID, tolerance)[0])
    error = rule.error(restored, truth, u.shape).ravel()
    u = u.ravel()
    if isinstance(rule, LInfinity):
        threshold = float(_linf_thresholds(u, error, np.array([tolerance]), mask, slack=0.0)[0])
    else:
        threshold = lp_threshold(u, error, rule, tolerance, mask)
    step = 4e-16
    while rule(trust_mask(u, threshold, mask), error) > tolerance:
        threshold, step = _step_down(u, error, threshold, mask, step), 2 * step
    return threshold


def threshold_curve(
    uncertainty: ArrayLike,
    restored: ArrayLike,
    truth: ArrayLike,
    *,
    distance: str | Distance,
    tolerances: ArrayLike,
    mask: MaskKind,
) -> NDArray[np.float64]:
    """Return the image threshold at each of many tolerances, from one sort.

    See `image_threshold` for the arguments; the distance has to be exact. Each value is at most the exact one, and
    never short of it by more than rounding.
    """
    rule = parse_distance(distance)
    if not isinstance(rule, Lp | LInfinity):
        raise ValueError(f"the distance {rule.name} has no exact curve; walk its grid of thresholds instead")
    wanted = np.array([check_tolerance(float(t)) for t in np.atleast_1d(np.asarray(tolerances, dtype=np.float64))])
    _check_mask(mask)
    u, restored, truth = checked_field(uncertainty, restored, truth)
    return curve_of_error(u.ravel(), rule.error(restored, truth, u.shape).ravel(), rule, wanted, mask)


def curve_of_error(
    u: NDArray[Any], error: NDArray[np.float64], rule: Lp | LInfinity, tolerances: NDArray[np.float64], mask: MaskKind
) -> NDArray[np.float64]:
    """Return the thresholds at `tolerances` from flat uncertainties and errors that are known to be valid."""
    slack = -_rounding(u.size)
    if isinstance(rule, LInfinity):
        return _linf_thresholds(u, error, tolerances, mask, slack=slack)
    unit = safe_unit(error, rule.p)
    budgets = budget_of(tolerances, pixels=u.size, p=rule.p, unit=unit) * (1 + slack)
    pixels = SortedPixels.of(*sort_pixels(u, error), p=rule.p, unit=unit, mask=mask)
    return pixels.thresholds(budgets, shrink=1 + slack)


def is_exact(rule: Distance) -> bool:
    """Whether thresholds of this distance are known in closed form; others are walked along a grid."""
    return isinstance(rule, Lp | LInfinity)


def lp_threshold_of_tiles(
    tiles: Sequence[tuple[NDArray[np.floating[Any]], NDArray[np.float64]]],
    *,
    p: float,
    tolerance: float,
    mask: MaskKind,
    unit: float = 1.0,
) -> float:
    """Return the Lp threshold of a field that is only ever there in parts, each read twice.

    Parameters
    ----------
    tiles
        (uncertainty, error) of each part, both flat; a sequence that reads its items anew each time will do.
    p, tolerance, mask
        See `image_threshold`.
    unit
        A power of two; see `ErrorSums`.

    Returns
    -------
    float
        As `image_threshold`, but not evaluated once more: from below, to within rounding.
    """
    sums = ErrorSums.of(bin_of(tiles[0][0]), tiles[0][1], p=p, unit=unit)
    for u, error in islice(tiles, 1, None):
        sums = sums + ErrorSums.of(bin_of(u), error, p=p, unit=unit)
    slack = -_rounding(sums.pixels)
    parts = ((u, error, bin_of(u)) for u, error in tiles)
    return _solve(sums, sums.budget(tolerance, slack), parts, mask, shrink=1 + slack)


def checked_field(
    uncertainty: ArrayLike, restored: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.floating[Any]], NDArray[Any], NDArray[Any]]:
    """Return the three arrays, or say in a ValueError why they are no field."""
    u = np.asarray(uncertainty)
    # Bins and sorting look at the bits, which they know of the native numbers of up to 64.
    known = np.issubdtype(u.dtype, np.floating) and u.dtype.itemsize <= 8
    u = u.astype(u.dtype.newbyteorder("=") if known else np.float64, copy=False)
    images = {"restored": np.asarray(restored), "truth": np.asarray(truth)}
    for name, image in images.items():
        if image.shape not in (u.shape, (*image.shape[:1], *u.shape)):
            raise ValueError(f"{name} has shape {image.shape}, the uncertainty {u.shape}; they have to be the same")
    if images["restored"].shape != images["truth"].shape:
        raise ValueError(f"restored has shape {images['restored'].shape}, truth {images['truth'].shape}")
    if u.size == 0:
        raise ValueError(f"the image is empty: its shape is {u.shape}")
    for name, values in {"uncertainty": u, **images}.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has {np.count_nonzero(~np.isfinite(values))} values that are NaN or infinite")
    if not u.min() > 0:
        raise ValueError(f"uncertainty has to be above 0; its smallest value is {u.min():g}")
    return u, images["restored"], images["truth"]


def _check_mask(mask: str) -> None:
    if mask not in ("soft", "binary"):
        raise ValueError(f"there is no {mask!r} mask; it is 'soft' or 'binary'")


def _rounding(terms: int) -> float:
    """Bound on the relative error of a running sum of positive float64 numbers (Higham 2002, section 4.2)."""
    return max(1e-12, terms * float(np.finfo(np.float64).eps))


def lp_threshold(
    u: NDArray[np.floating[Any]], error: NDArray[np.float64], rule: Lp, tolerance: float, mask: MaskKind
) -> float:
    """Return the threshold to within rounding: from below, save where a distance equal to the tolerance may pass."""
    bins = bin_of(u)
    sums = ErrorSums.of(bins, error, p=rule.p, unit=safe_unit(error, rule.p))
    slack = _rounding(u.size)
    budget = sums.budget(tolerance, slack)
    if mask == "soft" and not sums.fits(budget):
        budget = sums.budget(tolerance, -slack)
    return _solve(sums, budget, [(u, error, bins)], mask, shrink=1 - slack)


def _solve(
    sums: ErrorSums,
    budget: float,
    parts: Iterable[tuple[NDArray[Any], NDArray[np.float64], NDArray[np.intp]]],
    mask: MaskKind,
    *,
    shrink: float,
) -> float:
    """Return the threshold at which the budget is used up; only the pixels of a few bins are sorted for it."""
    window = sums.window(budget, mask)
    if window is None:
        return np.inf
    inside, above = [], 0.0
    for u, error, bins in parts:
        higher = bins >= window.stop
        chosen = np.flatnonzero((bins >= window.first) & ~higher)
        inside.append((u[chosen], error[chosen]))
        if mask == "soft":
            above += float((ratio_powers(u, error, p=sums.p, unit=sums.unit) * higher).sum())
    u, error = (np.concatenate(values) for values in zip(*inside, strict=True))
    pixels = SortedPixels.of(
        *sort_pixels(u, error), p=sums.p, unit=sums.unit, mask=mask,
        low=window.low, high=window.high, below=window.below, above=above,
    )  # fmt: skip
    return float(pixels.thresholds(np.array([budget]), shrink=shrink)[0])


def _linf_thresholds(
    u: NDArray[Any], error: NDArray[np.float64], tolerances: NDArray[np.float64], mask: MaskKind, *, slack: float
) -> NDArray[np.float64]:
    """Return the thresholds at each tolerance: of the pixels ordered by error, those above it are a tail."""
    order = np.argsort(error)
    u, error = u[order], error[order]
    first = np.searchsorted(error, tolerances, side="right")  # of the pixels that are wrong by more
    wrong = first < len(u)
    at = np.minimum(first, len(u) - 1)
    if mask == "binary":
        worst = np.minimum.accumulate(u[::-1])[::-1][at]
        return np.where(wrong, np.nextafter(worst, u.dtype.type(0)).astype(np.float64), np.inf)
    with np.errstate(divide="ignore"):
        ratio = np.minimum.accumulate((u.astype(np.float64) / error)[::-1])[::-1][at]
    return np.where(wrong, tolerances * ratio * (1 + slack), np.inf)


def _step_down(
    u: NDArray[np.floating[Any]], error: NDArray[np.float64], threshold: float, mask: MaskKind, step: float
) -> float:
    """Return a smaller threshold: by the share `step` (soft), or without the last group that has an error (binary)."""
    if mask == "soft":
        return min(threshold, float(u.max())) * (1 - step)
    trusted = u[(u <= threshold) & (error > 0)]
    return float(np.nextafter(trusted.max(), u.dtype.type(0))) if trusted.size else 0.0
