from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from napari_maskcal.distance.base import is_distance, is_pixel_distance
from napari_maskcal.distance.custom import from_callable
from napari_maskcal.distance.fingerprint import code_sha256
from napari_maskcal.distance.registry import parse_distance


def largest(restored, truth):
    return np.abs(restored - truth).max()


def test_the_function_gets_the_masked_images_of_each_field():
    seen = []
    distance = from_callable(lambda restored, truth: seen.append((restored, truth)) or 0.5, name="mine")
    trust = np.array([[[True, False]], [[True, True]]])
    restored, truth = np.uint8([[[7, 8]], [[1, 2]]]), np.float32([[[3, 4]]])
    assert distance.between(trust, restored, truth).tolist() == [0.5, 0.5]
    assert [[image.tolist() for image in pair] for pair in seen] == [[[[7, 0]], [[3, 0]]], [[[1, 2]], [[3, 4]]]]
    assert all(image.dtype == np.float64 for pair in seen for image in pair)


def test_channels_come_as_a_leading_axis():
    distance = from_callable(lambda restored, truth: restored.shape == truth.shape == (2, 1, 3) and 1.0, name="shape")
    assert distance.between(np.ones((4, 1, 3)), np.ones((1, 2, 1, 3)), np.ones((4, 2, 1, 3))).tolist() == [1] * 4


def test_a_function_may_write_into_its_images():
    distance = from_callable(lambda a, b: float(np.subtract(a, b, out=a).max()), name="inplace")
    restored = np.ones((1, 2, 2))
    for _ in range(2):
        assert distance.between(np.ones((2, 2, 2)), restored, np.zeros((1, 2, 2))).tolist() == [1, 1]


@pytest.mark.parametrize("given", [1, 1.0, np.float32(1), np.array(1), torch.tensor(1.0)])
def test_numbers_of_all_kinds_are_taken(given):
    distance = from_callable(lambda *_: given, name="one")
    assert distance.between(*[np.ones((1, 2, 2))] * 3).tolist() == [1]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (np.nan, "nan"),
        (np.inf, "inf"),
        (-0.25, r"-0\.25"),
        (None, "None"),
        ("0.5", "'0.5'"),
        (True, "True"),
        (np.array([1.0]), r"array\(\[1\.\]\)"),
        (np.ones((9, 9)), r"array\(\[\[1\..*\.\.\."),
        (torch.ones((), requires_grad=True), r"tensor\(1\., requires_grad=True\)"),
        (1j, "1j"),
    ],
)
def test_what_is_no_distance_is_refused_by_name_and_value(given, shown):
    distance = from_callable(lambda *_: given, name="odd one")
    with pytest.raises(ValueError, match=rf"^the distance odd one gave {shown}; it has to be one finite number of at"):
        distance.between(*[np.ones((1, 2, 2))] * 3)


def test_a_function_that_fails_is_named_with_its_reason():
    distance = from_callable(lambda *_: 1 / 0, name="broken")
    with pytest.raises(ValueError, match="the distance broken failed: ZeroDivisionError: division by zero"):
        distance.between(*[np.ones((1, 2, 2))] * 3)


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "a" * 61, "a: b", "-a"])
def test_a_name_that_a_sentence_cannot_hold_is_refused(name):
    with pytest.raises(ValueError, match="cannot name a distance; take up to 60 letters"):
        from_callable(largest, name=name)


@pytest.mark.parametrize("name", ["l1", "L2", "lpips", "ssim", "linf-blur3"])
def test_a_built_in_name_cannot_be_taken(name):
    with pytest.raises(ValueError, match=f"{name} is the name of a built-in distance; choose another"):
        from_callable(largest, name=name)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match="the distance a is a float; it has to be a function of two images"):
        from_callable(1.0, name="a")


def test_a_claim_to_be_monotone_is_kept_and_does_not_make_it_exact():
    assert not from_callable(largest, name="a").monotone
    claimed = from_callable(largest, name="a", monotone=True)
    assert claimed.monotone
    assert is_distance(claimed)
    assert not is_pixel_distance(claimed)
    assert is_pixel_distance(parse_distance("l1"))


def test_a_distance_is_given_back_as_it_is_and_not_found_by_its_name():
    mine = from_callable(largest, name="mine")
    assert parse_distance(mine) is mine
    assert mine.sentence_name == "distance “mine”"
    with pytest.raises(ValueError, match="no distance 'mine'"):
        parse_distance("mine")


def test_the_version_is_part_of_the_identity():
    plain, versioned = (from_callable(largest, name="a", version=version).identity for version in ("", "2"))
    assert plain.startswith("code sha256:")
    assert versioned == f"version 2, {plain}"


def compiled(text: str):
    """A function without source, as one that was typed into a console."""
    names: dict[str, object] = {}
    exec(text, names)  # noqa: S102
    return names["f"]


def scaled(factor):
    return lambda a, b: factor * abs(a - b).max()


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, a, b):
        return self.factor * abs(a - b).max()

    def apply(self, a, b):
        return self(a, b)


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (lambda: compiled("def f(a, b): return 1"), lambda: compiled("def f(a, b): return 1"),
         lambda: compiled("def f(a, b): return 2")),
        (lambda: compiled("def f(a, b): return a.max()"), lambda: compiled("def f(a, b): return a.max()"),
         lambda: compiled("def f(a, b): return a.min()")),
        (lambda: compiled("def f(a, b): return (lambda: 1)()"), lambda: compiled("def f(a, b): return (lambda: 1)()"),
         lambda: compiled("def f(a, b): return (lambda: 2)()")),
        (lambda: compiled("def f(a, b, c=1): return c"), lambda: compiled("def f(a, b, c=1): return c"),
         lambda: compiled("def f(a, b, c=2): return c")),
        (lambda: scaled(1), lambda: scaled(1), lambda: scaled(2)),
        (lambda: scaled(np.zeros(3)), lambda: scaled(np.zeros(3)), lambda: scaled(np.ones(3))),
        (lambda: functools.partial(max, 1), lambda: functools.partial(max, 1), lambda: functools.partial(max, 2)),
        (lambda: Scaled(1), lambda: Scaled(1), lambda: Scaled(2)),
        (lambda: Scaled(1).apply, lambda: Scaled(1).apply, lambda: Scaled(2).apply),
        (lambda: Scaled({"a": {1}}), lambda: Scaled({"a": {1}}), lambda: Scaled({"a": {2}})),
        (lambda: largest, lambda: largest, lambda: scaled(1)),
    ],
)  # fmt: skip
def test_a_function_that_changed_has_another_identity_and_an_equal_one_has_not(one, same, other):
    assert code_sha256(one()).startswith("code sha256:")
    assert code_sha256(one()) == code_sha256(same()) != code_sha256(other())


def test_an_object_that_holds_itself_has_an_identity():
    ring = Scaled(1)
    ring.factor = ring
    assert code_sha256(ring) == code_sha256(ring)


def test_compiled_functions_that_show_nothing_have_none():
    assert code_sha256(max) == ""
    assert code_sha256(np.maximum) == ""
