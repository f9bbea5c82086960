"""What every loader of foreign networks has to answer, and what is known of a file before it is described."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

    from napari_maskcal.read.pixel_size import PixelSize
    from napari_maskcal.restore.card import Axes, Normalisation

LARGEST_FILE = 4 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a file says of its network; None where it says nothing, and a trial run has to show it.

    Attributes
    ----------
    channels
        Of the network's own input: 1, or 3 for colours.
    axes, scale_factor, stride_px, halo_px, min_size_px, stride_z, halo_z, min_size_z, normalisation, pixel_size
        See `napari_maskcal.restore.card.ModelCard`. A halo that is said is a lower bound: a trial run looks for more.
    """

    name: str = ""
    axes: Axes | None = None
    channels: int | None = None
    scale_factor: int | None = None
    stride_px: int | None = None
    halo_px: int | None = None
    min_size_px: int | None = None
    stride_z: int | None = None
    halo_z: int | None = None
    min_size_z: int | None = None
    normalisation: Normalisation | None = None
    pixel_size: PixelSize | None = None
    licence: str = ""
    citation: str = ""


class Loader(Protocol):
    """One format of network files; found by what is in a file, never by its suffix.

    Attributes
    ----------
    name
        As users know the format.
    kind
        For the `network` part of a model card.
    extra
        The extra of this package that brings the library; empty if none is needed.
    runs_code
        Whether a file of this format can run code, so that the user has to agree to it once.
    """

    name: str
    kind: str
    extra: str
    runs_code: bool

    def refusal(self, path: Path) -> str:
        """Return why `path` is not of this format, in a few words, or empty if it is; runs nothing."""

    def said(self, path: Path) -> Said:
        """Return what the file says of its network; runs nothing.

        Raises
        ------
        ValueError
            If the file is damaged, or its network is one that cannot be used.
        """

    def load(self, path: Path) -> nn.Module:
        """Return the network: normalised float32 (N, channels, Y, X) -> (N, channels, factor Y, factor X).

        One of volumes: (N, channels, Z, Y, X) -> the same.

        Raises
        ------
        ValueError
            If it cannot be read.
        ImportError
            If the library is missing; the message names the extra.
        """


class NotTrustedError(ValueError):
    """A file, or the restorer of a package, that can run code, and to which the user has not agreed yet."""

    def __init__(self, path: Path | str, what: str, sha256: str) -> None:
        self.path, self.sha256 = Path(path), sha256
        super().__init__(
            f"{path} is {what}, which can run code on this computer; if you know where it comes from, agree to it "
            f"once: maskcal info --trust {path}"
        )


class NotDescribedError(ValueError):
    """A file that does not say all about its network, and that nobody has described yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path} does not say how its network is to be used; a trial run finds that out: maskcal info {path}"
        )


def content_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for part in sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink()):
        digest.update(f"{part.relative_to(path).as_posix()}\0{content_sha256(part)}\n".encode())
    return digest.hexdigest()


def file_state(path: Path) -> tuple[int, int]:
    """Return what changes when a file does; zeros when there is none."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def known_sha256(path: Path) -> str:
    """Return `content_sha256`; a file is read again only when it has changed."""
    return _content_sha256(path, file_state(path))


@lru_cache(maxsize=16)
def _content_sha256(path: Path, state: tuple[int, int]) -> str:
    return content_sha256(path)


def needed(module: str, *, extra: str, file_format: str) -> ImportError:
    """Return the error to raise where a library is missing."""
    return ImportError(
        f"{file_format} files need {module}, which is not installed: pip install 'napari-maskcal[{extra}]'"
    )
