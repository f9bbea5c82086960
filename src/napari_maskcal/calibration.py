"""The calibration stages in order: survey -> restore -> mask -> measure -> certify."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from napari_maskcal.calibrate.certify import Measured
from napari_maskcal.calibrate.measure import CalibrationField, MeasuredField, measure_fields
from napari_maskcal.calibrate.promise import Promise
from napari_maskcal.calibration_fields import fields_of, stack_planes, survey_plan
from napari_maskcal.calibration_plan import Plan, check_plan, groups_needed
from napari_maskcal.distance.registry import Distance, is_built_in, on_device, parse_distance
from napari_maskcal.models import GIVEN_RESTORER, matched
from napari_maskcal.read.faults import FaultyTriplets
from napari_maskcal.read.survey import all_faults
from napari_maskcal.restore.events import (
    Cancelled,
    CancelToken,
    Done,
    Event,
    Failed,
    FieldMeasured,
    FieldSurveyed,
    Warned,
)
from napari_maskcal.settings import DEVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from napari_maskcal.calibrate.certificate import Certificate
    from napari_maskcal.calibrate.sums import MaskKind
    from napari_maskcal.models import MaskModel, Restorer
    from napari_maskcal.read.cache import Cache
    from napari_maskcal.read.parts import Triplet, Triplets
    from napari_maskcal.read.survey import Surveyed

_KEPT_FORMAT = 1  # of measurements in the cache; a new number lets the old ones be


def calibrate(
    triplets: Triplets,
    mask_model: MaskModel,
    restorer: Restorer | None = None,
    *,
    distance: str | Distance = "l1",
    tolerance: float,
    confidence: float = 0.9,
    guarantee: Literal["marginal", "pac", "expected"] = "marginal",
    delta: float | None = None,
    bound: float | None = None,
    grouping: Literal["worst", "one"] = "worst",
    seed: int = 0,
    mask: MaskKind = "binary",
    intensity: Literal["share", "raw"] = "share",
    field_px: int | None = None,
    device: str = DEVICE.default,
    cache: Cache | None = None,
    note: str = "",
    on_event: Callable[[Event], None] | None = None,
    cancel: CancelToken | None = None,
) -> Certificate:
    """Return the certificate that triplets support.

    Parameters
    ----------
    triplets
        From `read_triplets`, `read_manifest` or `triplets_from_arrays`; none may have trained either network.
    mask_model
        What gives the uncertainty, from `load_mask_model`.
    restorer
        What restores, from `load_restorer`; None: the triplets bring their restored images.
    distance
        ``"l1"``, ``"l2"``, ``"linf"``, ``"lpips"``, ``"ssim"``, ...
    tolerance
        The largest distance that is accepted, in the unit of `intensity`.
    confidence, guarantee, delta, bound, grouping, seed
        See `Promise`.
    mask
        ``"binary"``, which is drawn, or ``"soft"``.
    intensity
        ``"share"``: errors are shares of the degraded plane's intensity range. ``"raw"``: intensities of the images.
    field_px
        Cut each plane into square fields of this many pixels; None: a plane is a field.
    device
        ``"auto"``, ``"cpu"``, ``"cuda:0"``, ``"mps"``.
    cache
        Where results are kept, so that the next calibration of the same files reads no image; None: nowhere.
    note
        Where the fields come from, for the reader.
    on_event, cancel
        For progress, and to stop from another thread.

    Returns
    -------
    Certificate
        With the curves of all fields.

    Raises
    ------
    FaultyTriplets
        If some fields cannot be used; it lists all of them.
    ValueError
        If there are too few groups, or something else does not fit; the message says what to do.
    InterruptedError
        If it was cancelled.
    """
    promise = Promise(
        tolerance=tolerance, confidence=confidence, guarantee=guarantee, delta=delta, bound=bound,
        grouping=grouping, seed=seed,
    )  # fmt: skip
    plan = Plan(
        triplets=triplets, restorer=matched(restorer or GIVEN_RESTORER, mask_model), mask_model=mask_model,
        distance=parse_distance(distance), mask=mask, intensity=intensity, field_px=field_px,
        promise=promise, minimal_groups=groups_needed(promise),
    )  # fmt: skip
    result: Any = None
    for event in measure(plan, device=device, cache=cache, cancel=cancel):
        if on_event is not None:
            on_event(event)
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Cancelled):
            raise InterruptedError("the calibration was stopped; nothing was written")
        if isinstance(event, Done):
            result = event.result
    certificate: Certificate = result.certify(promise, note=note)
    return certificate


def measure(
    plan: Plan, *, device: str = DEVICE.default, cache: Cache | None = None, cancel: CancelToken | None = None
) -> Iterator[Event]:
    """Survey all triplets and measure them, as a stream of events; it never raises, errors are events.

    The last event is `Done`, whose result is a `Measured`, `Cancelled` or `Failed`; a `FaultyTriplets` in that lists
    all that is wrong with the files.
    """
    cancel = cancel or CancelToken()
    try:
        plan = replace(plan, distance=on_device(plan.distance, device))
        check_plan(plan)
        surveyed: list[Surveyed] = []
        for looked_at in survey_plan(plan, cache=cache, cancel=cancel):
            surveyed.append(looked_at)
            yield FieldSurveyed(done=len(surveyed), total=len(plan.triplets))
        if cancel.cancelled:
            yield Cancelled(result=None)
            return
        if faults := all_faults(plan.triplets, surveyed, minimal_groups=plan.minimal_groups):
            raise FaultyTriplets(faults)
        if doubt := plan.restorer.card.doubt(plan.triplets.pixel_size, name="the calibration"):
            yield Warned(message=doubt)
        measured: dict[int, tuple[MeasuredField, ...]] = {}
        yield from _measure_all(plan, surveyed, measured, device, cache, cancel)
        if cancel.cancelled:
            yield Cancelled(result=None)
            return
        # In the order of the triplets, whichever were kept: the draw of one field a group depends on it.
        yield Done(result=_together(plan, [one for i in range(len(surveyed)) for one in measured[i]]))
    except Exception as error:  # noqa: BLE001 - whatever it is, the user has to be told
        yield Failed(error=error)


def _measure_all(
    plan: Plan,
    surveyed: Sequence[Surveyed],
    measured: dict[int, tuple[MeasuredField, ...]],
    device: str,
    cache: Cache | None,
    cancel: CancelToken,
) -> Iterator[Event]:
    """Fill `measured`, first with what is kept from an earlier calibration, and yield a `FieldMeasured` for each."""
    if not is_built_in(plan.distance):
        cache = None  # what a user's function computes may change while its name, and even its text, stay
    if plan.restorer.card.needs_stack:
        cache = None  # a measurement depends on planes above and below, whose content is not in its key
    keys = [_key(plan, item) for item in surveyed]
    for i, fields in _kept(plan, keys, cache).items():
        measured[i] = _renamed(fields, surveyed[i].triplet)
        yield FieldMeasured(done=len(measured), total=len(surveyed), fields=measured[i])
    missing = [i for i in range(len(surveyed)) if i not in measured]
    if not missing:
        return
    warned: list[Warned] = []
    new = _measure_new(plan, [surveyed[i] for i in missing], device, cancel, warned)
    for i, found in zip(missing, new, strict=False):
        if cache is not None:
            cache.put(keys[i], _pack(found))
        yield from warned
        warned.clear()
        measured[i] = found
        yield FieldMeasured(done=len(measured), total=len(surveyed), fields=found)


def _kept(plan: Plan, keys: Sequence[str], cache: Cache | None) -> dict[int, list[MeasuredField]]:
    """Return what an earlier calibration has kept, by place, where it reaches as far as is asked."""
    kept = cache.get_many(keys) if cache is not None else {}
    fields = {i: _unpack(kept[key]) for i, key in enumerate(keys) if key in kept}
    return {i: found for i, found in fields.items() if all(one.reach >= plan.asked for one in found)}


def _measure_new(
    plan: Plan, surveyed: Sequence[Surveyed], device: str, cancel: CancelToken, warned: list[Warned]
) -> Iterator[tuple[MeasuredField, ...]]:
    """Yield what is kept of the fields of each triplet, in order."""
    counts: deque[int] = deque()

    def one_by_one() -> Iterator[CalibrationField]:
        for fields in fields_of(plan, surveyed, device=device, cancel=cancel, warned=warned):
            counts.append(len(fields))
            yield from fields

    waiting: list[MeasuredField] = []
    for found in measure_fields(
        one_by_one(), plan.distance, mask=plan.mask, stop_above=plan.stop_above, cancelled=lambda: cancel.cancelled
    ):
        waiting.append(found)
        if len(waiting) == counts[0]:
            yield tuple(waiting)
            waiting.clear()
            counts.popleft()


def _key(plan: Plan, item: Surveyed) -> str:
    """Return what decides a measurement, as one text."""
    decides = {
        "format": [_KEPT_FORMAT, *MeasuredField.__slots__], "content": item.sha256,
        "fingerprint": plan.fingerprint.model_dump(mode="json"),
        "distance": [plan.distance.name, plan.distance.identity], "mask": plan.mask, "intensity": plan.intensity,
        "field_px": plan.field_px,
    }  # fmt: skip
    return "measured " + hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _together(plan: Plan, measured: Sequence[MeasuredField]) -> Measured:
    return Measured.of(
        measured,
        distance=plan.distance,
        mask=plan.mask,
        intensity=plan.intensity if plan.distance.in_intensity_units else "none",
        fingerprint=plan.fingerprint,
        restorer=plan.restorer.card,
        uncertainty=plan.mask_model.card.name,
        grouped=plan.triplets.grouped,
        stack_planes=stack_planes(plan.triplets, plan.restorer),
        pixel_size=plan.triplets.pixel_size,
    )


def _renamed(fields: Sequence[MeasuredField], triplet: Triplet) -> tuple[MeasuredField, ...]:
    """Return fields that were kept, under the names that the same content has now."""
    return tuple(
        replace(one, name=triplet.name + one.name.removeprefix(one.source), group=triplet.group, source=triplet.name)
        for one in fields
    )


def _pack(fields: Sequence[MeasuredField]) -> bytes:
    parts = [one.to_bytes() for one in fields]
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def _unpack(content: bytes) -> list[MeasuredField]:
    fields, at = [], 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 8], "little")
        fields.append(MeasuredField.from_bytes(content[at + 8 : at + 8 + size]))
        at += 8 + size
    return fields
