"""The planes of files that belong together."""

from __future__ import annotations

import os
from itertools import product
from typing import TYPE_CHECKING

from napari_maskcal.read.faults import Fault, unique
from napari_maskcal.read.parts import Part, Triplet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_maskcal.read.opened import Header, OpenImages
    from napari_maskcal.read.sources import Source


def slice_source(
    source: Source, headers: Mapping[str, Header], *, axes: str | None, stacks: OpenImages
) -> tuple[list[Triplet], tuple[Fault, ...]]:
    """Return a triplet for each plane that all files of `source` have, or the faults that forbid it."""
    faults = [fault for part in headers for fault in _unusable(source.labels[part], headers[part])]
    if not faults:
        faults = _other_planes(source, headers)
    if faults:
        return [], unique(faults)
    stack = headers["degraded"].stack
    triplets, ungrouped = [], []
    for position in product(*map(range, stack.values())):
        place = dict(zip(stack, position, strict=True))
        triplet = _triplet(source, headers, place, axes, stacks)
        triplets += [triplet] if triplet else []
        ungrouped += [] if triplet else [_ungrouped(source)]
    return triplets, unique(ungrouped)


def _triplet(
    source: Source, headers: Mapping[str, Header], place: Mapping[str, int], axes: str | None, stacks: OpenImages
) -> Triplet | None:
    """Return the triplet at `place`, unless its group cannot be told."""
    words = [f"{axis}={i}" for axis, i in place.items()]
    plane = f"plane {' '.join(words)}" if words else ""
    group = source.group_of(plane)
    if group is None:
        return None
    parts = {
        part: Part(
            origin=os.path.abspath(source.files[part]), index=tuple(place.get(axis, 0) for axis in header.axes[:-2]),
            header=header, label=source.labels[part], place=plane, axes=axes, stacks=stacks,
        )
        for part, header in headers.items()
    }  # fmt: skip
    return Triplet(name=" ".join((source.name, *words)), group=group, **parts)


def _unusable(label: str, header: Header) -> list[Fault]:
    if 0 in header.shape:
        told = f"has no pixels: its shape is {header.shape}"
        return [Fault(file=label, fault=told, remedy="write it anew, or leave the field out")]
    if channels := header.stack.get("C"):
        return [Fault(file=label, fault=f"has {channels} channels", remedy="choose a channel and save it alone")]
    return []


def _other_planes(source: Source, headers: Mapping[str, Header]) -> list[Fault]:
    first = headers["degraded"].stack
    return [
        Fault(
            file=source.labels[part],
            fault=f"has {_planes(header.stack)}, but {source.labels['degraded']} has {_planes(first)}",
            remedy="give both the same planes, name the axes if they are read wrongly, or leave the field out",
        )
        for part, header in headers.items()
        if list(header.stack.items()) != list(first.items())
    ]


def _planes(stack: Mapping[str, int]) -> str:
    return "planes " + " ".join(f"{axis}={size}" for axis, size in stack.items()) if stack else "one plane"


def _ungrouped(source: Source) -> Fault:
    pattern = source.pattern.pattern if source.pattern else ""
    told = f"does not say its group: {pattern!r} is not found in {source.place!r}"
    return Fault(file=source.labels["degraded"], fault=told, remedy="change the pattern or the file's name")
