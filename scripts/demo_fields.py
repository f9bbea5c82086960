"""Planes and fields of the demo's population, and what the two networks make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import demo_data
import numpy as np
import torch
from demo_data import Camera, blocks

from napari_maskcal.calibrate.certify import CalibrationField
from napari_maskcal.restore.card import Normalisation
from napari_maskcal.restore.engine import normalise

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_maskcal.mask.network import MaskNetwork
    from napari_maskcal.restore.unet import UNet

    Plane = NDArray[np.float32]

CAMERA = Camera()
FIELDS_PER_GROUP = 8
SHOWN_PHOTONS = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A whole plane in normalised intensities, with those of its 128 x 128 blocks that are used as fields."""

    group: str
    name: str
    degraded: Plane
    truth: Plane
    fields: tuple[tuple[slice, slice], ...] = ()


def make_pair(group: str, name: str, counts: NDArray[Any], truth: Plane, fields: Sequence[Any] = ()) -> Pair:
    """Return both images normalised as deployment does: by two percentiles of the whole degraded plane."""
    offset, span = Normalisation().measure(counts)
    return Pair(
        group=group, name=name, degraded=normalise(counts, offset, span), truth=normalise(truth, offset, span),
        fields=tuple(fields),
    )  # fmt: skip


def training_pairs(sources: dict[str, list[Any]], versions: int, rng: np.random.Generator) -> list[Pair]:
    """Return `versions` noisy versions of each clean plane, and as many of its brightest part at twice the size."""
    return [
        make_pair(group, group, *CAMERA.expose(plane, CAMERA.draw_level(rng), rng))
        for group, planes in sources.items()
        for clean in planes
        for plane in (clean, demo_data.enlarge(clean))
        for _ in range(versions)
    ]


def draw_fields(sources: dict[str, list[Any]], rng: np.random.Generator) -> list[Pair]:
    """Return planes with `FIELDS_PER_GROUP` blocks of each group, drawn without replacement, in simulated low light."""
    pairs = []
    for group, planes in sources.items():
        every = [(i, block) for i, plane in enumerate(planes) for block in blocks(plane.shape)]
        chosen = [every[j] for j in rng.permutation(len(every))[:FIELDS_PER_GROUP]]
        for index in sorted({i for i, _ in chosen}):
            counts, truth = CAMERA.expose(planes[index], CAMERA.draw_level(rng), rng)
            fields = [block for i, block in chosen if i == index]
            pairs.append(make_pair(group, f"{group}/{index}", counts, truth, fields))
    return pairs


def draw_measured_fields(group: str, data: Path, rng: np.random.Generator) -> list[Pair]:
    """Return `FIELDS_PER_GROUP` blocks of measured low-light planes, one or more of each plane."""
    measured = list(demo_data.read_measured_pairs(group, data))
    every = [(i, block) for i, (counts, _) in enumerate(measured) for block in blocks(counts.shape)]
    chosen = [every[j] for j in rng.permutation(len(every))[:FIELDS_PER_GROUP]]
    return [
        make_pair(group, f"{group}/measured {i}", *measured[i], [block for j, block in chosen if j == i])
        for i in sorted({i for i, _ in chosen})
    ]


def expose_shown_stack(clean: NDArray[np.float64], rng: np.random.Generator) -> tuple[NDArray[np.uint16], list[Pair]]:
    """Return the counts of the shown specimen, at one exposure as on a microscope, and its planes with every block."""
    exposed = [CAMERA.expose(plane, SHOWN_PHOTONS, rng) for plane in clean]
    pairs = [
        make_pair("nuclei", f"nuclei/{z}", counts, truth, blocks(counts.shape))
        for z, (counts, truth) in enumerate(exposed)
    ]
    return np.stack([counts for counts, _ in exposed]), pairs


@torch.inference_mode()
def restore(network: UNet, degraded: Plane) -> Plane:
    """Return the restored plane, in normalised intensities."""
    return network(torch.from_numpy(degraded)[None, None])[0, 0].numpy()


@torch.inference_mode()
def measure_fields(pairs: Iterable[Pair], restorer: UNet, mask_network: MaskNetwork) -> list[CalibrationField]:
    """Return the fields of all pairs, each cut from its whole plane after both networks have seen that."""
    fields = []
    for pair in pairs:
        restored = restore(restorer, pair.degraded)
        degraded = torch.from_numpy(pair.degraded)[None, None]
        uncertainty = mask_network(degraded, torch.from_numpy(restored)[None, None])[0, 0].numpy()
        fields += [
            CalibrationField(
                name=f"{pair.name} y{block[0].start} x{block[1].start}", group=pair.group,
                uncertainty=uncertainty[block].copy(), restored=restored[block].copy(), truth=pair.truth[block].copy(),
            )
            for block in pair.fields
        ]  # fmt: skip
    return fields
