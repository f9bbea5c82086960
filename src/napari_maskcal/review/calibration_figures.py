"""The plots of a calibration, drawn on axes that the caller gives: by the dock and by the report alike.

Only bars and lines are coloured here, with Okabe and Ito's colours, which people with any colour vision tell apart
on light and on dark grounds; frames, ticks and text stay as the caller's style has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

BARS, CHOSEN, FOUND, PROMISED = "#56B4E9", "#D55E00", "#0072B2", "#009E73"
_BINS = 24
_MARGIN = 2.5  # bars of what is not on the logarithmic axis, 0 and infinity, stand apart by this many bins


def draw_thresholds(ax: Axes, thresholds: ArrayLike, chosen: float) -> None:
    """Draw the histogram of image thresholds with the chosen one.

    Parameters
    ----------
    ax
        Cleared before.
    thresholds
        Of the fields, at least 0; 0 (everything has to be masked) and infinity (nothing) get bars of their own.
    chosen
        The threshold in force.
    """
    from matplotlib.ticker import MaxNLocator

    ax.clear()
    values = np.asarray(thresholds, dtype=np.float64).ravel()
    on_axis = [value for value in (*values, chosen) if 0 < value < np.inf]
    low, high = _range(np.log10(on_axis))
    step = (high - low) / _BINS
    counts, edges = np.histogram(np.log10(values[(values > 0) & (values < np.inf)]), bins=_BINS, range=(low, high))
    ax.bar(edges[:-1], counts, width=step, align="edge", color=BARS)
    places = {0.0: low - _MARGIN * step, np.inf: high + _MARGIN * step}
    for value, place in places.items():
        ax.bar(place, np.count_nonzero(values == value), width=step, color=BARS)
    at = places[chosen] if chosen in places else np.log10(chosen)
    ax.axvline(at, color=CHOSEN, linewidth=2, label="chosen")
    _label_thresholds(ax, low, high, places)
    ax.set_xlabel("image threshold")
    ax.set_ylabel("fields")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)


def draw_coverage(
    ax: Axes,
    confidences: ArrayLike,
    promised: ArrayLike,
    left_out: ArrayLike,
    *,
    chosen: float | None = None,
    label: str = "leave-one-out",
    unit: str = "specimens",
) -> None:
    """Draw which share was kept, over the confidence asked for, beside what was promised.

    Parameters
    ----------
    ax
        Cleared before.
    confidences, promised, left_out
        Of equal length, in any order; NaN in `left_out` where the fields are too few to say anything.
    chosen
        The confidence in force.
    label, unit
        What the shares are of.
    """
    ax.clear()
    asked, said, found = (np.asarray(values, dtype=np.float64) for values in (confidences, promised, left_out))
    order = np.argsort(asked)
    ax.plot(asked[order], said[order], color=PROMISED, linewidth=2, linestyle="--", label="promised")
    known = order[np.isfinite(found[order])]
    ax.plot(asked[known], found[known], color=FOUND, linewidth=1.5, marker="o", markersize=3, label=label)
    if chosen is not None:
        ax.axvline(chosen, color=CHOSEN, linewidth=2, label="chosen")
    ax.set_ylim(min(0.5, _smallest(found, said)) - 0.02, 1.02)
    ax.set_xlabel("confidence")
    ax.set_ylabel(f"share of {unit} within tolerance")
    ax.legend(frameon=False)


def draw_masked_share(
    ax: Axes, tolerances: ArrayLike, shares: ArrayLike, pinned: float, *, unit: str = "", label: str = ""
) -> None:
    """Draw the mean masked share over the tolerance.

    Parameters
    ----------
    ax
        Cleared before.
    tolerances, shares
        Of equal length, in any order; NaN in `shares` where there is no answer.
    pinned
        The tolerance in force.
    unit
        Of the tolerances, for the axis.
    label
        Which fields the shares are of.
    """
    ax.clear()
    asked, found = (np.asarray(values, dtype=np.float64) for values in (tolerances, shares))
    order = np.argsort(asked)
    known = order[np.isfinite(found[order])]
    ax.plot(asked[known], found[known], color=FOUND, linewidth=1.5, label=label or None)
    ax.axvline(pinned, color=CHOSEN, linewidth=2, label="chosen")
    _number_logarithmic_axis(ax, asked)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel(f"tolerance ({unit})" if unit else "tolerance")
    ax.set_ylabel("mean masked share")
    ax.legend(frameon=False)


def _range(logarithms: NDArray[Any]) -> tuple[float, float]:
    """Return a range that holds all values and is not empty."""
    if not len(logarithms):
        return -1.0, 0.0
    low, high = float(logarithms.min()), float(logarithms.max())
    return (low, high) if high - low > 0.05 else ((low + high) / 2 - 0.1, (low + high) / 2 + 0.1)


def _label_thresholds(ax: Axes, low: float, high: float, places: dict[float, float]) -> None:
    """Write thresholds, not their logarithms, with 0 and infinity at the ends."""
    ticks = low + (high - low) * np.array([0.1, 0.37, 0.63, 0.9])
    ax.set_xticks(
        [places[0.0], *ticks, places[np.inf]], labels=["0", *(f"{10**tick:.2g}" for tick in ticks), "∞"]
    )  # fmt: skip


def _number_logarithmic_axis(ax: Axes, values: NDArray[Any]) -> None:
    """Write 0.01, 0.02, 0.05, not powers of ten with labels that run into each other."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    wide = len(values) > 0 and values.max() > 100 * values.min()
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _smallest(*values: NDArray[Any]) -> float:
    known = np.concatenate([one[np.isfinite(one)] for one in values])
    return float(known.min()) if len(known) else 0.0
