"""When two names are one."""

from __future__ import annotations

import unicodedata


def as_compared(name: str) -> str:
    """Return a name as it is compared: whatever its case, its blanks at the ends and how its accents are encoded."""
    return unicodedata.normalize("NFC", name).strip().casefold()
