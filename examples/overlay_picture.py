"""One reviewed image as a picture: what was measured, what became of it, where it is wrong, and what is marked."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from napari_maskcal.review.certificate_words import percent
from napari_maskcal.review.overlay import COLOURS, OPACITY, UNCERTAIN, masked_share

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_IN_VIEW = (0.5, 99.5)  # percent of the intensities between black and white
_BAR_PX = 50
_LETTERS = 44  # of a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A reviewed image and its truth, (Y, X) each; `degraded` may be coarser by a whole factor.

    `uncertain` is 1 where the restored image is marked, else 0.
    """

    degraded: NDArray[Any]
    restored: NDArray[Any]
    truth: NDArray[Any]
    uncertain: NDArray[np.uint8]

    @property
    def error(self) -> NDArray[np.float64]:
        """How far the restored image is from the truth at each pixel, in intensities."""
        return np.abs(self.restored.astype(np.float64) - self.truth)


def draw_overlay(field: Field, path: Path, *, words: Sequence[str]) -> None:
    """Write the picture: degraded, restored, truth; the marked image, its true error, and what is to be known."""
    figure = Figure(figsize=(11, 7.8), dpi=110)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.96, bottom=0.08, wspace=0.03, hspace=0.12)
    (degraded, restored, truth), (marked, error, told) = figure.subplots(2, 3)
    _show(degraded, field.degraded, field, f"Degraded, {_size(field.degraded)}")
    _draw_bar(degraded, field)
    _show(restored, field.restored, field, f"Restored, {_size(field.restored)}")
    _show(truth, field.truth, field, "Truth")
    _show(marked, field.restored, field, f"Restored, {percent(masked_share(field.uncertain))} marked as uncertain")
    _mark(marked, field)
    _show_error(error, field)
    _write(told, words)
    figure.savefig(path)


def _show(axes: Axes, image: NDArray[Any], field: Field, title: str) -> None:
    """Show an image on the truth's grid, black and white where the truth is."""
    low, high = np.percentile(field.truth, _IN_VIEW)
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest", extent=_extent(field))
    _entitle(axes, title)


def _draw_bar(axes: Axes, field: Field) -> None:
    """Draw how long 50 restored pixels are."""
    height = len(field.truth)
    axes.plot((8, 8 + _BAR_PX), (0.95 * height,) * 2, color="white", linewidth=4, solid_capstyle="butt")
    axes.text(8, 0.93 * height, f"{_BAR_PX} pixels of the truth", color="white", va="bottom", fontsize=9,
              bbox={"facecolor": "black", "alpha": 0.5, "pad": 1.5, "linewidth": 0})  # fmt: skip


def _mark(axes: Axes, field: Field) -> None:
    """Lay the overlay's colour over what is marked, as napari shows it."""
    where = np.ma.masked_where(field.uncertain != UNCERTAIN, field.uncertain)
    colour = ListedColormap([COLOURS[UNCERTAIN]])
    axes.imshow(where, cmap=colour, alpha=OPACITY, interpolation="nearest", extent=_extent(field))


def _show_error(axes: Axes, field: Field) -> None:
    brightest = max(float(np.percentile(field.error, _IN_VIEW[1])), 1e-6)
    picture = axes.imshow(
        field.error, cmap="gray", vmin=0, vmax=brightest, interpolation="nearest", extent=_extent(field)
    )
    if 0 < masked_share(field.uncertain) < 1:
        axes.contour(field.uncertain == UNCERTAIN, [0.5], colors=COLOURS[UNCERTAIN], linewidths=0.7,
                     extent=_extent(field), origin="upper")  # fmt: skip
    _entitle(axes, "True error, and the outlines of the marks")
    axes.figure.colorbar(picture, cax=axes.inset_axes((0.1, -0.06, 0.8, 0.03)), orientation="horizontal",
                         extend="max", label="distance from the truth, in its intensities")  # fmt: skip


def _write(axes: Axes, words: Sequence[str]) -> None:
    text = "\n\n".join("\n".join(textwrap.wrap(paragraph, _LETTERS)) for paragraph in words)
    axes.text(0.04, 1, text, transform=axes.transAxes, va="top", fontsize=9.5)
    axes.set_axis_off()


def _entitle(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10.5)
    axes.set_axis_off()


def _extent(field: Field) -> tuple[float, float, float, float]:
    height, width = field.truth.shape
    return 0, width, height, 0


def _size(image: NDArray[Any]) -> str:
    return " × ".join(map(str, image.shape)) + " pixels"
