"""The training stages in order: survey -> restore -> train -> choose, both by validation specimens -> calibrate."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from math import lcm
from typing import TYPE_CHECKING, Any

from napari_maskcal.calibration import measure
from napari_maskcal.calibration_plan import Plan, groups_needed
from napari_maskcal.models import MaskModel, matched
from napari_maskcal.restore.card import ModelCard
from napari_maskcal.restore.events import (
    Cancelled,
    CancelToken,
    Done,
    Event,
    Failed,
    FieldSurveyed,
    TrainingDone,
    UncertaintyJudged,
    Warned,
)
from napari_maskcal.settings import DEVICE
from napari_maskcal.training_choice import ALL, TRAINED, TURNED, Candidate, choose
from napari_maskcal.training_fields import restored_fields, surveyed_triplets
from napari_maskcal.training_plan import TrainingPlan, plan_training, plan_warnings, recipe_of
from napari_maskcal.training_split import Split
from napari_maskcal.training_validation import Judge, Preview, as_used

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from napari_maskcal.calibrate.certificate import Certificate
    from napari_maskcal.distance.registry import Distance
    from napari_maskcal.mask.recipe import Recipe, TrainingField
    from napari_maskcal.models import Restorer
    from napari_maskcal.read.cache import Cache
    from napari_maskcal.read.parts import Triplets
    from napari_maskcal.read.survey import Surveyed

__all__ = ["Preview", "Split", "Trained", "TrainingPlan", "plan_training", "recipe_of", "train", "training"]

_LONGEST_NAME = 200  # of a model card
_TITLES = {TRAINED: "mask network", TURNED: "mask network and spread", ALL: "mask network, spread and residual"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A mask network with all that is known of how it came about.

    Attributes
    ----------
    mask_model
        With the certificate, if there is one; its card says what it was trained on.
    split, recipe
        Which groups were for what, and all else that decided the weights.
    done
        How the training went; `done.stopped` is ``"cancelled"`` where it was stopped before its end.
    certificate
        None where no tolerance was given, calibration was refused, or the training was stopped.
    kept, judged
        The name of the uncertainty that is in `mask_model`, and what it was chosen from; see
        `napari_maskcal.training_choice`. Nothing was compared where the training was stopped.
    warnings
        What was otherwise than asked for.
    checkpoint
        From where a training that was stopped can go on; None: there is none.
    """

    mask_model: MaskModel
    split: Split
    recipe: Recipe
    done: TrainingDone
    certificate: Certificate | None = None
    kept: str = TRAINED
    judged: tuple[UncertaintyJudged, ...] = ()
    warnings: tuple[str, ...] = ()
    checkpoint: Path | None = None

    @property
    def masked_share(self) -> float | None:
        """What share of the validation fields it masks; None where it was never validated."""
        known = {one.name: one.masked_share for one in self.judged}
        return known.get(self.kept, dict(self.done.validated).get(self.done.best_step))

    @property
    def is_complete(self) -> bool:
        """Whether it came to its end, and, where a promise was asked for, to one."""
        return bool(self.judged) and (self.certificate is not None or not self.split.calibration)

    def save(self, path: Path, *, restorer: Restorer | None = None) -> None:
        """Write the bundle; the checkpoint of a training that came to its end is then removed.

        Parameters
        ----------
        restorer
            The one that it was trained for, to be put into the bundle too.

        Raises
        ------
        ValueError
            If the file cannot be written, or the restorer not be put into it.
        """
        from napari_maskcal.bundle import write_bundle

        write_bundle(path, self.mask_model.network, self.mask_model.card, self.certificate, restorer=restorer)
        if self.checkpoint is not None and self.is_complete:
            self.checkpoint.unlink(missing_ok=True)


def train(
    triplets: Triplets,
    restorer: Restorer | None = None,
    *,
    distance: str | Distance = "l1",
    tolerance: float | None = None,
    confidence: float = 0.9,
    recipe: Recipe | None = None,
    device: str = DEVICE.default,
    checkpoint: Path | None = None,
    cache: Cache | None = None,
    on_event: Callable[[Event], None] | None = None,
    cancel: CancelToken | None = None,
) -> Trained:
    """Return a mask network for one's own restorer, trained on triplets, and calibrated if a tolerance is given.

    Parameters
    ----------
    triplets
        From `read_triplets`, `read_manifest` or `triplets_from_arrays`. They are split by group: no specimen both
        trains the network and judges or calibrates it.
    restorer
        What restores, from `load_restorer`; None: the triplets bring their restored images.
    distance, tolerance, confidence
        Of the promise that the masks are to be small for; see `napari_maskcal.calibration.calibrate`. Without a
        tolerance no group is kept to calibrate, and the network is judged at three tolerances.
    recipe
        See `recipe_of`, and `napari_maskcal.mask.recipe.Recipe` for all of it.
    device
        ``"auto"``, ``"cpu"``, ``"cuda:0"``, ``"mps"``.
    checkpoint
        A file that is written now and then; where it is there, that training goes on.
    cache
        Where facts about files are kept; None: nowhere.
    on_event, cancel
        For progress, and to stop from another thread.

    Returns
    -------
    Trained
        When it was stopped, with the best network so far.

    Raises
    ------
    FaultyTriplets
        If some triplets cannot be used; it lists all of them.
    ValueError
        If there are too few groups, or something else does not fit; the message says what to do.
    FloatingPointError
        If the loss is not finite; it names the step and the field.
    MemoryError
        If the fields, or a single crop on the device, take more memory than there is.
    InterruptedError
        If it was stopped before the first step.
    """
    plan = plan_training(
        triplets, restorer, recipe=recipe, distance=distance, tolerance=tolerance, confidence=confidence
    )  # fmt: skip
    result: Trained | None = None
    for event in training(plan, device=device, checkpoint=checkpoint, cache=cache, cancel=cancel):
        if on_event is not None:
            on_event(event)
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Done | Cancelled):
            result = event.result
    if result is None:
        raise InterruptedError("the training was stopped before its first step")
    return result


def training(
    plan: TrainingPlan,
    *,
    device: str = DEVICE.default,
    checkpoint: Path | None = None,
    cache: Cache | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[Event]:
    """Train what a plan says, as a stream of events; it never raises, errors are events.

    The last event is `Done`, whose result is a `Trained`; `Cancelled`, whose result is one with the best network so
    far, or None before the first step; or `Failed`. A `FaultyTriplets` in that lists all that is wrong with the files.
    """
    warned: list[str] = []
    try:
        for event in _stages(plan, device, checkpoint, cache, cancel or CancelToken(), warned):
            if isinstance(event, Warned):
                warned.append(event.message)
            yield event
    except Exception as error:  # noqa: BLE001 - whatever it is, the user has to be told
        yield Failed(error=error)


def _stages(
    plan: TrainingPlan,
    device: str,
    checkpoint: Path | None,
    cache: Cache | None,
    cancel: CancelToken,
    warned: list[str],
) -> Iterator[Event]:
    yield from (Warned(message=message) for message in plan_warnings(plan))
    surveyed = yield from surveyed_triplets(plan, cache=cache, cancel=cancel)
    learned = [item for item in surveyed if item.triplet.group not in plan.split.calibration]
    fields = [] if cancel.cancelled else (yield from restored_fields(plan, learned, device=device, cancel=cancel))
    if cancel.cancelled:
        yield Cancelled(result=None)
        return
    judge = Judge(plan, [field for field in fields if field.group in plan.split.validation])
    if judge.remark:
        yield Warned(message=judge.remark)
    training_fields = [field for field in fields if field.group in plan.split.training]
    recipe, done = yield from _trained(plan, training_fields, judge, device, checkpoint, cancel)
    if done is None or done.step == 0:
        yield Cancelled(result=None)
        return
    notes = _recipe_words(recipe, done, len(training_fields))
    trained = yield from _chosen(plan, judge, recipe, done, learned, device, cancel, notes=notes)
    trained = replace(trained, checkpoint=checkpoint)
    if trained.judged:
        certificate = yield from _calibrated(plan, trained.mask_model, device, cache, cancel)
        mask_model = replace(trained.mask_model, certificate=certificate)
        trained = replace(trained, mask_model=mask_model, certificate=certificate)
    trained = replace(trained, warnings=tuple(warned))
    yield Done(result=trained) if trained.is_complete or not cancel.cancelled else Cancelled(result=trained)


def _chosen(
    plan: TrainingPlan,
    judge: Judge,
    recipe: Recipe,
    done: TrainingDone,
    learned: Sequence[Surveyed],
    device: str,
    cancel: CancelToken,
    *,
    notes: str,
) -> Generator[Event, None, Trained]:
    """Return what goes into the bundle: what masks least, or the network of a training that was stopped."""
    choice = None
    if done.stopped != "cancelled":
        choice = yield from choose(plan, judge, done.network, device=device, cancel=cancel)
    kept = choice.kept if choice is not None else Candidate(name=TRAINED, part=as_used(done.network, power=plan.power))
    return Trained(
        mask_model=_mask_model(plan, kept, learned, notes=notes), split=plan.split, recipe=recipe, done=done,
        kept=kept.name, judged=() if choice is None else choice.judged,
    )  # fmt: skip


def _trained(
    plan: TrainingPlan,
    fields: Sequence[TrainingField],
    judge: Judge,
    device: str,
    checkpoint: Path | None,
    cancel: CancelToken,
) -> Generator[Event, None, tuple[Recipe, TrainingDone | None]]:
    """Run the loop, for the paper's loss with the weight that a search finds; return the recipe, and the end.

    There is no end where the search was stopped: with what it has found so far the result would be another.
    """
    from napari_maskcal.mask.train import train_mask_network

    recipe = plan.recipe
    if recipe.loss == "paper":
        recipe = yield from _weighted(recipe, fields, judge, device, checkpoint, cancel)
        if cancel.cancelled:
            return recipe, None
    events = train_mask_network(
        fields, recipe, validation=judge, checkpoint=checkpoint, device=device, cancel=cancel,
        about=_about(plan, judge),
    )  # fmt: skip
    done: TrainingDone | None = None
    for event in events:
        if isinstance(event, TrainingDone):
            done = event
        yield event
    return recipe, done


def _weighted(
    recipe: Recipe,
    fields: Sequence[TrainingField],
    judge: Judge,
    device: str,
    checkpoint: Path | None,
    cancel: CancelToken,
) -> Generator[Event, None, Recipe]:
    """Return the recipe with the weight that masks least; a training that goes on has found it already."""
    from napari_maskcal.mask.checkpoint import read_recipe
    from napari_maskcal.mask.weight import search_weight

    if checkpoint is not None and checkpoint.exists():
        return replace(recipe, weight=read_recipe(checkpoint).weight)
    yield Warned(message="the loss paper works with few weights; short trainings look for one first")
    found: Recipe = yield from search_weight(fields, recipe, validation=judge, device=device, cancel=cancel)
    return found


def _about(plan: TrainingPlan, judge: Judge) -> str:
    """Return what else decides which network is the best, as one text."""
    from napari_maskcal.mask.checkpoint import fields_sha256

    decides = (judge.tolerances, plan.confidence, plan.distance.name, plan.distance.identity, plan.power)
    return hashlib.sha256(f"{decides} {fields_sha256(judge.fields)}".encode()).hexdigest()


def _mask_model(plan: TrainingPlan, kept: Candidate, learned: Sequence[Surveyed], *, notes: str) -> MaskModel:
    """Return what was kept, with a card that says on what it was trained and chosen."""
    from napari_maskcal.bundle import mask_sha256, mask_weights

    network: Any = kept.part.network()
    restorer = plan.restorer.card
    # The restorer's planes are padded to its stride, and the uncertainty belongs to the padded plane.
    stride = lcm(network.stride_px, restorer.scale_factor * restorer.stride_px)
    hashes = {item.hashes[name] for item in learned for name in ("degraded", "truth")}
    card = ModelCard(
        name=f"{_TITLES.get(kept.name, kept.name)} for {restorer.name}"[:_LONGEST_NAME],
        role="mask",
        network=kept.part.spec,
        stride_px=stride,
        halo_px=-(-network.halo_px // stride) * stride,
        min_size_px=stride,
        normalisation=restorer.normalisation,
        citation=notes if kept.name in _TITLES else f"chosen on validation specimens beside a mask network {notes}",
        # Without groups the names are those of files, and other images may well have the same.
        trained_on=(*plan.split.training, *plan.split.validation) if plan.triplets.grouped else (),
        trained_on_sha256=tuple(sorted(hashes)),
    )
    return MaskModel(card=card, network=network, sha256=mask_sha256(card, mask_weights(network)))


def _recipe_words(recipe: Recipe, done: TrainingDone, fields: int) -> str:
    of_paper = f" ({recipe.distance}, weight {recipe.weight:g})" if recipe.loss == "paper" else ""
    return (
        f"trained by napari-maskcal with the loss {recipe.loss}{of_paper} on {fields} fields, {done.step} steps of "
        f"{recipe.batch} crops of {recipe.crop_px} pixels, best at step {done.best_step}, seed {recipe.seed}"
    )


def _calibrated(
    plan: TrainingPlan, mask_model: MaskModel, device: str, cache: Cache | None, cancel: CancelToken
) -> Generator[Event, None, Certificate | None]:
    """Return the certificate for the groups that were kept; None, and a warning, where they support none."""
    promise = plan.promise
    if promise is None:
        return None
    asked = Plan(
        triplets=plan.of_groups(plan.split.calibration), restorer=matched(plan.restorer, mask_model),
        mask_model=mask_model, distance=plan.distance, promise=promise, minimal_groups=groups_needed(promise),
    )  # fmt: skip
    try:
        for event in measure(asked, device=device, cache=cache, cancel=cancel):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                certificate: Certificate = event.result.certify(
                    promise, note=f"specimens kept from training, drawn with seed {plan.recipe.seed}"
                )
                return certificate
            if not isinstance(event, FieldSurveyed | Cancelled):
                yield event
    except Exception as error:  # noqa: BLE001 - whatever it is, the trained network must not be lost for it
        yield Warned(message=f"the network is trained, but not calibrated: {error}")
    return None
