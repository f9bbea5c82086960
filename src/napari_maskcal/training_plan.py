"""What a training is to learn from and for, and all that can be wrong with it before a file is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_maskcal.calibrate.promise import Promise
from napari_maskcal.calibration_plan import groups_needed
from napari_maskcal.distance.registry import Distance, parse_distance
from napari_maskcal.mask.recipe import Loss, Recipe
from napari_maskcal.models import GIVEN_RESTORER
from napari_maskcal.read.faults import Fault, FaultyTriplets
from napari_maskcal.settings import CROP_PX, LOSS, STEPS, TRAINING_SEED
from napari_maskcal.training_split import Split, split_groups

if TYPE_CHECKING:
    from napari_maskcal.models import Restorer
    from napari_maskcal.read.parts import Triplets

_VALIDATIONS = 10
_MOST = 0.5  # of the fields that a group may have before it is said


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What to train, on what, and what it will be asked for.

    Attributes
    ----------
    triplets
        All of them, also those that are kept to calibrate.
    restorer
        What makes the restored images, or stands for those that are given.
    recipe
        See `Recipe`.
    distance, tolerance, confidence
        Of the promise that the network is chosen for, and calibrated if there is a tolerance. Without one, networks
        are judged at three, and not calibrated.
    split
        Which groups are for what.
    """

    triplets: Triplets
    restorer: Restorer
    recipe: Recipe
    distance: Distance
    tolerance: float | None
    confidence: float
    split: Split

    @property
    def promise(self) -> Promise | None:
        """What the network will be calibrated for; None: it will not be."""
        return None if self.tolerance is None else Promise(tolerance=self.tolerance, confidence=self.confidence)

    @property
    def power(self) -> float | None:
        """Power of the error budget that the network's output becomes; None: it stays as the loss has it.

        The paper's mask stays as it was published.
        """
        if self.recipe.loss == "paper":
            return None
        from napari_maskcal.mask.budget import budget_power

        return budget_power(self.distance)

    def of_groups(self, groups: tuple[str, ...]) -> Triplets:
        """Return the triplets of some groups, in their order."""
        items = tuple(triplet for triplet in self.triplets if triplet.group in groups)
        return replace(self.triplets, items=items, faults=())


def recipe_of(
    *,
    loss: Loss = LOSS.default,
    steps: int = STEPS.default,
    crop_px: int = CROP_PX.default,
    seed: int = TRAINING_SEED.default,
) -> Recipe:
    """Return the recipe for what a user can set: ten validations, however many steps there are.

    Raises
    ------
    ValueError
        If one of them cannot be.
    """
    recipe = Recipe(loss=loss, steps=steps, crop_px=crop_px, seed=seed)
    return replace(recipe, validate_every=max(1, recipe.steps // _VALIDATIONS))


def plan_training(
    triplets: Triplets,
    restorer: Restorer | None = None,
    *,
    recipe: Recipe | None = None,
    distance: str | Distance = "l1",
    tolerance: float | None = None,
    confidence: float = 0.9,
) -> TrainingPlan:
    """Return what to train; no pixel is read. See `napari_maskcal.training.train` for the arguments.

    Raises
    ------
    FaultyTriplets
        If there are too few groups, and some were lost because of faults.
    ValueError
        If there are too few groups, or something else does not fit.
    """
    restorer, recipe = restorer or GIVEN_RESTORER, recipe or recipe_of()
    asked = Promise(tolerance=1.0 if tolerance is None else tolerance, confidence=confidence)
    rule = parse_distance(distance)
    _ = rule.identity  # weights that cannot be had are missed now, not after the restoration
    recipe = replace(recipe, distance=_trained_distance(recipe, rule))
    _check_given(triplets, restorer)
    groups = list(dict.fromkeys(triplet.group for triplet in triplets))
    try:
        split = split_groups(
            groups, calibration=0 if tolerance is None else groups_needed(asked), confidence=confidence,
            seed=recipe.seed, seen=_seen(triplets, restorer),
        )  # fmt: skip
    except ValueError as error:
        if not triplets.faults:
            raise
        told, _, remedy = str(error).rpartition(": ")
        raise FaultyTriplets(
            (*triplets.faults, Fault(file="the fields", fault=f"are too few: {told}", remedy=remedy))
        ) from None
    plan = TrainingPlan(
        triplets=triplets, restorer=restorer, recipe=recipe, distance=rule, tolerance=tolerance,
        confidence=confidence, split=split,
    )  # fmt: skip
    _check_told_apart(plan)
    return plan


def plan_warnings(plan: TrainingPlan) -> tuple[str, ...]:
    """Return what the user should know of a plan before it is carried out."""
    found = []
    counts = Counter(triplet.group for triplet in plan.of_groups(plan.split.training))
    group, most = counts.most_common(1)[0]
    if len(counts) > 1 and most > _MOST * counts.total():
        found.append(
            f"{most} of {counts.total()} training fields are of one group, {group}: the network will know that "
            "specimen best; give as many fields of the others"
        )
    if len(counts) == 1 and plan.triplets.grouped:
        found.append(f"all training fields are of one group, {group}; more specimens make a better network")
    if seen := sorted(_seen(plan.triplets, plan.restorer)):
        found.append(
            f"{plan.restorer.card.name} was trained on {', '.join(seen)}, where it errs less than on new specimens: "
            "these only train; a mask network learns more from specimens that are new to the restorer"
        )
    if doubt := plan.restorer.card.doubt(plan.triplets.pixel_size, name="the training"):
        found.append(doubt)
    return tuple(found)


def _trained_distance(recipe: Recipe, distance: Distance) -> str:
    """Return what the loss is made of: all but the paper's learn the size of the error itself."""
    if recipe.loss != "paper":
        return "l1"
    if not distance.differentiable:
        raise ValueError(
            f"the distance {distance.name} has no gradient for the loss paper; take another loss, whose masks can be "
            f"calibrated for {distance.name} all the same"
        )
    return distance.name


def _seen(triplets: Triplets, restorer: Restorer) -> set[str]:
    """Return the groups that the restorer was trained on, also where only the folder has the name."""
    return {t.group for t in triplets if restorer.card.knows({t.group, *t.folders})}


def _check_given(triplets: Triplets, restorer: Restorer) -> None:
    """Refuse images beside a network that makes them: one of the two would be left out without a word."""
    if not len(triplets) and not triplets.faults:
        raise ValueError("there are no triplets; choose folders, a table or layers that have some")
    made = {"uncertainty": "an uncertainty map, but it is what the network will learn to make; leave the maps out"}
    if restorer.network is not None:
        made["restored"] = f"a restored image, but {restorer.card.name} makes its own; leave out either"
    for part, told in made.items():
        if given := [triplet.name for triplet in triplets if part in triplet.parts()]:
            raise ValueError(f"{given[0]}, as do {len(given) - 1} more triplets, comes with {told}")


def _check_told_apart(plan: TrainingPlan) -> None:
    """Refuse names by which calibration, at the end, would take its own specimens for those that have trained."""
    if not plan.triplets.grouped:
        return
    trained = {name.casefold() for name in (*plan.split.training, *plan.split.validation)}
    for triplet in plan.of_groups(plan.split.calibration):
        names = {name.casefold(): name for name in (*triplet.group.split("/"), triplet.group, *triplet.folders)}
        if shared := sorted(trained & names.keys()):
            raise ValueError(
                f"{triplet.name} is of specimen {triplet.group}, but {names[shared[0]]}, in its name or that of its "
                "folder, is another specimen; name specimens so that they can be told apart"
            )
