"""Triplets listed in a CSV or TSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from napari_maskcal.read.faults import Fault
from napari_maskcal.read.listing import stem_of
from napari_maskcal.read.sources import PARTS, Source

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXAMPLE = "degraded,truth,restored,uncertainty,group, of which the last three may be missing"
_SAME = {"input": "degraded"}


def sources_in_manifest(path: Path) -> tuple[tuple[Source, ...], tuple[Fault, ...], bool]:
    """Return the files of each line, the faults of those lines that are not complete, and whether groups are named.

    Raises
    ------
    ValueError
        If the file is no such table, or has no lines.
    """
    rows = _rows(path)
    columns = _columns(rows[0][1], path)
    sources, faults = [], []
    for number, row in rows[1:]:
        cells = {name: row[i].strip() for name, i in columns.items() if i < len(row)}
        missing = [name for name in columns if not cells.get(name)]
        lost = [cells[part] for part in PARTS if cells.get(part) and not (path.parent / cells[part]).exists()]
        place = f"line {number} of {path.name}"
        faults += [
            Fault(file=place, fault=f"has no {name}", remedy="fill it in, or remove the line") for name in missing
        ]
        faults += [
            Fault(file=file, fault="does not exist", remedy=f"correct {place}, or remove the line") for file in lost
        ]
        if not missing and not lost:
            sources.append(_source(cells, path.parent))
    if not sources and not faults:
        raise ValueError(f"{path} has no lines below its header; write one for each field")
    return tuple(sources), tuple(faults), "group" in columns


def _source(cells: Mapping[str, str], folder: Path) -> Source:
    labels = {part: cells[part] for part in PARTS if part in cells}
    degraded = Path(labels["degraded"])
    return Source(
        name=degraded.with_name(stem_of(degraded)).as_posix(),
        files={part: folder / Path(label).expanduser() for part, label in labels.items()},
        labels=labels,
        group=cells.get("group"),
    )


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the number and cells of each line that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = csv.reader(
            io.StringIO(text, newline=""), delimiter=_delimiter(text, path), strict=True, skipinitialspace=True
        )
        found = [(rows.line_num, row) for row in rows if any(cell.strip() for cell in row)]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; choose a CSV or TSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}; save it as CSV in UTF-8") from error
    if not found:
        raise ValueError(f"{path} is empty; its first line has to be {_EXAMPLE}")
    return found


def _delimiter(text: str, path: Path) -> str:
    """Return what divides the header's cells; spreadsheets write semicolons where the comma is decimal."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    if path.suffix.lower() == ".tsv" or "\t" in header:
        return "\t"
    return ";" if ";" in header and "," not in header else ","


def _columns(header: list[str], path: Path) -> dict[str, int]:
    """Return the place of each column that is known; others are left to the user."""
    names = [_SAME.get(name.strip().lower(), name.strip().lower()) for name in header]
    for name in (*PARTS, "group"):
        if names.count(name) > 1:
            raise ValueError(f"{path} has {names.count(name)} columns for {name}; keep one")
    for name in ("degraded", "truth"):
        if name not in names:
            raise ValueError(
                f"{path} has no column {name}, but {', '.join(header)}; its first line has to be {_EXAMPLE}"
            )
    return {name: names.index(name) for name in (*PARTS, "group") if name in names}
