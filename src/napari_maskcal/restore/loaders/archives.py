"""What kind of zip a file is, and whether its entries are harmless: only the list of entries is read."""

from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING

from napari_maskcal.read.names import shown

if TYPE_CHECKING:
    from pathlib import Path

_MOST_ENTRIES = 20_000
_MOST_BYTES = 8 * 2**30
_LARGEST_LIST = 400 * _MOST_ENTRIES  # bytes
_LARGEST_RATIO = 200  # weights hardly shrink; a thousandfold is a bomb
_END = struct.Struct("<4s8xL4xH")  # the record that a zip ends with: mark, bytes of the list of entries, of a comment
_WIDE_END = struct.Struct("<4s36xQ8x4s16x")  # the same of large zips, and what points to it; both lie before that one


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
    check_list(path)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is a zip that is truncated or damaged: {error}") from None
    check_entries(infos, path)
    if infos and min(info.header_offset for info in infos) > 0:  # such as the rest of a zip that was in another
        raise ValueError(f"{path} begins with what its list of entries does not name; it is truncated, or two in one")
    if sum(info.compress_size for info in infos) > path.stat().st_size:
        raise ValueError(f"{path} has entries that lie over each other, or claim more than is there")
    return [info.filename for info in infos]


def check_entries(infos: list[zipfile.ZipInfo], path: Path) -> None:
    """Raise ValueError for entries that no honest archive has."""
    if len(infos) > _MOST_ENTRIES:
        raise ValueError(f"{path} has {len(infos)} entries, more than a network has")
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has two entries of one name, so two programs may read it differently")
    for info in infos:
        name = f"{path}: its entry {shown(info.filename)}"
        pure = PureWindowsPath(info.filename)  # which takes slashes of both kinds, and letters of drives
        if not pure.parts or pure.drive or pure.root or ".." in pure.parts:
            raise ValueError(f"{name} would be written outside of the folder")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"{name} is a link")
        if info.file_size > _LARGEST_RATIO * max(info.compress_size, 1) and info.file_size > 2**20:
            raise ValueError(f"{name} claims to grow from {info.compress_size} bytes to {info.file_size}")
    total = sum(info.file_size for info in infos)
    if total > _MOST_BYTES:
        raise ValueError(f"{path} claims to hold {total / 2**30:.1f} GiB, more than is allowed")


def names_below_top(names: list[str]) -> set[str]:
    """Return the names without the one folder that archives of torch put all into."""
    return {name.partition("/")[2] for name in names}


def check_list(path: Path) -> None:
    """Raise ValueError for a zip whose list of entries is so long that reading it alone would take the memory."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _END.size - _WIDE_END.size - 0xFFFF))
        tail = file.read()
    end = len(tail) - _END.size
    if end < 0 or tail[end : end + 4] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
        end = tail.rfind(b"PK\x05\x06")
    if end < 0 or end + _END.size > len(tail):
        return  # damaged, as zipfile will say
    listed = _END.unpack_from(tail, end)[1]
    if end >= _WIDE_END.size:
        mark, wide, pointer = _WIDE_END.unpack_from(tail, end - _WIDE_END.size)
        if (mark, pointer) == (b"PK\x06\x06", b"PK\x06\x07"):
            listed = wide  # whatever the other says, as for zipfile
    if _LARGEST_LIST < listed <= size:
        raise ValueError(f"{path} has a list of entries of {listed} bytes, more than a network has")
