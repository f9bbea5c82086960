"""One way of telling uncertainty on many fields, in the little that a comparison needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.grid import THRESHOLD_GRID, prefix_threshold, walk
from napari_maskcal.calibrate.threshold import checked_field, curve_of_error, is_exact
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.settings import check_tolerance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_maskcal.calibrate.sums import MaskKind
    from napari_maskcal.distance.base import Distance

    Field = tuple[NDArray[np.float32], NDArray[Any], NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The fields of one method, at one tolerance.

    Attributes
    ----------
    method
        Its name.
    tolerance
        The largest distance accepted.
    thresholds
        (fields,): the image threshold of each, infinity where nothing need be masked.
    sorted_uncertainty
        Of each field its uncertainties, or equally spaced quantiles of them, ascending.
    kept_on_grid
        (fields, `THRESHOLD_GRID`): whether a field is within tolerance when masked at each threshold of the grid, for
        distances that are not monotone. None: it is wherever that is not above its own threshold.
    mask
        ``"binary"`` or ``"soft"``.
    """

    method: str
    tolerance: float
    thresholds: NDArray[np.float64]
    sorted_uncertainty: tuple[NDArray[np.floating[Any]], ...]
    kept_on_grid: NDArray[np.bool_] | None = None
    mask: MaskKind = "binary"

    def __post_init__(self) -> None:
        """Check that both are of the same fields.

        Raises
        ------
        ValueError
            If they are not, or a threshold is not at least 0.
        """
        if self.thresholds.shape != (len(self.sorted_uncertainty),):
            raise ValueError(
                f"{self.method}: there are {self.thresholds.size} thresholds for {len(self.sorted_uncertainty)} fields"
            )
        if not (self.thresholds >= 0).all():
            raise ValueError(f"{self.method}: each threshold has to be at least 0; some are NaN or negative")

    def kept(self, thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return (thresholds, fields): whether each field is within tolerance when masked at each threshold.

        Raises
        ------
        ValueError
            If a distance that was walked is asked for a threshold that is not on the grid.
        """
        if self.kept_on_grid is None:
            return np.asarray(thresholds[:, None] <= self.thresholds)
        places = np.searchsorted(THRESHOLD_GRID, thresholds)
        if not np.isin(thresholds, np.append(0.0, THRESHOLD_GRID)).all():
            raise ValueError(f"{self.method}: a threshold is not on the grid that its distance was walked along")
        return np.asarray(self.kept_on_grid.T[places] | (thresholds == 0)[:, None])  # at 0 all is masked

    def masked_shares(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (thresholds, fields): the share of each field that each threshold masks."""
        return np.stack([_shares(values, thresholds, self.mask) for values in self.sorted_uncertainty], axis=1)

    @property
    def own_shares(self) -> NDArray[np.float64]:
        """(fields,): the share of each that its own threshold masks."""
        own = zip(self.sorted_uncertainty, self.thresholds[:, None], strict=True)
        return np.concatenate([_shares(values, threshold, self.mask) for values, threshold in own])


def candidates(
    method: str,
    uncertainties: Iterable[ArrayLike],
    restored: Iterable[ArrayLike],
    truths: Iterable[ArrayLike],
    distance: str | Distance,
    tolerances: Sequence[float],
    *,
    mask: MaskKind = "binary",
    stop_above: float | None = None,
) -> list[Candidate]:
    """Return what a comparison needs of a method at each of several tolerances; each field is looked at once.

    Parameters
    ----------
    method
        Its name.
    uncertainties
        Of each field, (Y, X), above 0; they count in float32, as they are drawn.
    restored, truths
        Of each field, (Y, X) or (C, Y, X): the error is then the norm over channels.
    distance, tolerances, mask
        See `image_threshold`.
    stop_above
        For a distance that is walked: a field's walk ends above this, and beyond the end it counts as not kept,
        which errs on the safe side. By default twice the largest tolerance.

    Returns
    -------
    list of Candidate
        One for each tolerance, in their order.

    Raises
    ------
    ValueError
        If there is no field, one is not valid, or a tolerance is not a positive number.
    """
    rule = parse_distance(distance)
    wanted = np.array([check_tolerance(tolerance) for tolerance in tolerances])
    ordered: list[NDArray[np.float32]] = []
    fields = _noted(zip(uncertainties, restored, truths, strict=True), ordered)
    if is_exact(rule):
        found = [_exact_thresholds(field, rule, wanted, mask) for field in fields]
        per_tolerance = [(own, None) for own in np.array(found).reshape(-1, len(wanted)).T]
    else:
        named = ((f"field {place}", *field) for place, field in enumerate(fields))
        end = 2 * float(wanted.max()) if stop_above is None else stop_above
        walked = np.array(list(walk(named, rule, mask=mask, stop_above=end))).reshape(-1, len(THRESHOLD_GRID))
        per_tolerance = [(prefix_threshold(walked, THRESHOLD_GRID, t), walked <= t) for t in wanted]
    if not ordered:
        raise ValueError(f"{method}: there are no fields; give at least one")
    return [
        Candidate(
            method=method, tolerance=float(t), thresholds=thresholds, sorted_uncertainty=tuple(ordered),
            kept_on_grid=kept, mask=mask,
        )
        for t, (thresholds, kept) in zip(wanted, per_tolerance, strict=True)
    ]  # fmt: skip


def _noted(
    fields: Iterable[tuple[ArrayLike, ArrayLike, ArrayLike]], ordered: list[NDArray[np.float32]]
) -> Iterator[Field]:
    """Yield the checked arrays of each field, and put its sorted uncertainties into `ordered`."""
    for place, (uncertainty, restored, truth) in enumerate(fields):
        try:
            field = checked_field(np.asarray(uncertainty, dtype=np.float32), restored, truth)
        except ValueError as error:
            raise ValueError(f"field {place}: {error}") from None
        ordered.append(np.sort(field[0], axis=None))
        yield field


def _exact_thresholds(field: Field, rule: Any, tolerances: NDArray[np.float64], mask: MaskKind) -> NDArray[np.float64]:
    u, restored, truth = field
    return curve_of_error(u.ravel(), rule.error(restored, truth, u.shape).ravel(), rule, tolerances, mask)


def _shares(ordered: NDArray[Any], thresholds: NDArray[np.float64], mask: MaskKind) -> NDArray[np.float64]:
    if mask == "soft":
        return _soft_shares(ordered, thresholds)
    return np.asarray(1 - np.searchsorted(ordered, thresholds, side="right") / ordered.size)


def _soft_shares(ordered: NDArray[Any], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of 1 - min(threshold / u, 1)."""
    full = np.searchsorted(ordered, thresholds, side="right")  # pixels that are trusted in full
    inverse = np.append(np.cumsum(1 / ordered[::-1].astype(np.float64))[::-1], 0.0)[full]
    partly = np.where(full < ordered.size, thresholds, 0.0) * inverse
    return np.asarray(np.maximum(ordered.size - full - partly, 0) / ordered.size)
