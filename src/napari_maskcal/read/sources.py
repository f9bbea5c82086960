"""Which files make up a triplet, from folders paired by name."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_maskcal.read.faults import Fault, unique
from napari_maskcal.read.listing import Listing, list_images
from napari_maskcal.read.pairing import pair_names

if TYPE_CHECKING:
    from collections.abc import Mapping

PARTS = ("degraded", "truth", "restored", "uncertainty")
_WORDS = {
    "degraded": "degraded image",
    "truth": "truth",
    "restored": "restored image",
    "uncertainty": "uncertainty map",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files of one triplet, or of as many as they have planes.

    Attributes
    ----------
    name
        What the triplet is called.
    files
        Path of each part.
    labels
        What messages call each file.
    group
        The specimen, where a list names it.
    pattern
        The regular expression that finds the specimen in `place`.
    place
        The degraded file's path below its folder.
    single
        Whether the file's first axis counts fields, each of which is a group of its own.
    """

    name: str
    files: Mapping[str, Path]
    labels: Mapping[str, str]
    group: str | None = None
    pattern: re.Pattern[str] | None = None
    place: str = ""
    single: bool = False

    def group_of(self, planes: str) -> str | None:
        """Return the specimen of the plane called `planes`; None where it cannot be told."""
        if self.pattern is None:
            return self.group or self.name
        found = self.pattern.search(f"{self.place}, {planes}" if self.single and planes else self.place)
        return (found[1] if found.re.groups else found[0]) or None if found else None


def find_sources(
    places: Mapping[str, str | Path | None], *, group: str | None
) -> tuple[tuple[Source, ...], tuple[Fault, ...]]:
    """Return the files that belong together, and the faults of those that belong to none.

    Parameters
    ----------
    places
        Folder, pattern or file of each part.
    group
        Regular expression.

    Raises
    ------
    ValueError
        If a place does not exist or has no images, two are the same, or `group` is not a regular expression.
    """
    pattern = _pattern(group)
    listings = {part: list_images(place, part=part) for part, place in places.items() if place is not None}
    _check_different(places, listings)
    complete, faults = _paired(listings)
    return tuple(_source(files, listings, pattern) for files in complete), unique(faults)


def _pattern(group: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(group) if group else None
    except re.error as error:
        raise ValueError(
            f"group {group!r} is not a regular expression: {error}; write one such as '(specimen\\d+)'"
        ) from error


def _check_different(places: Mapping[str, str | Path | None], listings: Mapping[str, Listing]) -> None:
    seen: dict[tuple[Path, ...], str] = {}
    for part, listing in listings.items():
        first = seen.setdefault(listing.files, part)
        if first != part:
            raise ValueError(
                f"{first} and {part} are the same files, {places[part]}; choose two folders, or two patterns such as "
                "'cells/*_input.tif' and 'cells/*_truth.tif'"
            )


def _label(path: Path, listings: Mapping[str, Listing]) -> str:
    """Return the path below the folder that all folders are in."""
    absolute = Path(os.path.abspath(path))
    common = _common({os.path.abspath(listing.root) for listing in listings.values()})
    return str(absolute) if common is None else absolute.relative_to(common).as_posix()


def _common(roots: set[str]) -> Path | None:
    try:
        common = Path(os.path.commonpath(roots))
    except ValueError:  # they are on different drives
        return None
    if str(common) in roots:
        common = common.parent  # the folder's own name tells more than none
    return None if common == common.parent else common


def _source(files: dict[str, Path], listings: Mapping[str, Listing], pattern: re.Pattern[str] | None) -> Source:
    listing, path = listings["degraded"], files["degraded"]
    return Source(
        name=listing.name(path),
        files=files,
        labels={part: _label(file, listings) for part, file in files.items()},
        pattern=pattern,
        place=path.relative_to(listing.root).as_posix(),
        single=listing.single,
    )


def _paired(listings: Mapping[str, Listing]) -> tuple[list[dict[str, Path]], list[Fault]]:
    """Return the files of each complete triplet, and a fault for each file that is in none."""
    if all(listing.single for listing in listings.values()):
        return [{part: listing.files[0] for part, listing in listings.items()}], []
    triplets = [{"degraded": path} for path in listings["degraded"].files]
    faults = [
        Fault(file=_label(path, listings), fault="is of a format that is not read", remedy="convert it to TIFF")
        for listing in listings.values()
        for path in listing.others
    ]
    for part, listing in listings.items():
        if part != "degraded":
            partners, unpaired = _partners(listings["degraded"], listing, _WORDS[part], listings)
            faults += unpaired
            for number, path in partners.items():
                triplets[number][part] = path
    return [files for files in triplets if len(files) == len(listings)], faults


def _partners(
    degraded: Listing, listing: Listing, word: str, listings: Mapping[str, Listing]
) -> tuple[dict[int, Path], list[Fault]]:
    pairing = pair_names(*([side.name(path) for path in side.files] for side in (degraded, listing)))
    partners = {number: listing.files[other] for number, other in pairing.partner.items()}
    faults = []
    for side, lacks, known, clashes in (
        (degraded, word, set(partners) | pairing.unclear[0], pairing.clashes[0]),
        (listing, _WORDS["degraded"], set(pairing.partner.values()) | pairing.unclear[1], pairing.clashes[1]),
    ):
        labels = [_label(path, listings) for path in side.files]
        for number, first in clashes.items():
            told = f"has the name of {labels[first]}"
            faults.append(Fault(file=labels[number], fault=told, remedy="rename or remove one of them"))
        for number in sorted(set(range(len(labels))) - known):
            told = f"has no {lacks} of the same name"
            faults.append(Fault(file=labels[number], fault=told, remedy="add it, or remove this file"))
    return partners, faults
