"""What kind of zip a file is, and whether its entries are harmless: only the list of entries is read."""

from __future__ import annotations

import stat
import zipfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MOST_ENTRIES = 20_000
_MOST_BYTES = 8 * 2**30
_LARGEST_RATIO = 200  # weights hardly shrink; a thousandfold is a bomb


def entries(path: Path) -> list[str] | None:
    """Return the names in a zip; None if it is none.

    Raises
    ------
    ValueError
        If an entry would lie outside of a folder it was unpacked to, is a link, or claims more than is sensible.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return None
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is a zip that is truncated or damaged: {error}") from None
    check_entries(infos, path)
    return [info.filename for info in infos]


def check_entries(infos: list[zipfile.ZipInfo], path: Path) -> None:
    """Raise ValueError for entries that no honest archive has."""
    if len(infos) > _MOST_ENTRIES:
        raise ValueError(f"{path} has {len(infos)} entries, more than a network has")
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has two entries of one name, so two programs may read it differently")
    for info in infos:
        pure = PurePosixPath(info.filename.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or pure.parts[0].endswith(":"):
            raise ValueError(f"{path}: its entry {info.filename!r} would be written outside of the folder")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"{path}: its entry {info.filename!r} is a link")
        if info.file_size > _LARGEST_RATIO * max(info.compress_size, 1) and info.file_size > 2**20:
            raise ValueError(
                f"{path}: its entry {info.filename!r} claims to grow from {info.compress_size} bytes to "
                f"{info.file_size}"
            )
    total = sum(info.file_size for info in infos)
    if total > _MOST_BYTES:
        raise ValueError(f"{path} claims to hold {total / 2**30:.1f} GiB, more than is allowed")


def names_below_top(names: list[str]) -> set[str]:
    """Return the names without the one folder that archives of torch put all into."""
    return {name.partition("/")[2] for name in names}
