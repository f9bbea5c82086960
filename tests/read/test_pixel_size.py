from __future__ import annotations

import pytest

from napari_maskcal.read.pixel_size import PixelSize, pixel_size


def test_it_is_that_of_the_last_two_axes():
    found = pixel_size((2.0, 0.5, -0.1, 0.2), ("second", "micrometer", "nm", "nm"))
    assert found == PixelSize(y=0.1, x=0.2, unit="nm")
    assert str(found) == "0.1 × 0.2 nm"


@pytest.mark.parametrize(
    ("scale", "units"),
    [
        ((1, 1), ("pixel", "pixel")),
        ((1, 1), ("micrometer", "pixel")),
        ((1, 1), ("micrometer", "nanometer")),
        ((0, 1), ("micrometer", "micrometer")),
        ((1, float("nan")), ("micrometer", "micrometer")),
        ((1, float("inf")), ("micrometer", "micrometer")),
        ((1, 1), ("reference frame", "reference frame")),
        ((1, 1), ("9**9**9*m", "9**9**9*m")),
    ],
)
def test_what_is_no_size_of_a_pixel_is_not_known(scale, units):
    assert pixel_size(scale, units) is None


@pytest.mark.parametrize(
    ("y", "x", "unit", "alike"),
    [
        (0.1, 0.1, "micrometer", True),
        (100, 100, "nanometer", True),
        (0.109, 0.091, "um", True),
        (0.112, 0.1, "micrometer", False),
        (0.1, 0.089, "micrometer", False),
        (0.1, 0.1, "nanometer", False),
        (1e-4, 1e-4, "millimeter", True),
        (0.1, 0.1, "second", False),  # no length, so nobody can tell
        (0.1, 0.1, "mikrometer", False),
        (0.1, 0.1, "µm", True),
    ],
)
def test_two_are_alike_to_a_tenth_in_whatever_unit(y, x, unit, alike):
    own, other = PixelSize(y=0.1, x=0.1, unit="micrometer"), PixelSize(y=y, x=x, unit=unit)
    assert own.is_like(other) is alike


@pytest.mark.parametrize("unit", ["9**9**9*m", "1/0", "m m", "2m", "_m", "m" * 33, "m\n", "", "__import__('os')"])
def test_a_unit_is_one_name_and_nothing_to_be_computed(unit):
    with pytest.raises(ValueError, match="unit"):
        PixelSize(y=1, x=1, unit=unit)
