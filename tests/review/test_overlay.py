from __future__ import annotations

from math import isnan

import numpy as np
import pytest

from napari_maskcal.review.overlay import NOT_COMPUTED, mark_uncertain, masked_share, round_down


def neighbours(value: float) -> tuple[float, float]:
    """The float32 numbers around a float64 that lies between them."""
    nearest = np.float32(value)
    other = np.nextafter(nearest, np.float32(np.inf if float(nearest) < value else -np.inf))
    return tuple(sorted((float(nearest), float(other))))


@pytest.mark.parametrize("threshold", [0.1, 0.3, 1 / 3, 1e-30, 123456.789, 16777217.0])
def test_a_pixel_between_the_threshold_and_its_nearest_float32_is_marked(threshold):
    low, high = neighbours(threshold)
    assert low < threshold < high
    assert float(round_down(threshold)) == low
    assert mark_uncertain(np.float32([low, high]), threshold).tolist() == [0, 1]


def test_the_comparison_that_numpy_makes_by_itself_would_trust_a_pixel_too_many():
    threshold = 0.1  # its nearest float32 lies above it
    above = np.float32(threshold)
    assert float(above) > threshold
    assert not above > threshold
    assert mark_uncertain(np.array([above]), threshold).tolist() == [1]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0, float(np.float32(0.1)), np.inf])
def test_a_threshold_that_float32_holds_stays_as_it_is(threshold):
    assert float(round_down(threshold)) == threshold


def test_a_threshold_too_small_for_float32_trusts_nothing():
    assert float(round_down(1e-50)) == 0
    assert mark_uncertain(np.float32([1e-45]), 1e-50).tolist() == [1]


def test_uncertainty_above_the_threshold_is_marked_and_equal_to_it_is_not():
    marked = mark_uncertain(np.float32([[0.25, 0.5], [0.75, 1e9]]), 0.5)
    assert marked.dtype == np.uint8
    assert marked.tolist() == [[0, 0], [1, 1]]


def test_a_threshold_of_zero_marks_everything_and_an_infinite_one_nothing():
    uncertainty = np.float32([[1e-30, 1.0, 3e38]])
    assert mark_uncertain(uncertainty, 0.0).all()
    assert not mark_uncertain(uncertainty, np.inf).any()


def test_the_masked_share_is_that_of_the_computed_pixels():
    labels = np.full((3, 2, 4, 5), NOT_COMPUTED, np.uint8)
    assert isnan(masked_share(labels))
    labels[0, 1] = 0
    labels[2, 0] = 0
    labels[2, 0, :2] = 1
    assert masked_share(labels) == 10 / 40
    assert masked_share(labels[2, 0]) == 0.5
