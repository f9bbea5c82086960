"""The restorer that a ``.maskcal`` bundle may bring along, so that one file is all that is handed on."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from napari_maskcal.read.atomic import write_atomically
from napari_maskcal.read.cache import cache_folder
from napari_maskcal.restore.card import ModelCard
from napari_maskcal.restore.loaders.base import content_sha256
from napari_maskcal.restore.loaders.description import read_description, write_description
from napari_maskcal.restore.loaders.native import is_native
from napari_maskcal.restore.loaders.registry import card_of, restorer_sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_maskcal.models import Restorer

LARGEST = 2**30  # bytes
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_. +-]{0,118}[A-Za-z0-9_])?"  # can be made anywhere, and only in its own folder
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

    file_name: Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    card: ModelCard | None = None

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
    """Return the restorer's file in the user's cache, where it lies by its hash; its description lies beside it.

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
        If the content has another hash, or cannot be written.
    """
    place = cache_folder() / "restorers" / restorer.sha256[:_FOLDER_CHARACTERS] / restorer.file_name
    if not place.is_file() or content_sha256(place) != content_hash:
        found = content()
        if hashlib.sha256(found).hexdigest() != content_hash:
            raise ValueError(
                f"{source} is damaged or was changed: the hash of its restorer is not the one it was saved with"
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, found)
    if restorer.card is not None and _described(place, content_hash, restorer.card) != restorer.card:
        write_description(place, restorer.card, content_hash)
    return place


def _plain(name: str) -> str:
    """Return a file's name with nothing in it that another system could not write."""
    plain = re.sub(r"[^A-Za-z0-9_. +-]", "_", name)[-_LONGEST_NAME:]
    return plain.strip(" .+-") or "restorer"


def _described(place: Path, content_hash: str, card: ModelCard) -> ModelCard | None:
    try:
        return read_description(place, content_hash, kind=str(card.network.get("kind")))
    except ValueError:  # it was changed; the bundle says what it is
        return None
