"""Files that can run code, and to which the user has agreed: once for each content."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from napari_maskcal.read.atomic import write_atomically

_LARGEST = 16 * 2**20


def is_trusted(sha256: str) -> bool:
    """Whether the user has agreed to files of this content."""
    return sha256 in _agreed()


def trust(sha256: str, *, name: str) -> None:
    """Keep that the user has agreed to files of this content; `name` is for those who read the list."""
    agreed = _agreed() | {sha256: {"name": name, "date": datetime.now(UTC).date().isoformat()}}
    place = _place()
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, json.dumps(agreed, indent=1).encode())


def _agreed() -> dict[str, dict[str, str]]:
    place = _place()
    if not place.exists():
        return {}
    if not place.is_file() or place.stat().st_size > _LARGEST:
        raise ValueError(f"{place}, the list of files that you agreed to, is no file of a sensible size; remove it")
    try:
        content = json.loads(place.read_bytes())
    except (ValueError, OSError, RecursionError):
        raise ValueError(f"{place}, the list of files that you agreed to, cannot be read; remove it") from None
    if not isinstance(content, dict):
        raise ValueError(f"{place}, the list of files that you agreed to, is no such list; remove it")
    return content


def _place() -> Path:
    import platformdirs

    return Path(platformdirs.user_config_path("napari-maskcal")) / "trusted.json"
