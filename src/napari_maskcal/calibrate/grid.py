"""Distances that are not monotone: a walk up a fixed grid of thresholds.

Where trusting more may lower the distance, "the largest threshold that passes" promises nothing, and bisection
certifies nothing. What holds is "all thresholds of a grid up to this one pass", for a grid that was fixed before
the calibration fields were seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.sums import trust_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_maskcal.calibrate.sums import MaskKind
    from napari_maskcal.distance.base import Distance

    FieldPixels = tuple[str, NDArray[np.floating[Any]], NDArray[Any], NDArray[Any]]

# Four to an octave over the uncertainties that networks give in normalised intensities, then full trust. Exact in
# float32, so that a drawn mask is the walked one.
THRESHOLD_GRID = np.append((2.0 ** (np.arange(-40, 9) / 4)).astype(np.float32).astype(np.float64), np.inf)
_BATCH = 8


def walk(
    fields: Iterable[FieldPixels],
    distance: Distance,
    *,
    mask: MaskKind,
    stop_above: float = np.inf,
    grid: NDArray[np.float64] = THRESHOLD_GRID,
    batch: int = _BATCH,
    whole: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[NDArray[np.float64]]:
    """Yield each field's distances along a grid of thresholds, in the order of `fields`.

    `batch` fields are under way at once, each at its own step; one that is done makes room for the next, so that
    no distance is computed that is not needed, and few fields are in memory.

    Parameters
    ----------
    fields
        (name, uncertainty, restored, truth) of each.
    distance
        Any; it is asked for `batch` fields at once.
    mask
        ``"soft"`` or ``"binary"``.
    stop_above
        A field stops at the first distance above this.
    grid
        Thresholds, ascending; the last may be infinite.
    whole
        Measure the last threshold too where the walk stops before it.
    cancelled
        Asked before each step; once it says yes, the stream simply ends.

    Yields
    ------
    ndarray
        One distance for each threshold of `grid`; NaN where the walk had stopped before.

    Raises
    ------
    ValueError
        If a field's uncertainties lie outside the grid, or a distance is not a number.
    """
    limits = _Limits(grid=grid, mask=mask, stop_above=stop_above, whole=whole)
    waiting = enumerate(fields)
    active: list[_Walker] = []
    finished: dict[int, NDArray[np.float64]] = {}
    following = 0
    while not cancelled():
        active += [_Walker(place, *pixels, limits) for place, pixels in islice(waiting, batch - len(active))]
        if not active:
            return
        if following == 0 and active[0].place == 0 and active[0].step == 0:
            active[0].check_origin(distance)
        for _, walkers in groupby(active, key=lambda walker: walker.restored.shape):
            _step(list(walkers), distance)
        finished |= {walker.place: walker.distances for walker in active if walker.is_done}
        active = [walker for walker in active if not walker.is_done]
        while following in finished:
            yield finished.pop(following)
            following += 1


def prefix_threshold(distances: NDArray[Any], grid: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Return, for each row of (fields, steps) distances, the largest threshold up to which all pass; 0 if none does."""
    passing = np.logical_and.accumulate(distances <= np.float64(tolerance), axis=1).sum(axis=1)  # NaN does not pass
    return np.asarray(np.append(0.0, grid)[passing])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """What is the same for all fields; see `walk`."""

    grid: NDArray[np.float64]
    mask: MaskKind
    stop_above: float
    whole: bool


class _Walker:
    """One field on its way up the grid."""

    def __init__(
        self,
        place: int,
        name: str,
        u: NDArray[np.floating[Any]],
        restored: NDArray[Any],
        truth: NDArray[Any],
        limits: _Limits,
    ) -> None:
        self.place, self.name, self.u, self.restored, self.truth = place, name, u, restored, truth
        self.limits = limits
        ordered = np.sort(u, axis=None)
        _check_grid(float(ordered[ordered.size // 2]), limits.grid, name)
        self.trusted = np.searchsorted(ordered, limits.grid, side="right")  # pixels, at each step
        self.distances = np.full(len(limits.grid), np.nan)
        self.step = 0

    @property
    def trust(self) -> NDArray[Any]:
        """The trust mask of the step that is due."""
        return trust_mask(self.u, float(self.limits.grid[self.step]), self.limits.mask)

    @property
    def is_done(self) -> bool:
        """Whether no step is due."""
        return self.step == len(self.distances)

    def check_origin(self, distance: Distance) -> None:
        """Raise ValueError unless two images that are masked in full are at distance 0: there is no smaller mask."""
        nothing = np.zeros((1, *self.u.shape), bool)
        found = float(distance.between(nothing, self.restored[None], self.truth[None])[0])
        if found != 0:
            raise ValueError(
                f"the distance {distance.name} of two images that are masked in full is {found:g}, not 0; no mask "
                "could keep it small, so take another distance"
            )

    def take(self, distance: float) -> None:
        """Note the distance that was due, and all that follow from it: equal masks have equal distances."""
        self._note(distance)
        while not self.is_done and self._same_as_before():
            self._note(distance)
        if not self.is_done and distance > self.limits.stop_above:
            last = len(self.distances) - 1
            self.step = last if self.limits.whole else last + 1

    def _note(self, distance: float) -> None:
        self.distances[self.step] = distance
        self.step += 1

    def _same_as_before(self) -> bool:
        before, now = self.trusted[self.step - 1], self.trusted[self.step]
        return bool(before == self.u.size if self.limits.mask == "soft" else before == now)


def _step(walkers: Sequence[_Walker], distance: Distance) -> None:
    trust, restored, truth = (
        np.stack(images)
        for images in zip(*((walker.trust, walker.restored, walker.truth) for walker in walkers), strict=True)
    )
    for walker, found in zip(walkers, distance.between(trust, restored, truth).tolist(), strict=True):
        if np.isnan(found):
            raise ValueError(f"{walker.name}: the distance {distance.name} is not a number")
        walker.take(found)


def _check_grid(middle: float, grid: NDArray[np.float64], name: str) -> None:
    last = float(grid[np.isfinite(grid)][-1])
    if not grid[0] / 16 <= middle <= last * 16:
        raise ValueError(
            f"{name}: the uncertainties are about {middle:.2g}, far outside the grid of thresholds from {grid[0]:.2g} "
            f"to {last:.2g}; scale the map, so that it is in shares of the intensity range"
        )
