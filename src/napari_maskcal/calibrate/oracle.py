"""The smallest masks that there are: made by who knows the truth, the floor that no binary mask can be below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.grid import walk
from napari_maskcal.calibrate.sums import budget_of, powers_of
from napari_maskcal.calibrate.threshold import is_exact
from napari_maskcal.distance.linf import LInfinity
from napari_maskcal.distance.lp import error_magnitude, safe_unit
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.settings import check_tolerance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_maskcal.distance.base import Distance

OPT = "opt"
# Shares that the oracle may mask under a distance that is walked: finer where they are small.
_STEPS = 65
_TRUSTED = (1 - np.linspace(1, 0, _STEPS)[1:] ** 2).astype(np.float32).astype(np.float64)


def opt_share(error: ArrayLike, tolerance: float, distance: str | Distance = "l1") -> float:
    """Return the share of the smallest binary mask that keeps a field within tolerance.

    Parameters
    ----------
    error
        Of each pixel, at least 0, as the distance's `error` gives it.
    tolerance
        The largest distance accepted.
    distance
        Lp or L-infinity; for any other, whose value is not made from one error a pixel, see `opt_shares`.

    Returns
    -------
    float
        From 0 to 1. The pixels with the largest errors are masked, one by one, so no other mask is smaller.

    Raises
    ------
    ValueError
        If the distance is another, or the tolerance not a positive number.
    """
    rule = parse_distance(distance)
    if not is_exact(rule):
        raise ValueError(f"the distance {rule.name} is not made from the errors of single pixels; take opt_shares")
    errors = np.sort(np.asarray(error, dtype=np.float64), axis=None)
    return float(_exact_shares(errors, rule, np.array([check_tolerance(tolerance)]))[0])


def opt_shares(
    restored: Iterable[ArrayLike],
    truths: Iterable[ArrayLike],
    distance: str | Distance,
    tolerances: Sequence[float],
) -> NDArray[np.float64]:
    """Return (tolerances, fields): the share of the smallest mask of each field that keeps it within tolerance.

    For a distance that is not made from one error a pixel, masks are those that hide the pixels with the largest
    errors, in 64 steps, and the smallest that passes counts. A cleverer mask may be smaller still.

    Parameters
    ----------
    restored, truths
        Of each field, (Y, X), or (C, Y, X) with channels.
    distance, tolerances
        See `image_threshold`.
    """
    rule = parse_distance(distance)
    wanted = np.array([check_tolerance(tolerance) for tolerance in tolerances])
    pairs = ((np.asarray(a), np.asarray(b)) for a, b in zip(restored, truths, strict=True))
    if is_exact(rule):
        shares = [_exact_shares(np.sort(_error(rule, a, b), axis=None), rule, wanted) for a, b in pairs]
        return np.array(shares).reshape(-1, len(wanted)).T
    masked: list[NDArray[np.float64]] = []
    found = list(walk(_ranked(pairs, masked), rule, mask="binary", grid=_TRUSTED))
    walked, rows = np.array(found).reshape(-1, len(_TRUSTED)), np.arange(len(found))
    steps = np.array(masked).reshape(-1, len(_TRUSTED) + 1)
    return np.stack([steps[rows, _last_passing(walked <= t)] for t in wanted])


def _exact_shares(errors: NDArray[np.float64], rule: Any, tolerances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shares masked at each tolerance, from errors in ascending order."""
    if isinstance(rule, LInfinity):
        return np.asarray(1 - np.searchsorted(errors, tolerances, side="right") / errors.size)
    unit = safe_unit(errors, rule.p)
    sums = np.cumsum(powers_of(errors, p=rule.p, unit=unit))
    budgets = budget_of(tolerances, pixels=errors.size, p=rule.p, unit=unit)
    return np.asarray(1 - np.searchsorted(sums, budgets, side="right") / errors.size)


def _error(rule: Any, restored: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(rule.error(restored, truth, _spatial(restored)))


def _spatial(image: NDArray[Any]) -> tuple[int, ...]:
    """Return the shape without channels; an image of two axes has none."""
    return image.shape if image.ndim == 2 else image.shape[1:]


def _ranked(
    pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]], masked: list[NDArray[np.float64]]
) -> Iterator[tuple[str, NDArray[np.float64], NDArray[Any], NDArray[Any]]]:
    """Yield each field with its ranks, and put the shares that the steps mask, in whole pixels, into `masked`."""
    for place, (restored, truth) in enumerate(pairs):
        ranks = _ranks(restored, truth)
        trusted = np.searchsorted(np.sort(ranks, axis=None), _TRUSTED, side="right") / ranks.size
        masked.append(np.append(1 - trusted, 1.0))
        yield f"field {place}", ranks, restored, truth


def _ranks(restored: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Return for each pixel the share of pixels that are wrong by no more; equal ones in their order."""
    error = error_magnitude(restored, truth, _spatial(restored))
    ranks = np.empty(error.size)
    ranks[np.argsort(error, axis=None, kind="stable")] = np.arange(1, error.size + 1) / error.size
    return ranks.reshape(error.shape)


def _last_passing(passing: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return for each row the place of its last True; one past the end where there is none."""
    last = passing.shape[1] - 1 - np.argmax(passing[:, ::-1], axis=1)
    return np.asarray(np.where(passing.any(axis=1), last, passing.shape[1]))
