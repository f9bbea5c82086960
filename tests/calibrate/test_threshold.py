from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_maskcal.calibrate import image_threshold
from napari_maskcal.calibrate.threshold import is_exact, threshold_curve
from napari_maskcal.distance.custom import from_callable
from napari_maskcal.distance.registry import parse_distance

RULES = list(product(("l1", "l2", "l3", "linf"), ("soft", "binary")))
SHARES = (0.05, 0.4, 0.9)  # of the distance of the whole image


def distance_at(threshold, u, error, distance, mask):
    """The definition, written out once more."""
    u = u.astype(np.float64)
    trust = u <= threshold if mask == "binary" else np.minimum(threshold / u, 1)
    trusted = trust * error
    if distance == "linf":
        return trusted.max()
    p = float(distance[1:])
    return np.mean(trusted**p) ** (1 / p)


def by_bisection(u, error, distance, tolerance, mask):
    """Largest passing threshold of a soft mask; of a binary one, the first group of equal pixels that fails."""
    if distance_at(u.max(), u, error, distance, mask) <= tolerance:
        return np.inf
    if mask == "binary":
        return next(t for t in np.unique(u) if distance_at(t, u, error, distance, mask) > tolerance)
    low, high = 0.0, float(u.max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if distance_at(middle, u, error, distance, mask) <= tolerance else (low, middle)
    return low


def random_field(seed, *, dtype=np.float32, levels=0, channels=0):
    """Uncertainty, restored and truth; with `levels`, the uncertainty has no more different values than that."""
    rng = np.random.default_rng(seed)
    shape = (19, 23)
    u = (1 + rng.integers(levels, size=shape)) / 4 if levels else rng.gamma(2, 0.2, shape) + 0.01
    truth = rng.normal(size=(channels, *shape) if channels else shape)
    return u.astype(dtype), truth + 0.3 * u * rng.normal(size=truth.shape), truth


def magnitude(restored, truth):
    error = restored - truth
    return np.abs(error) if error.ndim == 2 else np.sqrt((error**2).sum(axis=0))


def below(value, dtype=np.float64):
    return float(np.nextafter(dtype(value), dtype(0)))


@pytest.mark.parametrize(
    ("distance", "mask", "tolerance", "expected"),
    [
        # u = 1, 2, 4 and |e| = 1, 1, 2. L1, soft: the sum of min(t/u, 1)|e| is 2t, then 1 + t up to 2, then 2 + t/2.
        ("l1", "soft", 0.5, 0.75),
        ("l1", "soft", 2.5 / 3, 1.5),
        ("l1", "soft", 1.1, 2.6),
        ("l1", "soft", 1.34, np.inf),
        # L2, soft: the sum of squares is 1.5 t^2, then 1 + t^2/2 up to t = 2, then 2 + t^2/4.
        ("l2", "soft", np.sqrt(0.5 / 3), np.sqrt(1 / 3)),
        ("l2", "soft", np.sqrt(2 / 3), np.sqrt(2)),
        ("l2", "soft", np.sqrt(4.25 / 3), 3),
        # L3, soft: 1.25 t^3, then 1 + t^3/4.
        ("l3", "soft", (10 / 24) ** (1 / 3), 1),
        ("l3", "soft", (1.84375 / 3) ** (1 / 3), 1.5),
        # L-infinity, soft: the smallest tolerance * u/|e| of the pixels with |e| > tolerance.
        ("linf", "soft", 0.5, 0.5),
        ("linf", "soft", 1.5, 3),
        ("linf", "soft", 2.0, np.inf),
        # Binary: right below the first pixel that is too much.
        ("l1", "binary", 0.3, below(1)),
        ("l1", "binary", 0.5, below(2)),
        ("l1", "binary", 1.0, below(4)),
        ("l1", "binary", 1.34, np.inf),
        ("l2", "binary", 0.7, below(2)),
        ("l3", "binary", 0.9, below(4)),
        ("linf", "binary", 0.9, below(1)),
        ("linf", "binary", 1.0, below(4)),
    ],
)
def test_thresholds_of_three_pixels_are_those_worked_out_by_hand(distance, mask, tolerance, expected):
    found = image_threshold([[1.0, 2.0, 4.0]], [[1.0, 0.0, 2.0]], [[0.0, 1.0, 4.0]], distance, tolerance, mask)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", ["l1", "l2", "linf"])
def test_a_distance_equal_to_the_tolerance_passes(distance):
    u, error = np.arange(1.0, 5), np.array([0.5, 0.5, 0.5, 0.5])
    tolerance = {"l1": 0.25, "l2": np.sqrt(0.125), "linf": 0.5}[distance]
    assert image_threshold(u, error, 0 * error, distance, 0.5, "binary") == np.inf
    expected = np.inf if distance == "linf" else below(3)  # two of four pixels use the tolerance up
    assert image_threshold(u, error, 0 * error, distance, tolerance, "binary") == expected


@pytest.mark.parametrize(("distance", "mask"), RULES)
@pytest.mark.parametrize("kind", [{}, {"levels": 5}, {"channels": 3}])
@pytest.mark.parametrize("share", SHARES)
def test_the_closed_form_agrees_with_bisection(distance, mask, kind, share):
    u, restored, truth = random_field(7, dtype=np.float64, **kind)
    error = magnitude(restored, truth)
    tolerance = share * distance_at(np.inf, u, error, distance, "binary")
    expected = by_bisection(u, error, distance, tolerance, mask)
    assert 0 < expected < u.max() or mask == "binary"
    assert image_threshold(u, restored, truth, distance, tolerance, mask) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("distance", "mask"), RULES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("levels", [0, 4])
def test_the_threshold_passes_and_the_next_mask_does_not(distance, mask, dtype, levels):
    for seed, share in product(range(4), SHARES):
        u, restored, truth = random_field(seed, dtype=dtype, levels=levels)
        error = magnitude(restored, truth)
        tolerance = share * distance_at(np.inf, u, error, distance, "binary")
        threshold = image_threshold(u, restored, truth, distance, tolerance, mask)
        more = u[u.astype(np.float64) > threshold].min() if mask == "binary" else threshold * (1 + 1e-6)
        assert distance_at(threshold, u, error, distance, mask) <= tolerance
        assert distance_at(float(more), u, error, distance, mask) > tolerance


@pytest.mark.parametrize(("distance", "mask"), RULES)
def test_the_threshold_is_infinite_only_when_the_whole_image_passes(distance, mask):
    u, restored, truth = random_field(1)
    whole = distance_at(np.inf, u, magnitude(restored, truth), distance, "binary")
    assert image_threshold(u, restored, truth, distance, whole * 1.001, mask) == np.inf
    assert image_threshold(u, restored, truth, distance, whole * 0.999, mask) <= u.max()
    assert image_threshold(u, truth, truth, distance, 1e-9, mask) == np.inf


@pytest.mark.parametrize("distance", ["l1", "l2", "linf"])
def test_pixels_of_equal_uncertainty_are_trusted_all_or_none(distance):
    u = np.repeat(np.float32([0.1, 0.5, 0.9]), 100)
    error = np.tile([0.0, 1.0], 150)
    half_a_group = {"l1": 75 / 300, "l2": np.sqrt(75 / 300), "linf": 0.99}[distance]  # a group has 50 wrong pixels
    trusted = u <= image_threshold(u, error, 0 * error, distance, half_a_group, "binary")
    assert np.count_nonzero(trusted) == (0 if distance == "linf" else 100)


@pytest.mark.parametrize("mask", ["soft", "binary"])
@pytest.mark.parametrize("distance", ["l1", "l2", "l8", "l64", "linf"])
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_unit_of_intensity_does_not_change_the_threshold(distance, mask, factor):
    u, restored, truth = random_field(3, levels=16)
    tolerance = 0.5 * distance_at(np.inf, u, magnitude(restored, truth), distance, "binary")
    expected = image_threshold(u, restored, truth, distance, tolerance, mask)
    assert expected < np.inf
    found = image_threshold(u, restored * factor, truth * factor, distance, tolerance * factor, mask)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("distance", "mask"), RULES)
def test_a_larger_tolerance_never_lowers_the_threshold(distance, mask):
    u, restored, truth = random_field(5, levels=30)
    tolerances = np.geomspace(1e-4, 30, 60)
    found = threshold_curve(u, restored, truth, distance=distance, tolerances=tolerances, mask=mask)
    assert (found[1:] >= found[:-1]).all()
    assert found[0] < found[-1] == np.inf


@pytest.mark.parametrize(("distance", "mask"), RULES)
@pytest.mark.parametrize("levels", [0, 6])
def test_the_curve_is_the_exact_threshold_at_each_tolerance_and_never_above_it(distance, mask, levels):
    u, restored, truth = random_field(11, levels=levels)
    tolerances = np.geomspace(1e-3, 1, 80)
    curve = threshold_curve(u, restored, truth, distance=distance, tolerances=tolerances, mask=mask)
    exact = [image_threshold(u, restored, truth, distance, t, mask) for t in tolerances]
    assert (curve <= np.array(exact) * (1 + 1e-11)).all()
    np.testing.assert_allclose(curve, exact, rtol=1e-6)
    error = magnitude(restored, truth)
    for threshold, tolerance in zip(curve, tolerances, strict=True):
        assert distance_at(threshold, u, error, distance, mask) <= tolerance


def test_channels_count_by_the_norm_of_their_errors():
    u, error = np.ones((1, 1)), np.array([3.0, 4.0]).reshape(2, 1, 1)
    assert image_threshold(u, error, 0 * error, "l1", 5.001) == np.inf
    assert image_threshold(u, error, 0 * error, "l1", 2.5) == pytest.approx(0.5)
    assert image_threshold(u, error[:1], 0 * error[:1], "l1", 2.5) == pytest.approx(2.5 / 3)


def test_integer_images_are_subtracted_without_wrapping_around():
    u, dark, bright = np.ones((2, 2)), np.zeros((2, 2), np.uint8), np.full((2, 2), 200, np.uint8)
    assert image_threshold(u, dark, bright, "l1", 100) == pytest.approx(0.5)
    assert image_threshold(u, dark, bright, "l1", 100) == image_threshold(u, bright, dark, "l1", 100)


@pytest.mark.parametrize("mask", ["soft", "binary"])
def test_a_blur_makes_the_error_of_a_structure_count_for_more_than_that_of_a_pixel(mask):
    u = np.random.default_rng(0).uniform(0.5, 1.5, (24, 30))
    truth = np.zeros(u.shape)
    restored = truth.copy()
    restored[3, 3], u[3, 3] = 1.0, 0.3
    restored[12:20, 10:24] = 0.5
    blurred = np.abs(gaussian_filter(restored, 2.0))
    wrong = blurred > 0.2
    expected = (0.2 * u[wrong] / blurred[wrong]).min() if mask == "soft" else below(u[wrong].min())
    assert not wrong[:8].any()
    assert image_threshold(u, restored, truth, "linf-blur2", 0.2, mask) == pytest.approx(expected, rel=1e-12)
    assert image_threshold(u, restored, truth, "linf", 0.2, mask) < expected
    curve = threshold_curve(u, restored, truth, distance="linf-blur2", tolerances=[0.2], mask=mask)
    assert curve[0] == pytest.approx(expected, rel=1e-11)


def test_only_distances_made_of_one_error_a_pixel_are_exact():
    custom = from_callable(lambda restored, truth: 0.0, name="mine", monotone=True)
    exact = [is_exact(parse_distance(name)) for name in ("l1", "l2", "l2.5", "linf", "linf-blur2", "ssim", custom)]
    assert exact == [True] * 5 + [False] * 2


ONE = np.ones((4, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": np.ones((4, 6))}, r"truth has shape \(4, 6\), the uncertainty \(4, 5\)"),
        ({"restored": np.ones((2, 4, 5))}, r"restored has shape \(2, 4, 5\), truth \(4, 5\)"),
        ({"uncertainty": np.ones((0, 5)), "restored": np.ones((0, 5)), "truth": np.ones((0, 5))}, r"empty.*\(0, 5\)"),
        ({"restored": np.where(np.eye(4, 5), np.nan, 1)}, r"restored has 4 values that are NaN or infinite"),
        ({"truth": np.where(np.eye(4, 5), -np.inf, 1)}, r"truth has 4 values that are NaN or infinite"),
        ({"uncertainty": np.full((4, 5), np.inf)}, r"uncertainty has 20 values"),
        ({"uncertainty": ONE - np.eye(4, 5)}, r"uncertainty has to be above 0; its smallest value is 0"),
        ({"uncertainty": -0.5 * ONE}, r"smallest value is -0\.5"),
        ({"tolerance": 0}, r"tolerance is 0; give a number above 0"),
        ({"tolerance": -1}, r"tolerance is -1;"),
        ({"tolerance": np.nan}, r"tolerance is nan;"),
        ({"tolerance": np.inf}, r"tolerance is inf;"),
        ({"distance": "cosine"}, r"no distance 'cosine'; known are l1, l2, "),
        ({"mask": "fuzzy"}, r"no 'fuzzy' mask; it is 'soft' or 'binary'"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_with_the_value(change, message):
    arguments = {"uncertainty": ONE, "restored": ONE, "truth": 0 * ONE, "tolerance": 0.5}
    assert image_threshold(**arguments) == pytest.approx(0.5)
    with pytest.raises(ValueError, match=message):
        image_threshold(**arguments | change)


def test_a_power_too_large_for_the_range_of_uncertainties_is_refused():
    u = np.array([1e-30, 1.0])
    assert image_threshold(u, ONE[0, :2], 0 * u, "l2", 0.5) < np.inf
    with pytest.raises(ValueError, match=r"p = 64 is too large for uncertainties from 1e-30 to 1;"):
        image_threshold(u, ONE[0, :2], 0 * u, "l64", 0.5)
