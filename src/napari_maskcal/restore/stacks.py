"""Intensities measured over whole stacks, a plane at a time."""

from __future__ import annotations

from math import gcd, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.read.percentiles import percentiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_maskcal.read.image import Image
    from napari_maskcal.restore.card import Normalisation

    Index = tuple[int, ...]

MOST_SAMPLES = 2**24  # of which percentiles are taken, where values are too many kinds to be counted


class StackUnits:
    """The (offset, span) of the stacks of an image, each measured once."""

    def __init__(self, image: Image, taken: Normalisation) -> None:
        self._image, self._taken = image, taken
        self._found: dict[Index, tuple[float, float]] = {}

    def steps(self, planes: Sequence[Index]) -> int:
        """Return how many planes have still to be looked at for these."""
        if not self._taken.needs_stack:
            return 0
        stacks = {stack[0]: len(stack) for stack in map(self._image.stack_of, planes) if stack[0] not in self._found}
        return sum(stacks.values())

    def measure(self, index: Index) -> Iterator[None]:
        """Look at the stack of a plane, and yield after each of its planes; not again if it was done before.

        Raises
        ------
        ValueError
            If it is a single plane, whose range is not that of a stack, or it is constant.
        """
        stack = self._image.stack_of(index)
        if not self._taken.needs_stack or stack[0] in self._found:
            return
        if len(stack) == 1:
            raise ValueError(
                f"the restorer takes intensities in the range of a whole stack, and {self._image.describe(index)} is a "
                "single plane; give stacks, with an axis Z"
            )
        summary = Summary(self._taken, len(stack))
        for one in stack:
            summary.add(self._image.read_plane(one))
            yield
        self._found[stack[0]] = summary.units(where=f"the stack of {self._image.describe(index)}")

    def of(self, index: Index) -> tuple[float, float]:
        """Return (offset, span) for a plane whose stack was measured."""
        if not self._taken.needs_stack:
            return self._taken.offset, self._taken.span
        return self._found[self._image.stack_of(index)[0]]


class Summary:
    """What is kept of the planes of a stack to normalise it: as much, whatever their number.

    Integers of 8 and 16 bits are counted, so that percentiles are exact. Of others, percentiles are those of at most
    `MOST_SAMPLES` pixels, evenly spaced.
    """

    def __init__(self, taken: Normalisation, planes: int) -> None:
        self._taken, self._planes, self._seen = taken, planes, 0
        self._counts: NDArray[np.int64] | None = None
        self._samples: list[NDArray[Any]] = []
        self._low, self._high = np.inf, -np.inf
        self._mean = self._squares = 0.0

    def add(self, plane: NDArray[Any]) -> None:
        """Look at the next plane."""
        if self._taken.kind == "range":
            self._low, self._high = min(self._low, float(plane.min())), max(self._high, float(plane.max()))
        elif self._taken.kind == "mean_std":
            self._add_moments(plane)
        elif plane.dtype.kind in "ui" and plane.dtype.itemsize <= 2:
            self._count(plane)
        else:
            self._sample(plane)
        self._seen += plane.size

    def units(self, *, where: str) -> tuple[float, float]:
        """Return (offset, span) of all planes together; see `Normalisation.units`."""
        taken = self._taken
        if taken.kind == "range":
            first, second = self._low, self._high
        elif taken.kind == "mean_std":
            first, second = self._mean, sqrt(self._squares / self._seen)
        elif self._counts is not None:
            sums = np.cumsum(self._counts)
            ranks = [round((self._seen - 1) * share / 100) for share in (taken.low_percentile, taken.high_percentile)]
            first, second = (float(self._least + i) for i in np.searchsorted(sums, ranks, side="right"))
        else:
            first, second = percentiles(np.concatenate(self._samples), taken.low_percentile, taken.high_percentile)
        return taken.units(first, second, where=where, rest="such stacks")

    def _count(self, plane: NDArray[Any]) -> None:
        limits = np.iinfo(plane.dtype)
        self._least, values = int(limits.min), int(limits.max) - int(limits.min) + 1
        found = np.bincount(plane.reshape(-1).astype(np.int32) - self._least, minlength=values)
        self._counts = found if self._counts is None else self._counts + found

    def _sample(self, plane: NDArray[Any]) -> None:
        step = -(-self._planes * plane.size // MOST_SAMPLES)
        while gcd(step, plane.shape[-1]) > 1:  # else all of them could lie in a few columns
            step += 1
        self._samples.append(plane.reshape(-1)[-self._seen % step :: step].copy())

    def _add_moments(self, plane: NDArray[Any]) -> None:
        """Chan, Golub, LeVeque 1983: sums of squares lose digits where the mean is far from 0."""
        mean, squares = float(plane.mean(dtype=np.float64)), float(plane.var(dtype=np.float64)) * plane.size
        away, share = mean - self._mean, plane.size / (self._seen + plane.size)
        self._squares += squares + away**2 * self._seen * share
        self._mean += away * share
