from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from napari_maskcal.mask.recipe import LOSSES, Recipe


def test_a_recipe_survives_json():
    recipe = Recipe(loss="paper", distance="lpips-alex", widths=(4, 8), seed=3)
    assert Recipe(**json.loads(json.dumps(asdict(recipe)))) == recipe
    assert Recipe(**json.loads(json.dumps(asdict(recipe)))) != replace(recipe, widths=(4, 9))


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_makes_a_recipe(loss):
    assert Recipe(loss=loss).loss == loss


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "hinge"}, "there is no loss 'hinge'; choose one of score, likelihood, paper, quantile"),
        ({"steps": 0}, "steps is 0; give a whole number from 1 on"),
        ({"batch": 2.5}, "batch is 2.5; give a whole number"),
        ({"patience": True}, "patience is True; give a whole number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; give a number above 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf; give a number above 0"),
        ({"weight": -1.0}, "weight is -1.0; give a number above 0"),
        ({"widths": ()}, "the network has 0 widths; give 1 to 8"),
        ({"widths": (4, 0)}, "a width is 0; give a whole number from 1 on"),
        ({"seed": -1}, "seed is -1; give a whole number from 0 on"),
        ({"seed": 0.5}, "seed is 0.5; give a whole number"),
        ({"seed": 2**63}, "seed is 9223372036854775808; give a whole number"),
    ],
)
def test_what_no_training_could_be_made_of_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**values)
