"""Other uncertainties on the fields of an evaluation, so that what was evaluated can be held against them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import tee
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.comparison import SPLITS, Candidate, compare, compare_opt, n_to_calibrate, opt_shares
from napari_maskcal.calibrate.grid import THRESHOLD_GRID, prefix_threshold
from napari_maskcal.calibrate.measure import measure_fields
from napari_maskcal.calibrate.threshold import image_threshold, is_exact
from napari_maskcal.models import check_pair, load_mask_model
from napari_maskcal.read.faults import Fault
from napari_maskcal.review.comparison_table import Beside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from napari_maskcal.calibrate.certificate import Certificate
    from napari_maskcal.calibrate.measure import CalibrationField, MeasuredField
    from napari_maskcal.calibration_plan import Plan
    from napari_maskcal.distance.base import Distance
    from napari_maskcal.models import MaskModel, Restorer
    from napari_maskcal.read.parts import Triplets
    from napari_maskcal.read.survey import Surveyed
    from napari_maskcal.review.held_out import Evaluation

DEFAULT = "residual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """What is kept of one field under one uncertainty."""

    threshold: float
    measured: MeasuredField


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """What an evaluation is to be compared with.

    Attributes
    ----------
    others
        Mask models, each another than the evaluated one.
    why_not
        Why nothing is compared; empty if something is.
    """

    others: tuple[MaskModel, ...] = ()
    why_not: str = ""

    @classmethod
    def of(cls, chosen: Sequence[MaskModel] | None, plan: Plan, confidence: float) -> Against:
        """Return what can be compared of what was chosen: for None the smoothed residual, the bar for all others.

        Raises
        ------
        ValueError
            If a mask model does not go with the restorer, or needs maps that the triplets do not bring.
        """
        others = _others(chosen, plan)
        for other in others:
            _check(other, plan.restorer, plan.triplets)
        if not others:
            return cls()
        try:
            n_to_calibrate(len({triplet.group for triplet in plan.triplets}), confidence)
        except ValueError as error:
            return cls(why_not=str(error))
        return cls(others=others)

    @property
    def asked(self) -> bool:
        """Whether there is anything to say of a comparison."""
        return bool(self.others or self.why_not)

    @property
    def needs_maps(self) -> bool:
        """Whether one of the others takes the maps that the triplets bring."""
        return any(other.network is None for other in self.others)

    def faults(self, item: Surveyed) -> Iterator[Fault]:
        """Yield which of the others were trained on a field: their masks would look better than they are."""
        names = [item.triplet.group, *item.triplet.folders]
        for other in self.others:
            name = other.card.name
            if shared := other.card.knows(names):
                told = f"is of {shared[0]}, which {name} was trained on"
            elif set(item.hashes.values()) & set(other.card.trained_on_sha256):
                told = f"was used to train {name}"
            else:
                continue
            remedy = "compare with others, or evaluate on fields of other specimens"
            yield Fault(file=item.triplet.degraded.describe(), fault=told, remedy=remedy)


def without_maps(triplets: Triplets) -> Triplets:
    """Return triplets without uncertainty maps: networks make their own."""
    return replace(triplets, items=tuple(replace(item, uncertainty=None) for item in triplets.items))


def with_measured(
    fields: Iterable[CalibrationField], certificate: Certificate, distance: Distance
) -> Iterator[tuple[CalibrationField, MeasuredField]]:
    """Yield each field with what is kept of it; no more than a few are in memory at once."""
    ours, theirs = tee(fields)
    measured = measure_fields(theirs, distance, mask=certificate.mask, stop_above=certificate.tolerance)
    yield from zip(ours, measured, strict=True)


def rivals(fields: Iterable[CalibrationField], certificate: Certificate, distance: Distance) -> list[Rival]:
    """Return what is kept of all fields under another uncertainty."""
    return [
        Rival(threshold=own_threshold(certificate, distance, field, measured), measured=measured)
        for field, measured in with_measured(fields, certificate, distance)
    ]


def own_threshold(
    certificate: Certificate, distance: Distance, field: CalibrationField, measured: MeasuredField
) -> float:
    """Return up to which threshold a field stays within the certificate's tolerance."""
    if is_exact(distance):
        return image_threshold(
            field.uncertainty, field.restored, field.truth, distance, certificate.tolerance, certificate.mask
        )
    return float(prefix_threshold(measured.curve[None], THRESHOLD_GRID, certificate.tolerance)[0])


def smallest_share(certificate: Certificate, distance: Distance, field: CalibrationField) -> float:
    """Return the share of a field that has to be masked by who knows the truth."""
    return float(opt_shares([field.restored], [field.truth], distance, [certificate.tolerance])[0, 0])


def compared(evaluation: Evaluation, others: Sequence[tuple[str, Sequence[Rival]]], shares: Sequence[float]) -> Beside:
    """Return how the evaluated uncertainty, others and the oracle do at the certificate's numbers.

    Parameters
    ----------
    evaluation
        Of the fields.
    others
        Name of each, and what was kept of the same fields under it.
    shares
        `smallest_share` of each field.
    """
    fields, certificate = evaluation.fields, evaluation.certificate
    own = [Rival(threshold=one.threshold, measured=one.measured) for one in fields]
    told: dict[str, Any] = {
        "groups": [one.group for one in fields], "distances": np.array([one.distance for one in fields]),
        "confidence": certificate.confidence,
    }  # fmt: skip
    n = n_to_calibrate(len(evaluation.groups), certificate.confidence)
    rows = [
        compare(_candidate(name, found, certificate), **told, n_calibration=n, grouping=certificate.grouping)
        for name, found in _named_apart([(evaluation.mask_model, own), *others])
    ]
    oracle = compare_opt(np.array(shares), tolerance=certificate.tolerance, **told)
    return Beside(rows=(*rows, oracle), splits=SPLITS)


def _others(chosen: Sequence[MaskModel] | None, plan: Plan) -> tuple[MaskModel, ...]:
    """Return each mask model once, without the evaluated one: its row is there anyway."""
    models = [load_mask_model(DEFAULT, plan.restorer)] if chosen is None else chosen
    different = {model.sha256: model for model in models}
    different.pop(plan.mask_model.sha256, None)
    return tuple(different.values())


def _check(other: MaskModel, restorer: Restorer, triplets: Triplets) -> None:
    check_pair(restorer, other)
    if other.network is None and (bare := [one.name for one in triplets if one.uncertainty is None]):
        raise ValueError(
            f"{other.card.name} makes no map itself, and {len(bare)} triplets, the first {bare[0]}, bring none; give "
            "the maps, or compare with others"
        )


def _candidate(name: str, found: Sequence[Rival], certificate: Certificate) -> Candidate:
    curves = [one.measured.curve for one in found]
    walked = len(curves[0]) == len(THRESHOLD_GRID)  # as `together` tells; other curves are of tolerances
    return Candidate(
        method=name, tolerance=certificate.tolerance, thresholds=np.array([one.threshold for one in found]),
        sorted_uncertainty=tuple(one.measured.quantiles for one in found), mask=certificate.mask,
        kept_on_grid=np.stack(curves) <= np.float64(certificate.tolerance) if walked else None,
    )  # fmt: skip


def _named_apart(rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield rows whose names are all different."""
    seen: dict[str, int] = {}
    for name, row in rows:
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name} ({seen[name]})"), row
