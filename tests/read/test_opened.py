from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import zarr

from napari_maskcal.read.files import open_image, read_image
from napari_maskcal.read.opened import OpenImages, file_state, read_header
from triplet_files import noise, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "cells.tif"


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"imagej": True}, {"ome": True}])
def test_an_image_read_lazily_says_of_itself_what_the_whole_does(file, options):
    data = noise(2, 3, 20, 30)
    tifffile.imwrite(file, data, metadata={"axes": "TZYX"}, photometric="minisblack", **options)
    lazy, whole = open_image(file), read_image(file)
    assert not isinstance(lazy.data, np.ndarray)
    assert (lazy.axes, lazy.shape, lazy.scale, lazy.units, lazy.name, lazy.data.dtype) == (
        (whole.axes, whole.shape, whole.scale, whole.units, whole.name, whole.data.dtype)
    )
    for index in lazy.planes():
        np.testing.assert_array_equal(lazy.read_plane(index), whole.data[index])


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("contiguous", [True, False])
def test_a_stack_cut_off_anywhere_is_refused_or_read_whole(file, compression, contiguous):
    data = noise(4, 30, 40)
    write(file, data, metadata={"axes": "ZYX"}, compression=compression, contiguous=contiguous)
    content = file.read_bytes()
    refused = 0
    for length in range(0, len(content), len(content) // 40):
        file.write_bytes(content[:length])
        try:
            image = open_image(file)
            read = np.stack([image.read_plane(index) for index in image.planes()])
        except ValueError as error:
            refused += "cannot be read" in str(error) and "\n" not in str(error)
        else:
            np.testing.assert_array_equal(read, data)
    assert refused > 35


def test_one_of_several_files_is_refused(tmp_path):
    paths = [tmp_path / f"{name}.ome.tif" for name in "ab"]
    header = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
    header += 'DimensionOrder="XYZCT" Type="uint16" SizeX="9" SizeY="8" SizeC="1" SizeZ="2" SizeT="1">'
    for z, path in enumerate(paths):
        header += f'<TiffData FirstZ="{z}" IFD="0"><UUID FileName="{path.name}">urn:uuid:{z}</UUID></TiffData>'
    for z, path in enumerate(paths):
        described = header.replace("<OME ", f'<OME UUID="urn:uuid:{z}" ') + "</Pixels></Image></OME>"
        tifffile.imwrite(path, noise(8, 9, seed=z), description=described, metadata=None)
    with pytest.raises(ValueError, match=r"a\.ome\.tif cannot be read as TIFF: it is one of several files"):
        open_image(paths[0])


def test_few_images_stay_open_and_each_until_its_file_changes(tmp_path):
    paths = [write(tmp_path / f"{i}.tif", noise(2, 8, 9, seed=i)) for i in range(3)]
    images = OpenImages(kept_open=2)
    first = images.open(paths[0], axes="ZYX")
    assert images.open(paths[0], axes="ZYX") is first
    assert images.open(paths[0], axes="TYX") is not first
    for path in paths[1:]:
        images.open(path, axes="ZYX")
    again = images.open(paths[0], axes="ZYX")
    assert again is not first
    write(paths[0], noise(3, 8, 9))
    assert images.open(paths[0], axes="ZYX").shape == (3, 8, 9)


def test_the_state_is_another_after_each_change(file):
    write(file, noise(8, 9))
    states = [file_state(file)]
    assert file_state(file) == states[0]
    for seed in range(5):
        write(file, noise(8, 9, seed=seed))  # of the same size, at once
        states.append(file_state(file))
    assert len(set(states)) == 6


def test_the_state_of_a_folder_is_that_of_all_in_it(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", data=noise(2, 8, 9), chunks=(1, 8, 9))
    states = {file_state(tmp_path / "a.zarr")}
    array[1, 0, 0] = 999
    states.add(file_state(tmp_path / "a.zarr"))
    (tmp_path / "a.zarr" / "c" / "1" / "0" / "0").unlink()
    states.add(file_state(tmp_path / "a.zarr"))
    assert len(states) == 3


def test_what_is_not_there_has_no_state(file):
    with pytest.raises(ValueError, match=r"cells\.tif cannot be read: No such file"):
        file_state(file)
    with pytest.raises(ValueError, match=r"cells\.tif does not exist"):
        read_header(file, axes=None)
