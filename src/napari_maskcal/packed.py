"""The restorer that a ``.maskcal`` bundle may bring along, so that one file is all that is handed on."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, field_validator

from napari_maskcal.read.atomic import write_atomically
from napari_maskcal.read.cache import cache_folder
from napari_maskcal.restore.card import ModelCard
from napari_maskcal.restore.loaders.base import known_sha256
from napari_maskcal.restore.loaders.description import mark_untried, read_description, write_description
from napari_maskcal.restore.loaders.native import is_native
from napari_maskcal.restore.loaders.registry import card_of, restorer_sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_maskcal.models import Restorer

LARGEST = 2**30  # bytes
_RESERVED = r"(?i:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)"  # Windows makes no file of these names
_NAME = rf"(?!{_RESERVED})(?!.*\.maskcal$)[A-Za-z0-9_](?:[A-Za-z0-9_. +-]{{0,118}}[A-Za-z0-9_])?"
_LONGEST_NAME = 120
_FOLDER_CHARACTERS = 32  # of the hash


class PackedRestorer(BaseModel):
    """What a bundle says of the restorer in it.

    Attributes
    ----------
    file_name
        What the file is called once it is unpacked; the user reads it.
    sha256
        What certificates know the restorer by.
    card
        How a restorer of others is used, as its trial run and its user said; None for one of this package's format,
        which says so itself.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    file_name: str
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    card: ModelCard | None = None

    @field_validator("file_name")
    @classmethod
    def _can_be_made_anywhere(cls, name: str) -> str:
        if not re.fullmatch(_NAME, name):
            raise ValueError("it is no name that a file can have on every system, in a folder of its own")
        return name

    @property
    def folder(self) -> str:
        """What its folder is called: two ways to use one file must not take each other's place."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:_FOLDER_CHARACTERS]

    def check(self, content: str, *, source: Path) -> None:
        """Raise ValueError unless this is the restorer whose file has the SHA-256 `content`."""
        if self.sha256 != (content if self.card is None else restorer_sha256(self.card, content)):
            raise ValueError(f"{source} is damaged or was changed: its restorer is not the one it was saved with")


def packable(restorer: Restorer) -> Path:
    """Return the file of a restorer that can be put into a bundle.

    Raises
    ------
    ValueError
        If it came from no file, or from one that is too large.
    """
    path = restorer.source
    if path is None or not path.is_file():
        remedy = "zip that folder, and take it" if path is not None and path.is_dir() else "write the bundle without it"
        raise ValueError(f"{restorer.card.name} comes from no file that could be put into a bundle; {remedy}")
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(
            f"{path} has {size / 2**20:.0f} MiB, more than the {LARGEST / 2**20:.0f} that a bundle holds; write the "
            "bundle without it"
        )
    return path


def packed(restorer: Restorer) -> tuple[PackedRestorer, bytes]:
    """Return what a bundle says of a restorer, and the content of its file.

    Raises
    ------
    ValueError
        See `packable`; also if the file has changed since it was opened.
    """
    path = packable(restorer)
    content = path.read_bytes()
    own = hashlib.sha256(content).hexdigest()
    card, sha256 = (None, own) if is_native(path) else card_of(path, lambda _: own)
    if sha256 != restorer.sha256:
        raise ValueError(f"{path} has changed since it was opened; begin again with the file as it is now")
    return PackedRestorer(file_name=_plain(path.name), sha256=sha256, card=card), content


def unpacked(restorer: PackedRestorer, content_hash: str, content: Callable[[], bytes], *, source: Path) -> Path:
    """Return the restorer's file in the user's cache, where it lies by all that is said of it, with its description.

    A card that others wrote is held against a trial run when the network is first loaded.

    Parameters
    ----------
    restorer
        What the bundle says of it.
    content_hash, content
        SHA-256 of the file, and what reads it where it is not there yet.
    source
        The bundle, for messages.

    Raises
    ------
    ValueError
        If the content has another hash or goes without its card, or the file cannot be written.
    """
    place = cache_folder() / "restorers" / restorer.folder / restorer.file_name
    if not place.is_file() or known_sha256(place) != content_hash:
        found = content()
        _make_folder(place.parent)
        if restorer.card is not None and restorer.card.halo_px is not None:  # what is never cut has no seams
            mark_untried(place)
        write_atomically(place, found)
    if is_native(place) != (restorer.card is None):
        raise ValueError(f"{source} does not say how its restorer is used, or says it of one that says so itself")
    if restorer.card is not None and _described(place, content_hash, restorer.card) != restorer.card:
        write_description(place, restorer.card, content_hash)
    return place


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be made for the restorer: {error.strerror or error}; make room, or let the environment "
            "variable MASKCAL_CACHE_DIR name another folder"
        ) from error


def _plain(name: str) -> str:
    """Return a file's name with nothing in it that another system could not write."""
    plain = re.sub(r"[^A-Za-z0-9_. +-]", "_", name)[-_LONGEST_NAME:].strip(" .+-")
    return plain if re.fullmatch(_NAME, plain) else "restorer"


def _described(place: Path, content_hash: str, card: ModelCard) -> ModelCard | None:
    try:
        return read_description(place, content_hash, kind=str(card.network.get("kind")))
    except ValueError:  # it was changed; the bundle says what it is
        return None
