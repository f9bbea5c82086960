"""One part of many triplets as one image, so that the engine runs over fields as over the planes of a stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_maskcal.read.facts import content_hash
from napari_maskcal.read.image import Image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_maskcal.read.parts import Part


@dataclass(frozen=True, slots=True)
class PlanesOfParts:
    """Slices like a (fields, Y, X) array, and reads a plane when it is asked for.

    Attributes
    ----------
    parts
        The fields, and then the other planes of their stacks.
    sha256
        What the content hash of each part has to be; empty until one that is no field is first read.
    stacks
        By the number of a part, those of its stack.
    """

    parts: Sequence[Part]
    sha256: list[str]
    stacks: Mapping[int, Sequence[int]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Planes, and the size of the first; the survey sees to it that they agree."""
        return (len(self.parts), *self.parts[0].shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the first field."""
        return self.parts[0].dtype

    def __getitem__(self, index: tuple[int, ...]) -> NDArray[Any]:
        (number,) = index
        if not self.sha256[number]:
            plane = self.parts[number].read()
            self.sha256[number] = content_hash(plane)
            return plane
        return read_unchanged(self.parts[number], self.sha256[number])


@dataclass(frozen=True, slots=True, kw_only=True)
class TripletImage(Image):
    """An image whose planes come from many files; messages name the file."""

    def describe(self, index: tuple[int, ...]) -> str:
        """Name the file or layer that a plane comes from."""
        parts: Sequence[Part] = self.data.parts
        return parts[index[0]].describe()

    def stack_of(self, index: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Return the indices of all planes along Z of the file that a plane comes from."""
        numbers: Sequence[int] = self.data.stacks.get(index[0], index)
        return tuple((number,) for number in numbers)


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


def image_of_parts(
    parts: Sequence[Part], sha256: Sequence[str], *, name: str, with_stacks: bool = False
) -> TripletImage:
    """Return an image whose planes, along an axis T, are `parts`, which have these content hashes.

    `with_stacks` adds the other planes of their files, for restorers that look at them. Of those that are no fields
    nobody knows the hash; it is kept when they are first read, so that all reads are of one content.
    """
    everything, known, stacks = list(parts), list(sha256), {}
    if with_stacks:
        stacks = _stacks(everything)
        known += [""] * (len(everything) - len(known))
    return TripletImage(
        data=PlanesOfParts(everything, known, stacks), axes="TYX", scale=(1.0,) * 3, units=("pixel",) * 3, name=name
    )  # fmt: skip


def _stacks(parts: list[Part]) -> dict[int, tuple[int, ...]]:
    """Return the stack of each part by its number, and append what is missing of them to `parts`."""
    numbers: dict[Any, int] = {}
    for number, part in enumerate(parts):
        numbers.setdefault(_key(part), number)
    stacks: dict[int, tuple[int, ...]] = {}
    for number, part in enumerate(list(parts)):
        if number in stacks:
            continue
        found = []
        for other in part.stack():
            if (key := _key(other)) not in numbers:
                numbers[key] = len(parts)
                parts.append(other)
            found.append(number if other is part else numbers[key])
        for one in found:
            stacks.setdefault(one, tuple(found))
    return stacks


def _key(part: Part) -> Any:
    return part.origin if isinstance(part.origin, str) else id(part.origin), part.axes, part.index
