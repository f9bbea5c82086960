"""What is promised, and the threshold that keeps it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_maskcal.calibrate.curves import AnyCurves, GridCurves
from napari_maskcal.calibrate.guarantee import (
    Grouping,
    Guarantee,
    check_guarantee,
    conformal_threshold,
    fixed_sequence_threshold,
    is_rejected,
    rank_of,
    risk_threshold,
)
from napari_maskcal.settings import check_confidence, check_tolerance

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A guarantee with its numbers.

    Attributes
    ----------
    tolerance
        The largest distance that is accepted.
    confidence
        Share of new groups (fields) within tolerance; not used by the expected guarantee.
    guarantee
        ``"marginal"``, ``"pac"`` or ``"expected"``; see `conformal_threshold` and `risk_threshold`.
    delta
        For pac: how often a calibration may fail.
    bound
        For expected: a distance is counted as at most this.
    grouping, seed
        Whether all fields of a group count (``"worst"``), or one of them, drawn with `seed` (``"one"``).
    """

    tolerance: float
    confidence: float = 0.9
    guarantee: Guarantee = "marginal"
    delta: float | None = None
    bound: float | None = None
    grouping: Grouping = "worst"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check each number.

        Raises
        ------
        ValueError
            If one is out of range, missing, or belongs to another guarantee.
        """
        check_tolerance(self.tolerance)
        check_confidence(self.confidence)
        if self.grouping not in ("worst", "one"):
            raise ValueError(f"there is no grouping {self.grouping!r}; it is 'worst' or 'one'")
        if self.guarantee == "expected":
            self._check_bound()
            return
        check_guarantee(self.guarantee, self.delta)
        if self.bound is not None:
            raise ValueError(f"bound is {self.bound:g}, but the {self.guarantee} guarantee has none; leave it out")

    def _check_bound(self) -> None:
        if self.delta is not None:
            raise ValueError(f"delta is {self.delta:g}, but the expected guarantee has none; leave it out")
        if self.bound is None or not np.isfinite(self.bound) or self.bound < self.tolerance:
            raise ValueError(
                f"bound is {self.bound}; the expected guarantee takes the largest distance that one field can count "
                f"for, at least the tolerance of {self.tolerance:g}"
            )

    def threshold(self, curves: AnyCurves, owners: Sequence[str]) -> float:
        """Return the threshold that keeps this promise, from the curves of the calibration fields.

        Raises
        ------
        ValueError
            If there are too few groups.
        """
        rows = curves.of_groups(owners, seed=self.seed if self.grouping == "one" else None)
        return self.threshold_of_rows(rows, len(set(owners)))

    def threshold_of_rows(self, rows: AnyCurves, n: int) -> float:
        """Do the same from curves that have one row for each of `n` groups."""
        if self.guarantee == "expected":
            return risk_threshold(
                rows.distances, rows.candidates(), n=n, tolerance=self.tolerance, bound=self.bound or 0.0
            )
        if self.guarantee == "pac" and isinstance(rows, GridCurves):
            return fixed_sequence_threshold(
                rows.walked,
                rows.grid,
                tolerance=self.tolerance,
                confidence=self.confidence,
                delta=self.delta or 0.0,
            )
        return conformal_threshold(
            rows.at(self.tolerance), self.confidence, self.guarantee, self.delta, groups=range(n)
        )  # fmt: skip

    def kept_left_out(self, curves: AnyCurves, owners: Sequence[str]) -> tuple[int, int] | None:
        """Return how many groups the threshold of all others keeps, and of how many; None if that says nothing.

        At rank 1 it is n - 1 of n whatever the data: the group with the smallest threshold fails, and no other. Of
        the expected guarantee, which is about a mean, no group is kept or failed.
        """
        rows = curves.of_groups(owners, seed=self.seed if self.grouping == "one" else None)
        n = len(set(owners))
        rank = rank_of(n - 1, self.confidence, self.guarantee, self.delta) if self.guarantee != "expected" else 0
        if rank < 2:
            return None
        if self.guarantee == "pac" and isinstance(rows, GridCurves):
            return self._kept_on_grid(rows, n), n
        own = np.asarray(rows.at(self.tolerance), dtype=np.float64)
        ordered = np.sort(own)
        # Without a group that is among the smallest, the next larger threshold takes the rank.
        limit = np.where(own <= ordered[rank - 1], ordered[rank], ordered[rank - 1])
        return int(np.count_nonzero(own >= limit)), n

    def _kept_on_grid(self, rows: GridCurves, n: int) -> int:
        failed = ~(rows.walked <= self.tolerance)  # NaN fails
        by_others = failed.sum(axis=0) - failed
        rejected = is_rejected(by_others, n - 1, self.confidence, self.delta or 0.0)
        steps = np.logical_and.accumulate(rejected, axis=1).sum(axis=1)  # that the threshold of the others is high
        kept = ~failed[np.arange(n), np.maximum(steps - 1, 0)] | (steps == 0)
        return int(np.count_nonzero(kept))

    def moved(self, *, tolerance: float | None = None, confidence: float | None = None) -> Promise:
        """Return the promise with another tolerance or confidence, these very numbers where they are the same."""
        return replace(
            self,
            tolerance=_pinned_or(tolerance, self.tolerance),
            confidence=_pinned_or(confidence, self.confidence),
        )


def _pinned_or(value: float | None, pinned: float) -> float:
    """Return `value`; a number that went through a text field comes back with its last digit changed."""
    return pinned if value is None or np.isclose(value, pinned, rtol=1e-9, atol=0) else value
