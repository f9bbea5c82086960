"""The plots of a training, drawn on axes that the caller gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_maskcal.review.calibration_figures import BARS, CHOSEN, FOUND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

_POINTS = 50  # the loss of one batch says little
_SPIKES = 5  # percent of the losses that need not be in view


def draw_losses(ax: Axes, at: ArrayLike, losses: ArrayLike, *, steps: int) -> None:
    """Draw the loss over the steps, as means of neighbours; a few spikes may be out of view.

    Parameters
    ----------
    ax
        Cleared before.
    at, losses
        Steps, ascending, and their losses, of equal length; those that are not finite are left out.
    steps
        How many there will be.
    """
    ax.clear()
    middles, means = neighbours(at, losses)
    ax.plot(middles, means, color=FOUND, linewidth=1.5)
    if len(means) > 1:
        low, high = (float(value) for value in np.percentile(means, (0, 100 - _SPIKES)))
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        ax.set_ylim(low - room, high + room)
    ax.set_xlim(0, max(steps, 1))
    ax.set_xlabel("step")
    ax.set_ylabel("loss")


def draw_validations(ax: Axes, validated: Sequence[tuple[int, float]], *, steps: int, best_step: int) -> None:
    """Draw what share of the validation fields was masked, over the steps, and mark the best.

    Parameters
    ----------
    ax
        Cleared before.
    validated
        Steps with their masked shares, 0 to 1.
    steps
        How many there will be.
    best_step
        The step whose network is kept; 0: none yet.
    """
    ax.clear()
    at, shares = [step for step, _ in validated], [100 * share for _, share in validated]
    ax.plot(at, shares, color=BARS, linewidth=1.5, marker="o", markersize=4)
    if best_step in at:
        ax.plot([best_step], [shares[at.index(best_step)]], color=CHOSEN, marker="o", markersize=7, linestyle="none",
                label="best, kept")  # fmt: skip
        ax.legend(frameon=False)
    ax.set_xlim(0, max(steps, 1) * 1.02)
    ax.set_ylim(0, min(max([*shares, 1.0]) * 1.25, 102))
    ax.set_xlabel("step")
    ax.set_ylabel("masked %")


def neighbours(at: ArrayLike, losses: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most 50 steps and the means of the losses around them."""
    steps, values = (np.asarray(one, dtype=np.float64).ravel() for one in (at, losses))
    steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
    if len(values) <= _POINTS:
        return steps, values
    edges = np.linspace(0, len(values), _POINTS + 1).astype(int)
    counts = np.diff(edges)
    return np.add.reduceat(steps, edges[:-1]) / counts, np.add.reduceat(values, edges[:-1]) / counts
