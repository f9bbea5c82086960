"""The tolerances at which curves are kept: a fixed ladder with every number of two digits on it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import lru_cache
from math import floor, log10
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Hundredths: steps of at most 2.5 %, and 1.0, 1.1, ..., 9.9 exactly as a user would type them.
_MANTISSAS = (*range(100, 200, 2), *range(200, 500, 5), *range(500, 1000, 10))
STEPS_PER_DECADE = len(_MANTISSAS)


@lru_cache(maxsize=256)
def _decade(exponent: int) -> tuple[float, ...]:
    # By text, so that a rung is the very number that the same digits give elsewhere.
    return tuple(float(f"{mantissa}e{exponent - 2}") for mantissa in _MANTISSAS)


def rungs(first: int, count: int) -> NDArray[np.float64]:
    """Return `count` tolerances of the ladder from rung `first` on; rung 0 is 1.0."""
    return np.array([_decade(i // STEPS_PER_DECADE)[i % STEPS_PER_DECADE] for i in range(first, first + count)])


def rung_above(value: float) -> int:
    """Return the lowest rung that is not below `value`, which is above 0."""
    exponent = floor(log10(value))
    return exponent * STEPS_PER_DECADE + bisect_left(_decade(exponent), value)


def rung_below(value: float) -> int:
    """Return the highest rung that is not above `value`, which is above 0."""
    exponent = floor(log10(value))
    return exponent * STEPS_PER_DECADE + bisect_right(_decade(exponent), value) - 1
