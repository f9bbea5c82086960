"""One validation field as pictures: degraded, restored with the mask over it, and the true error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.review.overlay import COLOURS, OPACITY, UNCERTAIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IN_VIEW = (0.1, 99.9)  # percent of the intensities between black and white


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pictures:
    """What is seen of a field, each (Y, X, 3), uint8; `degraded` may be smaller.

    The true error is black where there is none, and white from `white_error` on, in the unit of the truth.
    """

    degraded: NDArray[np.uint8]
    marked: NDArray[np.uint8]
    error: NDArray[np.uint8]
    white_error: float
    masked_share: float


def pictures(preview: Any) -> Pictures:
    """Return the pictures of a preview, in the intensities of its truth.

    Parameters
    ----------
    preview
        With `degraded`, `restored`, `truth`, each (Y, X), and `uncertain`, (Y, X), True where masked.
    """
    seen = np.stack([preview.restored, preview.truth])
    low, high = _range(seen)
    error = np.abs(preview.restored.astype(np.float64) - preview.truth)
    brightest = float(np.percentile(error, _IN_VIEW[1]))
    return Pictures(
        degraded=_grey(preview.degraded, low, high),
        marked=_painted(_grey(preview.restored, low, high), np.asarray(preview.uncertain, bool)),
        error=_grey(error, 0.0, brightest if brightest > 0 else 1.0),
        white_error=brightest,
        masked_share=float(np.mean(preview.uncertain)),
    )


def _range(values: NDArray[Any]) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(values, _IN_VIEW))
    return (low, high) if high > low else (low, low + 1.0)


def _grey(plane: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    shades = np.clip((np.asarray(plane, np.float64) - low) / (high - low), 0, 1)
    shades = np.nan_to_num(shades)
    return np.repeat((255 * shades).round().astype(np.uint8)[..., None], 3, axis=-1)


def _painted(picture: NDArray[np.uint8], uncertain: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Lay the overlay's colour over what is marked, as the viewer does."""
    code = COLOURS[UNCERTAIN]
    colour = np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], np.float64)
    over = (OPACITY * colour + (1 - OPACITY) * picture).round().astype(np.uint8)
    return np.where(uncertain[..., None], over, picture)
