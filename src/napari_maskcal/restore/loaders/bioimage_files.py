"""The files of a bioimage.io package: read where they lie, in a zip or a folder, and nothing unpacked or fetched."""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_maskcal.restore.loaders.archives import entries
from napari_maskcal.restore.loaders.base import LARGEST_FILE, needed
from napari_maskcal.restore.loaders.torchscript import first_line

if TYPE_CHECKING:
    from pathlib import Path

DESCRIPTIONS = ("rdf.yaml", "bioimageio.yaml", "model.yaml")
LARGEST_TEXT = 4 * 2**20
_MOST_NODES = 100_000  # of a description; one of which parts repeat parts may be endless
_KEYS = (rb"""(?:^|[{,])\s*["']?format_version["']?\s*:""", rb"""(?:^|[{,])\s*["']?type["']?\s*:\s*["']?model\b""")


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a package.

    Attributes
    ----------
    package
        Zip, folder, or the description in a folder.
    name
        Of the file in it.
    sha256
        That its content has to have; None if the description does not say.
    """

    package: Path
    name: str
    sha256: str | None

    def __str__(self) -> str:
        return f"{self.package}: {self.name}"

    def read_bytes(self, *, largest: int = LARGEST_FILE) -> bytes:
        """Return the content, once it is seen to be the one that was described.

        Raises
        ------
        ValueError
            If it is not, or there is none.
        """
        if self.sha256 is None and _is_lone(self.package):
            raise ValueError(
                f"{self.package} does not say which hash its {self.name} has, so that could be exchanged unnoticed; "
                f"open the folder {self.package.parent} instead"
            )
        content = _read(self.package, self.name, largest=largest)
        found = hashlib.sha256(content).hexdigest()
        if self.sha256 is not None and found != self.sha256:
            raise ValueError(f"{self} has the SHA-256 {found[:12]}…, but the description says {self.sha256[:12]}…")
        return content


def read_rdf(path: Path) -> dict[str, Any]:
    """Return the description as it is written.

    Raises
    ------
    ValueError
        If it is none of a model; it is checked before anything walks through it.
    """
    name = path.name if _is_lone(path) else description_name(path)
    content = parsed(_read(path, name, largest=LARGEST_TEXT), f"{path}: {name}")
    if not isinstance(content, dict) or content.get("type", "model") != "model":
        kind = content.get("type") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: {name} describes a {kind} and no model")
    described: dict[str, Any] = content
    return described


def parsed(raw: bytes, where: str) -> Any:
    """Return what a file of YAML says, once it is seen to be of a size that can be walked through."""
    try:
        from bioimageio.spec.utils import read_yaml
    except ImportError:
        raise library_needed() from None
    try:
        content: Any = read_yaml(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{where} is not UTF-8, as a description has to be") from None
    except Exception as error:  # noqa: BLE001 - the YAML library has a class for each fault
        raise ValueError(f"{where} is not valid YAML: {first_line(error)}") from None
    _check_size(content, where)
    return content


def _check_size(content: Any, where: str) -> None:
    """Refuse what repeats itself again and again: a few lines of YAML can stand for more than memory holds."""
    left, seen = [content], 0
    while left:
        seen += 1
        if seen > _MOST_NODES:
            raise ValueError(f"{where} has more than {_MOST_NODES} values, more than a description has")
        value = left.pop()
        left.extend(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())


def _is_lone(path: Path) -> bool:
    return path.is_file() and entries(path) is None


def is_description(path: Path) -> bool:
    """Whether a file is the description itself."""
    if path.stat().st_size > LARGEST_TEXT:
        return False
    text = path.read_bytes()
    return b"\0" not in text and all(re.search(key, text, re.MULTILINE) for key in _KEYS)


def description_name(path: Path) -> str:
    """Return the name of the description at the top of a zip or a folder, or empty."""
    names = {p.name for p in path.iterdir() if p.is_file()} if path.is_dir() else set(entries(path) or ())
    return next((name for name in DESCRIPTIONS if name in names), "")


def _read(path: Path, name: str, *, largest: int = LARGEST_FILE) -> bytes:
    """Return a file of a package, by its name in it."""
    if path.is_dir() or _is_lone(path):
        return _read_beside(path if path.is_dir() else path.parent, name, largest)
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(name)
            _check_length(info.file_size, f"{path}: {name}", largest)
            return archive.read(info)
    except KeyError:
        raise ValueError(f"{path} does not hold {name}, which its description names") from None
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: {name} cannot be read: {first_line(error)}") from None


def _read_beside(folder: Path, name: str, largest: int) -> bytes:
    file = folder / name
    if file.resolve() != folder.resolve() / name:
        raise ValueError(f"{folder}: {name} is a link, or lies outside of the folder; put the file itself there")
    if not file.is_file():
        raise ValueError(f"{folder} does not hold {name}, which its description names")
    _check_length(file.stat().st_size, str(file), largest)
    return file.read_bytes()


def _check_length(length: int, where: str, largest: int) -> None:
    if length > largest:
        raise ValueError(f"{where} has {length / 2**20:.0f} MiB, more than the {largest / 2**20:.0f} that are allowed")


def library_needed() -> ImportError:
    """Return the error to raise where bioimageio.spec is missing."""
    return needed("bioimageio.spec", extra="bioimage", file_format="bioimage.io")
