"""Pixels in the order of their uncertainty: the exact Lp threshold in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.sums import powers_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_maskcal.calibrate.sums import MaskKind


_BLOCK = 64  # pixels whose sum is kept; a running sum over all would be the slowest step of a curve


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedPixels:
    """A run of pixels, sorted by uncertainty.

    With t between the j-th uncertainty and the one before, the sum of (trust |e|)^p is that of the first j `powers`
    plus t^p times that of all later `ratios`, j being the number of pixels that are trusted in full.

    Attributes
    ----------
    low, high
        Between which the threshold lies.
    u, powers, ratios
        Uncertainties, |e|^p and (|e| / u)^p; no ratios for a binary mask.
    below, above
        Sum of |e|^p of all pixels with smaller uncertainties, and of (|e| / u)^p of those with larger ones.
    """

    p: float
    mask: MaskKind
    low: float
    high: float
    u: NDArray[np.floating[Any]]
    powers: NDArray[np.float64]
    ratios: NDArray[np.float64]
    below: float
    above: float

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
        ratios = ratio_powers(u, error, p=p, unit=unit) if mask == "soft" and len(u) else np.empty(0)
        return cls(
            p=p, mask=mask, low=low, high=high, u=u, powers=powers_of(error, p=p, unit=unit), ratios=ratios,
            below=below, above=above,
        )  # fmt: skip

    def thresholds(self, budgets: NDArray[np.float64], *, shrink: float = 1.0) -> NDArray[np.float64]:
        """Return the threshold at which each budget is used up; soft ones are multiplied by `shrink`."""
        if not len(self.u):
            powers = (budgets - self.below) / self.above if self.above else np.full_like(budgets, np.inf)
            found = np.maximum(powers, 0) ** (1 / self.p) * shrink if self.mask == "soft" else np.inf
            return np.clip(found + np.zeros_like(budgets), self.low, self.high)
        return self._binary(budgets) if self.mask == "binary" else self._soft(budgets, shrink)

    def _binary(self, budgets: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the number below the pixel that is too much: it takes its whole group of equals with it."""
        sums = self.below + np.cumsum(_block_sums(self.powers))
        block = np.searchsorted(sums[:-1], budgets, side="right")  # in which the budget is used up
        before = np.append(self.below, sums)[block]
        running = before[:, None] + np.cumsum(_rows(self.powers, block), axis=1)
        full = block * _BLOCK + np.count_nonzero(running <= budgets[:, None], axis=1)
        inside = full < len(self.u)
        found = np.full(len(budgets), self.high)
        found[inside] = np.nextafter(self.u[full[inside]], self.u.dtype.type(0))
        return found

    def _soft(self, budgets: NDArray[np.float64], shrink: float) -> NDArray[np.float64]:
        below = np.append(self.below, self.below + np.cumsum(_block_sums(self.powers)))
        above = np.append(self.above, self.above + np.cumsum(_block_sums(self.ratios)[::-1]))[::-1]
        # At the first pixel of each block; rounding must not put them out of order.
        at_blocks = np.maximum.accumulate(below[:-1] + self._u_power(self.u[::_BLOCK]) * above[:-1])
        block = np.maximum(np.searchsorted(at_blocks, budgets, side="right") - 1, 0)
        sums_below = _running_sums(below[block], _rows(self.powers, block))
        sums_above = _running_sums(above[block + 1], _rows(self.ratios, block)[:, ::-1])[:, ::-1]
        places = np.minimum(block[:, None] * _BLOCK + np.arange(_BLOCK), len(self.u) - 1)
        at_pixels = sums_below[:, :-1] + self._u_power(self.u[places]) * sums_above[:, :-1]
        fitting = np.count_nonzero(at_pixels <= budgets[:, None], axis=1)  # of the block, those trusted in full
        room, above_all = (np.take_along_axis(sums, fitting[:, None], 1)[:, 0] for sums in (sums_below, sums_above))
        room = np.maximum(budgets - room, 0)
        powers = np.divide(room, above_all, out=np.full_like(room, np.inf), where=above_all > 0)
        full = np.minimum(block * _BLOCK + fitting, len(self.u))
        edges = np.concatenate(([self.low], self.u, [self.high]), dtype=np.float64)
        return np.clip(powers ** (1 / self.p) * shrink, edges[full], edges[full + 1])

    def _u_power(self, u: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return powers_of(u.astype(np.float64), p=self.p)


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


def _block_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.add.reduceat(values, np.arange(0, len(values), _BLOCK)))


def _rows(values: NDArray[np.float64], block: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the values of each block, (blocks, _BLOCK), with zeros beyond the last."""
    places = block[:, None] * _BLOCK + np.arange(_BLOCK)
    return np.where(places < len(values), values[np.minimum(places, len(values) - 1)], 0.0)


def _running_sums(start: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `start`, and it with one more value of its row each time."""
    return np.cumsum(np.concatenate((start[:, None], rows), axis=1), axis=1)


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
