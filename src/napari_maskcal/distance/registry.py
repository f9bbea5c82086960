"""Find a distance by the name a user writes."""

from __future__ import annotations

import re

from napari_maskcal.distance.linf import LInfinity
from napari_maskcal.distance.lp import Lp

Distance = Lp | LInfinity


def parse_distance(name: str | Distance) -> Distance:
    """Return the distance called `name`: ``"l1"``, ``"l2"``, ``"linf"``, or ``"l3"``, ``"l1.5"`` and so on.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if not isinstance(name, str):
        return name
    lowered = name.lower()
    if lowered in ("linf", "l-infinity"):
        return LInfinity()
    if (match := re.fullmatch(r"l(\d+(?:\.\d+)?)", lowered)) and 1 <= float(match[1]) <= 64:
        return Lp(float(match[1]), f"l{float(match[1]):g}")
    raise ValueError(f"there is no distance {name!r}; known are l1, l2, linf and lP with P from 1 to 64, such as l3")
