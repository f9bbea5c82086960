"""Where a user says that triplets are: what is wrong with it, which specimens it gives, and the triplets themselves.

No GUI, no pixels, no torch.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from napari_maskcal.read.manifest import sources_in_manifest
from napari_maskcal.read.sources import find_sources
from napari_maskcal.read.triplets import read_manifest, read_triplets, triplets_from_arrays
from napari_maskcal.review.request import Problem, Source
from napari_maskcal.review.specimens import groups_of_text, specimens_told, unpaired_told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_maskcal.read.cache import Cache
    from napari_maskcal.read.parts import Triplets

Kind = Literal["folders", "table", "layers"]
_PLACES = {"degraded": "degraded images", "truth": "clean images", "restored": "restored images",
           "uncertainty": "uncertainty maps"}  # fmt: skip


class TripletChoices(Protocol):
    """Choices that say where triplets are.

    `kind` says which of the others count: an attribute for each part (folders, patterns or files), `manifest` (a
    table), or `layers`, by the name of the part. `group` is a regular expression for folders, and for layers a text
    as of `groups_of_text`; empty: each image is a specimen.
    """

    @property
    def kind(self) -> Kind: ...  # noqa: D102
    @property
    def manifest(self) -> str: ...  # noqa: D102
    @property
    def layers(self) -> Mapping[str, Source | None]: ...  # noqa: D102
    @property
    def group(self) -> str: ...  # noqa: D102


def triplet_problems(choices: TripletChoices, parts: Sequence[str]) -> list[Problem]:
    """Return what is wrong with where the `parts` are said to be."""
    if choices.kind == "layers":
        return _layer_problems(choices, parts)
    if choices.kind == "table":
        fault = _place_fault(choices.manifest, "table", file=True)
        return [Problem(field="manifest", message=fault)] if fault else []
    found = [(part, _place_fault(getattr(choices, part), _PLACES[part])) for part in parts]
    problems = [Problem(field=part, message=fault) for part, fault in found if fault]
    try:
        re.compile(choices.group)
    except re.error as error:
        message = f"{choices.group!r} is not a regular expression: {error}; write one such as (specimen\\d+)"
        problems.append(Problem(field="group", message=message))
    return problems


def specimens_chosen(choices: TripletChoices, parts: Sequence[str]) -> str:
    """Say which specimens the names of the files give, without opening an image; empty while nothing is chosen.

    Raises
    ------
    ValueError
        If the files cannot be listed, or the pattern is none.
    """
    places = {part: getattr(choices, part) for part in parts if getattr(choices, part, "")}
    if choices.kind == "folders" and {"degraded", "truth"} <= places.keys():
        sources, faults = find_sources(places, group=choices.group or None)
        owners = [source.group_of("") for source in sources]
        told = "" if not any(s.single for s in sources) else " (planes are counted when they are measured)"
        return specimens_told(owners, grouped=bool(choices.group), files="files") + told + unpaired_told(len(faults))
    if choices.kind == "table" and choices.manifest:
        listed, faults, grouped = sources_in_manifest(Path(choices.manifest).expanduser())
        owners = [source.group_of("") for source in listed]
        return specimens_told(owners, grouped=grouped, files="lines") + unpaired_told(len(faults))
    degraded = choices.layers.get("degraded")
    if choices.kind == "layers" and degraded is not None and len(degraded.shape) in (2, 3):
        count = _field_count(degraded.shape)
        return specimens_told(
            groups_of_text(choices.group, count) or [str(i) for i in range(count)],
            grouped=bool(choices.group), files="fields",
        )  # fmt: skip
    return ""


def triplets_chosen(
    choices: TripletChoices, parts: Sequence[str], arrays: Mapping[str, Any], cache: Cache | None
) -> Triplets:
    """List the triplets; `arrays` are the layers' pixels, by the name of the part.

    Raises
    ------
    ValueError
        If there are none.
    """
    if choices.kind == "table":
        return read_manifest(choices.manifest, cache=cache)
    if choices.kind == "folders":
        places = {part: getattr(choices, part) for part in parts}
        return read_triplets(**places, group=choices.group or None, cache=cache)
    groups = groups_of_text(choices.group, _field_count(arrays["degraded"].shape))
    return triplets_from_arrays(**{part: arrays[part] for part in parts}, groups=groups)


def _place_fault(place: str, what: str, *, file: bool = False) -> str | None:
    if not place.strip():
        return f"choose the {what}"
    path = Path(place).expanduser()
    if file:
        return None if path.is_file() else f"{path} does not exist; choose a CSV or TSV file"
    if path.exists() or glob.has_magic(str(path)):
        return None
    return f"{path} does not exist; choose a folder, or a pattern such as low/*.tif"


def _layer_problems(choices: TripletChoices, parts: Sequence[str]) -> list[Problem]:
    problems, sizes = [], {}
    for part in parts:
        source = choices.layers.get(part)
        fault = _layer_fault(source, _PLACES[part])
        if fault is None and source is not None:
            sizes[part] = _field_count(source.shape)
            if sizes[part] != sizes.get("degraded", sizes[part]):
                fault = f"{source.name} has {sizes[part]} fields, the degraded layer {sizes['degraded']}; take as many"
        if fault:
            problems.append(Problem(field=part, message=fault))
    try:
        groups_of_text(choices.group, sizes.get("degraded", 0)) if "degraded" in sizes else None
    except ValueError as error:
        problems.append(Problem(field="group", message=str(error)))
    return problems


def _layer_fault(source: Source | None, what: str) -> str | None:
    if source is None:
        return f"choose the layer with the {what}"
    if source.rgb:
        return f"{source.name} is an RGB image and the network takes one channel; right-click it and Split RGB"
    if len(source.shape) not in (2, 3):
        return f"{source.name} has shape {source.shape}; take a layer of (fields, Y, X), or (Y, X) for one field"
    return None


def _field_count(shape: Sequence[int]) -> int:
    return shape[0] if len(shape) == 3 else 1
