"""The bundled stack, as an image and as what napari's File > Open Sample takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_maskcal.read.image import Image

_STACK = Path(__file__).parent / "demo" / "stack.tif"


def sample_image() -> Image:
    """Return the bundled noisy fluorescence stack, with axes, pixel size and units; docs/demo.md tells its origin."""
    from napari_maskcal.read.tiff import read_tiff

    return read_tiff(_STACK)


def sample_layers() -> list[tuple[Any, dict[str, Any], str]]:
    """Return the bundled stack as napari layer data."""
    image = sample_image()
    options = {
        "name": "noisy stack",
        "scale": image.scale,
        "units": image.units,
        "axis_labels": tuple(image.axes.lower()),
        "colormap": "gray",
    }
    return [(image.data, options, "image")]
