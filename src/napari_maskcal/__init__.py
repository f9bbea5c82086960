"""Shows which parts of a restored microscopy image can be believed, with a promise that holds.

The public names are imported when they are first used, so that ``import napari_maskcal`` loads neither torch
nor a GUI library.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Certificate": "napari_maskcal.calibrate.certificate",
    "conformal_threshold": "napari_maskcal.calibrate",
    "image_threshold": "napari_maskcal.calibrate",
    "load_mask_model": "napari_maskcal.models",
    "load_restorer": "napari_maskcal.models",
    "read_image": "napari_maskcal.read.files",
    "read_triplets": "napari_maskcal.read.triplets",
    "run": "napari_maskcal.pipeline",
    "sample_image": "napari_maskcal.sample_data",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
