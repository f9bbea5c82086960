"""Uncertainty as an error budget: what a pixel costs, counted with all around it that are at least as sure."""

from __future__ import annotations

from math import isfinite, lcm, log
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from napari_maskcal.distance.linf import LInfinity
from napari_maskcal.distance.lp import Lp
from napari_maskcal.mask.scores import FLOOR
from napari_maskcal.restore.asking import asks_restorer, uncertainty_of
from napari_maskcal.restore.kinds import BUDGET_CELL_PX, make_network

if TYPE_CHECKING:
    from torch import Tensor

    from napari_maskcal.distance.base import Distance
    from napari_maskcal.restore.asking import Restore

CELL_PX = BUDGET_CELL_PX
"""Windows move in steps of this many pixels, so that sums over them are sums over cells."""
RADIUS_CELLS = 8
"""A window reaches this many cells to each side: 136 pixels, about the size of a field."""
_LARGEST_POWER = 64.0
_LEVELS = 64
_LOWEST, _HIGHEST = 1e-4, 1e1  # uncertainties between which the levels lie, in shares of the intensity range
_LARGEST = 1e30  # of a power: sums of millions of them stay inside float32's range


class ErrorBudget(nn.Module):
    """The error that is predicted around a pixel if it and all that are at least as sure are trusted.

    With e the uncertainty of another network, an estimate of the error at each pixel, the budget of a pixel x is

        (mean over the window around x of e(y)^power where e(y) <= e(x), and 0 elsewhere) ^ (1 / power).

    Pixels of one cell of 8 x 8 keep the order of e. What changes is where one threshold cuts: a threshold of e marks
    the same kind of pixel in every field, though most fields keep within tolerance as they are; a threshold of the
    budget marks more where the whole window is worse, and nothing where no window's power mean of e exceeds it. e
    stands for the error up to a factor, which calibration settles: of the quantile loss it is the interval's width.

    Parameters
    ----------
    of
        The other network, as the `network` part of its model card; its weights are in the state dict as ``of...``.
    power
        From 1 to 64; see `budget_power`.
    radius_cells
        How far a window reaches, in cells of `CELL_PX`; at the border of the plane it is what lies inside.

    Notes
    -----
    A threshold adapted to the field is a global threshold of an adapted map, so the certificate needs nothing new:
    any positive map can be calibrated, and this one has a bounded reach, so tiles stay exact. But it depends on what
    lies around a field, so a promise made on whole small planes is void on larger ones: `Certificate.check_plane`.

    The sum over the smaller ones is one of a histogram: `_LEVELS` logarithmic bins of e in each cell, added over the
    cells of the window; inside a bin it is interpolated, so it is continuous and grows with e.

    References
    ----------
    Adapting the score and not the threshold is the idea of Romano, Patterson, Candès, "Conformalized Quantile
    Regression", NeurIPS 2019; this score is the project's own, see docs/method.md.
    """

    def __init__(self, of: dict[str, Any], *, power: float, radius_cells: int = RADIUS_CELLS) -> None:
        super().__init__()
        if not (isfinite(power) and 1 <= power <= _LARGEST_POWER):
            raise ValueError(f"the budget's power is {power!r}; give a number from 1 to 64")
        if isinstance(radius_cells, bool) or not isinstance(radius_cells, int) or not 1 <= radius_cells <= 64:
            raise ValueError(f"the budget's radius is {radius_cells!r} cells; give a whole number from 1 to 64")
        self.of = make_network(of, role="mask")
        self.power, self.radius_cells = float(power), radius_cells
        inner: Any = self.of
        self.sees_restored, self.asks_restorer = getattr(inner, "sees_restored", True), asks_restorer(inner)
        self.stride_px = lcm(inner.stride_px, CELL_PX)
        reach = inner.halo_px + CELL_PX * (radius_cells + 1) - 1
        self.halo_px = -(-reach // self.stride_px) * self.stride_px

    def forward(self, degraded: Tensor, restored: Tensor, restorer: Restore | None = None) -> Tensor:
        """Map two images, in normalised intensities, to the budget of each pixel, (N, 1, Y, X), above 0.

        Volumes have Z before Y. The sizes are multiples of `stride_px`.
        """
        error = uncertainty_of(self.of, degraded, restored, restorer)
        return error_budget(error, power=self.power, radius_cells=self.radius_cells)


def budget_power(distance: Distance) -> float:
    """Return the power for a distance: twice the P of an Lp distance, at most 64; 64 for L-infinity; 2 for others.

    Chosen on the groups that train and validate in the benchmark: P itself follows the whole predicted error, and so
    trusts that prediction too much in the groups where it fails; much larger powers are no budget any more.
    """
    if isinstance(distance, LInfinity):
        return _LARGEST_POWER  # its P has no bound: the budget is e itself, but for rounding
    return min(2 * distance.p, _LARGEST_POWER) if isinstance(distance, Lp) else 2.0


def error_budget(error: Tensor, *, power: float, radius_cells: int = RADIUS_CELLS) -> Tensor:
    """Return the budget of each pixel of an estimated error, (N, 1, Y, X) or (N, 1, Z, Y, X); see `ErrorBudget`.

    Raises
    ------
    ValueError
        If the sizes are not multiples of `CELL_PX`.
    """
    if any(size % CELL_PX for size in error.shape[2:]):
        raise ValueError(f"the plane has shape {tuple(error.shape[2:])}; cut it to multiples of {CELL_PX} pixels")
    broken = ~torch.isfinite(error)
    if broken.any():  # whoever asked refuses the plane; here it must only not become a wrong place in the histogram
        error = torch.where(broken, torch.ones_like(error), error)
    level, inside = _levels(error)
    place = _cells(error) * _LEVELS + level
    cells = [size // CELL_PX for size in error.shape[2:]]
    mass = error.new_zeros(len(error) * _product(cells) * _LEVELS)
    mass.index_add_(0, place.flatten(), (error / _HIGHEST).pow(power).clamp(max=_LARGEST).flatten())
    around = _window_means(mass.view(-1, *cells, _LEVELS), radius_cells) / CELL_PX ** len(cells)
    # All smaller bins, and of the pixel's own the share below it. Added, not taken from a sum that may be much larger.
    smaller = nn.functional.pad(around.cumsum(-1), (1, 0))[..., :-1]
    spent: Tensor = (smaller.flatten()[place] + around.flatten()[place] * inside).pow(1 / power) * _HIGHEST
    # The rest is for pixels whose sum is next to nothing: above 0, on the grid of thresholds, and in an order.
    return torch.where(broken, torch.full_like(spent, torch.nan), spent + FLOOR + _LOWEST * error)


def _levels(error: Tensor) -> tuple[Tensor, Tensor]:
    """Return each pixel's bin, and how far inside it the pixel lies, from 0 to 1."""
    steps = (_LEVELS - 2) / log(_HIGHEST / _LOWEST)
    scaled = 1 + steps * torch.log(error.clamp(min=_LOWEST) / _LOWEST)
    position = torch.where(error < _LOWEST, error / _LOWEST, scaled).clamp(0, _LEVELS - 1)
    # The last bin has no upper end: it fills up as 1 / error falls.
    last = _LEVELS - _HIGHEST / error.clamp(min=_HIGHEST)
    position = torch.where(error > _HIGHEST, last, position)
    level = position.floor().clamp(max=_LEVELS - 1)
    return level.long(), position - level


def _cells(error: Tensor) -> Tensor:
    """Return the number of the cell that each pixel lies in, counted over the batch."""
    number = torch.arange(len(error), device=error.device).view(-1, *[1] * (error.ndim - 1))
    for axis in range(2, error.ndim):
        along = torch.arange(error.shape[axis], device=error.device) // CELL_PX
        number = number * (error.shape[axis] // CELL_PX) + along.view(-1, *[1] * (error.ndim - 1 - axis))
    return number.expand(error.shape)


def _window_means(mass: Tensor, radius: int) -> Tensor:
    """Return the mean over the cells around each cell of (N, ..., levels); at the border, over those that are there."""
    for axis in range(1, mass.ndim - 1):
        lines = mass.movedim(axis, -1)
        mean = nn.functional.avg_pool1d(
            lines.reshape(1, -1, lines.shape[-1]), 2 * radius + 1, 1, padding=radius, count_include_pad=False
        )
        mass = mean.view(lines.shape).movedim(-1, axis)
    return mass.contiguous()


def _product(sizes: list[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product
