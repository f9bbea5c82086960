"""Which field is of which specimen, as users write it and as it is told to them."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAMED_GROUPS = 4


def groups_of_text(text: str, count: int) -> tuple[str, ...] | None:
    """Return the specimen of each of `count` fields, out of ``"A, A, B"`` or ``"A: 2, B: 1"``; None for no text.

    Raises
    ------
    ValueError
        If they are more or fewer than the fields.
    """
    if not text.strip():
        return None
    owners: list[str] = []
    for word in text.split(","):
        name, _, times = word.rpartition(":") if re.search(r":\s*\d+\s*$", word) else (word, "", "1")
        owners += [name.strip()] * int(times)
    if len(owners) != count:
        raise ValueError(
            f"{len(owners)} specimens are named for {count} fields; name one for each, such as 'A, A, B', or count "
            "them, such as 'A: 2, B: 1'"
        )
    return tuple(owners)


def specimens_told(owners: Sequence[str | None], *, grouped: bool, files: str) -> str:
    """Return how many specimens there are and the first of them; an owner of None is one that is not found."""
    if lost := owners.count(None):
        return f"no specimen is found in {lost} of {len(owners)} {files}"
    if not grouped:
        return f"{len(owners)} {files}, each taken as a specimen of its own"
    counts = Counter(owners)
    named = [f"{name} ({times})" for name, times in list(counts.items())[:_NAMED_GROUPS]]
    more = ", …" if len(counts) > _NAMED_GROUPS else ""
    return f"{len(counts)} specimen{'s' * (len(counts) != 1)}: {', '.join(named)}{more}"


def unpaired_told(count: int) -> str:
    """Return the end of that line, where files have no partner."""
    return f"; {count} without a partner" if count else ""
