from __future__ import annotations

import numpy as np
import pytest

from napari_maskcal.calibrate.curves import Curves, GridCurves, rounded_down, rounded_up

TOLERANCES = np.array([0.1, 0.2, 0.4, 0.8])
CURVES = Curves(TOLERANCES, np.array([[1, 2, 5, np.inf], [0, 3, 3, 4], [2, 2, 6, np.inf]], np.float32))
GRID = np.array([0.5, 1, 2, np.inf])
ON_GRID = GridCurves(
    GRID, np.array([[0.1, 0.5, 0.3, 0.6], [0.2, 0.2, np.nan, np.nan], [0.3, 0.1, 0.2, 0.2]], np.float32)
)


@pytest.mark.parametrize(
    ("tolerance", "thresholds"),
    [(0.1, [1, 0, 2]), (0.19, [1, 0, 2]), (0.2, [2, 3, 2]), (0.5, [5, 3, 6]), (9, [np.inf, 4, np.inf])],
)
def test_a_tolerance_is_answered_by_the_next_smaller_one(tolerance, thresholds):
    assert CURVES.at(tolerance).tolist() == thresholds


def test_below_all_tolerances_that_are_kept_everything_is_masked():
    assert CURVES.at(0.0999).tolist() == [0, 0, 0]
    assert ON_GRID.at(1e-9).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("threshold", "distances"),
    [
        (0, [0, 0, 0]),
        (0.5, [0.1, 0.2, 0.1]),
        (1, [0.1, 0.2, 0.1]),
        (np.nextafter(1, 2), [0.2, 0.2, 0.1]),
        (3, [0.4, 0.2, 0.4]),
        (4, [0.4, 0.8, 0.4]),
        (5, [0.4, np.inf, 0.4]),
        (np.inf, [0.8, np.inf, 0.8]),
    ],
)
def test_distances_are_the_smallest_tolerances_that_allow_a_threshold(threshold, distances):
    assert CURVES.distances(threshold).tolist() == distances


def test_distances_step_up_right_above_the_candidates_and_nowhere_else():
    assert CURVES.candidates().tolist() == [0, 1, 2, 3, 4, 5, 6, np.inf]
    for candidate, following in zip(CURVES.candidates()[:-1], CURVES.candidates()[1:], strict=True):
        above = CURVES.distances(np.nextafter(candidate, 9))
        assert np.array_equal(above, CURVES.distances(following))
        assert (above > CURVES.distances(candidate)).any()


def test_on_a_grid_all_thresholds_up_to_the_answer_pass():
    assert ON_GRID.at(0.35).tolist() == [0.5, 1, np.inf]
    assert ON_GRID.at(0.15).tolist() == [0.5, 0, 0]
    assert ON_GRID.at(0.55).tolist() == [2, 1, np.inf]
    assert ON_GRID.at(0.05).tolist() == [0, 0, 0]
    assert ON_GRID.candidates().tolist() == GRID.tolist()


def test_distances_on_a_grid_never_fall_and_are_infinite_where_the_walk_had_stopped():
    single = np.float32([0.1, 0.2, 0.3, 0.5, 0.6]).astype(float)
    assert ON_GRID.distances(0.4).tolist() == [0, 0, 0]
    assert ON_GRID.distances(0.5).tolist() == single[:3].tolist()
    assert ON_GRID.distances(1.5).tolist() == [single[3], single[1], single[2]]
    assert ON_GRID.distances(np.inf).tolist() == [single[4], np.inf, single[2]]


def test_the_worst_field_of_a_group_counts_at_each_tolerance_or_threshold():
    owners = ["b", "a", "b"]
    assert CURVES.of_groups(owners).thresholds.tolist() == [[1, 2, 5, np.inf], [0, 3, 3, 4]]
    worst = ON_GRID.of_groups(owners)
    assert worst.walked.tolist() == [
        np.float32([0.3, 0.5, 0.3, 0.6]).tolist(), np.float32([0.2, 0.2, np.inf, np.inf]).tolist(),
    ]  # fmt: skip
    # A group passes as far as all of its fields do.
    assert worst.at(0.4).tolist() == [min(ON_GRID.at(0.4)[[0, 2]]), ON_GRID.at(0.4)[1]] == [0.5, 1]


@pytest.mark.parametrize("curves", [CURVES, ON_GRID])
def test_one_field_of_each_group_is_drawn_by_the_seed(curves):
    def row(seed):
        drawn = curves.of_groups(["b", "a", "b"], seed=seed)
        return drawn.thresholds if isinstance(drawn, Curves) else drawn.walked

    rows = curves.thresholds if isinstance(curves, Curves) else curves.walked
    seen = set()
    for seed in range(20):
        drawn = row(seed)
        np.testing.assert_array_equal(drawn, row(seed))
        np.testing.assert_array_equal(drawn[1], rows[1])
        seen.add(tuple(drawn[0].tolist()))
    assert seen == {tuple(rows[0].tolist()), tuple(rows[2].tolist())}


def test_rounding_to_float32_goes_one_way():
    exact = np.concatenate([np.random.default_rng(0).random(1000), [0.0, 0.5, np.inf]])
    down, up = rounded_down(exact), rounded_up(exact)
    assert down.dtype == up.dtype == np.float32
    assert (down <= exact).all()
    assert (up >= exact).all()
    assert (np.nextafter(down, np.float32(np.inf)) >= up).all()
    assert down[-3:].tolist() == up[-3:].tolist() == [0, 0.5, np.inf]
    assert (exact.astype(np.float32) > exact).any()  # what rounding to the nearest would do
    assert np.isnan(rounded_up(np.array([np.nan]))).all()
