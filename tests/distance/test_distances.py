from __future__ import annotations

import numpy as np
import pytest

from napari_maskcal.distance.base import is_distance, is_pixel_distance
from napari_maskcal.distance.linf import LInfinity
from napari_maskcal.distance.lp import Lp, error_magnitude
from napari_maskcal.distance.registry import parse_distance

ERROR = np.array([[3.0, 0.0], [4.0, 1.0]])


@pytest.mark.parametrize(
    ("name", "full", "half"),
    [
        ("l1", 2.0, 1.0),
        ("l2", np.sqrt(26 / 4), np.sqrt(26 / 16)),
        ("l3", (92 / 4) ** (1 / 3), (92 / 32) ** (1 / 3)),
        ("l1.5", ((3**1.5 + 8 + 1) / 4) ** (2 / 3), ((3**1.5 + 8 + 1) / 4) ** (2 / 3) / 2),
        ("linf", 4.0, 2.0),
    ],
)
def test_distances_of_four_pixels_are_those_worked_out_by_hand(name, full, half):
    distance = parse_distance(name)
    assert distance(np.ones((2, 2)), ERROR) == pytest.approx(full)
    assert distance(np.full((2, 2), 0.5), ERROR) == pytest.approx(half)
    assert distance(np.zeros((2, 2)), ERROR) == 0


@pytest.mark.parametrize("name", ["l1", "l2", "l7", "linf"])
def test_trusting_more_never_lowers_a_distance_that_calls_itself_monotone(name):
    rng = np.random.default_rng(0)
    distance, error = parse_distance(name), rng.random((8, 8))
    assert distance.monotone
    for _ in range(50):
        less = rng.random((8, 8))
        more = np.minimum(less + rng.random((8, 8)) * (rng.random((8, 8)) < 0.1), 1)
        assert distance(less, error) <= distance(more, error)


def test_masked_pixels_count_as_pixels_without_error():
    trust = np.array([[1, 1], [0, 0]], dtype=bool)
    assert parse_distance("l1")(trust, ERROR) == 3 / 4  # not 3 / 2, the mean over the trusted ones
    assert parse_distance("linf")(trust, ERROR) == 3


def test_the_error_of_channels_is_their_norm():
    restored, truth = np.zeros((2, 1, 3)), np.array([[[3.0, 0, 1]], [[4.0, 2, 0]]])
    assert error_magnitude(restored, truth, (1, 3)).tolist() == [[5, 2, 1]]
    assert error_magnitude(restored[0], truth[0], (1, 3)).tolist() == [[3, 0, 1]]


def test_the_error_of_unsigned_integers_does_not_wrap_around():
    assert error_magnitude(np.uint16([[1]]), np.uint16([[3]]), (1, 1)).tolist() == [[2]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("l1", Lp(1)),
        ("L2", Lp(2)),
        ("l64", Lp(64)),
        ("l1.50", Lp(1.5)),
        ("LInf", LInfinity()),
        ("l-infinity", LInfinity()),
        ("linf-blur2.50", LInfinity(2.5)),
        (LInfinity(), LInfinity()),
    ],
)
def test_a_distance_is_found_by_its_name(text, expected):
    assert parse_distance(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "l",
        "l0",
        "l0.5",
        "l65",
        "l1e3",
        "l-2",
        "lnan",
        "mse",
        "l2 ",
        "linf-blur0",
        "linf-blur101",
        "lpips-squeeze",
        "lpips:",
    ],
)
def test_a_name_that_is_no_distance_is_refused(text):
    with pytest.raises(ValueError, match=f"no distance '{text}'; known are l1, l2, lP, linf, linf-blurS, ssim, lpips"):
        parse_distance(text)


@pytest.mark.parametrize("name", ["l1", "l2", "l3", "linf", "linf-blur1"])
def test_the_distances_of_several_fields_are_those_of_each(name):
    rng = np.random.default_rng(1)
    distance, trust = parse_distance(name), rng.random((3, 5, 7))
    restored, truth = rng.random((3, 5, 7)), rng.random((3, 5, 7))
    each = [distance(t, distance.error(a, b, t.shape)) for t, a, b in zip(trust, restored, truth, strict=True)]
    assert distance.between(trust, restored, truth).tolist() == each
    shared = distance.between(trust, restored[:1], truth[:1])
    assert shared[0] == each[0]
    assert shared[1] != each[1]


def test_a_blur_spreads_the_error_of_one_pixel_over_its_neighbours():
    restored, truth = np.zeros((21, 21)), np.zeros((21, 21))
    restored[10, 10] = 1
    error = parse_distance("linf-blur2").error(restored, truth, (21, 21))
    weights = np.exp(-(np.arange(-8, 9) ** 2) / 8)
    assert error[10, 10] == pytest.approx(1 / weights.sum() ** 2)
    assert error[10, 12] == pytest.approx(np.exp(-0.5) / weights.sum() ** 2)
    two_channels = parse_distance("linf-blur2").error(np.stack([restored] * 2), np.stack([truth] * 2), (21, 21))
    assert two_channels == pytest.approx(np.sqrt(2) * error)


def test_only_distances_made_from_one_error_a_pixel_are_exact():
    assert [is_pixel_distance(parse_distance(name)) for name in ("l2", "linf", "ssim", "lpips")] == [
        True,
        True,
        False,
        False,
    ]
    assert all(is_distance(parse_distance(name)) for name in ("l2", "linf", "ssim", "lpips"))
    assert not is_distance(Lp)
    assert not is_distance("l2")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("l1", "mean absolute error"),
        ("l2", "root-mean-square error"),
        ("l2.5", "L2.5 error"),
        ("linf", "largest error of any pixel"),
        ("linf-blur2", "largest error of any pixel after a blur of 2 pixels"),
    ],
)
def test_the_promise_names_the_distance_in_words(name, words):
    assert parse_distance(name).sentence_name == words
