from __future__ import annotations

import numpy as np
import pytest

from napari_maskcal.calibrate.curves import Curves, GridCurves
from napari_maskcal.calibrate.guarantee import (
    conformal_threshold,
    fixed_sequence_threshold,
    pac_rank,
    risk_threshold,
)
from napari_maskcal.calibrate.promise import Promise

GRID = np.append(np.geomspace(0.1, 3, 15), np.inf)


def curves(n: int, *, seed: int = 0) -> Curves:
    """Thresholds that grow with the tolerance, some fields much worse than others."""
    tolerances = np.geomspace(0.01, 1, 40)
    factors = np.random.default_rng(seed).lognormal(size=(n, 1))
    thresholds = (tolerances * factors).astype(np.float32)
    return Curves(tolerances, np.where(thresholds > 1, np.float32(np.inf), thresholds))


def grid_curves(n: int, *, seed: int = 0, noise: float = 0.3) -> GridCurves:
    """Distances that grow along the grid, not always, until the walk stops."""
    rng = np.random.default_rng(seed)
    rising = np.minimum(GRID, 5) * 0.1 * rng.lognormal(0, 0.5, (n, 1))
    distances = (rising * rng.lognormal(0, noise, rising.shape)).astype(np.float32)
    stopped = np.maximum.accumulate(distances > 0.4, axis=1)
    return GridCurves(GRID, np.where(np.roll(stopped, 1, axis=1) & stopped, np.float32(np.nan), distances))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerance": 0}, r"tolerance is 0;"),
        ({"tolerance": np.nan}, r"tolerance is nan;"),
        ({"confidence": 1}, r"confidence is 1;"),
        ({"guarantee": "perhaps"}, r"no guarantee 'perhaps'; there are marginal, pac, expected"),
        ({"delta": 0.1}, r"delta is 0\.1, but the marginal guarantee has none; leave it out"),
        ({"bound": 0.5}, r"bound is 0\.5, but the marginal guarantee has none; leave it out"),
        ({"guarantee": "pac"}, r"delta is None; the pac guarantee takes a number between 0 and 1"),
        ({"guarantee": "pac", "delta": 0}, r"delta is 0;"),
        ({"guarantee": "pac", "delta": 0.1, "bound": 1}, r"bound is 1, but the pac guarantee has none"),
        ({"guarantee": "expected"}, r"bound is None; the expected guarantee takes .* at least the tolerance of 0\.1"),
        ({"guarantee": "expected", "bound": 0.05}, r"bound is 0\.05;"),
        ({"guarantee": "expected", "bound": np.inf}, r"bound is inf;"),
        ({"guarantee": "expected", "bound": 1, "delta": 0.1}, r"delta is 0\.1, but the expected guarantee has none"),
        ({"grouping": "best"}, r"no grouping 'best'; it is 'worst' or 'one'"),
    ],
)
def test_what_is_no_promise_is_refused_with_the_value(change, message):
    possible = {"tolerance": 0.1}
    assert Promise(**possible).confidence == 0.9
    with pytest.raises(ValueError, match=message):
        Promise(**possible | change)


def test_a_promise_is_kept_by_the_threshold_of_its_own_rule():
    n, rows, on_grid = 40, curves(40), grid_curves(40)
    owners = [f"specimen {i}" for i in range(n)]
    at = rows.at(0.1)
    found = {
        kind: Promise(tolerance=0.1, **options).threshold(rows, owners)
        for kind, options in {
            "marginal": {},
            "pac": {"guarantee": "pac", "delta": 0.1},
            "expected": {"guarantee": "expected", "bound": 1.0},
        }.items()
    }
    assert found["marginal"] == conformal_threshold(at, 0.9)
    assert found["pac"] == conformal_threshold(at, 0.9, "pac", 0.1)
    assert found["expected"] == risk_threshold(rows.distances, rows.candidates(), n=n, tolerance=0.1, bound=1)
    assert len(set(found.values())) == 3
    assert Promise(tolerance=0.1).threshold(on_grid, owners) == conformal_threshold(on_grid.at(0.1), 0.9)
    differ, on_grid = 0, grid_curves(40, noise=1.0)
    for tolerance in (0.05, 0.1, 0.2, 0.3):
        tested = Promise(tolerance=tolerance, guarantee="pac", delta=0.1).threshold(on_grid, owners)
        expected = fixed_sequence_threshold(
            on_grid.walked, GRID, tolerance=tolerance, confidence=0.9, delta=0.1
        )  # fmt: skip
        assert tested == expected >= conformal_threshold(on_grid.at(tolerance), 0.9, "pac", 0.1)
        differ += tested != conformal_threshold(on_grid.at(tolerance), 0.9, "pac", 0.1)
    assert differ


@pytest.mark.parametrize("make", [curves, grid_curves])
@pytest.mark.parametrize("options", [{}, {"guarantee": "pac", "delta": 0.2}, {"guarantee": "expected", "bound": 0.5}])
def test_groups_count_once_with_their_worst_field_or_with_one_that_is_drawn(make, options):
    rows = make(90)
    owners = [f"specimen {i // 3}" for i in range(90)]
    promise = Promise(tolerance=0.1, **options)
    worst = promise.threshold(rows, owners)
    assert worst == promise.threshold(rows.of_groups(owners), [f"{i}" for i in range(30)])
    assert worst <= promise.threshold(rows, [f"{i}" for i in range(90)])
    one = [Promise(tolerance=0.1, grouping="one", seed=seed, **options).threshold(rows, owners) for seed in range(8)]
    assert min(one) >= worst
    assert len(set(one)) > 1


def test_too_few_groups_are_refused_with_the_number_that_it_takes():
    rows, owners = curves(60), [f"specimen {i // 10}" for i in range(60)]
    for options, needed in [
        ({}, r"at least 9 groups .* 0\.9, got 6"),
        ({"guarantee": "pac", "delta": 0.1}, r"at least 22 groups .* 0\.9, got 6"),
        ({"guarantee": "pac", "delta": 0.05}, r"at least 29 groups"),
        ({"guarantee": "expected", "bound": 1.0}, r"at least 9 fields or specimens .* 0\.1 .* as large as 1, got 6"),
    ]:
        with pytest.raises(ValueError, match=needed):
            Promise(tolerance=0.1, **options).threshold(rows, owners)
    with pytest.raises(ValueError, match=r"at least 22 groups .*, got 6"):
        Promise(tolerance=0.1, guarantee="pac", delta=0.1).threshold(grid_curves(60), owners)


def test_a_tolerance_below_the_curves_masks_everything():
    owners = [f"{i}" for i in range(300)]
    assert Promise(tolerance=0.01).threshold(curves(300), owners) > 0
    assert Promise(tolerance=0.0099).threshold(curves(300), owners) == 0
    assert Promise(tolerance=0.0099, guarantee="pac", delta=0.1).threshold(curves(300), owners) == 0
    assert Promise(tolerance=1e-4, guarantee="pac", delta=0.1).threshold(grid_curves(300), owners) == 0


@pytest.mark.parametrize("make", [curves, grid_curves])
@pytest.mark.parametrize("guarantee", ["marginal", "pac"])
@pytest.mark.parametrize("confidence", [0.6, 0.8])
@pytest.mark.parametrize("grouping", ["worst", "one"])
@pytest.mark.parametrize("ties", [False, True])
def test_leave_one_out_is_what_a_loop_over_all_groups_gives(make, guarantee, confidence, grouping, ties):
    rows, owners = make(60, seed=int(10 * confidence)), [f"specimen {i // 2}" for i in range(60)]
    if ties and isinstance(rows, Curves):
        rows = Curves(rows.tolerances, np.floor(rows.thresholds * 30) / np.float32(30))
    promise = Promise(
        tolerance=0.1, confidence=confidence, guarantee=guarantee, delta=0.2 if guarantee == "pac" else None,
        grouping=grouping, seed=3,
    )  # fmt: skip
    groups = rows.of_groups(owners, seed=3 if grouping == "one" else None)
    kept = 0
    for i in range(30):
        if isinstance(groups, Curves):
            others = Curves(groups.tolerances, np.delete(groups.thresholds, i, axis=0))
        else:
            others = GridCurves(GRID, np.delete(groups.walked, i, axis=0))
        threshold = promise.threshold_of_rows(others, 29)
        if guarantee == "pac" and isinstance(groups, GridCurves):
            kept += bool(threshold == 0 or groups.walked[i, list(GRID).index(threshold)] <= 0.1)
        else:
            kept += bool(groups.at(0.1)[i] >= threshold)
    assert promise.kept_left_out(rows, owners) == (kept, 30)
    assert 15 < kept < 30 + ties


def test_leave_one_out_says_nothing_at_rank_one_or_of_a_mean():
    rows, owners = curves(30), [f"{i}" for i in range(30)]
    assert Promise(tolerance=0.1).kept_left_out(rows, owners) is not None
    assert Promise(tolerance=0.1, confidence=0.95).kept_left_out(rows, owners) is None
    assert pac_rank(29, 0.9, 0.1) == 1
    assert Promise(tolerance=0.1, guarantee="pac", delta=0.1).kept_left_out(rows, owners) is None
    assert Promise(tolerance=0.1, guarantee="expected", bound=1.0).kept_left_out(rows, owners) is None


def test_a_moved_promise_keeps_the_very_numbers_that_stay():
    promise = Promise(tolerance=0.1, confidence=0.9, guarantee="pac", delta=0.1, grouping="one", seed=4)
    assert promise.moved() == promise
    assert promise.moved(tolerance=0.1 * (1 + 1e-12), confidence=0.9 - 1e-13) == promise
    moved = promise.moved(tolerance=0.11)
    assert (moved.tolerance, moved.confidence, moved.delta, moved.grouping, moved.seed) == (0.11, 0.9, 0.1, "one", 4)
    with pytest.raises(ValueError, match="tolerance is -1;"):
        promise.moved(tolerance=-1)
    with pytest.raises(ValueError, match=r"bound is 0\.5;"):
        Promise(tolerance=0.1, guarantee="expected", bound=0.5).moved(tolerance=0.6)
