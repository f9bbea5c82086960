"""What is kept of each calibration field, so that any tolerance and confidence can be answered without its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.grid import prefix_threshold
from napari_maskcal.calibrate.guarantee import one_of_each_group, worst_of_each_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Curves:
    """Image thresholds of each calibration field over a ladder of tolerances, of a distance that is exact.

    Attributes
    ----------
    tolerances
        Ascending, (T,), float64.
    thresholds
        (fields, T), float32, rounded down: never above the exact value.
    """

    tolerances: NDArray[np.float64]
    thresholds: NDArray[np.float32]

    def at(self, tolerance: float) -> NDArray[np.float32]:
        """Return each field's threshold at `tolerance`, or at the next smaller one of the ladder; below it, 0."""
        index = int(np.searchsorted(self.tolerances, tolerance, side="right")) - 1
        return self.thresholds[:, index] if index >= 0 else np.zeros(len(self.thresholds), np.float32)

    def of_groups(self, owners: Sequence[str], *, seed: int | None = None) -> Curves:
        """Return one row a group: the worst of its fields at each tolerance, or a field drawn with `seed`."""
        if seed is not None:
            return Curves(self.tolerances, self.thresholds[one_of_each_group(owners, seed)])
        return Curves(self.tolerances, worst_of_each_group(self.thresholds, owners))

    def candidates(self) -> NDArray[np.float64]:
        """Return, ascending, the thresholds at which a distance may step up."""
        return np.unique(self.thresholds).astype(np.float64)

    def distances(self, threshold: float) -> NDArray[np.float64]:
        """Return what each field's distance does not exceed when masked at `threshold`."""
        needed = (self.thresholds < threshold).sum(axis=1)
        known = np.append(self.tolerances, np.inf)[needed]
        return np.where(threshold > 0, known, 0.0)


@dataclass(frozen=True, slots=True)
class GridCurves:
    """Distances of each calibration field along a fixed grid of thresholds, of a distance that is not monotone.

    Attributes
    ----------
    grid
        Thresholds, ascending, (G,), float64; the last may be infinite.
    walked
        (fields, G), float32, rounded up: never below the exact value. NaN, above each tolerance that this
        calibration may be asked for, where the walk had stopped before.
    """

    grid: NDArray[np.float64]
    walked: NDArray[np.float32]

    def at(self, tolerance: float) -> NDArray[np.float64]:
        """Return, for each field, the largest threshold of the grid up to which all keep within `tolerance`."""
        return prefix_threshold(self.walked, self.grid, tolerance)

    def of_groups(self, owners: Sequence[str], *, seed: int | None = None) -> GridCurves:
        """Return one row a group: its largest distance at each threshold, or that of a field drawn with `seed`."""
        if seed is not None:
            return GridCurves(self.grid, self.walked[one_of_each_group(owners, seed)])
        unknown_as_too_large = np.nan_to_num(self.walked, nan=np.inf, posinf=np.inf)
        return GridCurves(self.grid, -worst_of_each_group(-unknown_as_too_large, owners))

    def candidates(self) -> NDArray[np.float64]:
        """Return the grid."""
        return self.grid

    def distances(self, threshold: float) -> NDArray[np.float64]:
        """Return the largest distance of each field at any threshold of the grid up to `threshold`."""
        known = np.nan_to_num(self.walked, nan=np.inf, posinf=np.inf)[:, self.grid <= threshold]
        return np.asarray(known.max(axis=1, initial=0.0), dtype=np.float64)


AnyCurves = Curves | GridCurves


def rounded_down(exact: NDArray[Any]) -> NDArray[np.float32]:
    """Return the largest float32 numbers that are not above `exact`."""
    rounded = exact.astype(np.float32)
    return np.where(rounded > exact, np.nextafter(rounded, np.float32(0)), rounded)


def rounded_up(exact: NDArray[Any]) -> NDArray[np.float32]:
    """Return the smallest float32 numbers that are not below `exact`; NaN stays."""
    rounded = exact.astype(np.float32)
    return np.where(rounded < exact, np.nextafter(rounded, np.float32(np.inf)), rounded)
