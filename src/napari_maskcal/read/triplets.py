"""Triplets from folders, a list, or layers; nothing is read but what the files say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_maskcal.read.consistency import Consistency
from napari_maskcal.read.faults import fault_of, unique
from napari_maskcal.read.image import Image, from_array
from napari_maskcal.read.manifest import sources_in_manifest
from napari_maskcal.read.opened import OpenImages, header_of, read_header
from napari_maskcal.read.parts import REMEDY, Part, Triplet, Triplets
from napari_maskcal.read.slicing import slice_source
from napari_maskcal.read.sources import find_sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from napari_maskcal.read.cache import Cache
    from napari_maskcal.read.faults import Fault
    from napari_maskcal.read.opened import Header
    from napari_maskcal.read.sources import Source

__all__ = ["Part", "Triplet", "Triplets", "read_manifest", "read_triplets", "triplets_from_arrays"]


def read_triplets(
    degraded: str | Path,
    truth: str | Path,
    *,
    restored: str | Path | None = None,
    uncertainty: str | Path | None = None,
    group: str | None = None,
    axes: str | None = None,
    cache: Cache | None = None,
) -> Triplets:
    r"""Return the triplets in folders whose files have the same names.

    Each place is a folder, with the folders in it; a pattern such as ``"cells/*_input.tif"``; or one file, whose
    planes are fields. Names may differ in words that all files of one place have, such as ``_input`` and ``_truth``.

    Parameters
    ----------
    degraded, truth, restored, uncertainty
        TIFF, OME-Zarr, PNG and NPY images. Of an image with several planes each plane makes a triplet.
    group
        Regular expression, searched for in the degraded file's path below its folder (in ``"a.tif, plane T=3"`` where a
        single file is given). What its first bracket finds, or else all that it finds, names the specimen. None: all
        planes of one file are one group, for slices and times of one specimen are alike. Where the planes of a single
        file are specimens of their own, say so: ``"T=\d+"``.
    axes
        One letter an axis, for files that do not say it.
    cache
        Where the headers of files are kept, so that next time no file is opened.

    Raises
    ------
    ValueError
        If a place does not exist or has no images, or `group` is not a regular expression.
    """
    places = {"degraded": degraded, "truth": truth, "restored": restored, "uncertainty": uncertainty}
    sources, faults = find_sources(places, group=group)
    return _triplets(sources, faults, grouped=bool(group), axes=axes, cache=cache)


def read_manifest(path: str | Path, *, axes: str | None = None, cache: Cache | None = None) -> Triplets:
    """Return the triplets in a CSV or TSV file.

    Parameters
    ----------
    path
        Its first line names the columns: degraded (or input), truth and, if they are there, restored, uncertainty and
        group. Files are named from the table's folder on. Other columns are disregarded.
    axes, cache
        As in `read_triplets`.

    Raises
    ------
    ValueError
        If it is no such table, or has no lines.
    """
    sources, faults, grouped = sources_in_manifest(Path(path).expanduser())
    return _triplets(sources, faults, grouped=grouped, axes=axes, cache=cache)


def triplets_from_arrays(
    degraded: Any,
    truth: Any,
    *,
    restored: Any = None,
    uncertainty: Any = None,
    groups: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    name: str = "layers",
) -> Triplets:
    """Return the triplets in arrays whose first axis counts fields; they are sliced when a plane is read.

    Parameters
    ----------
    degraded, truth, restored, uncertainty
        (fields, Y, X), or (Y, X) for one field; arrays that slice like numpy, or an `Image`, whose name messages use.
    groups
        The specimen of each field; None: each field is a group of its own.
    names
        What the fields are called; None: ``"field 0"`` and so on.
    name
        What messages call the whole.

    Raises
    ------
    ValueError
        If the arrays are not of two or three axes, count different numbers of fields, or are not of numbers.
    """
    given = {"degraded": degraded, "truth": truth, "restored": restored, "uncertainty": uncertainty}
    images = {part: _layer(data, f"{part} of {name}") for part, data in given.items() if data is not None}
    count = _count(images)
    called = _checked(names, count, "names") or tuple(f"field {i}" for i in range(count))
    if len(set(called)) < count:
        raise ValueError(f"names of {name} are not all different; give each field a name of its own")
    specimens = _checked(groups, count, "groups") or called
    headers = {part: header_of(image) for part, image in images.items()}
    items = []
    for i, (field, group) in enumerate(zip(called, specimens, strict=True)):
        parts = {
            part: Part(origin=image, index=(i,)[: len(image.axes) - 2], header=headers[part], label=image.name,
                       place=f"field {i}")
            for part, image in images.items()
        }  # fmt: skip
        items.append(Triplet(name=field, group=group, **parts))
    return Triplets(items=tuple(items), grouped=groups is not None)


def _layer(data: Any, name: str) -> Image:
    """Return one plane, or planes along one axis, whatever that axis is called."""
    scale, units = None, None
    if isinstance(data, Image):
        data, name, scale, units = data.data, data.name, data.scale, data.units
    if len(data.shape) not in (2, 3) or 0 in data.shape[-2:]:
        raise ValueError(f"{name} has shape {tuple(data.shape)}; give (fields, Y, X), or (Y, X) for one field")
    return from_array(data, axes="TYX"[-len(data.shape) :], name=name, scale=scale, units=units)


def _count(images: Mapping[str, Image]) -> int:
    counts = {image.name: image.shape[0] if len(image.axes) == 3 else 1 for image in images.values()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ValueError(f"numbers of fields differ: {told}; give as many of each")
    return next(iter(counts.values()))


def _checked(given: Sequence[str] | None, count: int, what: str) -> tuple[str, ...]:
    if given is not None and len(given) != count:
        raise ValueError(f"{len(given)} {what} are given for {count} fields; give one for each")
    return tuple(map(str, given)) if given is not None else ()


def _triplets(
    sources: Iterable[Source], faults: Iterable[Fault], *, grouped: bool, axes: str | None, cache: Cache | None
) -> Triplets:
    """Slice all sources into planes and compare what their files say of themselves."""
    items: list[Triplet] = []
    found = list(faults)
    kept: dict[Header, Header] = {}  # most files say the same: keep it once
    stacks = OpenImages()
    for source in sources:
        headers, unreadable = _headers(source, axes, cache)
        if unreadable:
            found += unreadable
            continue
        shared = {part: kept.setdefault(header, header) for part, header in headers.items()}
        planes, wrong = slice_source(source, shared, axes=axes, stacks=stacks)
        items += planes
        found += wrong
    consistency = Consistency(items)
    found += [fault for triplet in items for fault in consistency.faults(triplet)]
    return Triplets(items=tuple(items), grouped=grouped, faults=unique(found))


def _headers(source: Source, axes: str | None, cache: Cache | None) -> tuple[dict[str, Header], list[Fault]]:
    headers, faults = {}, []
    for part, path in source.files.items():
        try:
            headers[part] = read_header(path, axes=axes, cache=cache)
        except ValueError as error:
            names = (str(path), path.name, path.stem)
            remedy = "name the axes that it has, or leave the field out" if str(error).startswith("axes ") else REMEDY
            faults.append(fault_of(error, file=source.labels[part], names=names, remedy=remedy))
    return headers, faults
