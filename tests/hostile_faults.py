"""Faults that a loader must not have, planted to see that the watch over the hostile files notices each."""

from __future__ import annotations

import sys
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    Fault = Callable[[], AbstractContextManager[Any]]

_LOADERS = "napari_maskcal.restore.loaders"


def unpickles() -> AbstractContextManager[Any]:
    """A checkpoint is unpickled as it is."""
    import torch

    load = torch.load
    return patch("torch.load", lambda *args, **kwargs: load(*args, **kwargs | {"weights_only": False}))


def unpacks() -> AbstractContextManager[Any]:
    """A zip is unpacked to a folder before its entries are checked."""

    def unpack(infos: list[zipfile.ZipInfo], path: Path) -> None:
        place = path.parent / "unpacked"
        for info in infos:
            with suppress(OSError):
                (place / info.filename).parent.mkdir(parents=True, exist_ok=True)
                (place / info.filename).write_bytes(b"")
        raise ValueError(f"{path}: its entry is bad")

    return patch(f"{_LOADERS}.archives.check_entries", unpack)


def writes_early() -> AbstractContextManager[Any]:
    """Something is written beside the file before the user has agreed to it."""
    from napari_maskcal.restore.loaders import registry

    check = registry._check_trusted

    def write(path: Path, *args: Any) -> None:
        path.with_name("notes.json").write_text("{}")
        check(path, *args)

    return patch.object(registry, "_check_trusted", write)


def trusts_all() -> AbstractContextManager[Any]:
    """Nobody is asked."""
    return patch(f"{_LOADERS}.registry.is_trusted", lambda sha256: True)


def fetches() -> AbstractContextManager[Any]:
    """What a package keeps elsewhere is fetched."""
    from napari_maskcal.restore.loaders import bioimage

    source = bioimage._source

    def fetch(entry: Any, path: Path, **kwargs: Any) -> Any:
        with suppress(OSError):
            urllib.request.urlopen(str(entry.source), timeout=1)  # noqa: S310
        return source(entry, path, **kwargs)

    return patch.object(bioimage, "_source", fetch)


def imports() -> AbstractContextManager[Any]:
    """A module beside the file is imported."""
    from napari_maskcal.restore.loaders import registry

    check = registry._check_there

    def load(path: Path) -> None:
        (place := str(path.parent / "code.zip"))
        with patch.object(sys, "path", [place, *sys.path]), suppress(ImportError):
            __import__(f"planted_{path.name.partition('.')[0]}")
        check(path)

    return patch.object(registry, "_check_there", load)


def believes_claims() -> AbstractContextManager[Any]:
    """Memory is taken for as much as a header claims."""
    from napari_maskcal.restore.loaders import checkpoint

    known = checkpoint.weights_format

    def take(path: Path) -> Any:
        size = int.from_bytes(path.read_bytes()[:8], "little")
        bytearray(b"x") * min(size, 2**28)
        return known(path)

    return patch(f"{_LOADERS}.spandrel_model.weights_format", take)


def says_all() -> AbstractContextManager[Any]:
    """A message has all of a name, and its line breaks."""
    return patch("napari_maskcal.bundle.shown", lambda name: name)


def lets_errors_through() -> AbstractContextManager[Any]:
    """A library's own error comes up."""
    return patch(f"{_LOADERS}.exported.first_line", lambda error: {}[type(error)])


def waits() -> AbstractContextManager[Any]:
    """A pipe is opened, to which nobody ever writes."""
    from napari_maskcal.restore.loaders import registry

    return patch.object(registry, "_check_there", lambda path: None)


FAULTS: dict[str, tuple[Fault, str, str]] = {
    "unpickles": (unpickles, "archive.pth", "changed"),
    "unpacks": (unpacks, "slip-0.pt", "changed"),
    "writes early": (writes_early, "script.pt", "changed"),
    "trusts all": (trusts_all, "export.pt2", "not refused"),
    "fetches": (fetches, "package-remote.zip", "socket"),
    "imports": (imports, "text.onnx", "import"),
    "believes claims": (believes_claims, "header-1152921504606846976.safetensors", "memory"),
    "says all": (says_all, "line-break.maskcal", "one line"),
    "lets errors through": (lets_errors_through, "no-json.pt2", "not refused"),
    "waits": (waits, "fifo.onnx", "ended"),
}
"""By name: what plants it, the file that shows it, and a word of what the watch says."""
