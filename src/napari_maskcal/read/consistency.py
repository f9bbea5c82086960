"""What has to be the same in all fields, as far as headers tell."""

from __future__ import annotations

from collections import Counter
from math import isclose
from typing import TYPE_CHECKING

from napari_maskcal.read.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from napari_maskcal.read.parts import Part, Triplet

_SAME_SIZE = 1e-3


class Consistency:
    """Compares each field with the first of those that agree with most.

    Parameters
    ----------
    triplets
        All fields.
    """

    def __init__(self, triplets: Iterable[Triplet]) -> None:
        parts: dict[str, list[Part]] = {}
        for triplet in triplets:
            for name, part in triplet.parts().items():
                parts.setdefault(name, []).append(part)
        self._shape = _usual(parts.get("degraded", []), lambda part: part.shape)
        self._dtype = {name: _usual(several, _dtype) for name, several in parts.items()}
        self._size = {name: _usual([p for p in several if _has_size(p)], _size) for name, several in parts.items()}

    def faults(self, triplet: Triplet) -> list[Fault]:
        """Return in what the files of `triplet` differ from most."""
        found = _other_shape(triplet.degraded, self._shape)
        for name, part in triplet.parts().items():
            found += _other_dtype(part, self._dtype.get(name))
            found += _other_size(part, self._size.get(name)) if _has_size(part) else []
        return found


def _usual(parts: Sequence[Part], value: Callable[[Part], Hashable]) -> Part | None:
    """Return the first part whose value is the one that most have."""
    first: dict[Hashable, Part] = {}
    count: Counter[Hashable] = Counter()
    for part in parts:
        count[value(part)] += 1
        first.setdefault(value(part), part)
    return first[count.most_common(1)[0][0]] if count else None


def by(shape: tuple[int, int]) -> str:
    """Return a shape for a message: ``64 x 48``, Y first."""
    return " x ".join(map(str, shape))


def _other_shape(part: Part, usual: Part | None) -> list[Fault]:
    if usual is None or part.shape == usual.shape:
        return []
    told = f"is {by(part.shape)} pixels, but {usual.label} is {by(usual.shape)}"
    return [Fault(file=part.label, fault=told, remedy="calibrate with fields of one size: cut it, or leave it out")]


def _other_dtype(part: Part, usual: Part | None) -> list[Fault]:
    if usual is None or _dtype(part) == _dtype(usual):
        return []
    told = f"has dtype {part.dtype}, but {usual.label} has {usual.dtype}"
    return [Fault(file=part.label, fault=told, remedy="convert it, if its intensities mean the same, or leave it out")]


def _other_size(part: Part, usual: Part | None) -> list[Fault]:
    if usual is None:
        return []
    (size, units), (usual_size, usual_units) = _size(part), _size(usual)
    alike = all(isclose(a, b, rel_tol=_SAME_SIZE) for a, b in zip(size, usual_size, strict=True))
    if alike and units == usual_units:
        return []
    told = f"has pixels of {_sized(part)}, but {usual.label} of {_sized(usual)}"
    return [Fault(file=part.label, fault=told, remedy="correct its metadata, or leave it out")]


def _dtype(part: Part) -> str:
    """Floating point of any precision counts as one."""
    return "float" if part.dtype.kind == "f" else str(part.dtype)


def _has_size(part: Part) -> bool:
    return "pixel" not in part.header.units[-2:]


def _size(part: Part) -> tuple[tuple[float, ...], tuple[str, ...]]:
    return part.header.scale[-2:], part.header.units[-2:]


def _sized(part: Part) -> str:
    (height, width), (unit, other) = _size(part)
    return f"{height:g} x {width:g} {unit}" if unit == other else f"{height:g} {unit} x {width:g} {other}"
