from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import floor, sqrt

import numpy as np
import pytest

from napari_maskcal.calibrate import conformal_threshold, image_threshold
from napari_maskcal.calibrate.guarantee import marginal_rank, minimal_n, worst_of_each_group
from napari_maskcal.calibrate.threshold import trust_mask
from napari_maskcal.distance.registry import parse_distance

CONFIDENCES = ["0.5", "0.6", "0.7", "0.75", "0.8", "0.85", "0.9", "0.925", "0.95", "0.975", "0.98", "0.99", "0.999"]
SETS = 2000


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
        ({"guarantee": "pac"}, r"guarantee 'pac' is not available"),
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


# How often the promise is kept, in simulation. A pool of fields is enough: a random draw from it is exchangeable, and
# with scores that are all different the rate is 1 - k / (n + 1) exactly, whatever the pool.


def check_rate(kept: list[bool], n: int, confidence: float, *, exact: bool = True) -> None:
    rate, expected = np.mean(kept), 1 - marginal_rank(n, confidence) / (n + 1)
    margin = 3 * sqrt(expected * (1 - expected) / len(kept))
    assert rate >= confidence - margin, f"kept {rate:.3f} of the time, promised {confidence}"
    assert not exact or rate <= expected + margin, f"kept {rate:.3f} of the time, {expected:.3f} is possible"


def draws(pool: int, n: int, *, sets: int = SETS, seed: int = 0) -> list[tuple[np.ndarray, int]]:
    """Indices of n calibration fields and one new field, many times."""
    rng = np.random.default_rng(seed)
    drawn = (rng.choice(pool, n + 1, replace=False) for _ in range(sets))
    return [(indices[:-1], int(indices[-1])) for indices in drawn]


def pool_of_fields(seed: int, *, count: int = 300, levels: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Uncertainty and error of small fields, some much worse than others; `levels` makes equal uncertainties."""
    rng = np.random.default_rng(seed)
    u = rng.gamma(2, 0.2, (count, 40)) + 0.01
    error = np.abs(rng.normal(size=u.shape)) * u * rng.lognormal(0, 0.5, (count, 1))
    return (np.ceil(u * levels) / levels if levels else u), error


def scores(u: np.ndarray, error: np.ndarray, distance: str, tolerance: float, mask: str) -> np.ndarray:
    rule = [distance, tolerance, mask]
    return np.array([image_threshold(u[i], error[i], 0 * error[i], *rule) for i in range(len(u))])


def within(u: np.ndarray, error: np.ndarray, threshold: float, distance: str, tolerance: float, mask: str) -> bool:
    return parse_distance(distance)(trust_mask(u, threshold, mask), error) <= tolerance


TOLERANCES = {"l1": 0.1, "l2": 0.15, "linf": 0.4}


@pytest.mark.parametrize("n", [9, 19, 50])
@pytest.mark.parametrize("mask", ["soft", "binary"])
@pytest.mark.parametrize("distance", ["l1", "l2", "linf"])
def test_the_promise_is_kept_as_often_as_promised_and_not_more(distance, mask, n):
    rule = {"distance": distance, "tolerance": TOLERANCES[distance], "mask": mask}
    u, error = pool_of_fields(1)
    found = scores(u, error, **rule)
    assert len(np.unique(found[np.isfinite(found)])) == np.isfinite(found).sum() > 200
    kept = [within(u[new], error[new], conformal_threshold(found[old], 0.9), **rule) for old, new in draws(300, n)]
    check_rate(kept, n, 0.9)


def off_by_one(values: np.ndarray) -> float:
    return np.sort(values)[marginal_rank(len(values), 0.9)]


def rank_of_n_instead_of_n_plus_one(values: np.ndarray) -> float:
    return np.sort(values)[floor(len(values) * (1 - 0.9)) - 1] if len(values) > 9 else 0.0


def interpolated(values: np.ndarray) -> float:
    return float(np.quantile(values, 1 - 0.9))


@pytest.mark.parametrize(
    ("faulty", "n"), [(off_by_one, 9), (off_by_one, 19), (interpolated, 19), (rank_of_n_instead_of_n_plus_one, 19)]
)
def test_a_wrong_rank_is_caught_by_the_rate(faulty, n):
    values = np.random.default_rng(2).lognormal(size=300)
    check_rate([values[new] >= conformal_threshold(values[old], 0.9) for old, new in draws(300, n)], n, 0.9)
    with pytest.raises(AssertionError, match="kept"):
        check_rate([values[new] >= faulty(values[old]) for old, new in draws(300, n)], n, 0.9)


def count_pixel_by_pixel(u: np.ndarray, error: np.ndarray, tolerance: float) -> float:
    """The fault: a group of equal uncertainty is trusted as far as it fits, though the mask takes all of it."""
    order = np.argsort(u, kind="stable")
    fitting = np.cumsum(error[order]) <= tolerance * u.size
    return np.inf if fitting.all() else u[order][fitting][-1]


def test_counting_tied_pixels_one_by_one_breaks_the_promise():
    rule = {"distance": "l1", "tolerance": 0.1, "mask": "binary"}
    u, error = pool_of_fields(3, levels=2)
    faulty = np.array([count_pixel_by_pixel(u[i], error[i], 0.1) for i in range(len(u))])

    def kept(own: np.ndarray) -> list[bool]:
        return [within(u[new], error[new], conformal_threshold(own[old], 0.9), **rule) for old, new in draws(300, 19)]

    check_rate(kept(scores(u, error, **rule)), 19, 0.9, exact=False)  # ties may only keep it more often
    with pytest.raises(AssertionError, match=r"kept 0\.[0-7]\d+ of the time, promised 0\.9"):
        check_rate(kept(faulty), 19, 0.9, exact=False)


def test_fields_of_one_specimen_do_not_count_as_independent_ones():
    specimens, fields_each, n = 300, 4, 19
    rng = np.random.default_rng(4)
    values = rng.lognormal(size=(specimens, 1)) * rng.lognormal(0, 0.2, (specimens, fields_each))
    owners = np.repeat(np.arange(n), fields_each).tolist()

    def kept(groups: list[int] | None) -> list[bool]:
        return [
            bool((values[new] >= conformal_threshold(values[old].ravel(), 0.9, groups=groups)).all())
            for old, new in draws(specimens, n)
        ]

    check_rate(kept(owners), n, 0.9)
    with pytest.raises(AssertionError, match=r"kept 0\.8\d+ of the time, promised 0\.9"):
        check_rate(kept(None), n, 0.9)


def test_a_higher_confidence_never_raises_the_threshold():
    values = np.random.default_rng(5).random(200)
    found = [conformal_threshold(values, c) for c in np.arange(0.5, 0.995, 0.01)]
    assert all(later <= earlier for earlier, later in pairwise(found))
    assert found[-1] < found[0]
