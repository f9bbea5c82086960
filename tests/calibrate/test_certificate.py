from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from calibration_fields import FINGERPRINT, certified, random_fields
from napari_maskcal.calibrate import conformal_threshold, image_threshold
from napari_maskcal.calibrate.certificate import Certificate, Fingerprint, clopper_pearson
from napari_maskcal.calibrate.certify import CalibrationField, certify
from napari_maskcal.calibrate.curves import GridCurves
from napari_maskcal.distance.custom import from_callable
from napari_maskcal.restore.card import Normalisation

BIAS = from_callable(lambda restored, truth: abs(float((restored - truth).mean())), name="bias")


def own_thresholds(fields: list[CalibrationField], tolerance: float, mask: str = "binary") -> list[float]:
    return [image_threshold(f.uncertainty, f.restored, f.truth, "l1", tolerance, mask) for f in fields]


def check_rounded_down(found, exact):
    """A certificate's thresholds are float32, never above the exact ones, and below by no more than that."""
    assert (np.float32(found) == np.asarray(found)).all()
    assert (np.asarray(found) <= np.asarray(exact)).all()
    np.testing.assert_allclose(found, exact, rtol=2e-7)


@pytest.mark.parametrize("mask", ["soft", "binary"])
def test_the_threshold_is_the_rank_of_the_exact_image_thresholds(mask):
    fields = random_fields(12, each=2)
    own, owners = own_thresholds(fields, 0.05, mask), [f.group for f in fields]
    certificate = certified(fields, mask=mask)
    check_rounded_down(certificate.threshold, conformal_threshold(own, 0.9, groups=owners))
    assert certificate.threshold < 0.99 * conformal_threshold(own, 0.9)
    check_rounded_down([record.threshold for record in certificate.fields], own)
    assert (certificate.n_fields, certificate.field_shape) == (24, (12, 15))
    assert certificate.groups == {f"specimen {i}": 2 for i in range(12)}


def test_each_field_is_recorded_with_its_distance_and_the_share_that_is_masked():
    fields = random_fields()
    certificate = certified(fields)
    for field, record in zip(fields, certificate.fields, strict=True):
        error = np.abs(field.restored.astype(np.float64) - field.truth)
        assert record.distance == pytest.approx(error.mean())
        assert record.masked_share == pytest.approx((field.uncertainty > certificate.threshold).mean())
    assert 0 < np.mean([record.masked_share for record in certificate.fields]) < 1


@pytest.mark.parametrize("tolerance", [0.05, 10.0])
def test_json_gives_the_same_certificate_back_infinite_thresholds_too(tolerance):
    certificate = certified(tolerance=tolerance)
    assert (certificate.threshold == np.inf) == (tolerance == 10)
    text = certificate.model_dump_json()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    again = Certificate.model_validate_json(text)
    assert again == certificate.model_copy(update={"curves": None})
    assert again.sentence == certificate.sentence


@pytest.mark.parametrize(
    "change",
    [
        {"tolerance": 0},
        {"threshold": -1},
        {"confidence": 1},
        {"schema_version": 2},
        {"guarantee": "pac"},
        {"guarantee": "perhaps"},
        {"delta": 0.1},
        {"bound": 0.5},
        {"grouping": "best"},
    ],
)
def test_json_with_a_value_out_of_range_is_no_certificate(change):
    content = json.loads(certified().model_dump_json())
    assert Certificate.model_validate(content)
    with pytest.raises(ValidationError, match=next(iter(change))):
        Certificate.model_validate(content | change)


def test_other_values_are_exploration_and_the_same_ones_are_not():
    certificate = certified()
    assert certificate.at() is certificate
    assert certificate.at(tolerance=0.05 * (1 + 1e-12), confidence=0.9) is certificate
    assert not certificate.exploration
    other = certificate.at(tolerance=0.1)
    assert other.exploration
    assert (other.tolerance, other.confidence, other.distance) == (0.1, 0.9, "l1")
    assert other.threshold > certificate.threshold > certificate.at(tolerance=0.03).threshold
    assert certificate.at(confidence=0.5).threshold > certificate.threshold
    assert "at most 10 %" in other.sentence


@pytest.mark.parametrize("mask", ["soft", "binary"])
def test_another_tolerance_is_answered_as_a_new_calibration_would_or_a_little_more_carefully(mask):
    fields = random_fields(20, each=2)
    certificate = certified(fields, mask=mask)
    finite = 0
    for tolerance in (0.011, 0.0337, 0.05, 0.0777, 0.15, 0.9):
        for confidence in (0.6, 0.9, 0.95):
            quick = certificate.at(tolerance=tolerance, confidence=confidence).threshold
            exact = certified(fields, mask=mask, tolerance=tolerance, confidence=confidence).threshold
            careful = certified(fields, mask=mask, tolerance=tolerance / 1.03, confidence=confidence).threshold
            assert careful * (1 - 1e-6) <= quick <= exact
            finite += np.isfinite(exact)
    assert finite >= 12


@pytest.mark.parametrize("mask", ["soft", "binary"])
def test_the_curves_are_float32_rounded_down(mask):
    fields = random_fields()
    certificate = certified(fields, mask=mask)
    curves, some = certificate.curves, slice(None, None, 7)
    exact = np.array([own_thresholds(fields, tolerance, mask) for tolerance in curves.tolerances[some]]).T
    found = curves.thresholds[:, some]
    known = curves.tolerances[some] > 0.0011 * np.array([[record.distance] for record in certificate.fields])
    check_rounded_down(found[known], exact[known])
    assert (found[~known] == 0).any()  # further down nothing is kept of a field, and everything is masked
    assert (found <= exact).all()


def test_a_pinned_tolerance_is_known_again_after_a_trip_through_text():
    certificate = certified(tolerance=0.043)
    assert certificate.at(tolerance=0.043 * (1 - 1e-15)) is certificate
    smaller = certificate.at(tolerance=0.0429)
    assert smaller.exploration
    assert not np.array_equal(certificate.curves.at(0.043), certificate.curves.at(0.0429))


def test_no_tolerance_is_answered_by_a_larger_one():
    curves = certified().curves
    assert not np.array_equal(curves.at(0.043), curves.at(0.043 * (1 - 1e-15)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidence": 0.95}, r"at least 19 groups .* confidence of 0\.95, got 12"),
        ({"confidence": 1.0}, r"confidence is 1;"),
        ({"tolerance": -1}, r"tolerance is -1;"),
    ],
)
def test_a_promise_that_the_fields_do_not_support_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        certified().at(**change)


def test_a_tolerance_far_below_all_distances_masks_everything():
    explored = certified().at(tolerance=1e-9)
    assert explored.threshold == 0
    assert explored.exploration


def test_without_curves_a_certificate_answers_only_for_its_own_values():
    certificate = certified().model_copy(update={"curves": None})
    assert certificate.at(tolerance=0.05) is certificate
    with pytest.raises(ValueError, match="has no curves"):
        certificate.at(tolerance=0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"restorer_sha256": "other"}, ["the restorer"]),
        ({"mask_sha256": "other"}, ["the mask network"]),
        ({"normalisation": Normalisation(low_percentile=2)}, ["the range that intensities are shares of"]),
        ({"dtype": "float16"}, ["the number type"]),
        ({"tiles": "never cut"}, ["how planes are cut into tiles"]),
        ({"restorer_sha256": "other", "dtype": "float16"}, ["the restorer", "the number type"]),
    ],
)
def test_what_differs_from_the_calibration_is_named(change, words):
    certificate, other = certified(), FINGERPRINT.model_copy(update=change)
    assert FINGERPRINT.differences(FINGERPRINT) == []
    certificate.check(FINGERPRINT)
    assert FINGERPRINT.differences(other) == words
    with pytest.raises(ValueError, match=f"does not hold here: {', '.join(words)} differ"):
        certificate.check(other)


def test_a_fingerprint_tells_networks_apart_by_hash_normalisation_and_reach(trained):
    restorer, mask = trained.restorer, trained.mask_model
    own = Fingerprint.of(restorer, mask.card, mask.sha256)
    assert own == trained.mask_model.certificate.fingerprint
    unbounded = replace(restorer, card=restorer.card.model_copy(update={"halo_px": None}))
    assert own.differences(Fingerprint.of(unbounded, mask.card, mask.sha256)) == ["how planes are cut into tiles"]
    assert own.differences(Fingerprint.of(replace(restorer, sha256="0"), mask.card, "1")) == [
        "the restorer",
        "the mask network",
    ]


KINDS = [
    {},
    {"mask": "soft"},
    {"distance": "linf", "tolerance": 0.3},
    {"guarantee": "pac", "delta": 0.1},
    {"guarantee": "expected", "bound": 0.3},
    {"grouping": "one", "seed": 3},
    {"distance": BIAS, "tolerance": 0.01},
    {"distance": BIAS, "tolerance": 0.01, "guarantee": "pac", "delta": 0.1, "grouping": "one"},
    {"distance": BIAS, "tolerance": 0.01, "guarantee": "expected", "bound": 0.1, "mask": "soft"},
]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_certificate_is_borne_out_by_its_curves_and_by_no_others(kind):
    certificate = certified(random_fields(36, each=2), **kind)
    certificate.verify()
    assert 0 < certificate.threshold < np.inf
    rows = "walked" if isinstance(certificate.curves, GridCurves) else "thresholds"
    moved = replace(certificate.curves, **{rows: getattr(certificate.curves, rows) * np.float32(1.3)})
    swapped = replace(certificate.curves, **{rows: getattr(certificate.curves, rows)[::-1]})
    for change, message in [
        ({"curves": moved}, "do not belong to its fields|threshold is .*, but its fields give"),
        ({"curves": swapped}, "do not belong to its fields"),
        ({"curves": None}, "has no curves, so its threshold cannot be checked"),
        ({"threshold": certificate.threshold * 1.01}, r"threshold is .*, but its fields give"),
        ({"exploration": True}, "an exploration; a bundle holds a pinned one"),
        ({"n_fields": 71}, "does not list the fields"),
    ]:
        with pytest.raises(ValueError, match=message):
            certificate.model_copy(update=change).verify()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_answers_for_other_values_as_a_new_calibration_would(kind):
    fields = random_fields(36, each=2)
    certificate = certified(fields, **kind)
    tolerance, confidence = certificate.tolerance * 1.5, 0.8
    explored = certificate.at(tolerance=tolerance, confidence=confidence)
    anew = certified(fields, **kind | {"tolerance": tolerance, "confidence": confidence})
    assert explored.threshold == anew.threshold > certificate.threshold
    assert explored.leave_one_out == anew.leave_one_out
    assert explored.sentence == anew.sentence
    assert certificate.at(tolerance=tolerance).at(tolerance=certificate.tolerance).threshold == certificate.threshold


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_comes_back_from_json(kind):
    certificate = certified(random_fields(36, each=2), **kind)
    again = Certificate.model_validate_json(certificate.model_dump_json())
    assert again == certificate.model_copy(update={"curves": None})
    assert (again.sentence, again.limits) == (certificate.sentence, certificate.limits)


def test_exact_curves_of_a_distance_that_has_none_are_refused():
    certificate = certified().model_copy(update={"distance": "ssim"})
    with pytest.raises(ValueError, match="ssim has no exact thresholds, but the certificate has such curves"):
        certificate.verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0.123}, r"threshold is 0\.123, but its fields give 0\.\d+"),
        ({"n_fields": 13}, "does not list the fields"),
        ({"groups": {"specimen 0": 12}}, "does not list the fields"),
        ({"fields": ()}, "does not list the fields"),
    ],
)
def test_a_certificate_that_contradicts_its_fields_is_found_out(change, message):
    certificate = certified()
    certificate.verify()
    with pytest.raises(ValueError, match=message):
        certificate.model_copy(update=change).verify()


@pytest.mark.parametrize("distance", ["l1", "ssim"])
def test_what_is_told_beside_the_promise_is_computed_anew(distance):
    tolerance = 0.05 if distance == "l1" else 0.5
    certificate = certified(random_fields(25), distance=distance, tolerance=tolerance)
    certificate.verify()
    kept, masked = certificate.leave_one_out, certificate.masked
    assert kept is not None
    assert masked is not None
    for change, message in [
        (
            {"leave_one_out": kept.model_copy(update={"kept": kept.kept + 1})},
            "leave-one-out coverage is not that of its",
        ),
        ({"leave_one_out": kept.model_copy(update={"high": 1.5})}, "leave-one-out coverage is not that of its fields"),
        ({"leave_one_out": None}, "leave-one-out coverage is not that of its fields"),
        ({"masked": masked.model_copy(update={"mean": masked.mean + 0.1})}, "masked share is not that of its fields"),
        ({"masked": masked.model_copy(update={"whole": 0.5})}, "masked share is not that of its fields"),
        ({"distance_words": "largest error"}, f"calls the distance {distance} a largest error, which it is not"),
        (
            {"distance_words": f"{certificate.distance_words} of all"},
            f"calls the distance {distance} a .* of all, which it is not",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            certificate.model_copy(update=change).verify()


def test_specimens_that_a_network_was_trained_on_are_refused_by_name(trained):
    card = trained.mask_model.card.model_copy(update={"trained_on": ("specimen 99",)})
    certified().check_foreign(card)
    seen = card.model_copy(update={"trained_on": ("specimen 3", "specimen 99", "specimen 1")})
    with pytest.raises(ValueError, match="random mask 0 was trained on specimen 1, specimen 3, which the certificate"):
        certified().check_foreign(seen)


def test_a_specimen_that_trained_is_known_by_the_folder_of_its_name(trained):
    certificate = certified().model_copy(update={"groups": {"set1/S3": 6, "set1/S30": 6}})
    for seen, message in (("s3", "was trained on set1/S3, which"), ("SET1/s30", "was trained on set1/S30, which")):
        card = trained.mask_model.card.model_copy(update={"trained_on": (seen,)})
        with pytest.raises(ValueError, match=message):
            certificate.check_foreign(card)
    certificate.check_foreign(trained.mask_model.card.model_copy(update={"trained_on": ("s", "1/S3", "S4")}))


def test_planes_smaller_than_those_that_fields_were_cut_from_are_refused():
    cut = certified().model_copy(update={"plane_shape": (20, 30)})
    cut.check_plane((20, 30), name="cells")
    certified().check_plane((19, 30), name="cells")
    for shape in [(19, 30), (20, 29)]:
        with pytest.raises(
            ValueError, match=f"cells has planes of {shape[0]} × {shape[1]} pixels, .* planes of 20 × 30"
        ):
            cut.check_plane(shape, name="cells")


def test_planes_smaller_than_the_calibrated_fields_are_refused():
    certified().check_plane((12, 15), name="cells")
    for shape in [(11, 15), (12, 14)]:
        with pytest.raises(ValueError, match=f"cells has planes of {shape[0]} × {shape[1]} pixels, .* of 12 × 15"):
            certified().check_plane(shape, name="cells")


def test_duplicates_are_refused_by_name_even_in_another_group():
    fields = random_fields()
    again = replace(fields[3], name="copy", group="specimen 99", uncertainty=fields[3].uncertainty * 2)
    with pytest.raises(ValueError, match="copy and field 3 are the same field"):
        certified([*fields, again])


def test_fields_of_different_sizes_and_no_fields_are_refused():
    odd = replace(random_fields(1, shape=(9, 15))[0], name="odd one")
    with pytest.raises(ValueError, match=r"odd one has shape \(9, 15\), field 0 \(12, 15\)"):
        certified([*random_fields(), odd])
    with pytest.raises(ValueError, match="no calibration fields"):
        certify([], distance="l1", tolerance=0.1, confidence=0.9, fingerprint=FINGERPRINT)


def test_too_few_groups_are_refused_however_many_fields_they_have():
    with pytest.raises(ValueError, match=r"at least 9 groups .*, got 5"):
        certified(random_fields(5, each=4))


def test_leave_one_out_counts_the_groups_kept_by_the_others():
    fields = random_fields(25, each=2)
    own = np.array(own_thresholds(fields, 0.05)).reshape(25, 2).min(axis=1)
    kept = sum(own[i] >= conformal_threshold(np.delete(own, i), 0.9) for i in range(25))
    found = certified(fields).leave_one_out
    assert (found.kept, found.of) == (kept, 25)
    assert 20 < kept < 25
    assert (found.low, found.high) == clopper_pearson(kept, 25)


@pytest.mark.parametrize(("groups", "said"), [(9, False), (19, False), (20, True)])
def test_leave_one_out_is_said_only_where_it_could_come_out_otherwise(groups, said):
    """At rank 1 it is n - 1 of n for any data."""
    assert (certified(random_fields(groups)).leave_one_out is not None) == said


@pytest.mark.parametrize(
    ("kept", "of", "low", "high"),
    [(10, 10, 0.025**0.1, 1), (0, 10, 0, 1 - 0.025**0.1), (5, 10, 0.187086, 0.812914), (81, 263, 0.252704, 0.367627)],
)
def test_the_interval_of_a_share_is_the_tabulated_one(kept, of, low, high):
    assert clopper_pearson(kept, of) == pytest.approx((low, high), abs=2e-4)


def budgeted(plane_shape):
    certificate = certified()
    fingerprint = certificate.fingerprint.model_copy(update={"context_px": 72})
    return certificate.model_copy(update={"fingerprint": fingerprint, "plane_shape": plane_shape})


def test_an_error_budget_is_not_promised_on_larger_planes_than_it_was_calibrated_on():
    certified().check_plane((900, 900), name="cells")  # without a budget
    budgeted(None).check_plane((12, 15), name="cells")
    with pytest.raises(ValueError, match=r"cells has planes of 12 × 16 pixels, larger .* 12 × 15.*at least 156 × 159"):
        budgeted(None).check_plane((12, 16), name="cells")


def test_an_error_budget_of_fields_with_enough_around_them_holds_on_larger_planes():
    budgeted((156, 159)).check_plane((900, 900), name="cells")
    with pytest.raises(ValueError, match="larger than the calibrated ones of 155 × 159"):
        budgeted((155, 159)).check_plane((900, 900), name="cells")


def test_the_window_of_a_budget_belongs_to_the_fingerprint(trained):
    card, unet = trained.mask_model.card, trained.mask_model.card.network
    budget = {"kind": "budget", "of": unet, "power": 2.0, "radius_cells": 8}
    for network, context in ((unet, 0), (budget, 72), ({"kind": "mask-ensemble", "members": [unet, budget]}, 72)):
        assert card.model_copy(update={"network": network}).context_px == context
    assert certified().fingerprint.differences(budgeted(None).fingerprint) == ["the window of the error budget"]


@pytest.mark.parametrize(
    ("trained_on", "file", "known"),
    [
        ("mouse1", "mouse1_07.tif", True), ("Mouse1", "set/MOUSE1-a.tif", True), ("mouse1", "mouse12_07.tif", False),
        ("mouse1", "amouse1.tif", False), ("giga_wf20x", "giga_wf20x_c1.tif", True),
        ("caf\u00e9", "cafe\u0301_1.tif", True),
    ],
)  # fmt: skip
def test_without_groups_file_names_tell_of_trained_specimens(trained, trained_on, file, known):
    card = trained.mask_model.card.model_copy(update={"trained_on": (trained_on,)})
    assert card.named_in([file]) == ([trained_on] if known else [])
    assert card.knows([file]) == []
