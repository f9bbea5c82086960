from __future__ import annotations

from dataclasses import replace

import pytest

from napari_maskcal.restore.events import TrainingDone
from napari_maskcal.review.training_words import (
    compared_words,
    gone_on_words,
    resumed_words,
    specimens_words,
    stopped_words,
    validated_words,
)

DONE = TrainingDone(
    network=None, step=600, best_step=400, losses=(), validated=((200, 0.5), (400, 0.3), (600, 0.4)),
    stopped="cancelled", seconds=1.0,
)  # fmt: skip


def test_a_validation_is_told_beside_the_best():
    worse = validated_words(600, 0.4, best_step=400, best_share=0.3)
    assert worse == "Masked at step 600: 40 % of the validation fields; best 30 %, at step 400."
    best = validated_words(400, 0.3, best_step=400, best_share=0.3)
    assert best == "Masked at step 400: 30 % of the validation fields, the best so far."


@pytest.mark.parametrize(
    ("done", "told"),
    [
        (DONE, "Stopped at step 600 of 2000; the best, from step 400, is kept."),
        (replace(DONE, stopped="early"), "Ended at step 600 of 2000, since the mask no longer became smaller; the "
         "best, from step 400, is kept."),
        (replace(DONE, stopped="finished", step=2000), "All 2000 steps are done; the best, from step 400, is kept."),
        (replace(DONE, step=70, validated=()), "Stopped at step 70 of 2000; none was validated yet, so the one of step "
         "70 is kept."),
    ],
)  # fmt: skip
def test_how_it_ended_and_what_is_kept_is_told(done, told):
    assert stopped_words(done, steps=2000) == told


def test_a_training_that_is_gone_on_with_says_so_and_a_new_one_does_not():
    assert resumed_words(600, 2000) == "Going on at step 600 of 2000, where this training was left."
    assert resumed_words(0, 2000) == ""
    assert "from about step 600: mine.maskcal.training has" in gone_on_words(600, checkpoint="mine.maskcal.training")


def test_a_mask_that_is_no_better_than_the_residual_is_called_so():
    assert "28 % of the validation fields, where" in compared_words(0.28, 0.41)
    assert "masks 41 %" in compared_words(0.28, 0.41)
    assert "no gain" not in compared_words(0.28, 0.41)
    assert "no gain" in compared_words(0.41, 0.41)


def test_many_specimens_are_counted_after_the_first_six():
    assert specimens_words("Trained on", ["A"]) == "Trained on 1 specimen: A."
    told = specimens_words("Validated on", list("ABCDEFGH"))
    assert told == "Validated on 8 specimens: A, B, C, D, E, F and 2 more."
