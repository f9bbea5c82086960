"""What is wrong with a training before any pixel is read."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from napari_maskcal.mask.recipe import Recipe
from napari_maskcal.models import GIVEN_RESTORER, load_restorer
from napari_maskcal.read.faults import Fault, FaultyTriplets
from napari_maskcal.read.pixel_size import PixelSize
from napari_maskcal.settings import LOSS, STEPS
from napari_maskcal.training_plan import plan_training, plan_warnings, recipe_of
from training_triplets import TINY, triplets


def test_with_a_tolerance_groups_are_kept_to_calibrate_and_without_one_none():
    assert len(plan_training(triplets(12), tolerance=0.02).split.calibration) == 9
    assert plan_training(triplets(12)).split.calibration == ()


def test_a_higher_confidence_takes_more_groups():
    with pytest.raises(ValueError, match=r"calibration 19 groups for confidence 0\.95: 21 groups in all; there are 12"):
        plan_training(triplets(12), tolerance=0.02, confidence=0.95)


def test_images_of_another_magnification_than_the_restorers_are_trained_on_with_a_warning(monkeypatch):
    found = triplets(4)
    size = PixelSize(y=0.1, x=0.1, unit="micrometer")
    for item in found:
        monkeypatch.setattr(type(item.degraded), "pixel_size", size)
    for trained_at, warned in ((size, 0), (size.model_copy(update={"unit": "nanometer"}), 1)):
        card = GIVEN_RESTORER.card.model_copy(update={"pixel_size": trained_at})
        told = plan_warnings(plan_training(found, replace(GIVEN_RESTORER, card=card)))
        assert sum("the training has pixels of 0.1 × 0.1 micrometer, but" in one for one in told) == warned


def test_each_file_is_a_group_where_none_were_named():
    plan = plan_training(triplets(5, grouped=False))
    assert len(plan.split.training) + len(plan.split.validation) == 5


def test_files_that_were_lost_to_faults_are_told_with_what_lacks_in_the_end():
    fault = Fault(file="low/a.tif", fault="has no partner", remedy="add it")
    with pytest.raises(ValueError, match="there are 3") as alone:
        plan_training(triplets(3), tolerance=0.02)
    assert not isinstance(alone.value, FaultyTriplets)
    with pytest.raises(FaultyTriplets, match=r"low/a.tif has no partner; add it \| the fields are too few: .*are 3"):
        plan_training(replace(triplets(3), faults=(fault,)), tolerance=0.02)


@pytest.mark.parametrize(
    ("loss", "distance", "power", "trained"),
    [
        ("likelihood", "l1", 2.0, "l1"),
        ("likelihood", "l2", 4.0, "l1"),  # the size of the error is learned, whatever will be made of it
        ("score", "l3", 6.0, "l1"),
        ("likelihood", "ssim", 2.0, "l1"),
        ("likelihood", "linf", 64.0, "l1"),
        ("score", "l50", 64.0, "l1"),
        ("paper", "l2", None, "l2"),
        ("quantile", "l1", 2.0, "l1"),
    ],
)
def test_the_loss_learns_errors_and_the_budget_has_twice_the_power_of_the_distance(loss, distance, power, trained):
    plan = plan_training(triplets(4), recipe=replace(TINY, loss=loss), distance=distance)
    assert (plan.power, plan.recipe.distance) == (power, trained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, r"tolerance is 0; give a number above 0"),
        ({"tolerance": -1.0}, r"tolerance is -1;"),
        ({"confidence": 1.0}, r"confidence is 1; give a number between 0 and 1"),
        ({"distance": "l0"}, r"there is no distance 'l0'"),
        ({"recipe": Recipe(loss="paper"), "distance": "linf"},
         r"the distance linf has no gradient for the loss paper; take another loss"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_the_work(options, message):
    with pytest.raises(ValueError, match=message):
        plan_training(triplets(4), **options)


def test_no_triplets_at_all_are_none():
    with pytest.raises(ValueError, match="there are no triplets; choose folders"):
        plan_training(replace(triplets(2), items=()))


def test_restored_images_beside_a_restorer_are_refused_and_needed_without_one():
    told = r"field 0, as do 3 more triplets, comes with a restored image, but Demo denoiser makes its own"
    with pytest.raises(ValueError, match=told):
        plan_training(triplets(4), load_restorer("demo"))
    assert plan_training(triplets(4)).restorer.network is None


def test_an_uncertainty_map_is_not_left_out_in_silence():
    these = triplets(4)
    items = tuple(replace(one, uncertainty=one.truth) for one in these)
    with pytest.raises(ValueError, match="field 0, as do 3 more triplets, comes with an uncertainty map"):
        plan_training(replace(these, items=items))


def test_specimens_whose_names_calibration_would_mix_up_are_refused_at_once():
    split = plan_training(triplets(12), tolerance=0.02).split
    mixed = {split.training[0]: "day 1", split.calibration[0]: "day 1/mouse"}
    names = [mixed.get(f"mouse {i}", f"mouse {i}") for i in range(12)]
    outcomes = [refusal(names, seed) for seed in range(12)]
    assert "" in outcomes  # where both are on one side
    told = "field 0 is of specimen day 1/mouse, but day 1, in its name or that of its folder, is another specimen; name"
    assert any(re.sub(r"field \d+", "field 0", outcome).startswith(told) for outcome in outcomes)


def refusal(names: list[str], seed: int) -> str:
    try:
        plan_training(triplets(names), recipe=replace(TINY, seed=seed), tolerance=0.02)
    except ValueError as error:
        return str(error)
    return ""


def test_one_group_with_most_of_the_fields_is_told():
    names = ["a"] * 8 + [f"b{i}" for i in range(6)]
    plans = [plan_training(triplets(names), recipe=replace(TINY, seed=seed)) for seed in range(10)]
    plan = next(plan for plan in plans if "a" in plan.split.training)
    assert any("8 of " in told and "are of one group, a:" in told for told in plan_warnings(plan))
    assert plan_warnings(plan_training(triplets(14))) == ()


def test_what_the_restorer_was_trained_on_is_told_and_trains():
    demo = load_restorer("demo")
    known = demo.card.trained_on[0]
    these = triplets([known, *(f"mouse {i}" for i in range(9))])
    these = replace(these, items=tuple(replace(one, restored=None) for one in these))
    plan = plan_training(these, demo)
    assert known in plan.split.training
    assert any(f"was trained on {known}, where it errs less" in told for told in plan_warnings(plan))


def test_ten_validations_however_many_steps():
    assert recipe_of(steps=3000).validate_every == 300
    assert recipe_of(steps=3).validate_every == 1
    assert (recipe_of().loss, recipe_of().steps) == (LOSS.default, STEPS.default)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mse"}, "there is no loss 'mse'; choose one of"),
        ({"steps": 0}, "steps is 0; give a whole number from 1 on"),
        ({"crop_px": -4}, "crop_px is -4;"),
        ({"seed": -1}, "seed is -1; give a whole number from 0 on"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        recipe_of(**options)
