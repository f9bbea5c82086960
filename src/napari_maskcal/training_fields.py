"""From triplets to training fields: looked at, restored as they will be, and normalised, all in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_maskcal.calibration_fields import check_stacks
from napari_maskcal.mask.recipe import TrainingField
from napari_maskcal.mask.untrained import constant_mask
from napari_maskcal.read.faults import Fault, FaultyTriplets
from napari_maskcal.read.survey import all_faults, survey
from napari_maskcal.read.triplet_images import TripletImage, image_of_parts, read_unchanged
from napari_maskcal.restore.events import CancelToken, FieldSurveyed, PlaneDone, Warned
from napari_maskcal.restore.given import Given

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from napari_maskcal.read.cache import Cache
    from napari_maskcal.read.parts import Triplet
    from napari_maskcal.read.survey import Surveyed
    from napari_maskcal.restore.events import Event
    from napari_maskcal.training_plan import TrainingPlan

_ROUNDING = 1e-6  # of float32, in shares of the intensity range
_MUCH = 0.7  # of the free memory
_GB = 1e9


def surveyed_triplets(
    plan: TrainingPlan, *, cache: Cache | None, cancel: CancelToken
) -> Generator[Event, None, list[Surveyed]]:
    """Look at all triplets of a plan, also those that are kept to calibrate, and return what was seen.

    Raises
    ------
    FaultyTriplets
        With all that is wrong with any of them.
    ValueError
        See `check_stacks`.
    """
    check_stacks(plan.triplets, plan.restorer)
    found: list[Surveyed] = []
    card = plan.restorer.card
    for item in survey(
        plan.triplets, cache=cache, scale_factor=card.scale_factor, needs_restored=plan.restorer.network is None,
        cancel=cancel,
    ):  # fmt: skip
        found.append(item)
        yield FieldSurveyed(done=len(found), total=len(plan.triplets))
    if cancel.cancelled:
        return found
    faults = (*all_faults(plan.triplets, found), *_seen_by_restorer(plan, found))
    if faults:
        raise FaultyTriplets(faults)
    return found


def restored_fields(
    plan: TrainingPlan, surveyed: Sequence[Surveyed], *, device: str, cancel: CancelToken
) -> Generator[Event, None, list[TrainingField]]:
    """Restore each triplet and return them as training fields, in their order; fewer when cancelled.

    Raises
    ------
    MemoryError
        If they are more than this computer has room for.
    ValueError
        If a truth is what the restorer made.
    """
    from napari_maskcal.restore.engine import process  # torch: 2 s that a dock should not take to open

    if told := check_memory(bytes_held(item.triplet for item in surveyed), available_bytes()):
        yield Warned(message=told)
    found: dict[int, TrainingField] = {}  # planes of a volume may come in another order
    given = Given(restored=_image(surveyed, "restored") if plan.restorer.network is None else None)
    planes = [(i,) for i in range(len(surveyed))]
    image = _image(surveyed, "degraded", with_stacks=plan.restorer.card.needs_stack)
    for event in process(
        image, planes, plan.restorer, constant_mask(plan.restorer), given=given, device=device, cancel=cancel
    ):
        if isinstance(event, PlaneDone):
            found[event.index[0]] = _field(plan, surveyed[event.index[0]], event)
        else:
            yield event
    return [found[number] for number in sorted(found)]


def bytes_held(triplets: Iterable[Triplet]) -> int:
    """Return what the three images of each triplet take as float32."""
    return sum(4 * (_size(triplet.degraded.shape) + 2 * _size(triplet.truth.shape)) for triplet in triplets)


def check_memory(needed: int, free: int | None) -> str:
    """Return a warning where the fields take most of the memory that is free; empty where they do not.

    Raises
    ------
    MemoryError
        If they take more than there is.
    """
    if free is None or needed <= _MUCH * free:
        return ""
    told = f"the training fields take {needed / _GB:.1f} GB of memory, and {free / _GB:.1f} GB are free"
    if needed > free:
        raise MemoryError(f"{told}; train on fewer or smaller images, or close other programs")
    return f"{told}; close other programs if the computer becomes slow"


def available_bytes() -> int | None:
    """Return how much memory can be had without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def _field(plan: TrainingPlan, item: Surveyed, done: PlaneDone) -> TrainingField:
    from napari_maskcal.restore.engine import normalise

    triplet, hashes = item.triplet, item.hashes
    truth = read_unchanged(triplet.truth, hashes["truth"])
    if np.abs(done.restored.astype(np.float64) - truth).max() <= _ROUNDING * done.span:
        raise ValueError(
            f"{triplet.truth.describe()} is what the restorer makes of the degraded image, not a truth that was "
            "measured; leave it out"
        )
    degraded = read_unchanged(triplet.degraded, hashes["degraded"])
    images = (normalise(image, done.offset, done.span)[None] for image in (degraded, done.restored, truth))
    degraded, restored, truth = images
    return TrainingField(
        degraded=degraded, restored=restored, truth=truth, name=triplet.name, group=triplet.group,
        prepared=done.prepared,
    )  # fmt: skip


def _seen_by_restorer(plan: TrainingPlan, surveyed: Sequence[Surveyed]) -> Iterator[Fault]:
    """Find images of the restorer's training, under whatever name, where they would flatter the network."""
    trained = frozenset(plan.restorer.card.trained_on_sha256)
    kept = {*plan.split.validation, *plan.split.calibration}
    for item in surveyed:
        for name, sha256 in item.hashes.items():
            if item.triplet.group in kept and sha256 in trained:
                yield Fault(
                    file=item.triplet.parts()[name].describe(),
                    fault=f"was used to train {plan.restorer.card.name}",
                    remedy="leave all fields of its specimen out: a network errs less on what it has seen",
                )


def _image(surveyed: Sequence[Surveyed], name: str, *, with_stacks: bool = False) -> TripletImage:
    parts = [item.triplet.parts()[name] for item in surveyed]
    hashes = [item.hashes[name] for item in surveyed]
    return image_of_parts(parts, hashes, name=f"the {name} images", with_stacks=with_stacks)


def _size(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]
