"""When two names are one, and how names from files are shown."""

from __future__ import annotations

import unicodedata

_LONGEST = 80  # in messages


def as_compared(name: str) -> str:
    """Return a name as it is compared: whatever its case, its blanks at the ends and how its accents are encoded."""
    return unicodedata.normalize("NFC", name).strip().casefold()


def shown(name: str) -> str:
    """Return a name that stands in a file as messages show it: in quotes, in one line, and not all of a long one."""
    return repr(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}...")
