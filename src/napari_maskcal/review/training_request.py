"""From what a user chose to what will be trained, or to the reasons why it can't: no GUI, no pixels, no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.models import load_restorer
from napari_maskcal.restore.kinds import GIVEN
from napari_maskcal.review.request import Problem, Source, restorer_card
from napari_maskcal.review.triplet_request import Kind, specimens_chosen, triplet_problems, triplets_chosen
from napari_maskcal.settings import check_confidence, check_tolerance
from napari_maskcal.training_plan import plan_training, recipe_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_maskcal.mask.recipe import Loss, Recipe
    from napari_maskcal.read.cache import Cache
    from napari_maskcal.training_plan import TrainingPlan

SUFFIX = ".maskcal"
_CHECKPOINT = ".training"  # behind the bundle's name
_OF_RECIPE = ("loss", "steps", "crop_px", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingChoices:
    """All that the user set, right or wrong.

    Attributes
    ----------
    kind, degraded, truth, restored, manifest, layers, group
        Where the triplets are, see `TripletChoices`.
    restorer
        See `load_restorer`.
    distance, tolerance, confidence
        Of the promise that the masks are to be small for. A tolerance of None: it is calibrated later.
    loss, steps, crop_px, seed
        See `recipe_of`.
    out
        The bundle to write.
    with_restorer
        Whether to put the restorer into it.
    """

    kind: Kind
    degraded: str = ""
    truth: str = ""
    restored: str = ""
    manifest: str = ""
    layers: Mapping[str, Source | None] = field(default_factory=dict)
    group: str = ""
    restorer: str
    distance: str
    tolerance: float | None
    confidence: float
    loss: Loss
    steps: int
    crop_px: int
    seed: int
    out: str
    with_restorer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """Choices that can be trained.

    Attributes
    ----------
    out
        The bundle to write.
    checkpoint
        The file beside it from which a training that was stopped goes on.
    """

    choices: TrainingChoices
    recipe: Recipe
    out: Path
    checkpoint: Path


def resolve_training(choices: TrainingChoices) -> TrainingRequest | list[Problem]:
    """Return what to train, or all that stands in its way and can be known without opening an image."""
    problems = triplet_problems(choices, training_parts(choices))
    _, _, fault = restorer_card(choices.restorer)
    out = bundle_path(choices.out)
    checks: dict[str, Callable[[], Any]] = {
        "distance": lambda: parse_distance(choices.distance),
        "tolerance": lambda: check_tolerance(1.0 if choices.tolerance is None else choices.tolerance),
        "confidence": lambda: check_confidence(choices.confidence),
        **{name: partial(_recipe, choices, name) for name in _OF_RECIPE},
    }
    found = {"restorer": fault, **{name: _fault_of(check) for name, check in checks.items()}}
    found["out"] = place_fault(out) if choices.out else "choose the file to write"
    if choices.with_restorer and choices.restorer == GIVEN:
        found["with_restorer"] = "another tool has restored here, so there is no restorer to put into the file"
    problems += [Problem(field=name, message=message) for name, message in found.items() if message]
    if problems:
        return problems
    return TrainingRequest(choices=choices, recipe=_recipe(choices), out=out, checkpoint=checkpoint_path(out))


def training_parts(choices: TrainingChoices) -> tuple[str, ...]:
    """Return which parts have to be given, for the restorer chosen."""
    return ("degraded", "truth", "restored") if choices.restorer == GIVEN else ("degraded", "truth")


def specimens_to_train(choices: TrainingChoices) -> str:
    """Say which specimens the names of the files give; see `specimens_chosen`."""
    return specimens_chosen(choices, training_parts(choices))


def bundle_path(place: str | Path) -> Path:
    """Return the file that is meant, with its suffix."""
    path = Path(str(place).strip()).expanduser()
    return path if path.suffix == SUFFIX or not path.name else path.with_name(path.name + SUFFIX)


def checkpoint_path(out: Path) -> Path:
    """Return the file beside a bundle from which its training goes on."""
    return out.with_name(out.name + _CHECKPOINT)


def place_fault(path: Path) -> str | None:
    """Say why a file cannot be written, where that is known before."""
    folder = path.parent
    if path.is_dir() or not path.name:
        return f"{path} is a folder; name a file in it, such as {path / ('mine' + SUFFIX)}"
    if not folder.is_dir():
        return f"{folder} does not exist; make it, or choose another folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} cannot be written to; choose another folder"
    return None


def make_training_plan(request: TrainingRequest, layers: Mapping[str, Any], cache: Cache | None) -> TrainingPlan:
    """Load the restorer and list the triplets; this takes seconds, so it is done in a thread.

    Parameters
    ----------
    request
        What to train.
    layers
        The arrays of the layers, by the name of the part.
    cache
        Where the headers of files are kept.

    Raises
    ------
    ValueError
        If the restorer cannot be loaded, or there are too few triplets.
    """
    choices = request.choices
    triplets = triplets_chosen(choices, training_parts(choices), layers, cache)
    return plan_training(
        triplets, load_restorer(choices.restorer), recipe=request.recipe, distance=choices.distance,
        tolerance=choices.tolerance, confidence=choices.confidence,
    )  # fmt: skip


def _recipe(choices: TrainingChoices, *names: str) -> Recipe:
    """Return the recipe; of the values that are named alone, so that a fault is that of one of them."""
    return recipe_of(**{name: getattr(choices, name) for name in names or _OF_RECIPE})


def _fault_of(check: Callable[[], Any]) -> str | None:
    try:
        check()
    except (ValueError, ImportError) as error:
        return str(error)
    return None
