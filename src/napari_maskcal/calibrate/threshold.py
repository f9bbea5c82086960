"""The threshold of one image: how far uncertainty may go before the trusted part is too far from the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_maskcal.distance.linf import LInfinity
from napari_maskcal.distance.lp import Lp, error_magnitude, power_of_two
from napari_maskcal.distance.registry import Distance, parse_distance
from napari_maskcal.settings import check_tolerance

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MaskKind = Literal["soft", "binary"]


def _rounding(terms: int) -> float:
    """Bound on the relative error of a running sum of positive float64 numbers (Higham 2002, section 4.2)."""
    return max(1e-12, terms * float(np.finfo(np.float64).eps))


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
        ``"l1"``, ``"l2"``, ``"l3"``, ..., ``"linf"``, or a distance of `napari_maskcal.distance`.
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

    Raises
    ------
    ValueError
        If the shapes differ, a value is not finite, an uncertainty is not positive, or the tolerance is not.

    Notes
    -----
    One sort; prefix sums of |e|^p and suffix sums of (|e| / u)^p give the answer in closed form within one
    segment. Sums are in float64; the result is evaluated once more and lowered until it passes.
    """
    rule = parse_distance(distance)
    if not rule.monotone:
        raise ValueError(f"the distance {rule.name} is not monotone in the threshold; there is no largest one for it")
    tolerance = check_tolerance(tolerance)
    u, error = _checked(uncertainty, restored, truth)
    # From the upper side of rounding, so that a distance equal to the tolerance passes; then down to what holds.
    threshold = float(_curve(u, error, rule, mask).thresholds(np.array([tolerance]), slack=_rounding(u.size))[0])
    step = 4e-16
    while rule(trust_mask(u, threshold, mask), error) > tolerance:
        threshold, step = _step_down(u, threshold, mask, step), 2 * step
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

    See `image_threshold` for the arguments. Each value is at most the exact one, and never short of it by more
    than rounding.
    """
    wanted = np.array([check_tolerance(float(t)) for t in np.atleast_1d(np.asarray(tolerances, dtype=np.float64))])
    u, error = _checked(uncertainty, restored, truth)
    return _curve(u, error, parse_distance(distance), mask).thresholds(wanted, slack=-_rounding(u.size))


def trust_mask(uncertainty: NDArray[Any], threshold: float, mask: MaskKind) -> NDArray[Any]:
    """Return the trust mask, 1 = believed: ``min(threshold / u, 1)`` in float64, or ``u <= threshold`` as bool."""
    if mask == "binary":
        return uncertainty <= threshold
    if np.isinf(threshold):
        return np.ones(uncertainty.shape)
    return np.minimum(threshold / uncertainty.astype(np.float64), 1.0)


def _checked(
    uncertainty: ArrayLike, restored: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.floating[Any]], NDArray[np.float64]]:
    u = np.asarray(uncertainty)
    if not np.issubdtype(u.dtype, np.floating):
        u = u.astype(np.float64)
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
    if not (u > 0).all():
        raise ValueError(f"uncertainty has to be above 0; its smallest value is {u.min():g}")
    return u.ravel(), error_magnitude(images["restored"], images["truth"], u.shape).ravel()


def _step_down(u: NDArray[np.floating[Any]], threshold: float, mask: MaskKind, step: float) -> float:
    """Return a smaller threshold: by the share `step` (soft), or without the last group of equal pixels (binary)."""
    if mask == "soft":
        return min(threshold, float(u.max())) * (1 - step)
    trusted = u[u <= threshold]
    return float(np.nextafter(trusted.max(), u.dtype.type(0))) if trusted.size else 0.0


def _curve(u: NDArray[np.floating[Any]], error: NDArray[np.float64], rule: Distance, mask: MaskKind) -> _Curve:
    if mask not in ("soft", "binary"):
        raise ValueError(f"there is no {mask!r} mask; it is 'soft' or 'binary'")
    if isinstance(rule, LInfinity):
        return _LInfinityCurve(u, error, mask)
    return _lp_curve(u, error, rule, mask)


@dataclass(frozen=True, slots=True)
class _LInfinityCurve:
    u: NDArray[np.floating[Any]]
    error: NDArray[np.float64]
    mask: MaskKind

    def thresholds(self, tolerances: NDArray[np.float64], *, slack: float) -> NDArray[np.float64]:
        return np.array([self._threshold(tolerance, slack) for tolerance in tolerances])

    def _threshold(self, tolerance: float, slack: float) -> float:
        wrong = self.error > tolerance
        if not wrong.any():
            return np.inf
        if self.mask == "binary":
            return float(np.nextafter(self.u[wrong].min(), self.u.dtype.type(0)))
        return float((tolerance * self.u[wrong].astype(np.float64) / self.error[wrong]).min()) * (1 + min(slack, 0))


@dataclass(frozen=True, slots=True)
class _LpCurve:
    """Sorted uncertainty with the sums on both sides of each pixel.

    With t^p between the p-th powers of two neighbouring uncertainties, the sum of (trust |e|)^p is
    ``below[j] + t^p * above[j]``, j being the number of pixels that are trusted in full.
    """

    p: float
    unit: float
    mask: MaskKind
    u: NDArray[np.floating[Any]]
    below: NDArray[np.float64]
    above: NDArray[np.float64]
    at_pixel: NDArray[np.float64]

    def thresholds(self, tolerances: NDArray[np.float64], *, slack: float) -> NDArray[np.float64]:
        n = len(self.u)
        # errors are at most 1 in this unit, so all of a tolerance above 2 is the same
        budget = n * np.minimum(tolerances / self.unit, 2) ** self.p * (1 + slack)
        first_failing = np.searchsorted(self.at_pixel, budget, side="right")
        passes = first_failing == n
        j = np.minimum(first_failing, n - 1)
        if self.mask == "binary":
            found = np.nextafter(self.u[j], self.u.dtype.type(0)).astype(np.float64)
        else:
            room = np.maximum(budget - self.below[j], 0)
            powers = np.divide(room, self.above[j], out=np.zeros_like(room), where=self.above[j] > 0)
            lower = np.where(j > 0, self.u[np.maximum(j - 1, 0)], 0).astype(np.float64)
            found = np.clip(powers ** (1 / self.p) * (1 + min(slack, 0)), lower, self.u[j].astype(np.float64))
        return np.where(passes, np.inf, found)


_Curve = _LInfinityCurve | _LpCurve


def _lp_curve(u: NDArray[np.floating[Any]], error: NDArray[np.float64], rule: Lp, mask: MaskKind) -> _LpCurve:
    order = np.argsort(u, kind="stable")
    u, error = u[order], error[order]
    unit = power_of_two(error)
    error = error / unit
    powers = _positive_powers(error, rule.p)
    below = np.concatenate(([0.0], np.cumsum(powers)))
    if mask == "binary":
        # A group of equal uncertainty goes in whole: the sum that counts is the one at the group's end.
        at_pixel = below[np.searchsorted(u, u, side="right")]
        return _LpCurve(rule.p, unit, mask, u, below[:-1], np.zeros_like(powers), at_pixel)
    with np.errstate(over="ignore", invalid="ignore"):
        ratios = _positive_powers(error / u.astype(np.float64), rule.p)
        above = np.cumsum(ratios[::-1])[::-1]
        at_pixel = below[:-1] + u.astype(np.float64) ** rule.p * above
    if not np.isfinite(at_pixel).all():
        raise ValueError(f"p = {rule.p:g} is too large for uncertainties from {u[0]:g} to {u[-1]:g}; take a smaller p")
    # Monotone by construction; rounding may not be, and the search needs it.
    return _LpCurve(rule.p, unit, mask, u, below[:-1], above, np.maximum.accumulate(at_pixel))


def _positive_powers(values: NDArray[np.float64], p: float) -> NDArray[np.float64]:
    """Return values ** p, where what is not 0 does not become 0: an error that underflows must still count."""
    with np.errstate(over="ignore"):  # the caller refuses what is not finite
        return np.where(values > 0, np.maximum(values**p, np.finfo(np.float64).tiny), 0.0)
