from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from napari_maskcal.calibrate import image_threshold
from napari_maskcal.calibrate.segments import SortedPixels, sort_pixels
from napari_maskcal.calibrate.sums import ErrorSums, bin_of, powers_of
from napari_maskcal.calibrate.threshold import lp_threshold_of_tiles
from napari_maskcal.distance.lp import Lp

POWERS = (1, 1.5, 2, 3, 64)
KINDS = ("continuous", "few values", "saturated", "huge and small", "powers of two", "tiny")


def uncertainties(kind: str, n: int = 300, *, dtype: type = np.float32) -> np.ndarray:
    rng = np.random.default_rng(n)
    u = rng.gamma(2, 0.2, n) + 0.01
    if kind == "few values":
        u = np.ceil(4 * u) / 4
    elif kind == "saturated":
        u = np.minimum(u, 0.4)
    elif kind == "huge and small":
        u = 10.0 ** rng.uniform(-4, 4, n) if dtype == np.float16 else 10.0 ** rng.uniform(-36, 36, n)
    elif kind == "powers of two":
        u = 2.0 ** rng.integers(-10, 10, n) * (1 + rng.integers(128, size=n) / 128)  # edges of the bins
    elif kind == "tiny":
        u = u * (1e-60 if dtype == np.float64 else float(np.finfo(dtype).smallest_normal) / 2)
    return u.astype(dtype)


def errors(u: np.ndarray) -> np.ndarray:
    """In a middle range, whatever the uncertainties; a fifth of them 0."""
    rng = np.random.default_rng(len(u))
    ranks = np.argsort(np.argsort(u)) / len(u)
    return np.abs(rng.normal(size=len(u))) * (0.2 + ranks) * (rng.random(len(u)) > 0.2)


def distance_at(t: float, u: np.ndarray, error: np.ndarray, p: float, mask: str) -> float:
    """The definition, in more digits than the code has."""
    wide, t = u.astype(np.longdouble), np.longdouble(t)
    trust = (u <= t) if mask == "binary" else np.minimum(t / wide, 1)
    return float(np.mean((trust * error) ** np.longdouble(p)) ** (1 / np.longdouble(p)))


def tiles_of(u: np.ndarray, error: np.ndarray, parts: int) -> list[tuple[np.ndarray, np.ndarray]]:
    order = np.random.default_rng(parts).permutation(len(u))
    return [(u[own], error[own]) for own in np.array_split(order, parts)]


# A power of 64 overflows with uncertainties that are wide apart, which has a test of its own.
@pytest.mark.parametrize(
    ("p", "kind"),
    [(p, kind) for p, kind in product(POWERS, KINDS) if p < 64 or kind not in ("huge and small", "tiny")],
)
@pytest.mark.parametrize("mask", ["soft", "binary"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_tiles_have_the_threshold_of_the_whole_and_it_is_the_largest_that_passes(mask, p, kind, dtype):
    u = uncertainties(kind, dtype=dtype)
    error = errors(u)
    whole = distance_at(np.inf, u, error, p, "binary")
    for share in (0.02, 0.3, 0.6, 0.9, 0.999):
        tolerance = share * whole
        exact = image_threshold(u, error, 0 * error, Lp(p), tolerance, mask)
        merged = lp_threshold_of_tiles(tiles_of(u, error, 7), p=p, tolerance=tolerance, mask=mask)
        assert distance_at(exact, u, error, p, mask) <= tolerance * (1 + 1e-15)
        if mask == "binary":
            assert np.array_equal(u <= exact, u <= merged)
            more = float(u[u.astype(np.float64) > exact].min())
        else:
            assert merged == pytest.approx(exact, rel=1e-9)
            more = exact * (1 + 1e-9)
        assert distance_at(more, u, error, p, mask) > tolerance


@pytest.mark.parametrize("mask", ["soft", "binary"])
@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("kind", ["few values", "saturated", "powers of two", "huge and small"])
def test_the_window_holds_the_threshold_at_every_edge_of_the_curve(mask, p, kind):
    """At each pixel, and right beside it, the answer from a few bins is that from all pixels."""
    u = uncertainties(kind, 60)
    error = errors(u)
    bins = bin_of(u)
    sums = ErrorSums.of(bins, error, p=p, unit=1.0)
    everything = SortedPixels.of(*sort_pixels(u, error), p=p, unit=1.0, mask=mask)
    at_pixels = [60 * distance_at(t, u, error, p, mask) ** p for t in np.unique(u)]
    tested = 0
    for budget, nudge in product(at_pixels, (1 - 1e-9, 1 + 1e-9)):
        expected = float(everything.thresholds(np.array([budget * nudge]))[0])
        window = sums.window(budget * nudge, mask)
        if window is None:
            assert expected == np.inf
            continue
        if mask == "binary":  # which is right below the group that is too much
            expected = float(u[u.astype(np.float64) > expected].min())
        assert window.low * (1 - 1e-12) <= expected <= window.high * (1 + 1e-12)
        assert window.below == pytest.approx((error[bins < window.first] ** p).sum())
        assert window.stop - window.first <= 3 or kind == "huge and small"
        tested += 1
    assert tested > 5


def test_sums_of_tiles_add_up_to_those_of_the_whole():
    u = uncertainties("continuous")
    error = errors(u)
    whole = ErrorSums.of(bin_of(u), error, p=2, unit=1.0)
    parts = [ErrorSums.of(bin_of(own), wrong, p=2, unit=1.0) for own, wrong in tiles_of(u, error, 5)]
    merged = parts[0] + parts[1] + parts[2] + parts[3] + parts[4]
    assert merged.pixels == whole.pixels == 300
    np.testing.assert_allclose(merged.powers, whole.powers, rtol=1e-12)
    for other in (ErrorSums.of(bin_of(u), error, p=1, unit=1.0), ErrorSums.of(bin_of(u), error, p=2, unit=2.0)):
        with pytest.raises(ValueError, match="different distances or units"):
            _ = whole + other


def test_bins_have_the_order_of_the_numbers_whatever_their_type():
    special = [5e-324, 1e-45, 1.17549421e-38, 1.17549435e-38, 1.0, np.nextafter(1, 0), 3.4028234e38, 1e39, 1e308]
    numbers = np.sort(np.concatenate([special, uncertainties("huge and small", dtype=np.float64)]))
    bins = bin_of(numbers)
    assert (np.diff(bins) >= 0).all()
    assert bins[0] == 0
    assert len(np.unique(bins)) > 200
    single = numbers[(numbers > 1e-45) & (numbers < 1e38)].astype(np.float32)
    assert np.array_equal(bin_of(single), bin_of(single.astype(np.float64)))
    half = uncertainties("continuous", dtype=np.float16)
    assert np.array_equal(bin_of(half), bin_of(half.astype(np.float64)))


@pytest.mark.parametrize("mask", ["soft", "binary"])
@pytest.mark.parametrize("dtype", [">f4", ">f8", np.longdouble])
def test_numbers_of_other_computers_have_the_same_threshold(mask, dtype):
    u = uncertainties("continuous")
    error = errors(u)
    native = image_threshold(u, error, 0 * error, "l2", 0.2, mask)
    assert 0 < native < np.inf
    assert image_threshold(u.astype(dtype), error, 0 * error, "l2", 0.2, mask) == pytest.approx(native, rel=2e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sorting_by_the_bits_is_sorting_by_value(dtype):
    u = uncertainties("huge and small", dtype=dtype)
    error = np.arange(300.0)
    ordered, carried = sort_pixels(u, error)
    assert np.array_equal(ordered, np.sort(u))
    assert np.array_equal(u[carried.astype(int)], ordered)


def test_an_error_whose_power_is_too_small_for_a_number_still_counts():
    assert (powers_of(np.array([1e-200, 0.0, 2.0]), p=2) == [np.finfo(float).tiny, 0, 4]).all()
    u, error = np.array([1.0, 2.0]), np.array([1e-170, 1e-170])
    assert image_threshold(u, error, 0 * error, "l2", 0.5e-170, "binary") < 1


def test_running_sums_by_blocks_are_those_one_by_one():
    rng = np.random.default_rng(3)
    for n in (1, 63, 64, 65, 500):
        u, error = np.sort(rng.random(n)), rng.integers(1, 4, n).astype(float)
        pixels = SortedPixels.of(u, error, p=1, unit=1.0, mask="binary", below=2.0)
        budgets = np.arange(2.0, 2 + error.sum() + 2)
        fitting = [np.count_nonzero(2 + np.cumsum(error) <= budget) for budget in budgets]
        expected = np.append(np.nextafter(u, 0), np.inf)[fitting]
        assert np.array_equal(pixels.thresholds(budgets), expected)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 128, 500])
@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("levels", [0, 3, 40])
def test_a_soft_threshold_from_sums_of_blocks_uses_each_budget_up(n, p, levels):
    rng = np.random.default_rng(n + levels)
    u = np.sort(rng.random(n) + 0.1)
    u = np.ceil(u * levels) / levels if levels else u
    error = rng.random(n) * (rng.random(n) > 0.3)
    error[0] = 0.5
    pixels = SortedPixels.of(u, error, p=p, unit=1.0, mask="soft", below=0.2, above=0.7)
    budgets = np.sort(rng.random(200)) * (0.2 + (error**p).sum() + 0.7 * u[-1] ** p)
    for budget, t in zip(budgets, pixels.thresholds(budgets), strict=True):
        used = 0.2 + (np.minimum(t / u, 1) ** p * error**p).sum() + 0.7 * t**p
        assert used == pytest.approx(max(budget, 0.2), rel=1e-11)
    assert pixels.thresholds(np.array([1e9]))[0] > u[-1]


def test_a_window_without_pixels_is_answered_by_its_edges():
    nothing = (np.empty(0, np.float32), np.empty(0))
    for mask, expected in (("soft", 0.25), ("binary", 0.5)):
        pixels = SortedPixels.of(*nothing, p=1, unit=1.0, mask=mask, low=0.1, high=0.5, below=1.0, above=4.0)
        assert pixels.thresholds(np.array([2.0]))[0] == expected
        pixels = SortedPixels.of(*nothing, p=1, unit=1.0, mask=mask, low=0.1, high=0.5, below=1.0)
        assert pixels.thresholds(np.array([2.0]))[0] == 0.5


def test_pixels_without_error_are_not_left_one_by_one(monkeypatch):
    """A sum that is too large by its last digit is found out when it is evaluated; then many pixels cost nothing."""
    calls = []
    evaluate = Lp.__call__
    monkeypatch.setattr(Lp, "__call__", lambda *given: calls.append(1) or evaluate(*given))
    u, error = np.arange(1.0, 2**16 + 1), np.zeros(2**16)
    error[:3], error[-1] = 0.1, 5
    found = image_threshold(u, error, 0 * error, "l1", 0.3 / 2**16, "binary")
    assert 0.1 + 0.1 + 0.1 > 0.3
    assert 2 < found < 3
    assert len(calls) < 10
