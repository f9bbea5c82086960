"""What the Calibration dock has done in threads, as streams of events that never raise."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_maskcal.bundle import write_bundle
from napari_maskcal.calibrate.certificate import Certificate, Pin
from napari_maskcal.calibrate.measure import MeasuredField
from napari_maskcal.calibration import measure
from napari_maskcal.calibration_fields import fields_of, survey_plan
from napari_maskcal.calibration_plan import Plan
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.models import MaskModel, Restorer
from napari_maskcal.read.cache import Cache
from napari_maskcal.read.parts import Triplet, Triplets
from napari_maskcal.restore.events import Cancelled, CancelToken, Done, Event, Failed, Warned
from napari_maskcal.review.calibration_request import CalibrationRequest, make_plan
from napari_maskcal.review.exploration import Exploration


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibrated:
    """Fields that are measured, and the models they were measured with."""

    request: CalibrationRequest
    plan: Plan
    exploration: Exploration

    @property
    def inherited(self) -> tuple[Pin, ...]:
        """What the mask model's own certificate was pinned to, the oldest first."""
        return pins_of(self.plan.mask_model.certificate)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeenField:
    """The pixels of one calibration field, (Y, X), in the images' own intensities.

    `corner` is where the field begins in these pixels, and `size` its size, where it is a block of them.
    """

    name: str
    triplet: Triplet
    degraded: NDArray[Any]
    restored: NDArray[Any]
    truth: NDArray[Any]
    uncertainty: NDArray[np.float32]
    corner: tuple[int, int]
    size: tuple[int, int]


def pins_of(certificate: Certificate | None) -> tuple[Pin, ...]:
    """Return all that a certificate was ever pinned to, the oldest first."""
    if certificate is None:
        return ()
    return (*certificate.history, certificate.pin)


def calibration_events(
    request: CalibrationRequest, layers: Mapping[str, Any], device: str, cancel: CancelToken
) -> Iterator[Event]:
    """Load the models, list the files, look at all of them and measure; the result is a `Calibrated`."""
    try:
        cache = Cache()
        plan = make_plan(request, layers, cache)
        if cancel.cancelled:
            yield Cancelled(result=None)
            return
        for event in measure(plan, device=device, cache=cache, cancel=cancel):
            if not isinstance(event, Done):
                yield event
                continue
            if cache.fault:
                yield Warned(message=cache.fault)
            import matplotlib.figure  # noqa: F401 - slow for the first time, and soon needed

            exploration = Exploration(event.result)
            yield Done(result=Calibrated(request=request, plan=plan, exploration=exploration))
    except Exception as error:  # noqa: BLE001 - an exception in a generator worker would be lost
        yield Failed(error=error)


def field_events(plan: Plan, field: MeasuredField, device: str, cancel: CancelToken) -> Iterator[Event]:
    """Restore and mask one triplet again; the result is a `SeenField`."""
    try:
        triplet = next(one for one in plan.triplets if one.name == field.source)
        alone = Triplets(items=(triplet,), grouped=plan.triplets.grouped)
        whole = replace(plan, triplets=alone, intensity="raw", distance=parse_distance("l1"), field_px=None)
        surveyed = list(survey_plan(whole, cancel=cancel))
        if faults := [fault for one in surveyed for fault in one.faults]:
            raise ValueError(str(faults[0]))
        if surveyed and surveyed[0].pair_sha256 != field.sha256:
            raise ValueError(f"{field.name} has changed since it was measured; press Measure")
        for (plane,) in fields_of(whole, surveyed, device=device, cancel=cancel, warned=[]):
            seen = SeenField(
                name=field.name, triplet=triplet, degraded=triplet.degraded.read(), restored=plane.restored,
                truth=plane.truth, uncertainty=plane.uncertainty, corner=_corner(field), size=field.shape,
            )  # fmt: skip
            yield Done(result=seen)
            return
        yield Cancelled(result=None)
    except Exception as error:  # noqa: BLE001 - an exception in a generator worker would be lost
        yield Failed(error=error)


def save_events(
    mask_model: MaskModel, certificate: Certificate, path: Path, restorer: Restorer | None
) -> Iterator[Event]:
    """Write a bundle, with the restorer in it if one is given; the result is its path."""
    try:
        write_bundle(path, mask_model.network, mask_model.card, certificate, restorer=restorer)
        yield Done(result=path)
    except Exception as error:  # noqa: BLE001 - an exception in a generator worker would be lost
        yield Failed(error=error)


def _corner(field: MeasuredField) -> tuple[int, int]:
    """Return where a field begins in the plane it was cut from: its name says so."""
    words = field.name.removeprefix(field.source).split()
    return (int(words[0][1:]), int(words[1][1:])) if len(words) == 2 else (0, 0)
