"""From uncertainty and threshold to what is drawn: the uncertain regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRUSTED, UNCERTAIN, NOT_COMPUTED = 0, 1, 2

# Vermilion and grey of Okabe and Ito, "Color Universal Design" (2008): told apart with any colour vision.
COLOURS: dict[int | None, str] = {UNCERTAIN: "#D55E00", NOT_COMPUTED: "#999999"}
OPACITY = 0.4


def mark_uncertain(uncertainty: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Return 1 where the uncertainty is above the threshold, else 0, as uint8.

    The mask is that of the binary calibration: a pixel is trusted when ``uncertainty <= threshold``.
    """
    # Not "u > threshold": an uncertainty that is no number at all must never pass for trusted.
    return (~(uncertainty <= round_down(threshold))).astype(np.uint8)


def round_down(threshold: float) -> np.float32:
    """Return the largest float32 that is not above `threshold`.

    Comparing a float32 map with it marks the same pixels as comparing with the exact number would; the nearest
    float32, which numpy takes by itself, may lie above it and trust a pixel too many.
    """
    nearest = np.float32(threshold)
    return nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf))


def masked_share(labels: NDArray[Any]) -> float:
    """Return the share of computed pixels that are marked; NaN if none was computed."""
    marked = computed = 0
    for index in np.ndindex(labels.shape[:-2]):  # plane by plane: a stack may be larger than memory
        plane = labels[index]
        marked += int(np.count_nonzero(plane == UNCERTAIN))
        computed += int(np.count_nonzero(plane != NOT_COMPUTED))
    return marked / computed if computed else float("nan")
