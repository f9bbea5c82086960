"""What the examples take from packages, as the benchmarks do: photos, weights, and how photos are degraded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import paper_data
from paper_data import read_photos, unpack_sdist
from paper_environment import TENSORFLOW, scratch_python
from paper_material import FACTOR, coarse
from paper_pretrained import Compact, load_compact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float32]

__all__ = [
    "BENCHMARKS", "FACTOR", "FROM_GREY_LEVELS", "GREY_LEVELS", "PHOTO_PX", "TENSORFLOW", "Compact", "coarse",
    "load_compact", "middle", "middle_of_photos", "scratch_python", "unpack_sdist",
]  # fmt: skip

BENCHMARKS = Path(paper_data.__file__).parent
PHOTO_PX = 256
GREY_LEVELS = 255
FROM_GREY_LEVELS = {"kind": "fixed", "offset": 0, "span": GREY_LEVELS}
"""How an image in grey levels is prepared for a network that was trained with intensities from 0 to 1."""


def middle_of_photos(cache: Path) -> dict[str, Plane]:
    """Return the middle of each photo, (256, 256), in grey levels from 0 to 255, by name; small ones are left out."""
    photos = {name: GREY_LEVELS * photo[0] for name, photo in read_photos(cache, colour=False).items()}
    return {name: middle(photo) for name, photo in photos.items() if min(photo.shape) >= PHOTO_PX}


def middle(image: Plane, size: int = PHOTO_PX) -> Plane:
    """Return the square of so many pixels in the middle of an image, (Y, X)."""
    top, left = ((n - size) // 2 for n in image.shape)
    return np.ascontiguousarray(image[top : top + size, left : left + size])
