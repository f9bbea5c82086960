"""What a foreign file does not say of its network, kept beside it: ``model.onnx.maskcal.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from napari_maskcal.read.atomic import write_atomically
from napari_maskcal.read.names import shown
from napari_maskcal.restore.card import ModelCard, parse_card

if TYPE_CHECKING:
    from typing import Any

_SUFFIX = ".maskcal.json"
_LARGEST = 2**20


def description_path(path: Path) -> Path:
    """Return where a file's description stands."""
    return path.with_name(path.name + _SUFFIX)


def read_description(path: Path, sha256: str, *, kind: str) -> ModelCard | None:
    """Return the description of a file with this content; None where there is none, or it is of another content.

    Parameters
    ----------
    kind
        Of the loader that takes the file.

    Raises
    ------
    ValueError
        If there is one that cannot be read, or describes a network of another kind.
    """
    for place in (description_path(path), _own_place(sha256)):
        if place.is_file() and (card := _read(place, sha256, kind)) is not None:
            return card
    return None


def write_description(path: Path, card: ModelCard, sha256: str) -> Path:
    """Write the description beside a file, or where that folder cannot be written, into the user's own; say where."""
    content = {"schema_version": 1, "sha256": sha256, "card": json.loads(card.model_dump_json())}
    text = json.dumps(content, indent=1).encode()
    try:
        write_atomically(description_path(path), text)
    except ValueError:
        place = _own_place(sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, text)
        return place
    return description_path(path)


def mark_untried(path: Path) -> None:
    """Keep that the description of a file comes from somebody else, and no trial run was held against it."""
    write_atomically(_untried(path), b"")


def is_untried(path: Path) -> bool:
    """Whether `mark_untried` was the last that was said of a file."""
    return _untried(path).exists()


def mark_tried(path: Path) -> None:
    """Keep that a trial run agreed with the description of a file."""
    _untried(path).unlink(missing_ok=True)


def _untried(path: Path) -> Path:
    return path.with_name(path.name + ".untried")


def _read(place: Path, sha256: str, kind: str) -> ModelCard | None:
    if place.stat().st_size > _LARGEST:
        raise ValueError(f"{place} is too large for the description of a network; remove it")
    try:
        content: Any = json.loads(place.read_bytes())
        known, card = content["sha256"], content["card"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{place} is no description of a network; remove it, and it is made anew") from None
    if known != sha256:
        return None
    found = parse_card(json.dumps(card), source=str(place))
    said, channels = found.network.get("kind"), found.network.get("channels", 1)
    if found.role != "restorer" or not isinstance(channels, int) or channels not in (1, 3):
        raise ValueError(
            f"{place} describes no restorer of 1 or 3 channels, but a {found.role} network of {str(channels)[:40]}; "
            "remove it, and it is made anew"
        )
    if said != kind:
        raise ValueError(
            f"{place} describes a network of the kind {shown(str(said))}, but the file is of the kind {kind!r}; "
            "remove it, and it is made anew"
        )
    return found


def _own_place(sha256: str) -> Path:
    import platformdirs

    return Path(platformdirs.user_data_path("napari-maskcal")) / "models" / f"{sha256}{_SUFFIX}"
