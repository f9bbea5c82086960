from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from napari_maskcal.calibrate import image_threshold
from napari_maskcal.calibrate.grid import THRESHOLD_GRID, prefix_threshold, walk
from napari_maskcal.calibrate.threshold import threshold_curve, trust_mask

GRID = np.append(np.geomspace(0.05, 2, 12).astype(np.float32).astype(float), np.inf)
ORIGIN = 1  # more is asked for: what the distance is where everything is masked


@dataclass
class MeanOfTrusted:
    """Mean error of the trusted pixels: it may fall when more are trusted. Counts what it is asked for."""

    name: str = "mean of trusted"
    asked: list[int] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def between(self, trust, restored, truth):
        self.asked.append(len(trust))
        self.shapes.append(restored.shape)
        error = np.abs(restored.astype(float) - truth)
        return np.array([(t * e).sum() / max(t.sum(), 1e-9) for t, e in zip(trust, error, strict=True)])


def random_fields(count: int, *, shape=(9, 11), seed: int = 0):
    rng = np.random.default_rng(seed)
    fields = []
    for i in range(count):
        u = (rng.gamma(2, 0.2, shape) + 0.01).astype(np.float32)
        truth = rng.normal(size=shape)
        restored = truth + rng.lognormal(0, 0.5) * u * rng.normal(size=shape)
        fields.append((f"field {seed}-{i}", u, restored, truth))
    return fields


def naive(one, *, mask: str, stop_above: float, grid=GRID) -> np.ndarray:
    """Each threshold by itself, up to the first that is too large."""
    _, u, restored, truth = one
    found = np.full(len(grid), np.nan)
    for step, threshold in enumerate(grid):
        trust = trust_mask(u, threshold, mask)[None]
        found[step] = MeanOfTrusted().between(trust, restored[None], truth[None])[0]
        if found[step] > stop_above:
            break
    return found


@pytest.mark.parametrize("mask", ["soft", "binary"])
@pytest.mark.parametrize("batch", [1, 3, 8, 50])
@pytest.mark.parametrize("stop_above", [0.15, np.inf])
def test_many_fields_at_once_give_what_each_gives_alone_in_their_order(mask, batch, stop_above):
    fields = random_fields(10) + random_fields(5, shape=(12, 5), seed=1) + random_fields(4, seed=2)
    found = list(walk(fields, MeanOfTrusted(), mask=mask, stop_above=stop_above, grid=GRID, batch=batch))
    expected = [naive(one, mask=mask, stop_above=stop_above) for one in fields]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    stopped = [np.isnan(distances).any() for distances in found]
    assert any(stopped) == (stop_above < 1)
    assert not all(stopped)


def test_fields_of_different_shapes_are_not_put_together():
    distance = MeanOfTrusted()
    fields = random_fields(3) + random_fields(3, shape=(12, 5), seed=1)
    list(walk(fields, distance, mask="soft", grid=GRID))
    assert {shape[1:] for shape in distance.shapes} == {(9, 11), (12, 5)}
    assert max(distance.asked) == 3


def test_no_more_is_computed_than_is_needed():
    """A step that masks what the last one masked is known already, and a field that failed takes no more steps."""
    u = np.repeat(np.float32([0.1, 0.5, 1.0]), 30).reshape(9, 10)
    one = ("a", u, np.where(u > 0.4, 3.0, 0.1), np.zeros(u.shape))
    everything = MeanOfTrusted()
    found = next(walk([one], everything, mask="binary", grid=GRID))
    masks = len(np.unique(np.searchsorted([0.1, 0.5, 1.0], GRID, side="right")))
    assert ORIGIN + masks == sum(everything.asked) == ORIGIN + 4
    assert not np.isnan(found).any()
    early = MeanOfTrusted()
    found = next(walk([one], early, mask="binary", stop_above=1, grid=GRID))
    assert sum(early.asked) == ORIGIN + 3
    assert np.isnan(found[-1])
    soft = MeanOfTrusted()
    next(walk([one], soft, mask="soft", grid=GRID))
    assert sum(soft.asked) == ORIGIN + np.count_nonzero(GRID < 1) + 1  # above the largest uncertainty all is trusted


def test_the_whole_field_is_measured_too_where_it_is_asked_for():
    fields = random_fields(20)
    expected = [naive(one, mask="binary", stop_above=0.1) for one in fields]
    whole = [naive(one, mask="binary", stop_above=np.inf)[-1] for one in fields]
    found = np.array(list(walk(fields, MeanOfTrusted(), mask="binary", stop_above=0.1, grid=GRID, whole=True)))
    np.testing.assert_allclose(found[:, -1], whole)
    known = ~np.isnan(expected)
    np.testing.assert_allclose(found[known], np.array(expected)[known])
    assert not known[:, -1].all()
    assert np.isnan(found[:, :-1]).any()


def test_batches_stay_full_while_there_are_fields():
    distance = MeanOfTrusted()
    list(walk(random_fields(40), distance, mask="soft", stop_above=0.1, grid=GRID, batch=4))
    assert max(distance.asked) == 4
    assert distance.asked[ORIGIN:-4].count(4) == len(distance.asked[ORIGIN:-4]) > 10


def test_fields_are_read_only_when_there_is_room():
    read = []

    def fields():
        for one in random_fields(30):
            read.append(one[0])
            yield one

    found = walk(fields(), MeanOfTrusted(), mask="soft", grid=GRID, batch=4)
    next(found)
    assert len(read) <= 8
    assert len(list(found)) == 29
    assert len(read) == 30


def test_the_walk_ends_when_it_is_told_to():
    told = []
    found = walk(random_fields(30), MeanOfTrusted(), mask="soft", grid=GRID, batch=4, cancelled=lambda: bool(told))
    next(found)
    told.append(True)
    assert len(list(found)) < 4


@pytest.mark.parametrize(("median", "fits"), [(1e-5, False), (1e-4, True), (1, True), (60, True), (1000, False)])
def test_uncertainties_far_outside_the_grid_are_refused_by_name(median, fits):
    u = np.float32(median) * np.ones((4, 5), np.float32)
    found = walk([("cells 7", u, np.ones(u.shape), np.zeros(u.shape))], MeanOfTrusted(), mask="binary")
    if fits:
        next(found)
    else:
        with pytest.raises(ValueError, match=r"cells 7: the uncertainties are about .*, far outside .* scale"):
            next(found)


def test_a_distance_that_is_no_number_is_refused_by_name():
    class Broken(MeanOfTrusted):
        def between(self, trust, restored, truth):
            return super().between(trust, restored, truth) * np.where(np.arange(len(trust)) == 2, np.nan, 1)

    with pytest.raises(ValueError, match="field 0-2: the distance mean of trusted is not a number"):
        list(walk(random_fields(5), Broken(), mask="soft"))
    assert len(list(walk(random_fields(2), Broken(), mask="soft"))) == 2


def test_a_distance_that_no_mask_makes_small_is_refused():
    class Offset(MeanOfTrusted):
        def between(self, trust, restored, truth):
            return super().between(trust, restored, truth) + 0.25

    with pytest.raises(ValueError, match=r"mean of trusted of two images that are masked in full is 0\.25, not 0"):
        next(walk(random_fields(2), Offset(), mask="soft"))


def test_the_last_threshold_before_the_first_failure_counts():
    distances = np.array([[0.1, 0.3, 0.1], [0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [0.1, np.nan, 0.1]])
    assert prefix_threshold(distances, np.array([1.0, 2, np.inf]), 0.2).tolist() == [1, np.inf, 0, 1]


@pytest.mark.parametrize("mask", ["soft", "binary"])
def test_an_image_threshold_of_any_distance_is_the_largest_of_the_grid_up_to_which_all_pass(mask):
    finite = 0
    for one in random_fields(20):
        _, u, restored, truth = one
        distances = naive(one, mask=mask, stop_above=np.inf, grid=THRESHOLD_GRID)
        found = image_threshold(u, restored, truth, MeanOfTrusted(), 0.2, mask)
        passing = found >= THRESHOLD_GRID
        assert (distances[passing] <= 0.2).all()
        assert found == np.inf or distances[~passing][0] > 0.2
        finite += 0 < found < np.inf
    assert finite > 5
    with pytest.raises(ValueError, match="mean of trusted has no exact curve; walk its grid"):
        threshold_curve(u, restored, truth, distance=MeanOfTrusted(), tolerances=[0.1], mask=mask)


def test_nothing_passes_where_the_first_threshold_fails():
    u = np.full((3, 4), 0.0005, np.float32)
    assert image_threshold(u, np.ones(u.shape), np.zeros(u.shape), MeanOfTrusted(), 0.5) == 0


def test_the_grid_is_of_float32_numbers_four_to_an_octave_then_full_trust():
    assert np.array_equal(THRESHOLD_GRID[:-1].astype(np.float32), THRESHOLD_GRID[:-1])
    assert THRESHOLD_GRID[-1] == np.inf
    np.testing.assert_allclose(THRESHOLD_GRID[4:-1] / THRESHOLD_GRID[:-5], 2, rtol=1e-6)
    assert 32 <= len(THRESHOLD_GRID) <= 64
