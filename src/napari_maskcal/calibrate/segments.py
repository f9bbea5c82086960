"""Pixels in the order of their uncertainty: the exact Lp threshold in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.sums import powers_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_maskcal.calibrate.sums import MaskKind


_BLOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedPixels:
    """A run of pixels, sorted by uncertainty, with the sums on both sides of each.

    With t between the j-th uncertainty and the one before, the sum of (trust |e|)^p is
    ``below[j] + t^p * above[j]``, j being the number of pixels that are trusted in full. Both arrays have one item
    more than there are pixels, for a t above them all; a binary mask has no need of them.

    Attributes
    ----------
    low, high
        Between which the threshold lies.
    u, powers
        Uncertainties, and |e|^p.
    start
        Sum of |e|^p of all pixels with smaller uncertainties.
    """

    p: float
    mask: MaskKind
    low: float
    high: float
    u: NDArray[np.floating[Any]]
    powers: NDArray[np.float64]
    start: float
    below: NDArray[np.float64]
    above: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        u: NDArray[np.floating[Any]],
        error: NDArray[np.float64],
        *,
        p: float,
        unit: float,
        mask: MaskKind,
        low: float = 0.0,
        high: float = np.inf,
        below: float = 0.0,
        above: float = 0.0,
    ) -> SortedPixels:
        """Return the run of pixels that are sorted by `u`, with the sums over all that lie outside of it.

        Raises
        ------
        ValueError
            If `p` is so large that the sums overflow.
        """
        powers = powers_of(error, p=p, unit=unit)
        sums_below = sums_above = np.empty(0)
        if mask == "soft":
            sums_below = _running_sum(below, powers)
            sums_above = _running_sum(above, ratio_powers(u, error, p=p, unit=unit)[::-1])[::-1]
        return cls(
            p=p, mask=mask, low=low, high=high, u=u, powers=powers, start=below, below=sums_below, above=sums_above
        )

    def thresholds(self, budgets: NDArray[np.float64], *, shrink: float = 1.0) -> NDArray[np.float64]:
        """Return the threshold at which each budget is used up; soft ones are multiplied by `shrink`."""
        if self.mask == "binary":
            # The pixel that is too much takes its whole group of equals with it, smaller ones not.
            full = _count_fitting(self.powers, budgets, start=self.start)
            inside = full < len(self.u)
            found = np.full(len(budgets), self.high)
            found[inside] = np.nextafter(self.u[full[inside]], self.u.dtype.type(0))
            return found
        full = self._trusted_in_full(budgets)
        edges = np.concatenate(([self.low], self.u, [self.high]), dtype=np.float64)
        room, above = np.maximum(budgets - self.below[full], 0), self.above[full]
        powers = np.divide(room, above, out=np.full_like(room, np.inf), where=above > 0)
        return np.clip(powers ** (1 / self.p) * shrink, edges[full], edges[full + 1])

    def _trusted_in_full(self, budgets: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return how many pixels may have u <= t; bisection, since only a few of the sums are ever looked at."""
        low, high = np.zeros(len(budgets), np.intp), np.full(len(budgets), len(self.u))
        while (low < high).any():
            middle = np.minimum((low + high) // 2, len(self.u) - 1)
            power = powers_of(self.u[middle].astype(np.float64), p=self.p)
            passes = (self.below[middle] + power * self.above[middle] <= budgets) & (low < high)
            low, high = np.where(passes, middle + 1, low), np.where(passes, high, np.minimum(middle, high))
        return low


def sort_pixels(
    u: NDArray[np.floating[Any]], error: NDArray[np.float64]
) -> tuple[NDArray[np.floating[Any]], NDArray[np.float64]]:
    """Return both sorted by `u`."""
    if u.dtype != np.float32 or len(u) > 2**32:
        order = np.argsort(u)
        return u[order], error[order]
    # Positive floating-point numbers have the order of their bits, so value and place fit one integer; sorting
    # these is three times as fast as argsort.
    pairs = u.view(np.uint32).astype(np.uint64)
    pairs <<= np.uint64(32)
    pairs |= np.arange(len(u), dtype=np.uint64)
    pairs.sort()
    ordered = error.take((pairs & np.uint64(2**32 - 1)).view(np.int64))
    pairs >>= np.uint64(32)
    return pairs.astype(np.uint32).view(np.float32), ordered


def _running_sum(start: float, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `start`, and it with one more of the values each time."""
    sums = np.empty(len(values) + 1)
    sums[0] = start
    np.cumsum(values, out=sums[1:])
    if start:
        sums[1:] += start
    return sums


def _count_fitting(values: NDArray[np.float64], budgets: NDArray[np.float64], *, start: float) -> NDArray[np.intp]:
    """Return how many of the values, added to `start` one after the other, each budget has room for.

    By sums of blocks, since a running sum of all is the slowest step of a curve.
    """
    if not len(values):
        return np.zeros(len(budgets), np.intp)
    sums = start + np.cumsum(np.add.reduceat(values, np.arange(0, len(values), _BLOCK)))
    block = np.searchsorted(sums, budgets, side="right")  # in which the budget is used up
    places = block[:, None] * _BLOCK + np.arange(_BLOCK)
    inside = values[np.minimum(places, len(values) - 1)]
    running = np.append(start, sums)[block][:, None] + np.cumsum(inside, axis=1)
    fitting = np.count_nonzero(running <= budgets[:, None], axis=1)
    return np.asarray(np.minimum(block * _BLOCK + fitting, len(values)))


def ratio_powers(u: NDArray[Any], error: NDArray[np.float64], *, p: float, unit: float) -> NDArray[np.float64]:
    """Return (|e| / unit / u)^p.

    Raises
    ------
    ValueError
        If `p` is so large that they overflow.
    """
    with np.errstate(over="ignore"):
        ratios = powers_of(error / u, p=p, unit=unit)
    if not np.isfinite(ratios.sum()):
        raise ValueError(f"p = {p:g} is too large for uncertainties from {u.min():g} to {u.max():g}; take a smaller p")
    return ratios
