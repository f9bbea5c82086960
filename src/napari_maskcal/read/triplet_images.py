"""One part of many triplets as one image, so that the engine runs over fields as over the planes of a stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_maskcal.read.facts import content_hash
from napari_maskcal.read.image import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_maskcal.read.parts import Part


@dataclass(frozen=True, slots=True)
class PlanesOfParts:
    """Slices like a (fields, Y, X) array, and reads a plane when it is asked for."""

    parts: Sequence[Part]
    sha256: Sequence[str]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Fields, and the size of the first; the survey sees to it that they agree."""
        return (len(self.parts), *self.parts[0].shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the first field."""
        return self.parts[0].dtype

    def __getitem__(self, index: tuple[int, ...]) -> NDArray[Any]:
        return read_unchanged(self.parts[index[0]], self.sha256[index[0]])


@dataclass(frozen=True, slots=True, kw_only=True)
class TripletImage(Image):
    """An image whose planes come from many files; messages name the file."""

    def describe(self, index: tuple[int, ...]) -> str:
        """Name the file or layer that a plane comes from."""
        parts: Sequence[Part] = self.data.parts
        return parts[index[0]].describe()


def read_unchanged(part: Part, sha256: str) -> NDArray[Any]:
    """Return the pixels of a part.

    Raises
    ------
    ValueError
        If they are not those whose content hash is `sha256`: what was found for one content must not be kept, or
        certified, under the name of another.
    """
    plane = part.read()
    if content_hash(plane) != sha256:
        raise ValueError(f"{part.describe()} was changed while the calibration ran; start again")
    return plane


def image_of_parts(parts: Sequence[Part], sha256: Sequence[str], *, name: str) -> TripletImage:
    """Return an image whose planes, along an axis T, are `parts`, which have these content hashes."""
    return TripletImage(
        data=PlanesOfParts(tuple(parts), tuple(sha256)), axes="TYX", scale=(1.0,) * 3, units=("pixel",) * 3, name=name
    )  # fmt: skip
