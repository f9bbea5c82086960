"""From triplets to calibration fields: restored, masked, in the unit of the tolerance, cut to size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.measure import CalibrationField
from napari_maskcal.read.survey import survey
from napari_maskcal.read.triplet_images import TripletImage, image_of_parts, read_unchanged
from napari_maskcal.restore.events import CancelToken, PlaneDone, Warned
from napari_maskcal.restore.given import Given

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from napari_maskcal.calibration_plan import Plan
    from napari_maskcal.models import Restorer
    from napari_maskcal.read.cache import Cache
    from napari_maskcal.read.parts import Triplet
    from napari_maskcal.read.survey import Surveyed

_ROUNDING = 1e-6  # of float32, in shares of the intensity range


def survey_plan(plan: Plan, *, cache: Cache | None = None, cancel: CancelToken | None = None) -> Iterator[Surveyed]:
    """Look at the triplets of a plan for what it takes of them; see `survey`.

    Raises
    ------
    ValueError
        See `check_stacks`.
    """
    check_stacks(plan.triplets, plan.restorer)
    return survey(
        plan.triplets,
        cache=cache,
        scale_factor=plan.restorer.card.scale_factor,
        needs_restored=plan.restorer.network is None,
        foreign_to=plan.trained_on_sha256,
        cancel=cancel,
    )


def fields_of(
    plan: Plan,
    surveyed: Sequence[Surveyed],
    *,
    device: str,
    cancel: CancelToken,
    warned: list[Warned],
) -> Iterator[list[CalibrationField]]:
    """Restore and mask each triplet, and yield its fields, in their order; warnings are put into `warned`."""
    from napari_maskcal.restore.engine import process  # torch: 2 s that a dock should not take to open

    image = _image_of(surveyed, "degraded", with_stacks=plan.restorer.card.needs_stack)
    given = Given(
        restored=_image_of(surveyed, "restored") if plan.restorer.network is None else None,
        uncertainty=_image_of(surveyed, "uncertainty") if plan.mask_model.network is None else None,
    )
    indices = [(i,) for i in range(len(surveyed))]
    early: dict[int, PlaneDone] = {}  # planes of a volume may come before their turn
    turn = 0
    for event in process(image, indices, plan.restorer, plan.mask_model, given=given, device=device, cancel=cancel):
        if isinstance(event, Warned):
            warned.append(event)
        if isinstance(event, PlaneDone):
            early[event.index[0]] = event
        while turn in early:
            yield _fields_of_plane(plan, surveyed[turn], early.pop(turn))
            turn += 1


def stack_planes(triplets: Iterable[Triplet], restorer: Restorer) -> int | None:
    """Return how many planes the thinnest stack has, where a plane's restored image depends on its stack; else None."""
    if not restorer.card.needs_stack:
        return None
    return min((triplet.degraded.stack_planes for triplet in triplets), default=None)


def check_stacks(triplets: Iterable[Triplet], restorer: Restorer) -> None:
    """Raise ValueError if planes of one stack, which are restored from each other, count as different specimens."""
    if not restorer.card.needs_stack:
        return
    groups: dict[Any, Triplet] = {}
    for triplet in triplets:
        known = groups.setdefault(triplet.degraded.stack_key, triplet)
        if known.group != triplet.group and triplet.degraded.stack_planes > 1:
            raise ValueError(
                f"{known.name} and {triplet.name} are planes of one stack, which {restorer.card.name} restores "
                f"together, but count as two specimens, {known.group} and {triplet.group}; name specimens by file"
            )


def _fields_of_plane(plan: Plan, item: Surveyed, done: PlaneDone) -> list[CalibrationField]:
    truth, restored = read_unchanged(item.triplet.truth, item.hashes["truth"]), done.restored.astype(np.float64)
    if np.abs(restored - truth).max() <= _ROUNDING * done.span:
        raise ValueError(
            f"{item.triplet.truth.describe()} is what the restorer makes of the degraded image, not a truth that was "
            "measured; leave it out"
        )
    if plan.intensity == "share" or not plan.distance.in_intensity_units:
        restored, truth = ((image.astype(np.float64) - done.offset) / done.span for image in (restored, truth))
    whole = CalibrationField(
        name=item.triplet.name, source=item.triplet.name, group=item.triplet.group, uncertainty=done.uncertainty,
        restored=restored, truth=truth, span=done.span, sha256=item.pair_sha256,
    )  # fmt: skip
    return [whole] if plan.field_px is None else _cut(whole, plan.field_px)


def _cut(plane: CalibrationField, size: int) -> list[CalibrationField]:
    """Return the square blocks of a plane, from its first pixel on; what is left at the far edges is not used."""
    height, width = plane.uncertainty.shape
    corners = [(y, x) for y in range(0, height - size + 1, size) for x in range(0, width - size + 1, size)]
    blocks = [((slice(y, y + size), slice(x, x + size)), f"{plane.name} y{y} x{x}") for y, x in corners]
    return [
        replace(
            plane, name=name, uncertainty=plane.uncertainty[block], restored=plane.restored[block],
            truth=plane.truth[block], plane_shape=plane.uncertainty.shape,
        )
        for block, name in blocks
    ]  # fmt: skip


def _image_of(surveyed: Sequence[Surveyed], name: str, *, with_stacks: bool = False) -> TripletImage:
    """Return one part of all triplets as an image."""
    parts = [item.triplet.parts().get(name) for item in surveyed]
    if None in parts:
        first = surveyed[parts.index(None)].triplet.name
        raise ValueError(
            f"{parts.count(None)} triplets, the first {first}, have no {name} image, "
            "and nothing was chosen that makes it; add the images, or choose a model"
        )
    known = [part for part in parts if part is not None]
    hashes = [item.hashes[name] for item in surveyed]
    return image_of_parts(known, hashes, name=f"the {name} images", with_stacks=with_stacks)
