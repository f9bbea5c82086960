from __future__ import annotations

from dataclasses import asdict, replace
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import betabinom, spearmanr

from napari_maskcal.calibrate import comparison, image_threshold
from napari_maskcal.calibrate.comparison import (
    Candidate,
    candidates,
    compare,
    compare_opt,
    compare_oracle,
    n_to_calibrate,
    opt_share,
    opt_shares,
)
from napari_maskcal.calibrate.grid import THRESHOLD_GRID
from napari_maskcal.calibrate.guarantee import marginal_rank
from napari_maskcal.calibrate.threshold import trust_mask
from napari_maskcal.distance.registry import parse_distance

if TYPE_CHECKING:
    from collections.abc import Callable

L1 = parse_distance("l1")
SPLITS = 1500


def made_up(thresholds: np.ndarray, **changes: Any) -> Candidate:
    """A candidate of which nothing but its image thresholds matters."""
    one = np.ones(1, np.float32)
    return Candidate(
        method="made up", tolerance=1.0, thresholds=thresholds, sorted_uncertainty=(one,) * len(thresholds), **changes
    )


def fields(count: int, *, seed: int, shape: tuple[int, ...] = (6, 7), levels: int = 0) -> tuple[list[Any], ...]:
    """Uncertainties, restored images and truths; with `levels`, of few different values each."""
    rng = np.random.default_rng(seed)
    us, restored, truths = [], [], []
    for _ in range(count):
        u = rng.gamma(2, 0.2, shape[-2:]) + 0.01
        error = rng.normal(size=shape) * u * rng.lognormal(0, 0.7)
        if levels:
            u, error = np.ceil(u * levels) / levels, np.round(error * levels) / levels
        us.append(u.astype(np.float32))
        truths.append(rng.normal(size=shape).round(3))
        restored.append(truths[-1] + error)
    return us, restored, truths


def distances_of(restored: list[Any], truths: list[Any], distance: Any = L1) -> np.ndarray:
    whole = np.ones((1, *truths[0].shape[-2:]), bool)
    return np.array([distance.between(whole, a[None], b[None])[0] for a, b in zip(restored, truths, strict=True)])


# ---- what is computed


def test_two_fields_are_compared_as_by_hand():
    u = np.array([[1, 2], [3, 4]], np.float32)
    nothing = np.zeros((2, 2))
    # Errors of 1 leave 2 of 4 pixels within a mean of 0.51, errors of 2 leave 1.
    (one,) = candidates("mine", [u, u], [nothing + 1, nothing + 2], [nothing] * 2, L1, [0.51])
    assert one.thresholds.tolist() == [np.nextafter(np.float32(3), 0), np.nextafter(np.float32(2), 0)]
    found = compare(one, groups=["a", "b"], distances=np.array([1, 2]), confidence=0.5, n_calibration=1, splits=2000)
    # Where the first calibrates, the second has 2 of 4 pixels masked and is not kept; else the first has 3, and is.
    assert found.coverage == pytest.approx(0.5, abs=0.05)
    assert found.masked_share == pytest.approx(0.5 + 0.25 * found.coverage)
    assert (found.n_calibration, found.n_test, found.untouched_share) == (1, 1, 0)
    assert (found.method, found.tolerance, found.confidence, found.correlation) == ("mine", 0.51, 0.5, None)
    shares = opt_shares([nothing + 1, nothing + 2], [nothing] * 2, L1, [0.51])[0]
    assert shares.tolist() == [0.5, 0.75]
    opt = compare_opt(shares, groups=["a", "b"], distances=np.array([1, 2]), tolerance=0.51, confidence=0.5)
    assert (opt.method, opt.coverage, opt.masked_share, opt.untouched_share) == ("opt", 1, 0.625, 0)
    assert (opt.n_calibration, opt.n_test, opt.tolerance, opt.confidence) == (0, 2, 0.51, 0.5)


def test_a_group_counts_once_however_many_fields_it_has():
    u = np.array([1, 2, 3, 4], np.float32)
    one = replace(made_up(np.array([2.0, 2, 2, 2, 2, np.inf])), sorted_uncertainty=(u,) * 6)
    told = {"groups": ["a"] * 5 + ["b"], "distances": np.arange(6), "confidence": 0.5}
    found = compare(one, **told, n_calibration=1, splits=400)
    # Where a calibrates, half of b is masked, and b is kept; where b does, nothing of a is masked, nor a kept.
    assert 0.4 < found.coverage < 0.6
    assert found.masked_share == pytest.approx(found.coverage / 2)
    assert found.untouched_share == pytest.approx(1 - found.coverage)
    opt = compare_oracle(one, **told)
    assert (opt.masked_share, opt.untouched_share, opt.n_test) == (0.25, 0.5, 2)


@pytest.mark.parametrize("distance", ["l1", "l2", "l3", "linf", "linf-blur1"])
@pytest.mark.parametrize("shape", [(6, 7), (3, 6, 7)])
def test_thresholds_are_the_image_thresholds_whatever_the_order_of_the_tolerances(distance, shape):
    us, restored, truths = fields(8, seed=1, shape=shape)
    rule = parse_distance(distance)
    tolerances = [0.3, 0.05, 0.3, 0.12, 1e9]
    found = candidates("mine", us, restored, truths, rule, tolerances)
    assert [one.tolerance for one in found] == tolerances
    for one in found:
        all_fields = zip(us, restored, truths, strict=True)
        own = [image_threshold(*field, rule, one.tolerance, "binary") for field in all_fields]
        np.testing.assert_array_equal(one.thresholds, own)
    assert np.isinf(found[-1].thresholds).all()
    assert 0 < np.isfinite(found[0].thresholds).sum() <= 8
    assert (found[1].thresholds < found[0].thresholds).any()


def test_masked_share_and_kept_are_those_of_the_masks_themselves_with_ties_too():
    us, restored, truths = fields(12, seed=2, levels=3)
    assert all(len(np.unique(u)) < u.size / 2 for u in us)
    (one,) = candidates("mine", us, restored, truths, L1, [0.08])
    thresholds = np.unique(np.append(one.thresholds, 0.0))
    masked, kept = one.masked_shares(thresholds), one.kept(thresholds)
    assert masked.shape == kept.shape == (len(thresholds), 12)
    own = [(u > t).mean() for u, t in zip(us, one.thresholds, strict=True)]
    assert one.own_shares == pytest.approx(own)
    assert 0 < kept.mean() < 1
    for i, (u, a, b) in enumerate(zip(us, restored, truths, strict=True)):
        for j, t in enumerate(thresholds):
            assert masked[j, i] == pytest.approx((u > t).mean(), abs=1e-12)
            assert kept[j, i] == (L1(u <= t, np.abs(a - b)) <= 0.08)


def test_a_soft_mask_counts_by_the_part_that_is_not_trusted():
    us, restored, truths = fields(3, seed=3)
    (one,) = candidates("mine", us, restored, truths, L1, [0.08])
    thresholds = np.array([0.3, 0.05, np.inf, 0.3])
    found = replace(one, mask="soft").masked_shares(thresholds)
    expected = [[1 - trust_mask(u, t, "soft").mean() for u in us] for t in thresholds]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (found[:2] < one.masked_shares(thresholds)[:2]).all()
    assert (found[2] == 0).all()


def test_the_correlation_is_spearmans_among_the_fields_tested_on():
    us, restored, truths = fields(24, seed=4)
    (one,) = candidates("mine", us, restored, truths, L1, [0.1])
    distances, groups = distances_of(restored, truths), [f"{i // 2}" for i in range(24)]
    found = compare(one, groups=groups, distances=distances, confidence=0.5, n_calibration=1, splits=1, seed=5)
    drawn = comparison._Splits.of(groups, 1, splits=1, seed=5, fields=24)
    tested = [i for i in range(24) if groups[i] != groups[drawn.drawn[0, 0]]]
    share = one.masked_shares(one.thresholds[drawn.drawn[0]])[0]
    assert len(tested) == 22
    assert found.correlation == pytest.approx(spearmanr(share[tested], distances[tested]).statistic)
    assert -1 < found.correlation < 1
    assert found.masked_share == pytest.approx(share[tested].mean())


def test_a_constant_map_believes_fields_whole_or_not_at_all():
    us, restored, truths = fields(20, seed=5)
    tolerance = float(np.median(distances_of(restored, truths)))
    (one,) = candidates("constant", [np.ones_like(u) for u in us], restored, truths, L1, [tolerance * 1.001])
    found = compare(
        one, groups=list(map(str, range(20))), distances=distances_of(restored, truths), confidence=0.9, n_calibration=9
    )
    assert found.correlation is None
    assert found.masked_share + found.untouched_share == pytest.approx(1)
    assert found.coverage > 0.95  # ties keep more than was asked for
    assert (one.masked_shares(np.array([np.inf])) == 0).all()


# ---- at what promise


def hard_specimens(seed: int) -> tuple[np.ndarray, list[str]]:
    """Image thresholds of fields of 30 specimens: the more fields one has, and the later a field, the smaller."""
    rng = np.random.default_rng(seed)
    sizes = 1 + np.arange(30) % 6
    falling = [np.exp(-0.5 * size - np.arange(size)) for size in sizes]
    values = [rng.lognormal(0, 0.5) * rng.lognormal(0, 0.2, len(own)) * own for own in falling]
    return np.concatenate(values), [f"mouse {i}" for i, size in enumerate(sizes) for _ in range(size)]


def check_coverage(compared: Callable[..., Any], n: int) -> None:
    """Over many splits it is 1 - k / (n + 1), from both sides."""
    thresholds, groups = hard_specimens(0)
    found = compared(
        made_up(thresholds), groups=groups, distances=thresholds, confidence=0.9, n_calibration=n, splits=SPLITS
    )
    expected = 1 - marginal_rank(n, 0.9) / (n + 1)
    # The coverage of one split varies by no more than a single draw of each group would.
    spread = betabinom.std(30 - n, n + 1 - marginal_rank(n, 0.9), marginal_rank(n, 0.9)) / (30 - n)
    assert abs(found.coverage - expected) < 4 * spread / sqrt(SPLITS), f"{found.coverage:.3f}, not {expected:.3f}"
    assert found.coverage_low < expected < found.coverage_high


@pytest.mark.parametrize("n", [9, 14, 19])
def test_coverage_is_what_the_rank_gives_and_not_more(n):
    check_coverage(compare, n)


def rank_too_high(n: int, confidence: float) -> int:
    return marginal_rank(n, confidence) + 1


def fields_are_counted(self: Any, values: np.ndarray, **_: Any) -> float:
    return float(np.mean(np.broadcast_to(values, self.tested[:, self.owners].shape)[self.tested[:, self.owners]]))


def all_fields_calibrate(self: Any, thresholds: np.ndarray, grouping: str) -> np.ndarray:
    return RIGHT.calibrating(self, thresholds, "worst")


def the_test_calibrates(self: Any, thresholds: np.ndarray, grouping: str) -> np.ndarray:
    groups = np.nonzero(self.tested)[1].reshape(len(self.tested), -1)[:, : self.calibration.shape[1]]
    return thresholds[np.searchsorted(self.owners, groups)]


def first_fields_calibrate(self: Any, thresholds: np.ndarray, grouping: str) -> np.ndarray:
    return thresholds[np.searchsorted(self.owners, self.calibration)]


RIGHT = comparison._Splits
FAULTS = {
    "marginal_rank": rank_too_high,
    "_Splits.mean": fields_are_counted,
    "_Splits.calibrating": all_fields_calibrate,
    "_Splits.calibrating ": the_test_calibrates,
    "_Splits.calibrating  ": first_fields_calibrate,
}


@pytest.mark.parametrize("n", [9, 19])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda fault: fault.__name__)
def test_a_fault_is_seen_in_the_coverage(monkeypatch, fault, n):
    where = next(name for name, planted in FAULTS.items() if planted is fault).strip()
    if where.startswith("_Splits"):
        faulty = type("Faulty", (RIGHT,), {where.partition(".")[2]: fault})
        monkeypatch.setattr(comparison, "_Splits", faulty)
    else:
        monkeypatch.setattr(comparison, where, fault)
    with pytest.raises(AssertionError, match=r"[01]\.\d+, not 0\.900"):
        check_coverage(compare, n)


@pytest.mark.parametrize("n", [9, 19])
def test_one_split_covers_as_the_interval_says(n):
    rng, kept = np.random.default_rng(n), []
    groups = list(map(str, range(n + 20)))
    for seed in range(600):
        one = made_up(rng.lognormal(size=len(groups)))
        told = {"groups": groups, "distances": one.thresholds, "confidence": 0.9}
        found = compare(one, **told, n_calibration=n, splits=1, seed=seed)
        kept.append(round(found.coverage * 20))
    law = betabinom(20, n + 1 - marginal_rank(n, 0.9), marginal_rank(n, 0.9))
    low, high = round(found.coverage_low * 20), round(found.coverage_high * 20)
    assert law.cdf(low - 1) <= 0.025 < law.cdf(low)
    assert law.cdf(high - 1) < 0.975 <= law.cdf(high)
    assert np.mean([low <= count <= high for count in kept]) > 0.94
    assert np.mean([count < low for count in kept]) > 0.003  # it is no wider than it has to be
    for count in (14, 16, 18, 19):
        assert np.mean(np.array(kept) <= count) == pytest.approx(law.cdf(count), abs=0.06)


def test_all_uncertainties_get_the_same_splits_and_the_seed_says_which():
    us, restored, truths = fields(30, seed=6)
    groups, distances = [f"{i // 2}" for i in range(30)], distances_of(restored, truths)

    def compared(scale: float, seed: int) -> dict[str, Any]:
        maps = [u * np.float32(scale) for u in us]
        (one,) = candidates("mine", maps, restored, truths, L1, [0.1])
        return asdict(
            compare(one, groups=groups, distances=distances, confidence=0.8, n_calibration=4, splits=20, seed=seed)
        )

    assert compared(1, 0) == compared(4, 0)
    assert compared(1, 0) != compared(1, 1)


# ---- a distance that is walked


class Bias:
    """Errors of both signs cancel, so trusting more may lower it."""

    name = sentence_name = "bias"
    identity = ""
    monotone = differentiable = in_intensity_units = False

    def __init__(self) -> None:
        self.asked = 0

    def between(self, trust, restored, truth):
        self.asked += len(trust)
        return np.abs((trust * (restored - truth)).mean(axis=(1, 2)))


def test_one_walk_gives_all_tolerances_and_what_is_kept_is_measured():
    us, restored, truths = fields(40, seed=7)
    several, single = Bias(), Bias()
    found = candidates("mine", us, restored, truths, several, [0.05, 0.02, 0.08])
    candidates("mine", us, restored, truths, single, [0.08])
    assert several.asked == single.asked < 40 * len(THRESHOLD_GRID)
    one = found[1]
    own = [image_threshold(*field, Bias(), 0.02, "binary") for field in zip(us, restored, truths, strict=True)]
    assert one.thresholds.tolist() == own
    thresholds = np.append(0.0, THRESHOLD_GRID)
    kept = one.kept(thresholds)
    assert kept[0].all()  # nothing is trusted
    # A walk to the end knows all; one that stopped errs on the safe side.
    whole = candidates("mine", us, restored, truths, Bias(), [0.02], stop_above=np.inf)[0].kept(thresholds)
    assert (kept <= whole).all()
    above = 0
    for i, (u, a, b) in enumerate(zip(us, restored, truths, strict=True)):
        for j, t in enumerate(thresholds):
            assert whole[j, i] == (Bias().between((u <= t)[None], a[None], b[None])[0] <= 0.02)
            above += kept[j, i] and t > one.thresholds[i]
    assert above > 10  # fields that are within tolerance again above their threshold
    with pytest.raises(ValueError, match="mine: a threshold is not on the grid that its distance was walked along"):
        one.kept(np.array([0.123]))


def test_coverage_of_a_walked_distance_is_at_least_what_was_promised():
    us, restored, truths = fields(60, seed=8)
    (one,) = candidates("mine", us, restored, truths, Bias(), [0.02])
    groups = list(map(str, range(60)))
    found = compare(one, groups=groups, distances=one.thresholds, confidence=0.9, n_calibration=19, splits=400)
    assert 0.89 < found.coverage < 0.99
    monotone = compare(
        replace(one, kept_on_grid=None),
        groups=groups,
        distances=one.thresholds,
        confidence=0.9,
        n_calibration=19,
        splits=400,
    )
    assert monotone.coverage < found.coverage
    assert monotone.masked_share == found.masked_share


def test_a_group_is_kept_by_all_of_its_fields_where_all_are_promised():
    thresholds, groups = hard_specimens(3)
    worst = {name: min(t for t, own in zip(thresholds, groups, strict=True) if own == name) for name in groups}
    told = {"confidence": 0.9, "n_calibration": 9, "splits": 300}
    found = compare(made_up(thresholds), groups=groups, distances=thresholds, **told, grouping="worst")
    alone = compare(
        made_up(np.array(list(worst.values()))), groups=list(worst), distances=np.arange(30), **told, grouping="one"
    )
    assert found.coverage == pytest.approx(alone.coverage, abs=0.03)
    assert found.coverage == pytest.approx(0.9, abs=0.03)
    one = compare(made_up(thresholds), groups=groups, distances=thresholds, **told)
    assert one.masked_share <= found.masked_share


# ---- the oracle


@pytest.mark.parametrize("levels", [0, 4])
@pytest.mark.parametrize("distance", ["l1", "l2", "l3", "linf"])
def test_no_mask_of_any_uncertainty_is_smaller_than_the_oracles(distance, levels):
    us, restored, truths = fields(20, seed=9, levels=levels)
    errors = [np.maximum(np.abs(a - b), 1e-6) for a, b in zip(restored, truths, strict=True)]
    rule = parse_distance(distance)
    tolerances = np.percentile(distances_of(restored, truths, rule), [5, 30, 60, 80]) * 1.0001

    def shares(maps: list[np.ndarray]) -> np.ndarray:
        return np.array([one.own_shares for one in candidates("other", maps, restored, truths, rule, tolerances)])

    best = opt_shares(restored, truths, rule, tolerances)
    assert best.shape == (4, 20)
    assert best[0, 0] == opt_share(np.abs(restored[0] - truths[0]), tolerances[0], rule)
    assert 0 < best.mean() < 1
    for maps in (us, errors, [np.ones_like(u) for u in us], [u[::-1] for u in us]):
        assert (best <= shares(maps) + 1e-12).all()
    # As a map the error itself is the oracle, unless pixels have equal errors.
    assert (shares(errors) > best + 1e-12).any() == (levels > 0 and distance != "linf")


@pytest.mark.parametrize(("distance", "tolerance"), [("l1", 1.1), ("l2", 1.5), ("linf", 2.5)])
def test_the_oracle_is_the_smallest_of_all_masks_there_are(distance, tolerance):
    rng = np.random.default_rng(10)
    error, rule = rng.integers(1, 5, (2, 5)).astype(float), parse_distance(distance)
    masks = ((np.arange(1 << 10)[:, None] >> np.arange(10)) & 1).astype(bool)
    kept = [rule(~mask, error.ravel()) <= tolerance for mask in masks]
    smallest = masks[kept].sum(axis=1).min()
    assert opt_share(error, tolerance, rule) == pytest.approx(smallest / 10)
    assert opt_shares([error], [0 * error], rule, [tolerance, 1e9]).tolist() == [
        [opt_share(error, tolerance, rule)],
        [0],
    ]
    assert 0 < smallest < 10


def test_over_channels_the_oracle_goes_by_the_norm():
    _, restored, truths = fields(3, seed=13, shape=(3, 6, 7))
    norms = [np.sqrt(np.square(a - b).sum(axis=0)) for a, b in zip(restored, truths, strict=True)]
    expected = [opt_share(norm, 0.1) for norm in norms]
    assert opt_shares(restored, truths, L1, [0.1])[0].tolist() == pytest.approx(expected)
    assert 0 < expected[0] < 1


def test_the_oracle_of_a_walked_distance_masks_what_is_most_wrong():
    class MeanError(Bias):
        def between(self, trust, restored, truth):
            return np.abs(trust * (restored - truth)).mean(axis=(1, 2))

    _, restored, truths = fields(5, seed=11, shape=(30, 40))
    tolerance = float(np.median(distances_of(restored, truths))) / 2
    found, exact = (opt_shares(restored, truths, rule, [tolerance])[0] for rule in (MeanError(), L1))
    assert (found >= exact).all()
    assert (found - exact).max() < 0.04  # in steps
    assert exact.min() < exact.max() < 1
    with pytest.raises(ValueError, match="the distance bias is not made from the errors of single pixels"):
        opt_share(np.ones(3), 0.1, Bias())
    assert (opt_shares([np.ones((2, 2))], [np.zeros((2, 2))], MeanError(), [1e-9]) == 1).all()


# ---- what cannot be compared


@pytest.mark.parametrize(
    ("groups", "confidence", "n"),
    [(10, 0.9, 9), (20, 0.9, 9), (37, 0.9, 9), (38, 0.9, 19), (57, 0.9, 19), (58, 0.9, 29), (5, 0.8, 4), (2, 0.5, 1),
     (20, 0.95, 19)],
)  # fmt: skip
def test_about_half_of_the_groups_calibrate_and_none_of_them_in_vain(groups, confidence, n):
    assert n_to_calibrate(groups, confidence) == n
    names = list(map(str, range(groups)))
    one = made_up(np.arange(1.0, groups + 1))
    assert compare(one, groups=names, distances=one.thresholds, confidence=confidence, n_calibration=n).n_test > 0


def test_too_few_groups_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"9 held-out groups are too few to compare at a confidence of 0.9: 9 have to"):
        n_to_calibrate(9, 0.9)
    with pytest.raises(ValueError, match=r"add groups, 20 at least, or lower the confidence"):
        n_to_calibrate(3, 0.95)
    one = made_up(np.arange(1, 11.0))
    told = {"groups": list(map(str, range(10))), "distances": np.arange(10), "confidence": 0.9}
    with pytest.raises(ValueError, match=r"at least 9 groups are needed for a confidence of 0.9, got 8"):
        compare(one, **told, n_calibration=8)
    with pytest.raises(ValueError, match=r"10 groups to calibrate on leave none to test on of 10; add groups"):
        compare(one, **told, n_calibration=10)
    assert compare(one, **told, n_calibration=9).n_test == 1
    with pytest.raises(ValueError, match=r"there are 10 thresholds but 9 groups; give each field its group"):
        compare(one, **told | {"groups": list("abcdefghi")}, n_calibration=9)
    with pytest.raises(ValueError, match=r"there are 9 distances for 10 fields; give one for each"):
        compare(one, **told | {"distances": np.arange(9)}, n_calibration=9)


def test_fields_that_are_none_are_refused_by_number():
    us, restored, truths = fields(3, seed=12)
    with pytest.raises(ValueError, match=r"mine: there are no fields; give at least one"):
        candidates("mine", [], [], [], L1, [0.1])
    with pytest.raises(ValueError, match=r"longer than"):
        candidates("mine", us[:2], restored, truths, L1, [0.1])
    us[1][2, 3] = 0
    with pytest.raises(ValueError, match=r"field 1: uncertainty has to be above 0; its smallest value is 0"):
        candidates("mine", us, restored, truths, L1, [0.1])
    with pytest.raises(ValueError, match=r"tolerance is 0"):
        candidates("mine", us[:1], restored[:1], truths[:1], L1, [0.1, 0.0])
    with pytest.raises(ValueError, match=r"made up: there are 2 thresholds for 1 fields"):
        replace(made_up(np.ones(1)), thresholds=np.ones(2))
    with pytest.raises(ValueError, match=r"made up: each threshold has to be at least 0; some are NaN or negative"):
        made_up(np.array([np.nan]))
