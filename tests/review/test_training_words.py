from __future__ import annotations

from dataclasses import replace

import pytest

from napari_maskcal.restore.events import TrainingDone, UncertaintyJudged
from napari_maskcal.review.training_words import (
    compared_words,
    gone_on_words,
    resumed_words,
    specimens_words,
    stopped_words,
    unfinished_words,
    validated_words,
)
from napari_maskcal.training_choice import SPREAD, TURNED

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


def judged(**shares: float) -> list[UncertaintyJudged]:
    return [
        UncertaintyJudged(done=i, total=4, name=name.replace("_", " "), masked_share=share, untouched_share=0.25)
        for i, (name, share) in enumerate(shares.items(), start=1)
    ]


def test_what_is_kept_is_told_beside_what_was_left_for_it():
    told = compared_words("trained network", judged(trained_network=0.28, smoothed_residual=0.41))
    assert told == (
        "Kept is the trained network: it masks 28 % of the validation fields and leaves 25 % of them untouched. At the "
        "same promise others mask: the smoothed residual 41 %."
    )


def test_what_costs_more_views_and_what_takes_no_training_is_called_so():
    shares = judged(trained_network=0.28, smoothed_residual=0.2)
    assert compared_words("smoothed residual", shares).endswith("train longer, or on more specimens.")
    asked = compared_words("trained network", shares)
    assert asked.endswith("smoothed residual 20 %. The network was asked for by its loss.")
    spread = UncertaintyJudged(done=3, total=3, name=SPREAD, masked_share=0.1, untouched_share=0.5)
    assert "in three more views. Training gained nothing" in compared_words(SPREAD, [*shares, spread])
    turned = UncertaintyJudged(done=3, total=3, name=TURNED, masked_share=0.1, untouched_share=0.5)
    assert compared_words(TURNED, [*shares, turned]).endswith("the restorer sees each plane in three more views.")


def test_what_was_stopped_is_named():
    assert unfinished_words(trained=False, compared=False) == ""
    assert unfinished_words(trained=True, compared=False) == " with the comparison, which was stopped"
    assert unfinished_words(trained=True, compared=True) == " with the calibration, which was stopped"


def test_many_specimens_are_counted_after_the_first_six():
    assert specimens_words("Trained on", ["A"]) == "Trained on 1 specimen: A."
    told = specimens_words("Validated on", list("ABCDEFGH"))
    assert told == "Validated on 8 specimens: A, B, C, D, E, F and 2 more."
