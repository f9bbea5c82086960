from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from napari_maskcal.calibrate.certificate import Fingerprint
from napari_maskcal.calibrate.certify import CalibrationField, Measured
from napari_maskcal.calibrate.measure import measure_fields
from napari_maskcal.calibrate.promise import Promise
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.restore.card import Normalisation
from napari_maskcal.review.exploration import Exploration

PROMISE = Promise(tolerance=0.02, confidence=0.9)


def fields(n: int, groups: int, size: int) -> list[CalibrationField]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(n):
        u = rng.gamma(2, 1, (size, size)).astype(np.float32)
        error = u * rng.normal(0, 0.01 + 0.02 * i / n, u.shape)
        found.append(CalibrationField(
            name=f"f{i}", source=f"f{i}", group=f"g{i % groups}", uncertainty=u, restored=np.zeros(u.shape),
            truth=error, span=100 + i % 2, sha256=str(i),
        ))  # fmt: skip
    return found


def measured(n: int = 40, *, groups: int = 40, distance: str = "l1", mask: str = "binary", size: int = 16) -> Measured:
    rule = parse_distance(distance)
    found = list(measure_fields(fields(n, groups, size), rule, mask=mask))
    fingerprint = Fingerprint(restorer_sha256="a", mask_sha256="b", normalisation=Normalisation())
    intensity = "share" if rule.in_intensity_units else "none"
    return Measured.of(found, distance=rule, mask=mask, intensity=intensity, fingerprint=fingerprint)


@pytest.mark.parametrize("mask", ["binary", "soft"])
def test_the_mean_share_is_that_of_the_fields_one_by_one(mask):
    found = measured(mask=mask)
    exploration = Exploration(found)
    for threshold in (0.0, 0.3, 1.7, 4.0, np.inf):
        shares = found.masked_shares(threshold)
        assert exploration.mean_share(threshold) == pytest.approx(shares.mean(), abs=1e-9)
    assert 0 < exploration.mean_share(1.7) < 1


@pytest.mark.parametrize("mask", ["binary", "soft"])
def test_an_answer_is_what_certify_gives_and_the_pinned_certificate_for_the_pinned_promise(mask):
    exploration = Exploration(measured(mask=mask))
    pinned = exploration.pin(PROMISE, history=())
    answer = exploration.answer(PROMISE, pinned)
    assert answer.certificate is pinned
    assert not pinned.exploration
    np.testing.assert_allclose(answer.shares, [field.masked_share for field in pinned.fields], rtol=1e-6)
    np.testing.assert_array_equal(answer.thresholds, [field.threshold for field in pinned.fields])
    other = exploration.answer(replace(PROMISE, tolerance=0.01), pinned)
    assert other.certificate.exploration
    assert other.certificate.threshold < pinned.threshold


@pytest.mark.parametrize(("distance", "size"), [("l1", 16), ("ssim", 24)])
def test_coverage_over_confidence_is_that_of_the_certificate(distance, size):
    found = measured(30, groups=30, distance=distance, size=size)
    promise = replace(PROMISE, confidence=0.8, tolerance=0.02 if distance == "l1" else 0.3)
    confidences, kept = Exploration(found).coverage_over_confidence(promise)
    assert len(confidences) > 5
    for confidence, share in zip(confidences, kept, strict=True):
        told = found.certify(replace(promise, confidence=float(confidence))).leave_one_out
        assert share == pytest.approx(told.kept / told.of)


def test_the_masked_share_falls_when_the_tolerance_grows_and_the_ladder_ends_where_nothing_is_masked():
    exploration = Exploration(measured())
    tolerances, shares = exploration.masked_over_tolerance(PROMISE)
    assert (np.diff(tolerances) > 0).all()
    assert (np.diff(shares) <= 1e-9).all()
    assert shares[0] > 0.9
    assert shares[-1] == 0
    assert exploration.ladder[-1] >= exploration.measured.distances.max()


def test_a_walked_distance_is_not_offered_beyond_where_the_walk_stopped():
    found = measured(12, groups=12, distance="ssim", size=24)
    assert found.distances.max() > 0.05
    walked = replace(found, fields=tuple(replace(field, reach=0.05) for field in found.fields))
    assert Exploration(walked).ladder[-1] == pytest.approx(0.05)


def test_suggestions_say_their_amount_in_the_images_own_unit():
    exploration = Exploration(measured())
    tolerance, words = exploration.suggestions()[60]
    assert words == f"≈ {100.5 * tolerance:.3g} counts"
    raw = Exploration(replace(exploration.measured, intensity="raw"))
    assert raw.in_image_units(2.01) == "≈ 2 % of the range"
    assert Exploration(measured(12, groups=12, distance="ssim", size=24)).in_image_units(0.1) == ""


def test_too_few_groups_are_refused_by_number():
    exploration = Exploration(measured(20, groups=5))
    with pytest.raises(ValueError, match=r"at least 9 groups are needed .*, got 5"):
        exploration.answer(PROMISE)
    assert exploration.answer(replace(PROMISE, confidence=0.8)).certificate.confidence == 0.8


def test_an_answer_for_200_fields_comes_faster_than_the_eye_sees():
    exploration = Exploration(measured(200, groups=200))
    exploration.answer(PROMISE)
    taken = []
    for tolerance in (0.011, 0.012, 0.013, 0.014, 0.015):
        since = time.perf_counter()
        exploration.answer(replace(PROMISE, tolerance=tolerance))
        taken.append(time.perf_counter() - since)
    assert min(taken) < 0.05
