from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from napari_maskcal.models import GIVEN_RESTORER
from napari_maskcal.review.training_request import (
    TrainingChoices,
    TrainingRequest,
    bundle_path,
    make_training_plan,
    resolve_training,
    specimens_to_train,
    training_parts,
)
from triplet_files import pairs

if TYPE_CHECKING:
    from small_models import Trained

NAMES = tuple(f"S{group:02}_{i}" for group in range(12) for i in range(2))


@pytest.fixture
def choices(tmp_path: Path, trained: Trained) -> TrainingChoices:
    low, high = pairs(tmp_path, NAMES, 64, 64)
    return TrainingChoices(
        kind="folders", degraded=str(low), truth=str(high), group=r"(S\d+)", restorer=str(trained.restorer_path),
        distance="l1", tolerance=0.05, confidence=0.9, loss="likelihood", steps=100, crop_px=64, seed=3,
        out=str(tmp_path / "mine.maskcal"),
    )  # fmt: skip


def problems(choices: TrainingChoices, **changes: Any) -> dict[str, str]:
    found = resolve_training(replace(choices, **changes))
    assert isinstance(found, list), "it can be trained"
    return {problem.field: problem.message for problem in found}


def requested(choices: TrainingChoices, **changes: Any) -> TrainingRequest:
    found = resolve_training(replace(choices, **changes))
    assert not isinstance(found, list), found
    return found


def test_good_choices_become_a_plan_whose_parts_share_no_specimen(choices, tmp_path):
    request = requested(choices)
    assert (request.out, request.checkpoint.parent) == (tmp_path / "mine.maskcal", tmp_path)
    assert request.checkpoint.name.startswith("mine.maskcal.")
    plan = make_training_plan(request, {}, None)
    parts = [set(part) for part in (plan.split.training, plan.split.validation, plan.split.calibration)]
    assert set.union(*parts) == {f"S{group:02}" for group in range(12)}
    assert sum(map(len, parts)) == 12
    assert len(parts[2]) >= 9
    assert (plan.tolerance, plan.confidence, plan.recipe.loss) == (0.05, 0.9, "likelihood")
    assert (plan.recipe.steps, plan.recipe.crop_px, plan.recipe.seed) == (100, 64, 3)


def test_without_a_tolerance_no_specimen_is_kept_for_calibration(choices):
    plan = make_training_plan(requested(choices, tolerance=None), {}, None)
    assert plan.split.calibration == ()
    assert plan.tolerance is None


def test_another_seed_draws_other_specimens(choices):
    plans = [make_training_plan(requested(choices, seed=seed), {}, None) for seed in (0, 0, 1)]
    assert plans[0].split == plans[1].split != plans[2].split


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"degraded": ""}, "degraded", "choose the degraded images"),
        ({"truth": "/nowhere/high"}, "truth", "/nowhere/high does not exist; choose a folder, or a pattern"),
        ({"group": "("}, "group", "'(' is not a regular expression"),
        ({"restorer": "/nowhere/x.safetensors"}, "restorer", "/nowhere/x.safetensors does not exist"),
        ({"restorer": "given"}, "restored", "choose the restored images"),
        ({"distance": "l0"}, "distance", "l0"),
        ({"tolerance": -0.1}, "tolerance", "tolerance is -0.1; give a number above 0"),
        ({"confidence": 1.0}, "confidence", "confidence is 1; give a number between 0 and 1"),
        ({"loss": "best"}, "loss", "there is no loss 'best'; choose one of"),
        ({"steps": 0}, "steps", "steps is 0; give a whole number from 1 on"),
        ({"crop_px": 0}, "crop_px", "crop_px is 0; give a whole number from 1 on"),
        ({"seed": -1}, "seed", "seed is -1; give a whole number from 0 on"),
        ({"out": ""}, "out", "choose the file to write"),
        ({"out": "/nowhere/mine.maskcal"}, "out", "/nowhere does not exist; make it, or choose another folder"),
    ],
)
def test_each_wrong_choice_is_told_at_its_own_field(choices, changes, field, message):
    found = problems(choices, **changes)
    assert list(found) == [field]
    assert message in found[field]


def test_all_that_is_wrong_is_told_at_once(choices):
    assert set(problems(choices, steps=0, out="", degraded="", confidence=2.0)) == {
        "steps", "out", "degraded", "confidence"
    }  # fmt: skip


def test_a_folder_is_no_file_to_write(choices, tmp_path):
    (tmp_path / "there.maskcal").mkdir()
    assert "there.maskcal is a folder; name a file in it" in problems(choices, out=str(tmp_path / "there"))["out"]


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(choices, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert f"{tmp_path} cannot be written to" in problems(choices)["out"]


def test_a_missing_suffix_is_added_and_no_other_is_replaced():
    assert bundle_path(" a/mine ") == Path("a/mine.maskcal")
    assert bundle_path("a/mine.v2") == Path("a/mine.v2.maskcal")
    assert bundle_path("a/mine.maskcal") == Path("a/mine.maskcal")
    assert bundle_path("~/mine").is_absolute()


def test_images_that_are_restored_already_take_a_third_folder(choices, tmp_path):
    shutil.copytree(tmp_path / "low", tmp_path / "restored")
    given = replace(choices, restorer="given", restored=str(tmp_path / "restored"))
    assert training_parts(given) == ("degraded", "truth", "restored")
    assert training_parts(choices) == ("degraded", "truth")
    plan = make_training_plan(requested(given), {}, None)
    assert plan.restorer == GIVEN_RESTORER
    assert all(triplet.restored is not None for triplet in plan.triplets)


def test_too_few_specimens_are_refused_with_how_many_it_takes_and_what_for(choices):
    few = replace(choices, group=r"(S\d)")  # S0 and S1
    with pytest.raises(ValueError, match=r"calibration 9 groups .*: 11 .*there are 2"):
        make_training_plan(requested(few), {}, None)
    assert len(make_training_plan(requested(few, tolerance=None), {}, None).split.training) == 1


def test_the_specimens_are_told_before_a_file_is_opened(choices, tmp_path):
    for path in (tmp_path / "low").iterdir():
        path.write_bytes(b"no image")
    assert specimens_to_train(choices).startswith("12 specimens: S00 (2), S01 (2)")
