"""Triplets whose pixels are not read yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.read.files import open_image
from napari_maskcal.read.pixel_size import PixelSize, pixel_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_maskcal.read.faults import Fault
    from napari_maskcal.read.image import Image
    from napari_maskcal.read.opened import Header, OpenImages

REMEDY = "repair it, or leave the field out"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """One (Y, X) plane of one file or layer.

    Attributes
    ----------
    origin
        The file's path, as text, which takes a tenth of the memory of a `Path`; or the image in memory or of another
        library's lazy array.
    index
        The plane, along the leading axes.
    header
        What the image says of itself.
    label
        What messages call the file or layer: ``"low/a.tif"``.
    place
        What messages call the plane, if there are others: ``"plane Z=3"``.
    axes
        The axes that the user gave.
    stacks
        Where a file of several planes stays open from one to the next.
    """

    origin: str | Image
    index: tuple[int, ...] = ()
    header: Header
    label: str
    place: str = ""
    axes: str | None = None
    stacks: OpenImages | None = None

    @property
    def image(self) -> Path | Image:
        """The file, or the image."""
        return Path(self.origin) if isinstance(self.origin, str) else self.origin

    @property
    def shape(self) -> tuple[int, int]:
        """Size along Y and X."""
        height, width = self.header.shape[-2:]
        return height, width

    @property
    def pixel_size(self) -> PixelSize | None:
        """Along Y and X; None where the file does not say it."""
        return pixel_size(self.header.scale, self.header.units)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What `read` gives."""
        return np.dtype(self.header.dtype)

    def stack(self) -> tuple[Part, ...]:
        """Return all planes along Z of the file that this is a plane of, its own included; without Z, that alone."""
        if self.stack_planes == 1:
            return (self,)
        z = self.header.axes.index("Z")
        return tuple(self._at((*self.index[:z], i, *self.index[z + 1 :])) for i in range(self.stack_planes))

    @property
    def stack_planes(self) -> int:
        """How many planes `stack` has."""
        return self.header.stack.get("Z", 1)

    @property
    def stack_key(self) -> tuple[Any, ...]:
        """What all planes of a stack have in common, and no others."""
        origin = self.origin if isinstance(self.origin, str) else id(self.origin)
        return origin, self.axes, *(i for axis, i in zip(self.header.axes, self.index, strict=False) if axis != "Z")

    def _at(self, index: tuple[int, ...]) -> Part:
        words = [f"{axis}={i}" for axis, i in zip(self.header.axes, index, strict=False) if axis in self.header.stack]
        return self if index == self.index else replace(self, index=index, place=f"plane {' '.join(words)}")

    def describe(self) -> str:
        """Name the plane for a message: ``low/a.tif, plane Z=3``."""
        return f"{self.label}, {self.place}" if self.place else self.label

    def read(self) -> NDArray[Any]:
        """Return the (Y, X) pixels, a copy in the image's dtype; they may be NaN or infinite.

        Raises
        ------
        ValueError
            If they cannot be read, or the file is another than it was.
        """
        try:
            image = self._open()
            stored = np.asarray(image.data[self.index])
        except Exception as error:  # lazy arrays of any library fail in ways of their own
            told = _told(error, self.image)
            raise ValueError(f"{self.describe()} {told}{'' if '; ' in told else f'; {REMEDY}'}") from error
        if stored.shape != self.shape or stored.dtype.newbyteorder("=") != self.dtype:
            raise ValueError(
                f"{self.describe()} has changed from {self.dtype} of shape {self.shape} to {stored.dtype} of shape "
                f"{stored.shape}; choose the files again"
            )
        return np.array(stored, self.dtype, order="C")

    def _open(self) -> Image:
        path = self.image
        if not isinstance(path, Path):
            return path
        if self.stacks is not None and self.header.stack:
            return self.stacks.open(path, axes=self.axes)
        return open_image(path, axes=self.axes)


def _told(error: Exception, image: Path | Image) -> str:
    """Return what a reader says of `image` without the name that it begins with, or that it cannot be read."""
    text = " ".join(str(error).split()) or type(error).__name__
    names = (str(image), image.name, image.stem) if isinstance(image, Path) else ()
    for name in names:
        if text.startswith(f"{name} ") and isinstance(error, ValueError):
            return text.removeprefix(f"{name} ")
    return f"cannot be read: {text}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Triplet:
    """One plane of one image, with its truth.

    Attributes
    ----------
    name
        ``"a"``, or ``"a Z=3"``.
    group
        The specimen. Where the user named none: the file, or the layer's field.
    degraded, truth, restored, uncertainty
        The planes; the last two may be missing.
    """

    name: str
    group: str
    degraded: Part
    truth: Part
    restored: Part | None = None
    uncertainty: Part | None = None

    @property
    def folders(self) -> tuple[str, ...]:
        """The names of the folders that its files lie in."""
        return tuple(part.image.parent.name for part in self.parts().values() if isinstance(part.image, Path))

    def parts(self) -> dict[str, Part]:
        """Return those parts that are there, by name."""
        four = {
            "degraded": self.degraded, "truth": self.truth, "restored": self.restored, "uncertainty": self.uncertainty
        }  # fmt: skip
        return {name: part for name, part in four.items() if part is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Triplets:
    """Triplets in their order.

    Attributes
    ----------
    items
        Those that are complete.
    grouped
        Whether the user named the groups.
    faults
        What was found without reading pixels: names without a partner, files that are no images or have other shapes,
        dtypes or pixel sizes than most.
    """

    items: tuple[Triplet, ...]
    grouped: bool
    faults: tuple[Fault, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Triplet]:
        return iter(self.items)

    def __getitem__(self, number: int) -> Triplet:
        return self.items[number]

    @property
    def pixel_size(self) -> PixelSize | None:
        """Of the degraded images, which are of one size; None where no file says it."""
        return next((size for item in self.items if (size := item.degraded.pixel_size) is not None), None)
