from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import comb, floor

import numpy as np
import pytest

from napari_maskcal.calibrate import conformal_threshold
from napari_maskcal.calibrate.guarantee import (
    fixed_sequence_threshold,
    marginal_rank,
    minimal_n,
    one_of_each_group,
    pac_rank,
    risk_threshold,
    worst_of_each_group,
)

CONFIDENCES = ["0.5", "0.6", "0.7", "0.75", "0.8", "0.85", "0.9", "0.925", "0.95", "0.975", "0.98", "0.99", "0.999"]


def exact_rank(n: int, confidence: str) -> int:
    return floor((n + 1) * (1 - Fraction(confidence)))


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_the_rank_is_that_of_exact_arithmetic(confidence):
    ranks = [marginal_rank(n, float(confidence)) for n in range(1, 201)]
    assert ranks == [exact_rank(n, confidence) for n in range(1, 201)]


def test_plain_floating_point_would_lose_ranks():
    wrong = [
        (n, c) for n in range(1, 201) for c in CONFIDENCES if floor((n + 1) * (1 - float(c))) != exact_rank(n, c)
    ]  # fmt: skip
    assert (9, "0.9") in wrong
    assert len(wrong) > 20


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_the_smallest_number_of_fields_is_the_first_with_a_rank(confidence):
    n = minimal_n(float(confidence))
    assert exact_rank(n, confidence) == 1
    assert exact_rank(n - 1, confidence) == 0


def exact_at_most(count: int, n: int, confidence: str) -> Fraction:
    """P(Binomial(n, 1 - confidence) <= count), with fractions."""
    kept = Fraction(confidence)
    return sum((comb(n, i) * (1 - kept) ** i * kept ** (n - i) for i in range(count + 1)), Fraction(0))


def exact_pac_rank(n: int, confidence: str, delta: str) -> int:
    return max((k for k in range(1, n + 1) if exact_at_most(k - 1, n, confidence) <= Fraction(delta)), default=0)


@pytest.mark.parametrize("confidence", ["0.5", "0.8", "0.9", "0.95"])
@pytest.mark.parametrize("delta", ["0.01", "0.05", "0.1", "0.5"])
def test_the_pac_rank_is_that_of_exact_binomials(confidence, delta):
    some = [*range(1, 32), 45, 59, 60, 90, 120]
    ranks = [pac_rank(n, float(confidence), float(delta)) for n in some]
    assert ranks == [exact_pac_rank(n, confidence, delta) for n in some]
    assert ranks[0] == (confidence == delta == "0.5")  # where both sides are equal, rounding does not decide
    assert ranks[-1] > 1 or float(confidence) >= 0.95


@pytest.mark.parametrize(("delta", "n"), [(0.1, 22), (0.05, 29), (0.01, 44)])
def test_the_smallest_number_of_fields_for_pac_is_the_tabulated_one(delta, n):
    assert minimal_n(0.9, "pac", delta) == n
    assert pac_rank(n, 0.9, delta) == 1
    assert pac_rank(n - 1, 0.9, delta) == 0
    values = np.arange(n) / n
    assert conformal_threshold(values, 0.9, "pac", delta) == 0
    with pytest.raises(ValueError, match=rf"at least {n} fields are needed for a confidence of 0\.9, got {n - 1}"):
        conformal_threshold(values[1:], 0.9, "pac", delta)


def test_pac_is_never_less_careful_than_marginal():
    for n in range(22, 300):
        assert pac_rank(n, 0.9, 0.1) <= marginal_rank(n, 0.9)
    assert pac_rank(100, 0.9, 0.1) == 6 < marginal_rank(100, 0.9) == 10


def random_distances(n: int, steps: int, seed: int) -> np.ndarray:
    """Distances along a grid that mostly rise, NaN from somewhere on."""
    rng = np.random.default_rng(seed)
    distances = np.linspace(0.02, 0.3, steps) * rng.lognormal(0, 0.5, (n, steps))
    return np.where(np.arange(steps) > rng.integers(steps // 2, 2 * steps, (n, 1)), np.nan, distances)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("delta", ["0.1", "0.3"])
def test_the_fixed_sequence_test_walks_up_until_it_cannot_reject(seed, delta):
    grid = np.arange(1.0, 13)
    for tolerance in (0.005, 0.1, 0.15, 0.2, 5.0):
        distances = random_distances(40, 12, seed)
        expected = 0.0
        for column, threshold in zip(distances.T, grid, strict=True):
            failures = sum(not distance <= tolerance for distance in column)
            if exact_at_most(failures, 40, "0.8") > Fraction(delta):
                break
            expected = threshold
        found = fixed_sequence_threshold(
            distances, grid, tolerance=tolerance, confidence=0.8, delta=float(delta)
        )  # fmt: skip
        assert found == expected
        assert (found == 0) == (tolerance == 0.005)
    assert found < 12  # a walk that had stopped counts as a failure, however large the tolerance


def test_a_rejection_after_the_first_that_fails_does_not_count():
    distances = np.full((30, 4), 0.1)
    distances[:, 1] = 9.0
    rule = {"tolerance": 1.0, "confidence": 0.9, "delta": 0.1}
    assert fixed_sequence_threshold(distances, np.arange(1.0, 5), **rule) == 1
    assert fixed_sequence_threshold(distances[:, [0, 2, 3]], np.arange(1.0, 4), **rule) == 3
    with pytest.raises(ValueError, match=r"at least 22 groups are needed .*, got 21"):
        fixed_sequence_threshold(distances[:21], np.arange(1.0, 5), **rule)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bound", [0.3, 1.0, 2.0])
def test_the_risk_threshold_is_the_largest_of_all_that_keep_the_mean(seed, bound):
    rng = np.random.default_rng(seed)
    own = rng.lognormal(size=(25, 1))
    candidates = np.append(np.sort(rng.random(30)), np.inf)

    def distances_at(t: float) -> np.ndarray:
        return np.ceil(own[:, 0] * min(t, 3.0) * 8) / 16

    keeping = [
        t for t in candidates if (sum(min(d, bound) for d in distances_at(t)) + bound) / 26 <= 0.25
    ]  # fmt: skip
    found = risk_threshold(distances_at, candidates, n=25, tolerance=0.25, bound=bound)
    assert found == max(keeping, default=0)
    assert 0 < found < np.inf
    assert risk_threshold(distances_at, candidates, n=25, tolerance=bound, bound=bound) == np.inf
    assert risk_threshold(lambda t: np.full(25, 9.0), candidates, n=25, tolerance=0.25, bound=bound) == 0


@pytest.mark.parametrize(
    ("tolerance", "bound", "needed"), [(0.1, 1.0, 9), (0.02, 0.5, 24), (0.07, 0.49, 6), (0.3, 1, 3)]
)
def test_too_few_fields_for_a_mean_are_refused_with_the_number_that_it_takes(tolerance, bound, needed):
    def least(n: int) -> float:
        return risk_threshold(lambda t: np.zeros(n), np.array([1.0]), n=n, tolerance=tolerance, bound=bound)

    least(needed)
    assert least(needed + 1) == 1
    with pytest.raises(
        ValueError, match=rf"at least {needed} fields .* at most {tolerance:g} .* {bound:g}, got {needed - 1}"
    ):
        least(needed - 1)


def test_one_field_of_each_group_is_drawn_evenly_and_by_the_seed():
    groups = ["a", "b", "a", "c", "a", "b"]
    drawn = [one_of_each_group(groups, seed) for seed in range(600)]
    assert drawn[3] == one_of_each_group(groups, 3)
    assert all([groups[i] for i in indices] == ["a", "b", "c"] for indices in drawn)
    counts = np.bincount(np.ravel(drawn), minlength=6)
    assert (np.abs(counts[[0, 2, 4]] - 200) < 3 * np.sqrt(600 * 2 / 9)).all()
    values = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    found = {conformal_threshold(values, 0.7, groups=groups, grouping="one", seed=seed) for seed in range(20)}
    assert found == {1.0, 2.0}
    assert conformal_threshold(values, 0.7, groups=groups) == 1


@pytest.mark.parametrize(
    ("n", "confidence", "rank"), [(9, 0.9, 1), (18, 0.9, 1), (19, 0.9, 2), (29, 0.9, 3), (19, 0.95, 1), (1, 0.5, 1)]
)
def test_the_threshold_is_the_value_of_that_rank_whatever_the_order(n, confidence, rank):
    values = np.random.default_rng(n).permutation(np.arange(1, n + 1) / 10)
    assert conformal_threshold(values, confidence) == rank / 10


def test_infinite_thresholds_count_as_the_largest():
    values = [np.inf] * 17 + [0.5, 0.25]
    assert conformal_threshold(values, 0.9) == 0.5
    assert conformal_threshold([np.inf] * 9, 0.9) == np.inf
    assert conformal_threshold([0.0, *[1.0] * 8], 0.9) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"thresholds": [1.0] * 5}, r"at least 9 fields are needed for a confidence of 0\.9, got 5; add fields"),
        ({"thresholds": [1.0] * 18, "confidence": 0.95}, r"at least 19 fields .* 0\.95, got 18"),
        ({"thresholds": []}, r"at least 9 fields .*, got 0"),
        ({"groups": list("aabbccdd") + ["e"] * 12}, r"at least 9 groups .*, got 5; add groups or lower"),
        ({"groups": range(19)}, r"20 thresholds but 19 groups"),
        ({"thresholds": [np.nan] + [1.0] * 19}, r"NaN or negative"),
        ({"thresholds": [-0.1] + [1.0] * 19}, r"NaN or negative"),
        ({"thresholds": [[1.0] * 20]}, r"shape \(1, 20\); give one number for each field"),
        ({"confidence": 0}, r"confidence is 0; give a number between 0 and 1"),
        ({"confidence": 1}, r"confidence is 1;"),
        ({"confidence": 1.5}, r"confidence is 1\.5;"),
        ({"confidence": np.nan}, r"confidence is nan;"),
        ({"guarantee": "perhaps"}, r"no guarantee 'perhaps'; there are marginal, pac, expected"),
        ({"guarantee": "pac"}, r"delta is None; the pac guarantee takes a number between 0 and 1"),
        ({"guarantee": "pac", "delta": 1.5}, r"delta is 1\.5;"),
        ({"guarantee": "pac", "delta": 0.1}, r"at least 22 fields .* 0\.9, got 20"),
        ({"guarantee": "expected"}, r"made from distances, not from thresholds"),
        ({"delta": 0.1}, r"delta is 0\.1, but the marginal guarantee has none"),
    ],
)
def test_what_gives_no_promise_is_refused_with_the_value(arguments, message):
    possible = {"thresholds": [1.0] * 20}
    assert conformal_threshold(**possible) == 1
    with pytest.raises(ValueError, match=message):
        conformal_threshold(**possible | arguments)


def test_each_group_counts_once_with_its_worst_field():
    values, groups = [5.0, 1.0, 4.0, 2.0, 3.0], ["b", "a", "b", "a", "c"]
    assert worst_of_each_group(np.array(values), groups).tolist() == [4, 1, 3]
    curves = worst_of_each_group(np.array([[5.0, 1.0], [2.0, 4.0], [3.0, 3.0]]), ["a", "a", "b"])
    assert curves.tolist() == [[2, 1], [3, 3]]
    names = [f"specimen {i // 2}" for i in range(18)]
    assert conformal_threshold(np.arange(18.0)[::-1], 0.9, groups=names) == 0
    assert conformal_threshold(np.arange(19.0), 0.9) == 1
    assert conformal_threshold(np.arange(19.0), 0.9, groups=range(19)) == 1


def test_a_higher_confidence_never_raises_the_threshold():
    values = np.random.default_rng(5).random(200)
    found = [conformal_threshold(values, c) for c in np.arange(0.5, 0.995, 0.01)]
    assert all(later <= earlier for earlier, later in pairwise(found))
    assert found[-1] < found[0]
