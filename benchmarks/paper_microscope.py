"""Electron microscopy: the simulated pairs of tk_r_em and its own networks, run in an environment of their own.

tk_r_em is under the GPL: its files are read here, never copied into the project.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_maskcal.restore.card import Normalisation
from napari_maskcal.restore.engine import normalise
from paper_data import unpack_sdist
from paper_environment import TENSORFLOW, scratch_python
from paper_fields import GroupSplit, drawn_fields, training_fields
from paper_material import Material, rng_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from paper_fields import Plane

NAME = "electron-microscopy"
ORIGIN = "tk_r_em 1.0.4 (GPL-3), by Lobato et al., one network for each kind of microscope"
HELD_OUT = 26
TRAINING_FIELDS = 128  # each takes a quarter of a second to restore


@dataclass(frozen=True, slots=True, kw_only=True)
class Microscope:
    """The networks of tk_r_em, and the intensities that they expect.

    Attributes
    ----------
    cache
        Where packages, environment and results lie.
    scales
        Group ("hrsem 3") -> (offset, span): raw intensity = offset + span * normalised one.
    """

    cache: Path
    scales: dict[str, tuple[float, float]]

    def restore(self, degraded: Tensor, names: Sequence[str]) -> Tensor:
        """Map (N, 1, Y, X) normalised to restored; the field's name begins with its group, which says the kind."""
        groups = [" ".join(name.split()[:2]) for name in names]
        offset, span = (np.array([self.scales[g][i] for g in groups], np.float32)[:, None, None] for i in (0, 1))
        raw = degraded[:, 0].numpy() * span + offset
        kinds = np.array([group.split()[0] for group in groups])
        restored = np.empty_like(raw)
        for kind, images in _restored({k: raw[kinds == k] for k in np.unique(kinds)}, self.cache).items():
            restored[kinds == kind] = images
        return torch.from_numpy((restored - offset) / span)[:, None]


def microscope_material(cache: Path, seed: int) -> Material:
    """Return the fields of each role; a group is one simulated image."""
    rng = rng_for(NAME, seed)
    pairs = normalised_pairs(cache)
    split = GroupSplit.draw(list(pairs), rng, restorer=False, held_out=HELD_OUT)

    def planes(groups: Sequence[str]) -> dict[str, list[Plane]]:
        return {group: [np.concatenate(pairs[group])] for group in groups}

    def apart(both: Plane, _: np.random.Generator) -> tuple[Plane, Plane]:
        return both[:1], both[1:]

    return Material(
        restorer=(),
        training=training_fields(planes(split.training), apart, rng, total=TRAINING_FIELDS),
        validation=drawn_fields(planes(split.validation), apart, rng),
        held_out=drawn_fields(planes(split.held_out), apart, rng),
    )


def normalised_pairs(cache: Path) -> dict[str, tuple[Plane, Plane]]:
    """Return (degraded, truth), (1, 256, 256), by group, normalised by two percentiles of the degraded image."""
    return {
        group: (normalise(x, *scale), normalise(y, *scale))
        for group, (x, y) in _raw_pairs(cache).items()
        for scale in [Normalisation().measure(x)]
    }


def read_microscope(cache: Path) -> Microscope:
    """Return the restorer."""
    return Microscope(cache=cache, scales={g: Normalisation().measure(x) for g, (x, _) in _raw_pairs(cache).items()})


def _raw_pairs(cache: Path) -> dict[str, tuple[Plane, Plane]]:
    path = cache / "tasks" / "electron-microscopy-pairs.npz"
    if not path.is_file():
        _run(cache, "pairs", path)
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    kinds = sorted(name.removesuffix("_x") for name in arrays if name.endswith("_x"))
    return {
        f"{kind} {i}": (arrays[f"{kind}_x"][i], arrays[f"{kind}_y"][i])
        for kind in kinds
        for i in range(len(arrays[f"{kind}_x"]))
    }


def _restored(raw: dict[str, NDArray[np.float32]], cache: Path) -> dict[str, NDArray[np.float32]]:
    """Return what the networks make of raw images by kind; kept, for it takes minutes."""
    digest = hashlib.sha256(b"".join(kind.encode() + raw[kind].tobytes() for kind in sorted(raw))).hexdigest()[:16]
    path = cache / "tasks" / f"electron-microscopy-{digest}.npz"
    if not path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            given = Path(folder) / "given.npz"
            np.savez(given, **raw)
            _run(cache, "restore", given, path)
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _run(cache: Path, command: str, *places: Path) -> None:
    """Run one command of paper_tensorflow.py; its last place is written, and then moved to its name."""
    package = unpack_sdist("tk_r_em", "1.0.4", cache / "packages") / "tk_r_em"
    *given, out = places
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part.npz")
    script = Path(__file__).with_name("paper_tensorflow.py")
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    command_line = [scratch_python(cache / "tf", TENSORFLOW), script, command, package, *given, part]
    subprocess.run([str(word) for word in command_line], check=True, env=quiet)  # noqa: S603 - arguments of ours
    part.replace(out)
