"""The two percentiles between which intensities are normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOW, HIGH = 1.0, 99.8


def percentiles(plane: NDArray[Any], low: float = LOW, high: float = HIGH) -> tuple[float, float]:
    """Return two percentiles of a plane, each the value of one of its pixels."""
    last = plane.size - 1
    ranks = [round(last * share / 100) for share in (low, high)]
    ordered = np.partition(plane, ranks, axis=None)
    return float(ordered[ranks[0]]), float(ordered[ranks[1]])
