from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_maskcal.read.files import read_image
from napari_maskcal.read.image import from_array
from napari_maskcal.read.tiff import read_tiff, write_tiff
from small_models import noisy_planes


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "cells.tif"


def pixels(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(200, size=shape).astype(dtype)


@pytest.mark.parametrize(
    ("axes", "scale", "units"),
    [
        ("YX", (0.25, 0.5), ("micrometer", "micrometer")),
        ("CYX", (1.0, 0.25, 0.25), ("pixel", "micrometer", "micrometer")),
        ("ZYX", (290.0, 0.25, 0.25), ("nanometer", "micrometer", "micrometer")),
        ("TCZYX", (1.5, 1.0, 2.0, 0.25, 0.25), ("second", "pixel", "micrometer", "millimeter", "micrometer")),
        ("TYX", (20.0, 1.0, 1.0), ("millisecond", "pixel", "pixel")),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_axes_pixel_size_and_units_come_back_as_written(file, axes, scale, units, dtype):
    data = pixels(*(2, 3, 3, 6, 5)[-len(axes) :], dtype=dtype)  # three planes, which must not become RGB
    write_tiff(file, data, from_array(data, axes=axes, scale=scale, units=units))
    again = read_tiff(file)
    assert (again.axes, again.units) == (axes, units)
    assert again.scale == pytest.approx(scale)
    assert again.data.dtype == dtype
    np.testing.assert_array_equal(again.data, data)


@pytest.mark.parametrize("name", ["cells.ome.tif", "µ-Zellen (1).TIFF"])
def test_the_image_is_called_by_its_file(tmp_path, name):
    tifffile.imwrite(tmp_path / name, pixels(4, 5))
    assert read_image(str(tmp_path / name)).name == Path(name).stem


@pytest.mark.parametrize("unit", ["um", "\\u00B5m", "micron"])
def test_imagej_calibration_is_read_whatever_way_it_writes_micrometers(file, unit):
    metadata = {"axes": "TZYX", "spacing": 0.75, "unit": unit, "finterval": 12.5}
    tifffile.imwrite(file, pixels(2, 3, 4, 5), imagej=True, resolution=(4, 2), metadata=metadata)
    image = read_tiff(file)
    assert (image.axes, image.scale) == ("TZYX", (12.5, 0.75, 0.5, 0.25))
    assert image.units == ("second", "micrometer", "micrometer", "micrometer")


def test_without_a_unit_resolutions_mean_nothing(file):
    tifffile.imwrite(file, pixels(3, 4, 5), imagej=True, resolution=(300, 300), metadata={"axes": "ZYX"})
    image = read_tiff(file)
    assert (image.scale, image.units) == ((1.0,) * 3, ("pixel",) * 3)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float16", "float32", "float64", ">u2", ">f4"])
def test_pixels_of_every_number_type_are_read_unchanged(file, dtype):
    data = pixels(3, 8, 9, dtype=dtype)
    order = ">" if dtype.startswith(">") else "<"
    tifffile.imwrite(file, data, metadata={"axes": "ZYX"}, photometric="minisblack", byteorder=order)
    image = read_tiff(file)
    assert image.data.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(image.data, data)


@pytest.mark.parametrize("written", [{}, {"metadata": None}, {"metadata": {"axes": "QYX"}}])
def test_axes_without_names_are_asked_for_and_never_guessed(file, written):
    tifffile.imwrite(file, pixels(7, 8, 9), photometric="minisblack", **written)
    with pytest.raises(ValueError, match=r"cells.tif of shape \(7, 8, 9\) does not say .*, such as --axes ZYX"):
        read_tiff(file)
    assert read_tiff(file, axes="tyx").axes == "TYX"
    with pytest.raises(ValueError, match=r"axes 'YX' name 2 axes, but cells has 3"):
        read_tiff(file, axes="YX")


def test_what_the_user_says_goes_before_what_the_file_says(file):
    tifffile.imwrite(file, pixels(3, 4, 5), metadata={"axes": "ZYX"}, photometric="minisblack")
    assert read_tiff(file).axes == "ZYX"
    assert read_tiff(file, axes="CYX").axes == "CYX"


@pytest.mark.parametrize(("shape", "options"), [((8, 9, 3), {}), ((8, 9, 4), {"extrasamples": ["unassalpha"]})])
def test_rgb_images_are_refused(file, shape, options):
    tifffile.imwrite(file, pixels(*shape, dtype="uint8"), photometric="rgb", **options)
    with pytest.raises(ValueError, match=r"cells\.tif is an RGB image; .* split the channels first"):
        read_tiff(file)


def test_an_image_of_one_plane_needs_no_axes(file):
    tifffile.imwrite(file, pixels(4, 5))
    assert read_tiff(file).axes == "YX"


def test_a_missing_file_is_refused_by_name(file):
    with pytest.raises(ValueError, match=r"cells\.tif does not exist; choose an image file"):
        read_image(file)


@pytest.mark.parametrize("content", [b"", b"II", b"II*\x00", b"not a tiff at all", bytes(1000), b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_tiff_is_refused_by_name_in_one_line(file, content):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"cells\.tif cannot be read as TIFF: .") as caught:
        read_image(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_cut_off_anywhere_is_refused_or_read_whole(file, compression):
    data = pixels(4, 30, 40)
    tifffile.imwrite(file, data, metadata={"axes": "ZYX"}, photometric="minisblack", compression=compression)
    content = file.read_bytes()
    refused = 0
    for length in range(0, len(content), len(content) // 40):
        file.write_bytes(content[:length])
        try:
            read = read_image(file).data
        except ValueError as error:
            refused += str(error).startswith(str(file)) and "\n" not in str(error)
        else:
            np.testing.assert_array_equal(read, data)
    assert refused > 35


def test_damaged_compressed_pixels_are_refused_by_name(file):
    tifffile.imwrite(file, pixels(4, 30, 40), metadata={"axes": "ZYX"}, photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(file) as tiff:
        start = tiff.pages[1].dataoffsets[0]
    content = bytearray(file.read_bytes())
    content[start + 5 : start + 200] = bytes(195)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"cells\.tif cannot be read as TIFF"):
        read_image(file)


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {}])
def test_a_stack_that_was_cut_off_is_refused_not_shortened(tmp_path, options):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, noisy_planes(5, 64, 64), **options, metadata={"axes": "ZYX"}, contiguous=False)
    assert read_tiff(path).shape == (5, 64, 64)
    content = path.read_bytes()
    for share in (0.3, 0.5, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="cannot be read as TIFF"):
            read_tiff(path, axes="ZYX")
