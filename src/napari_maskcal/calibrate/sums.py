"""Sums of error over bins of uncertainty: where, within a narrow window, the exact Lp threshold lies.

Up to the threshold t, the sum of (trust |e|)^p over a field is ``below + t^p * above``: `below` sums |e|^p where
u <= t, `above` sums (|e| / u)^p where u is larger. One sum of |e|^p for each narrow bin of uncertainty bounds both
closely enough to say in which few bins the sum reaches what the tolerance allows, and only the pixels of those
have to be sorted. The bins are fixed, so the sums of tiles, or of machines, simply add.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MaskKind = Literal["soft", "binary"]

_MANTISSA_BITS = 7  # 128 bins to an octave
_BINS = 255 << _MANTISSA_BITS
# Edges of the bins. The first bin takes all that is too small for a normal float32, the last all that is too large.
_EDGES = (np.arange(_BINS + 1, dtype=np.uint32) << (23 - _MANTISSA_BITS)).view(np.float32).astype(np.float64)
_FIRST = 1 << _MANTISSA_BITS
_EDGES[0], _EDGES[1:_FIRST] = 0, _EDGES[_FIRST]
_BIAS = (1023 - 127) << _MANTISSA_BITS  # from the exponent of float64 to that of float32


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSums:
    """What one field, or a part of it, adds to the sum of |e|^p in each bin of uncertainty.

    Attributes
    ----------
    p
        Of the Lp distance.
    unit
        A power of two; the errors are counted in it, so that no power of them overflows.
    pixels
        How many there are.
    powers
        Sum of (|e| / unit)^p in each bin.
    """

    p: float
    unit: float
    pixels: int
    powers: NDArray[np.float64]

    @classmethod
    def of(cls, bins: NDArray[np.intp], error: NDArray[np.float64], *, p: float, unit: float) -> ErrorSums:
        """Return the sums of one field or tile from the bins and errors of its pixels, both flat."""
        weights = powers_of(error, p=p, unit=unit)
        powers = np.bincount(bins, weights=weights, minlength=_BINS).astype(np.float64, copy=False)
        return cls(p=p, unit=unit, pixels=error.size, powers=powers)

    def __add__(self, other: ErrorSums) -> ErrorSums:
        if (self.p, self.unit) != (other.p, other.unit):
            raise ValueError("sums of different distances or units cannot be added")
        return ErrorSums(
            p=self.p, unit=self.unit, pixels=self.pixels + other.pixels, powers=self.powers + other.powers
        )  # fmt: skip

    def budget(self, tolerance: float, slack: float = 0.0) -> float:
        """Return the sum of powers that a tolerance allows, larger by the share `slack`."""
        return float(budget_of(tolerance, pixels=self.pixels, p=self.p, unit=self.unit) * (1 + slack))

    def fits(self, budget: float) -> bool:
        """Whether all pixels can be trusted in full."""
        return bool(self.powers.sum() <= budget)

    def window(self, budget: float, mask: MaskKind) -> Window | None:
        """Return the bins between which the budget is used up; None if all pixels can be trusted in full."""
        if self.fits(budget):
            return None
        filled = np.flatnonzero(self.powers)
        first, last = int(filled[0]), int(filled[-1]) + 1
        powers, edges = self.powers[first:last], _EDGES[first : last + 1]
        below = np.concatenate(([0.0], np.cumsum(powers)))
        if mask == "binary":
            start = stop = int(np.searchsorted(below[1:], budget, side="right"))
        else:
            start, stop = _soft_bounds(powers, below, edges, budget, self.p)
        stop = min(stop + 1, len(powers))
        # Below the first bin that is filled there is no error, so a soft threshold may lie there too.
        low = 0.0 if start == 0 else float(edges[start])
        return Window(
            first=first + start,
            stop=first + stop,
            low=low,
            high=float(np.nextafter(edges[stop], 0)),
            below=float(below[start]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Bins from `first` to before `stop`, their outer edges, and the sum of |e|^p of all smaller uncertainties."""

    first: int
    stop: int
    low: float
    high: float
    below: float


def _soft_bounds(
    powers: NDArray[np.float64], below: NDArray[np.float64], edges: NDArray[np.float64], budget: float, p: float
) -> tuple[int, int]:
    """Return the bins in which an upper and a lower bound of the sum over a soft mask reach the budget."""

    def at_edges(divisors: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            ratios = np.where(powers > 0, powers / divisors**p, 0)
            return np.asarray(below[:-1] + edges[:-1] ** p * np.cumsum(ratios[::-1])[::-1])

    # What cannot be told (an edge at 0, an overflow) bounds nothing.
    upper = np.nan_to_num(at_edges(edges[:-1]), nan=np.inf, posinf=np.inf)
    lower = np.nan_to_num(at_edges(edges[1:]), nan=0.0, posinf=0.0)
    start = int(np.searchsorted(np.maximum.accumulate(upper), budget, side="right")) - 1
    stop = int(np.searchsorted(np.maximum.accumulate(lower), budget, side="right")) - 1
    return max(start, 0), max(stop, 0)


def bin_of(uncertainty: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
    """Return the bin of each uncertainty: the exponent and the leading bits of the number itself."""
    if uncertainty.dtype == np.float64:
        bits = (uncertainty.view(np.int64) >> (52 - _MANTISSA_BITS)) - _BIAS
    else:
        single = uncertainty.astype(np.float32, copy=False)
        bits = (single.view(np.uint32) >> (23 - _MANTISSA_BITS)).astype(np.intp)
    if bits.min() < _FIRST or bits.max() >= _BINS:
        bits = np.clip(np.where(bits < _FIRST, 0, bits), 0, _BINS - 1)
    return bits


def budget_of(tolerance: Any, *, pixels: int, p: float, unit: float) -> Any:
    """Return the sum of (|e| / unit)^p over all pixels that each tolerance allows."""
    with np.errstate(over="ignore"):
        return pixels * (tolerance / unit) ** p


def powers_of(values: NDArray[np.float64], *, p: float, unit: float = 1.0) -> NDArray[np.float64]:
    """Return (values / unit) ** p, where what is not 0 does not become 0: an error that underflows must still count."""
    if unit != 1:
        values = values / unit
    if p == 1:
        return values
    with np.errstate(over="ignore"):  # the caller refuses what is not finite
        powers = values * values if p == 2 else values**p
    lost = powers < np.finfo(np.float64).tiny
    if lost.any():
        powers[lost & (values > 0)] = np.finfo(np.float64).tiny
    return powers


def trust_mask(uncertainty: NDArray[Any], threshold: float, mask: MaskKind) -> NDArray[Any]:
    """Return the trust mask, 1 = believed: ``min(threshold / u, 1)`` in float64, or ``u <= threshold`` as bool."""
    if mask == "binary":
        return uncertainty <= threshold
    if np.isinf(threshold):
        return np.ones(uncertainty.shape)
    trust = threshold / uncertainty.astype(np.float64, copy=False)
    return np.minimum(trust, 1.0, out=trust)
