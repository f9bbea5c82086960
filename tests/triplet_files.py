"""Small folders of pairs, written by the tests that read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def noise(*shape: int, seed: int = 0, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(seed).integers(200, size=shape).astype(dtype)


def write(path: Path, data: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, data, photometric="minisblack", **options)
    return path


def pairs(folder: Path, names: Sequence[str] = ("a", "b", "c"), *shape: int) -> tuple[Path, Path]:
    """Write different noise under each name into the folders low and high."""
    for seed, name in enumerate(names):
        for part, folder_name in enumerate(("low", "high")):
            write(folder / folder_name / f"{name}.tif", noise(*(shape or (8, 9)), seed=2 * seed + part))
    return folder / "low", folder / "high"


def mice(folder: Path, count: int = 10) -> tuple[Path, Path]:
    """Write a smooth plane of each mouse with photon noise, and without, into the folders low and high."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:64, :64]
        clean = 60 + 40 * np.sin(x / 9 + rng.uniform(0, 6)) * np.cos(y / 7)
        write(folder / "low" / f"mouse{seed}.tif", rng.poisson(clean).astype(np.uint16))
        write(folder / "high" / f"mouse{seed}.tif", clean.astype(np.float32))
    return folder / "low", folder / "high"
