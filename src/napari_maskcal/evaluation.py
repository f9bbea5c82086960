"""A certificate held against fields that it has not seen: survey -> restore -> mask -> compare."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_maskcal.calibrate.certificate import Fingerprint
from napari_maskcal.calibrate.threshold import trust_mask
from napari_maskcal.calibration_fields import fields_of, survey_plan
from napari_maskcal.calibration_plan import Plan, check_choices
from napari_maskcal.distance.registry import name_of, on_device, parse_distance
from napari_maskcal.evaluation_against import (
    Against,
    compared,
    own_threshold,
    rivals,
    smallest_share,
    with_measured,
    without_maps,
)
from napari_maskcal.models import GIVEN_RESTORER, check_pair, matched
from napari_maskcal.read.faults import Fault, FaultyTriplets
from napari_maskcal.read.survey import all_faults
from napari_maskcal.restore.events import CancelToken, FieldMeasured, FieldSurveyed
from napari_maskcal.review.certificate_words import number_of
from napari_maskcal.review.comparison_table import Beside
from napari_maskcal.review.held_out import Evaluation, HeldOutField
from napari_maskcal.settings import DEVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from napari_maskcal.calibrate.certificate import Certificate
    from napari_maskcal.calibrate.measure import CalibrationField, MeasuredField
    from napari_maskcal.distance.base import Distance
    from napari_maskcal.models import MaskModel, Restorer
    from napari_maskcal.read.cache import Cache
    from napari_maskcal.read.parts import Triplets
    from napari_maskcal.read.survey import Surveyed
    from napari_maskcal.restore.events import Event, Warned

    OnEvent = Callable[[Event], None]

_LEAVE_OUT = "evaluate on fields of other specimens"


def evaluate(
    triplets: Triplets,
    mask_model: MaskModel,
    restorer: Restorer | None = None,
    certificate: Certificate | None = None,
    *,
    distance: str | Distance | None = None,
    against: Sequence[MaskModel] | None = None,
    device: str = DEVICE.default,
    cache: Cache | None = None,
    on_event: OnEvent | None = None,
    cancel: CancelToken | None = None,
) -> Evaluation:
    """Return how a certificate's promise did on triplets that neither calibration nor training used.

    Parameters
    ----------
    triplets
        From `read_triplets`, `read_manifest` or `triplets_from_arrays`. Planes that are larger than the certificate's
        fields are cut into such fields, if these are square.
    mask_model, restorer
        What was calibrated; None: the triplets bring their restored images.
    certificate
        By default the mask model's own; ``certificate.at(...)`` for an exploration.
    distance
        The calibrated one, where its name alone does not find it: a user's own, or LPIPS with a file of weights.
    against
        Mask models to compare the evaluated one with, at the same tolerance and confidence, such as
        ``[load_mask_model("residual:1", restorer)]``; none of them trained on these fields. By default the smoothed
        residual, which needs no training. Empty: nothing is compared.
    device
        ``"auto"``, ``"cpu"``, ``"cuda:0"``, ``"mps"``.
    cache
        Where the hashes of files are kept.
    on_event, cancel
        For progress, and to stop from another thread.

    Raises
    ------
    FaultyTriplets
        If some fields cannot be used, or the certificate was calibrated or a network trained on them; it lists all.
    ValueError
        If the certificate does not hold for these networks, it is about specimens and none were named, or about
        images and specimens were, or the fields are not of the calibrated size.
    InterruptedError
        If it was cancelled.
    """
    restorer = matched(restorer or GIVEN_RESTORER, mask_model)
    on_event, cancel = on_event or _ignore, cancel or CancelToken()
    promise = _valid_certificate(restorer, mask_model, certificate)
    _check_grouping(promise, triplets)
    rule = on_device(_calibrated_distance(promise, distance), device)
    plan = Plan(
        triplets=triplets, restorer=restorer, mask_model=mask_model, distance=rule, mask=promise.mask,
        intensity="raw" if promise.intensity == "raw" else "share",
    )  # fmt: skip
    beside = Against.of(against, plan, promise.confidence)
    check_choices(replace(plan, triplets=without_maps(triplets)) if beside.needs_maps else plan)
    surveyed = _survey(plan, promise, beside, cache, on_event, cancel)
    plan = replace(plan, field_px=_field_px(promise, triplets, restorer.card.scale_factor))
    warned: list[Warned] = []
    work = _Work(
        plan=plan, surveyed=surveyed, passes=1 + len(beside.others), device=device, cancel=cancel, on_event=on_event
    )  # fmt: skip
    shares: list[float] = []
    note_share = shares.append if beside.others else None
    fields = tuple(_compared(work.fields(mask_model, warned), promise, rule, note_share))
    found = [
        (other.card.name, rivals(work.fields(other, [], turn=turn), promise, rule))
        for turn, other in enumerate(beside.others, start=1)
    ]
    if cancel.cancelled:
        raise InterruptedError("the evaluation was stopped; nothing was written")
    for warning in warned:
        on_event(warning)
    evaluation = Evaluation(
        certificate=promise, fields=fields, grouped=triplets.grouped, restorer=restorer.card.name,
        mask_model=mask_model.card.name,
        warnings=(
            *_same_names(promise, surveyed), *_of_cutting(plan, promise), *(warning.message for warning in warned)
        ),
    )  # fmt: skip
    if not beside.asked:
        return evaluation
    table = compared(evaluation, found, shares) if beside.others else Beside(why_not=beside.why_not)
    return replace(evaluation, beside=table)


def _ignore(event: Event) -> None:
    pass


def _valid_certificate(restorer: Restorer, mask_model: MaskModel, certificate: Certificate | None) -> Certificate:
    """Return the promise that holds for this pair of networks, with this distance."""
    promise = certificate or mask_model.certificate
    if promise is None:
        raise ValueError(f"{mask_model.card.name} has no certificate; calibrate it before it is evaluated")
    promise.check(Fingerprint.of(restorer, mask_model.card, mask_model.sha256))
    check_pair(restorer, mask_model)
    return promise


def _check_grouping(promise: Certificate, triplets: Triplets) -> None:
    """Refuse to count images against a promise about specimens, or specimens against one about images."""
    if promise.grouped and not triplets.grouped:
        raise ValueError(
            "the promise is about specimens, and no groups were named; give --group, or a table with a column group"
        )
    if triplets.grouped and not promise.grouped:
        raise ValueError("the promise is about images; leave the groups out")


def _calibrated_distance(promise: Certificate, chosen: str | Distance | None) -> Distance:
    """Return the distance of the certificate; `chosen` says where it is to be had, not which one it is."""
    distance = parse_distance(chosen or promise.distance)
    if (name_of(distance), distance.identity) != (promise.distance, promise.distance_identity):
        raise ValueError(
            f"the distance {name_of(distance)} ({distance.identity or 'without version'}) is another than the "
            f"calibrated {promise.distance} ({promise.distance_identity or 'without version'}); give that one, or "
            "calibrate again"
        )
    return distance


def _field_px(certificate: Certificate, triplets: Triplets, factor: int) -> int | None:
    """Return how planes have to be cut into fields of the calibrated size; None if they are of that size."""
    plane = triplets[0].degraded
    height, width = (factor * n for n in plane.shape)
    certificate.check_plane((height, width), name=plane.describe())
    for triplet in triplets if certificate.stack_planes is not None else ():
        certificate.check_stack(triplet.degraded.stack_planes, name=triplet.degraded.describe())
    certificate.check_pixel_size(plane.pixel_size, name=plane.describe())
    if (height, width) == certificate.field_shape:
        return None
    if certificate.field_shape[0] != certificate.field_shape[1]:
        large, field = (" × ".join(map(str, size)) for size in ((height, width), certificate.field_shape))
        raise ValueError(
            f"{plane.describe()} has {large} pixels, larger than the calibrated fields of {field}; cut the images to "
            "that size, since only square fields are cut here"
        )
    return certificate.field_shape[0]


def _survey(
    plan: Plan, certificate: Certificate, against: Against, cache: Cache | None, on_event: OnEvent, cancel: CancelToken
) -> list[Surveyed]:
    """Look at all files before any work starts."""
    surveyed = []
    for item in survey_plan(plan, cache=cache, cancel=cancel):
        surveyed.append(item)
        on_event(FieldSurveyed(done=len(surveyed), total=len(plan.triplets)))
    if cancel.cancelled:
        raise InterruptedError("the evaluation was stopped; nothing was written")
    seen = [
        fault for item in surveyed for fault in (*_seen_before(plan, certificate, item), *against.faults(item))
    ]  # fmt: skip
    if faults := (*all_faults(plan.triplets, surveyed), *seen):
        raise FaultyTriplets(faults)
    return surveyed


def _seen_before(plan: Plan, certificate: Certificate, item: Surveyed) -> Iterator[Fault]:
    """Yield why a field is not held out: calibration used it or its specimen, or a network was trained on that."""
    file, group = item.triplet.degraded.describe(), item.triplet.group
    known = {name.casefold() for name in certificate.groups}
    calibrated = {record.sha256: record.name for record in certificate.fields if record.sha256}
    if found := item.known_as(calibrated):
        yield Fault(file=file, fault=f"was used to calibrate, as {found}", remedy=_LEAVE_OUT)
    elif group.casefold() in known and _names_tell(certificate):
        yield Fault(file=file, fault=f"is of {group}, which was used to calibrate", remedy=_LEAVE_OUT)
    for card in (plan.restorer.card, plan.mask_model.card):
        names = [group, *item.triplet.folders]
        if shared := card.knows(names) or ([] if plan.triplets.grouped else card.named_in(names)):
            yield Fault(file=file, fault=f"is of {shared[0]}, which {card.name} was trained on", remedy=_LEAVE_OUT)


def _names_tell(certificate: Certificate) -> bool:
    """Whether equal groups are one specimen. Names of files may be the same in any two folders: content tells."""
    return certificate.grouped or not all(record.sha256 for record in certificate.fields)


def _same_names(certificate: Certificate, surveyed: Sequence[Surveyed]) -> list[str]:
    shared = sorted({item.triplet.group for item in surveyed} & set(certificate.groups))
    if not shared:
        return []
    many = f"{len(shared)} images, the first {shared[0]}, have" if len(shared) > 1 else f"{shared[0]} has"
    return [f"{many} the name of a calibrated one and other content: make sure that it is of another specimen."]


def _of_cutting(plan: Plan, certificate: Certificate) -> list[str]:
    """Say what became of planes that are larger than the calibrated fields."""
    if plan.field_px is None:
        return []
    plane = tuple(plan.restorer.card.scale_factor * n for n in plan.triplets[0].degraded.shape)
    large, field = (" × ".join(map(str, size)) for size in (plane, certificate.field_shape))
    left = zip((n % plan.field_px for n in plane), ("rows", "columns"), ("bottom", "right"), strict=True)
    unused = " and ".join(f"{number_of(count, lines)} at the {edge}" for count, lines, edge in left if count)
    told = [f"Planes of {large} pixels were cut into fields of {field}", f"not used are {unused}" if unused else ""]
    if plane != (certificate.plane_shape or certificate.field_shape):
        told.append("the range of intensities is that of the larger plane")
    return ["; ".join(words for words in told if words) + "."]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Fields that are gone through once for each uncertainty."""

    plan: Plan
    surveyed: Sequence[Surveyed]
    passes: int
    device: str
    cancel: CancelToken
    on_event: OnEvent

    def fields(self, mask_model: MaskModel, warned: list[Warned], *, turn: int = 0) -> Iterator[CalibrationField]:
        """Yield all fields under one uncertainty, no more than a few in memory at once."""
        plan, many = replace(self.plan, mask_model=mask_model), len(self.surveyed)
        planes = fields_of(plan, self.surveyed, device=self.device, cancel=self.cancel, warned=warned)
        for done, fields in enumerate(planes, start=turn * many + 1):
            yield from fields
            self.on_event(FieldMeasured(done=done, total=self.passes * many, fields=()))


def _compared(
    fields: Iterable[CalibrationField],
    certificate: Certificate,
    distance: Distance,
    note_share: Callable[[float], None] | None,
) -> Iterator[HeldOutField]:
    """Yield the numbers of each field, and note how little of it has to be masked by who knows the truth."""
    for field, found in with_measured(fields, certificate, distance):
        if note_share is not None:
            note_share(smallest_share(certificate, distance, field))
        yield _against(certificate, distance, field, found)


def _against(
    certificate: Certificate, distance: Distance, field: CalibrationField, measured: MeasuredField
) -> HeldOutField:
    """Compare one field with its truth, outside what the certificate's threshold marks."""
    u, restored, truth = field.uncertainty, field.restored, field.truth
    trust = trust_mask(u, certificate.threshold, certificate.mask)
    outside = float(distance.between(trust[None], restored[None], truth[None])[0])
    return HeldOutField(
        name=field.name, group=field.group, sha256=field.sha256, span=field.span, distance=measured.distance,
        trusted_distance=outside, kept=outside <= certificate.tolerance,
        threshold=own_threshold(certificate, distance, field, measured),
        masked_share=float(1 - trust.mean(dtype=np.float64)), measured=measured,
    )  # fmt: skip
