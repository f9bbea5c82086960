"""The fields of each task before they are restored: simulated low light, measured low light, degraded photos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from napari_maskcal.restore.card import Normalisation
from napari_maskcal.restore.engine import normalise
from paper_data import MEASURED, demo_data, read_measured, read_photos, read_specimen
from paper_fields import FIELDS_PER_GROUP, GroupSplit, Pair, blocks, crop, drawn_fields, training_fields
from paper_pretrained import fill_bayer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from paper_fields import Degrade, Plane

FACTOR = 4
ROLES = ("training", "validation", "held_out")
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
CAMERA = demo_data.Camera()

# Fixed before anything was trained. The measured groups are foreign to everything in both fluorescence tasks.
FLUORESCENCE = GroupSplit(
    restorer=("fly_002", "mahotas_nuclei", "lysosome_live_02", "spotiflow_hybiss"),
    training=("fly_076", "timelapse", "lysosome_live_04", "stardist_dsb2018", "bead_zstack"),
    validation=("fly_218", "spotiflow_terra", "cancer_migration"),
    held_out=(*MEASURED, "nuclei", "telomeres", "lysosome_live_08"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """The fields of a task before they are restored."""

    restorer: Sequence[Pair]
    training: Sequence[Pair]
    validation: Sequence[Pair]
    held_out: Sequence[Pair]


def rng_for(name: str, seed: int) -> np.random.Generator:
    """Return the generator of a task."""
    return np.random.default_rng([seed, crc32(name.encode())])


# Fluorescence


def simulated_low_light(cache: Path, data: Path, seed: int) -> Material:
    """Return simulated low light of the specimens of each role."""
    rng = rng_for("fluorescence", seed)
    planes = {
        role: {
            group: [plane.astype(np.float32)[None] for plane in read_specimen(group, cache=cache, data=data)]
            for group in getattr(FLUORESCENCE, role)
        }
        for role in ("restorer", *ROLES)
    }
    return Material(
        restorer=training_fields(planes["restorer"], _exposed_large, rng),
        training=training_fields(planes["training"], _exposed_large, rng),
        validation=drawn_fields(planes["validation"], _exposed, rng),
        held_out=drawn_fields(planes["held_out"], _exposed, rng),
    )


def _exposed(plane: Plane, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Return (degraded, truth), (1, Y, X), normalised as deployment does: by two percentiles of the degraded plane."""
    return _normalised(*CAMERA.expose(plane[0], CAMERA.draw_level(rng), rng))


def _exposed_large(plane: Plane, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Do so for the plane, or for its brightest part at twice the size: structures come in more than one size."""
    large = bool(rng.integers(2))
    return _exposed(demo_data.enlarge(plane[0])[None] if large else plane, rng)


def _normalised(counts: NDArray[Any], truth: Plane) -> tuple[Plane, Plane]:
    offset, span = Normalisation().measure(counts)
    return normalise(counts, offset, span)[None], normalise(truth, offset, span)[None]


def measured_fields(group: str, data: Path, rng: np.random.Generator) -> list[Pair]:
    """Return blocks of measured planes, one or more of each plane."""
    planes = [(name, *_normalised(*images)) for name, *images in read_measured(group, data)]
    every = [(i, block) for i, (_, _, truth) in enumerate(planes) for block in blocks(truth)]
    chosen = sorted(every[j] for j in rng.permutation(len(every))[:FIELDS_PER_GROUP])
    return [crop(group, f"{group} {planes[i][0]}", *planes[i][1:], block) for i, block in chosen]


# Photos


def degraded_photos(
    name: str, degrade: Degrade, cache: Path, seed: int, *, colour: bool, restorer: bool = True
) -> Material:
    """Return the photos of each role, degraded in one way."""
    rng = rng_for(name, seed)
    photos = read_photos(cache, colour=colour)
    split = GroupSplit.draw(list(photos), rng, restorer=restorer)
    planes = {role: {group: [photos[group]] for group in getattr(split, role)} for role in ("restorer", *ROLES)}
    return Material(
        restorer=training_fields(planes["restorer"], degrade, rng) if restorer else (),
        training=training_fields(planes["training"], degrade, rng),
        validation=drawn_fields(planes["validation"], degrade, rng),
        held_out=drawn_fields(planes["held_out"], degrade, rng),
    )


def grey(photo: Plane, _: np.random.Generator) -> tuple[Plane, Plane]:
    """Return the luminance, and the photo."""
    return np.tensordot(LUMINANCE, photo, 1)[None], photo


def coarse(photo: Plane, _: np.random.Generator) -> tuple[Plane, Plane]:
    """Return the means of squares of pixels, and the photo cut to a whole number of them."""
    rows, columns = (n // FACTOR for n in photo.shape[1:])
    truth = photo[:, : rows * FACTOR, : columns * FACTOR]
    return truth.reshape(len(truth), rows, FACTOR, columns, FACTOR).mean(axis=(2, 4)), truth


def mosaic(photo: Plane, _: np.random.Generator) -> tuple[Plane, Plane]:
    """Return the mosaic that a camera would measure, its gaps filled, and the photo."""
    return fill_bayer(photo), photo
