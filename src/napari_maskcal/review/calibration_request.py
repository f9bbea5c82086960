"""From what a user chose to what will be measured, or to the reasons why it can't: no GUI, no pixels, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from napari_maskcal.calibrate.promise import Promise
from napari_maskcal.calibration_plan import Plan, groups_needed
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.mask.untrained import is_words
from napari_maskcal.models import load_mask_model, load_restorer, matched
from napari_maskcal.restore.kinds import GIVEN
from napari_maskcal.review.request import Problem, Source, describe_content, restorer_card
from napari_maskcal.review.triplet_request import Kind, specimens_chosen, triplet_problems, triplets_chosen
from napari_maskcal.settings import check_confidence, check_tolerance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_maskcal.calibrate.guarantee import Grouping, Guarantee
    from napari_maskcal.calibrate.sums import MaskKind
    from napari_maskcal.distance.base import Distance
    from napari_maskcal.read.cache import Cache
    from napari_maskcal.restore.card import ModelCard

_OF_THE_PROMISE = ("guarantee", "delta", "bound", "grouping", "seed", "tolerance", "confidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationChoices:
    """All that the user set, right or wrong.

    Attributes
    ----------
    kind, degraded, truth, restored, uncertainty, manifest, layers, group
        Where the triplets are, see `TripletChoices`.
    restorer, mask_model
        See `load_restorer` and `load_mask_model`.
    distance, mask, intensity, field_px
        See `Plan`.
    guarantee, delta, bound, grouping, seed, tolerance, confidence
        See `Promise`. A tolerance of None is chosen once the errors are known.
    """

    kind: Kind
    degraded: str = ""
    truth: str = ""
    restored: str = ""
    uncertainty: str = ""
    manifest: str = ""
    layers: Mapping[str, Source | None] = field(default_factory=dict)
    group: str = ""
    restorer: str
    mask_model: str
    distance: str = "l1"
    mask: MaskKind = "binary"
    intensity: Literal["share", "raw"] = "share"
    field_px: int | None = None
    guarantee: Guarantee = "marginal"
    delta: float | None = None
    bound: float | None = None
    grouping: Grouping = "worst"
    seed: int = 0
    tolerance: float | None = None
    confidence: float = 0.9

    def measures_like(self, other: CalibrationChoices) -> bool:
        """Whether the same fields are measured in the same way, whatever is promised of them."""
        names = [f.name for f in fields(self) if f.name not in _OF_THE_PROMISE]
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def promise(self, *, tolerance: float | None = None, confidence: float | None = None) -> Promise:
        """Return the promise that is asked for, at another tolerance or confidence if these are given.

        Raises
        ------
        ValueError
            If a number is missing or out of range.
        """
        tolerance = self.tolerance if tolerance is None else tolerance
        if tolerance is None:
            raise ValueError("no tolerance is set; choose the largest error that you accept")
        return Promise(
            tolerance=tolerance, confidence=self.confidence if confidence is None else confidence,
            guarantee=self.guarantee, grouping=self.grouping, seed=self.seed,
            delta=self.delta if self.guarantee == "pac" else None,
            bound=self.bound if self.guarantee == "expected" else None,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRequest:
    """Choices that can be measured.

    Attributes
    ----------
    minimal_groups
        How many groups the promise takes at least; fewer are refused before any network runs.
    promise
        What will be asked of the fields; None while the tolerance is open.
    """

    choices: CalibrationChoices
    distance: Distance
    minimal_groups: int
    promise: Promise | None


def resolve_calibration(choices: CalibrationChoices) -> CalibrationRequest | list[Problem]:
    """Return what to measure, or all that stands in its way and can be known without opening an image."""
    problems = triplet_problems(choices, parts_needed(choices))
    problems += [*_model_problems(choices), *promise_problems(choices)]
    distance: Distance | None = None
    try:
        distance = parse_distance(choices.distance)
    except (ValueError, ImportError) as error:
        problems.append(Problem(field="distance", message=str(error)))
    if choices.field_px is not None and choices.field_px < 1:
        problems.append(Problem(field="field_px", message=f"field size is {choices.field_px}; give at least 1 pixel"))
    if problems or distance is None:
        return problems
    promise = choices.promise() if choices.tolerance is not None else None
    return CalibrationRequest(
        choices=replace(choices, intensity=choices.intensity if distance.in_intensity_units else "share"),
        distance=distance,
        minimal_groups=groups_needed(promise) if promise is not None else _groups_at_any_tolerance(choices),
        promise=promise,
    )


def promise_problems(choices: CalibrationChoices) -> list[Problem]:
    """Return what is wrong with the numbers of the promise."""
    problems = []

    def check(name: str, condition: bool, message: str) -> None:
        if condition:
            problems.append(Problem(field=name, message=message))

    for name, value, checked in (("tolerance", choices.tolerance, check_tolerance),
                                 ("confidence", choices.confidence, check_confidence)):  # fmt: skip
        try:
            checked(value if value is not None else 1.0)
        except ValueError as error:
            check(name, True, str(error))
    risk, bound = choices.delta, choices.bound
    check("delta", choices.guarantee == "pac" and not 0 < (risk or 0) < 1,
          f"risk is {risk}; give a number between 0 and 1, such as 0.1")  # fmt: skip
    check("bound", choices.guarantee == "expected" and not (choices.tolerance or 0) <= (bound or -1) < float("inf"),
          f"largest error that can count is {bound}; give a number that is at least the tolerance")  # fmt: skip
    return problems


def parts_needed(choices: CalibrationChoices) -> tuple[str, ...]:
    """Return which parts have to be given, for the models chosen."""
    needed = ["degraded", "truth"]
    if choices.restorer == GIVEN:
        needed.append("restored")
    if _mask_is_given(choices.mask_model):
        needed.append("uncertainty")
    return tuple(needed)


def make_plan(request: CalibrationRequest, layers: Mapping[str, Any], cache: Cache | None) -> Plan:
    """Load the models and list the triplets; this takes seconds, so it is done in a thread.

    Parameters
    ----------
    request
        What to measure.
    layers
        The arrays of the layers, by the name of the part.
    cache
        Where the headers of files are kept.

    Raises
    ------
    ValueError
        If a model cannot be loaded, or there are no triplets.
    """
    choices = request.choices
    restorer = load_restorer(choices.restorer)
    mask_model = load_mask_model(choices.mask_model, restorer)
    triplets = triplets_chosen(choices, parts_needed(choices), layers, cache)
    return Plan(
        triplets=triplets, restorer=matched(restorer, mask_model), mask_model=mask_model,
        distance=request.distance, mask=choices.mask, intensity=choices.intensity, field_px=choices.field_px,
        promise=request.promise, minimal_groups=request.minimal_groups,
    )  # fmt: skip


def preview_groups(choices: CalibrationChoices) -> str:
    """Say which specimens the names of the files give; see `specimens_chosen`."""
    return specimens_chosen(choices, parts_needed(choices))


# ---- models and words


def _model_problems(choices: CalibrationChoices) -> list[Problem]:
    problems: list[Problem] = []
    restorer, _, fault = restorer_card(choices.restorer)
    if fault:
        problems.append(Problem(field="restorer", message=fault))
    card, fault = _mask_card(choices.mask_model)
    asks = choices.mask_model == "augmentation" or (card is not None and card.asks_restorer)
    if fault is None and asks and choices.restorer == GIVEN:
        fault = "images that are already restored cannot be turned and restored again; choose another mask model"
    if fault is None and card and restorer and choices.restorer != GIVEN:
        same = card.normalisation == restorer.normalisation
        fault = None if same else f"{card.name} normalises intensities otherwise than {restorer.name} does"
    if fault:
        problems.append(Problem(field="mask_model", message=fault))
    return problems


def _mask_card(choice: str) -> tuple[ModelCard | None, str | None]:
    """Return the card of a bundle, and why it can't be read; words have neither yet."""
    if is_words(choice):
        return None, None
    try:
        return describe_content(choice).card, None
    except (ValueError, OSError, MemoryError) as error:
        return None, str(error)


def _mask_is_given(choice: str) -> bool:
    card, _ = _mask_card(choice)
    return choice.partition(":")[0] == GIVEN or (card is not None and card.network.get("kind") == GIVEN)


def _groups_at_any_tolerance(choices: CalibrationChoices) -> int:
    return 1 if choices.guarantee == "expected" else groups_needed(choices.promise(tolerance=1.0))
