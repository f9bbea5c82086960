from __future__ import annotations

import numpy as np
import pytest

from napari_maskcal.read.image import Image, check_axes, from_array, propose_axes


def test_what_is_not_said_is_pixels_of_size_one():
    image = from_array(np.zeros((2, 3, 4, 5)), axes="tzyx", name="cells")
    assert (image.axes, image.shape, image.name) == ("TZYX", (2, 3, 4, 5), "cells")
    assert (image.scale, image.units) == ((1.0,) * 4, ("pixel",) * 4)


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((4, 5), "ZYX", r"axes 'ZYX' name 3 axes, but cells has 2, of shape \(4, 5\)"),
        ((3, 4, 5), "YX", r"axes 'YX' name 2 axes, but cells has 3"),
        ((3, 4, 5), "QYX", r"axes 'QYX' of cells have Q; known are T, C, Z, Y and X"),
        ((3, 4, 5), "YXZ", r"have to end in YX"),
        ((3, 4, 5), "ZXY", r"have to end in YX"),
        ((3, 3, 4, 5), "ZZYX", r"name each axis once"),
        ((4, 5, 3), "YXS", r"cells is an RGB image; .* split the channels first"),
        ((4, 5), "", r"axes '' name 0 axes"),
    ],
)
def test_axes_that_do_not_fit_are_refused_never_guessed(shape, axes, message):
    with pytest.raises(ValueError, match=message):
        check_axes(axes, shape, name="cells")


@pytest.mark.parametrize("dtype", ["bool", "complex64", "int64", "uint64", "longdouble", "U3", "object"])
def test_a_number_type_that_float32_cannot_stand_for_is_refused(dtype):
    with pytest.raises(ValueError, match=f"cells has dtype {np.dtype(dtype)}"):
        from_array(np.zeros((4, 5), dtype), axes="YX", name="cells")


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", "uint32", "float16", "float64"])
def test_other_numbers_are_taken_as_they_are(dtype):
    pixels = np.zeros((4, 5), dtype)
    assert from_array(pixels, axes="YX").data is pixels


def test_planes_are_counted_along_the_leading_axes():
    image = from_array(np.zeros((2, 3, 2, 4, 5)), axes="TCZYX")
    assert len(image.planes()) == 12
    assert image.planes(channel=1) == [(0, 1, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1)]
    assert from_array(np.zeros((4, 5)), axes="YX").planes() == [()]
    assert from_array(np.zeros((0, 4, 5)), axes="ZYX").planes() == []


def test_a_plane_is_named_by_its_position():
    image = from_array(np.zeros((2, 3, 4, 5)), axes="TCYX", name="cells")
    assert image.describe((1, 2)) == "cells, plane T=1 C=2"
    assert image.describe(()) == "cells"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_plane_that_is_not_finite_is_refused_with_count_and_first_position(value):
    pixels = np.zeros((2, 4, 5), np.float32)
    pixels[1, 2, 3] = pixels[1, 3, 0] = value
    image = from_array(pixels, axes="ZYX", name="cells")
    assert image.read_plane((0,)).shape == (4, 5)
    with pytest.raises(ValueError, match=r"cells, plane Z=1 has 2 NaN or infinite values, the first at .* \(2, 3\)"):
        image.read_plane((1,))


def test_only_what_is_in_memory_is_checked_ahead():
    class Lazy:
        shape, dtype, reads = (2, 4, 5), np.dtype(np.float32), 0

        def __getitem__(self, index):
            self.reads += 1
            return np.full((4, 5), np.nan, np.float32)

    lazy = Lazy()
    from_array(lazy, axes="ZYX").check_in_memory([(0,), (1,)])
    assert lazy.reads == 0
    with pytest.raises(ValueError, match="Z=1 has 20 NaN"):
        from_array(np.stack([np.zeros((4, 5)), lazy[0]]), axes="ZYX").check_in_memory([(0,), (1,)])


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("Zstd decompression error")])
def test_a_plane_that_cannot_be_read_is_refused_by_name_and_reason(error):
    class Broken:
        shape, dtype = (2, 4, 5), np.dtype(np.uint8)

        def __getitem__(self, index):
            raise error

    with pytest.raises(ValueError, match=r"cells, plane Z=1 cannot be read: .*error"):
        from_array(Broken(), axes="ZYX", name="cells").read_plane((1,))


@pytest.mark.parametrize(("ndim", "axes"), [(1, ""), (2, "YX"), (3, "ZYX"), (4, "TZYX"), (5, "TCZYX"), (6, "")])
def test_axes_are_proposed_by_the_number_of_dimensions(ndim, axes):
    assert propose_axes(ndim) == axes


def test_images_are_frozen():
    image = from_array(np.zeros((4, 5)), axes="YX")
    with pytest.raises(AttributeError):
        image.axes = "XY"
    assert isinstance(image, Image)
