from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest

from napari_maskcal.calibrate.curves import Curves, GridCurves, rounded_down
from napari_maskcal.calibrate.grid import THRESHOLD_GRID
from napari_maskcal.calibrate.ladder import rungs
from napari_maskcal.calibrate.measure import CalibrationField, MeasuredField, measure_fields, together
from napari_maskcal.calibrate.threshold import threshold_curve, trust_mask
from napari_maskcal.distance.registry import parse_distance


class Bias:
    """|mean of the signed error in the trusted part|: not monotone, since errors cancel."""

    name = "bias"

    def between(self, trust, restored, truth):
        return np.abs((trust * (restored - truth)).mean(axis=(1, 2)))


def random_field(seed: int = 0, *, shape=(20, 26), scale: float = 1.0, **facts) -> CalibrationField:
    rng = np.random.default_rng(seed)
    u = rng.gamma(2, 0.2, shape).astype(np.float32) + np.float32(0.01)
    truth = rng.normal(size=shape)
    restored = truth + scale * u * (rng.normal(size=shape) + 0.3)
    described = {"name": f"field {seed}", "group": f"specimen {seed}"} | facts
    return CalibrationField(uncertainty=u, restored=restored, truth=truth, **described)


def measured(field: CalibrationField, distance="l1", mask="binary", **options) -> MeasuredField:
    rule = parse_distance(distance)
    return next(measure_fields([field], rule, mask=mask, **options))


@pytest.mark.parametrize("distance", ["l1", Bias()])
def test_what_is_measured_survives_a_trip_through_bytes(distance):
    field = random_field(source="plane \u2603", sha256="abc", span=12.5)
    found = measured(field, distance, stop_above=0.02)
    again = MeasuredField.from_bytes(found.to_bytes())
    for name in ("name", "source", "group", "sha256", "span", "shape", "distance", "first", "reach"):
        assert getattr(again, name) == getattr(found, name)
    np.testing.assert_array_equal(again.curve, found.curve)
    np.testing.assert_array_equal(again.quantiles, found.quantiles)
    assert again.curve.dtype == again.quantiles.dtype == np.float32
    assert (again.source, again.sha256, again.span, again.shape) == ("plane \u2603", "abc", 12.5, (20, 26))


@pytest.mark.parametrize("mask", ["soft", "binary"])
@pytest.mark.parametrize("distance", ["l1", "l2", "linf"])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
def test_the_curve_is_that_of_the_field_on_three_decades_of_the_ladder(mask, distance, scale):
    field = random_field(scale=scale)
    found = measured(field, distance, mask)
    tolerances = rungs(found.first, len(found.curve))
    whole = parse_distance(distance).between(np.ones((1, 20, 26), bool), field.restored[None], field.truth[None])[0]
    assert found.distance == pytest.approx(whole)
    assert tolerances[0] < 1.1e-3 * whole < whole < tolerances[-1] < 1.06 * whole
    exact = threshold_curve(
        field.uncertainty, field.restored, field.truth, distance=distance, tolerances=tolerances, mask=mask
    )
    np.testing.assert_array_equal(found.curve, rounded_down(exact))
    assert found.curve[-1] == np.inf
    assert np.isfinite(found.curve[:-3]).all()
    assert found.reach == np.inf


def test_a_field_whose_distance_is_on_the_ladder_passes_at_the_end_of_its_curve():
    u = np.full((4, 5), 0.5, np.float32)
    field = CalibrationField(name="a", group="a", uncertainty=u, restored=u * 0 + 0.25, truth=u * 0)
    for mask in ("soft", "binary"):
        found = measured(field, mask=mask)
        assert found.distance == 0.25
        assert found.curve[-1] == np.inf
        assert together([found]).at(5.0)[0] == np.inf


def test_a_field_without_error_passes_at_every_tolerance():
    field = random_field(scale=0.0)
    perfect, usual = measured(field), measured(random_field(1))
    assert perfect.distance == 0
    curves = together([perfect, usual])
    assert (curves.thresholds[0] == np.inf).all()
    assert curves.thresholds[1, 0] < np.inf
    assert together([perfect]).at(1e-3)[0] == np.inf


@pytest.mark.parametrize("mask", ["soft", "binary"])
def test_a_distance_that_is_not_monotone_is_kept_along_the_grid(mask):
    for seed in range(5):
        field = random_field(seed)
        found = measured(field, Bias(), mask)
        exact = np.array([
            abs((trust_mask(field.uncertainty, t, mask) * (field.restored - field.truth)).mean())
            for t in THRESHOLD_GRID
        ])  # fmt: skip
        assert found.curve.dtype == np.float32
        assert (found.curve >= exact * (1 - 1e-15)).all()
        np.testing.assert_allclose(found.curve, exact, rtol=2e-7)
        assert found.distance == pytest.approx(exact[-1])
        assert found.reach == np.inf
        short = measured(field, Bias(), mask, stop_above=0.01)
        assert short.distance == found.distance
        known = ~np.isnan(short.curve)
        np.testing.assert_array_equal(short.curve[known], found.curve[known])
        assert not known.all()
        assert short.reach == 0.01


@pytest.mark.parametrize("distance", [parse_distance("l1"), Bias()])
def test_fields_are_let_go_of_even_when_the_first_takes_much_longer_than_the_others(distance):
    read: list[weakref.ref] = []
    most = []

    def fields():
        for seed in range(60):
            field = random_field(seed, scale=1e-4 if seed == 0 else 1.0)
            read.append(weakref.ref(field.restored))
            most.append(sum(one() is not None for one in read))
            yield field

    found = list(measure_fields(fields(), distance, mask="binary", stop_above=1e-4))
    assert [one.name for one in found] == [f"field {seed}" for seed in range(60)]
    assert max(most) <= 12


def test_a_field_that_is_none_is_refused_by_name():
    fields = [random_field(0), replace(random_field(1), uncertainty=np.zeros((20, 26), np.float32))]
    for distance in (parse_distance("l1"), Bias()):
        with pytest.raises(ValueError, match="field 1: uncertainty has to be above 0; its smallest value is 0"):
            list(measure_fields(fields, distance, mask="binary"))


@pytest.mark.parametrize("shape", [(3, 4), (20, 26), (100, 130)])
@pytest.mark.parametrize("mask", ["soft", "binary"])
def test_the_masked_share_is_known_at_any_threshold(shape, mask):
    field = random_field(shape=shape)
    found, u = measured(field, mask=mask), field.uncertainty.astype(float)
    for t in np.quantile(u, np.linspace(0, 1, 30)):
        exact = (u > t).mean() if mask == "binary" else (1 - np.minimum(t / u, 1)).mean()
        assert found.masked_share(t, mask) == pytest.approx(exact, abs=1e-6 if u.size <= 512 else 2.1e-3)


def test_whether_anything_or_everything_is_masked_is_known_exactly():
    field = random_field(shape=(100, 130))
    found, u = measured(field), field.uncertainty
    assert found.masked_share(float(u.max()), "binary") == 0
    assert found.masked_share(float(np.nextafter(u.max(), np.float32(0))), "binary") > 0
    assert found.masked_share(float(np.nextafter(u.min(), np.float32(0))), "binary") == 1
    assert found.masked_share(float(u.min()), "binary") < 1
    assert found.masked_share(float(u.max()), "soft") == 0
    assert found.masked_share(np.inf, "soft") == found.masked_share(np.inf, "binary") == 0
    assert found.masked_share(0.0, "soft") == found.masked_share(0.0, "binary") == 1


def test_fields_of_all_sizes_of_error_come_together_on_one_ladder():
    fields = [random_field(seed, scale=scale) for seed, scale in enumerate((1, 3e-2, 1e-3, 1e-6))]
    found = [measured(field) for field in fields]
    curves = together(found)
    assert isinstance(curves, Curves)
    assert (np.diff(curves.tolerances) > 0).all()
    assert curves.tolerances[0] == rungs(found[3].first, 1)[0]  # where the curve of the best begins
    assert (curves.thresholds[:, 1:] >= curves.thresholds[:, :-1]).all()
    assert (curves.thresholds[:, -1] == np.inf).all()
    for one, row in zip(found, curves.thresholds, strict=True):
        own = dict(zip(rungs(one.first, len(one.curve)).tolist(), one.curve.tolist(), strict=True))
        for tolerance, threshold in zip(curves.tolerances.tolist(), row.tolist(), strict=True):
            below, above = tolerance < min(own), tolerance > max(own)
            assert threshold == (0 if below else np.inf if above else own[tolerance])
    assert 0 < np.count_nonzero(curves.thresholds[0] == 0) < 1000


def test_a_ladder_is_at_most_ten_decades_long():
    usual, tiny = measured(random_field()), measured(random_field(1, scale=1e-12))
    curves = together([usual, tiny])
    assert curves.tolerances[-1] / curves.tolerances[0] == pytest.approx(1e10, rel=0.05)
    assert (curves.thresholds[1] == np.inf).all()  # its own curve lies below
    assert (np.diff(curves.tolerances) > 0).all()


def test_walks_come_together_on_the_grid():
    found = [measured(random_field(seed), Bias()) for seed in range(3)]
    curves = together(found)
    assert isinstance(curves, GridCurves)
    assert np.array_equal(curves.grid, THRESHOLD_GRID)
    np.testing.assert_array_equal(curves.walked, [one.curve for one in found])
