"""Triplets in memory for the training stages: their right half is brighter, and restored badly."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_maskcal.mask.recipe import Recipe
from napari_maskcal.read.triplets import triplets_from_arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_maskcal.read.parts import Triplets

TINY = Recipe(widths=(4, 8), steps=4, batch=4, crop_px=32, learning_rate=1e-2, validate_every=2)


def images(count: int, *, size: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return degraded, restored and truth, each (fields, Y, X)."""
    rng = np.random.default_rng(seed)
    bad = np.arange(size) >= size // 2
    truth = 100 + 20 * rng.random((count, size, size)) + 80 * bad
    restored = truth + rng.normal(0, 1, truth.shape) * np.where(bad, 30, 1)
    return restored + rng.normal(0, 5, truth.shape), restored, truth


def triplets(groups: Sequence[str] | int = 12, *, size: int = 32, seed: int = 0, grouped: bool = True) -> Triplets:
    """Return one field of each group, with its restored image."""
    names = [f"mouse {i}" for i in range(groups)] if isinstance(groups, int) else list(groups)
    degraded, restored, truth = images(len(names), size=size, seed=seed)
    return triplets_from_arrays(
        degraded=degraded, truth=truth, restored=restored, groups=names if grouped else None
    )  # fmt: skip


def of(these: Triplets, groups: Sequence[str]) -> Triplets:
    """Return the triplets of some groups."""
    return replace(these, items=tuple(one for one in these if one.group in groups))
