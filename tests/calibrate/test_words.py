from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from calibration_fields import FINGERPRINT, certified, random_fields
from napari_maskcal.calibrate.certificate import Certificate
from napari_maskcal.calibrate.guarantee import marginal_rank
from napari_maskcal.calibrate.words import coverage_of_calibrations, percent_at_least, percent_at_most

AT_MOST = "is at most 2 % of the plane's intensity range"
ERROR = "the mean absolute error outside the marked regions (whose pixels count as 0)"
FIELD = "in a field of 12 × 15 pixels drawn at random"
PAC = {"guarantee": "pac", "delta": 0.1}
MEAN = {"guarantee": "expected", "bound": 0.5}


def said(groups: int = 30, each: int = 1, **changes) -> Certificate:
    return certified(random_fields(groups, each=each), **{"tolerance": 0.02} | changes)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"groups": 12, "confidence": 0.8},
            f"In at least 80 % of new specimens like the 12 calibrated ones, {ERROR} {AT_MOST} {FIELD}.",
        ),
        (
            {"each": 3},
            f"In at least 90 % of new specimens like the 30 calibrated ones, {ERROR} {AT_MOST} in all of 3 fields of "
            "12 × 15 pixels drawn at random.",
        ),
        (
            {"each": 3, "grouping": "one"},
            f"In at least 90 % of new specimens like the 30 calibrated ones, {ERROR} {AT_MOST} {FIELD}.",
        ),
        (
            PAC,
            "With a probability of at least 90 % over the choice of the 30 calibrated specimens, in at least 90 % of "
            f"new specimens like them, {ERROR} {AT_MOST} {FIELD}.",
        ),
        (
            MEAN,
            f"On average over new specimens like the 30 calibrated ones, {ERROR}, counted as at most 50 % of the "
            f"plane's intensity range, {FIELD} {AT_MOST}.",
        ),
        (
            MEAN | {"each": 3},
            f"On average over new specimens like the 30 calibrated ones, the largest value of {ERROR}, counted as at "
            "most 50 % of the plane's intensity range, in all of 3 fields of 12 × 15 pixels drawn at random "
            f"{AT_MOST}.",
        ),
        (
            {"distance": "linf", "mask": "soft"},
            "In at least 90 % of new specimens like the 30 calibrated ones, the largest error of any pixel after each "
            f"pixel of both images is multiplied by its trust {AT_MOST} {FIELD}.",
        ),
    ],
)
def test_the_promise_is_one_sentence_that_says_what_was_proved(options, sentence):
    assert said(**options).sentence == sentence


@pytest.mark.parametrize(
    ("distance", "words"),
    [
        ("l2", "the root-mean-square error outside the marked regions (whose pixels count as 0) is"),
        ("linf", "the largest error of any pixel outside the marked regions is"),
        ("linf-blur2", "the largest error of any pixel after a blur of 2 pixels outside the marked regions is"),
    ],
)
def test_what_the_error_is_of_is_said_as_it_was_measured(distance, words):
    assert words in said(distance=distance).sentence


def test_of_distances_between_whole_images_it_is_said_that_the_marked_regions_are_blank():
    certificate = said().model_copy(
        update={"distance": "lpips-alex", "distance_words": "LPIPS distance (AlexNet)", "intensity": "none"}
    )
    assert (
        "the LPIPS distance (AlexNet) outside the marked regions (set to 0 in both images) is at most 0.02 in a field"
        in certificate.sentence
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (random_fields(10, each=3), "in all of 3 fields of 12 × 15 pixels drawn at random"),
        (random_fields(10, each=3)[:-1], "in all fields of 12 × 15 pixels, as many as these have,"),
        (random_fields(10)[1:], "like the 9 calibrated ones"),
    ],
)
def test_the_promise_says_how_many_fields_of_a_specimen_it_is_about(fields, words):
    assert words in certified(fields).sentence


def test_where_nobody_named_specimens_the_promise_is_about_images():
    named, unnamed = said(), said().model_copy(update={"grouped": False})
    assert "new specimens like" in named.sentence
    assert "new images like" in unnamed.sentence
    assert "specimen" not in unnamed.sentence + unnamed.limits


@pytest.mark.parametrize(("value", "at_least", "at_most"), [
    (0.9, "90 %", "90 %"), (0.07, "7 %", "7 %"), (0.999, "99.9 %", "99.9 %"), (0.9045, "90.45 %", "90.45 %"),
    (0.99995, "99.995 %", "99.995 %"), (0.9999999, "99.9 %", "100 %"), (0.0213456789, "2.13 %", "2.14 %"),
    (1e-6, "0.0001 %", "0.0001 %"), (1e-9, "1e-7 %", "1e-7 %"),
    (1 / 3, "33.3 %", "33.4 %"), (1.5, "150 %", "150 %"), (0.0, "0 %", "0 %"),
])  # fmt: skip
def test_no_number_is_rounded_to_a_better_one(value, at_least, at_most):
    assert (percent_at_least(value), percent_at_most(value)) == (at_least, at_most)


def test_a_confidence_is_not_rounded_up_nor_a_tolerance_down():
    sentence = said(tolerance=0.0200049, confidence=0.89999).sentence
    assert "at least 89.999 %" in sentence
    assert "at least 89.9 %" in said(confidence=0.8999999).sentence
    assert "least 89.9 % over" in said(confidence=0.8, guarantee="pac", delta=0.1000001).sentence
    assert "at most 2.01 %" in sentence
    assert "at most 20.01 intensity units" in said(tolerance=20.01).model_copy(update={"intensity": "raw"}).sentence


def test_the_limits_name_the_calibrated_size():
    assert "all blocks of 12 × 15 pixels of a larger plane" in said().limits


@pytest.mark.parametrize(("groups", "confidence"), [(9, 0.9), (50, 0.9), (30, 0.8)])
def test_the_share_that_one_calibration_keeps_is_that_of_the_beta_distribution(groups, confidence):
    certificate = said(groups, confidence=confidence)
    rank = marginal_rank(groups, confidence)
    low, high = beta(groups + 1 - rank, rank).ppf([0.1, 0.9])
    assert coverage_of_calibrations(certificate) == pytest.approx((low, high))
    words = f"8 of 10 calibrations keep between {percent_at_least(low)} and {percent_at_most(high)}"
    assert words in certificate.limits
    if groups == 50:
        assert (low, high) == pytest.approx((0.846, 0.951), abs=1e-3)


@pytest.mark.parametrize("change", [{"threshold": np.inf}, {"threshold": 0.0}, {"distance": "ssim"}])
def test_where_thresholds_may_be_equal_only_the_lower_end_is_said(change):
    certificate = said(50)
    assert "between 84.6 % and 95.1 %" in certificate.limits
    changed = certificate.model_copy(update=change)
    assert "9 of 10 calibrations keep at least 84.6 %." in changed.limits


def test_the_limits_say_what_a_range_is_and_what_planes_the_fields_were_cut_from():
    assert "between the percentiles 1 and 99.8 of the degraded plane" in said().limits
    assert "percentiles" not in said().model_copy(update={"intensity": "raw"}).limits
    assert "cut from" not in said().limits
    cut = said().model_copy(update={"plane_shape": (64, 80)})
    assert "cut from planes of 64 × 80 pixels; smaller planes are not covered" in cut.limits


def test_only_a_promise_that_is_an_average_is_said_to_be_one():
    assert "average over calibrations" in said().limits
    assert "average" not in said(**PAC).limits + said(**PAC).sentence
    assert "of a single one of the new specimens nothing is said" in said(**MEAN).limits
    assert "The average is over calibrations too" in said(**MEAN).limits


def test_a_promise_about_one_field_is_none_about_all_of_a_specimen():
    words = "for all fields of a specimen at once"
    assert words in said(each=3, grouping="one").limits
    assert words not in said(each=3).limits
    assert words not in said().limits


def test_the_words_need_no_distance_that_is_not_at_hand():
    content = said().model_copy(update={"distance": "from elsewhere", "distance_words": "other distance"})
    again = Certificate.model_validate_json(content.model_dump_json())
    assert "the other distance outside the marked regions (set to 0 in both images)" in again.sentence
    assert again.fingerprint == FINGERPRINT
