from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from napari_maskcal.read.files import read_image

if TYPE_CHECKING:
    from pathlib import Path

AXES = [{"name": "t", "unit": "second"}, {"name": "c"}, *({"name": n, "unit": "micrometer"} for n in "zyx")]
SCALE = [1.5, 1.0, 0.5, 0.25, 0.125]


def multiscales(**changes: Any) -> list[dict[str, Any]]:
    transformations = [{"type": "translation", "translation": [0] * 5}, {"type": "scale", "scale": SCALE}]
    dataset = {"path": "0", "coordinateTransformations": transformations}
    return [{"axes": AXES, "datasets": [dataset, dataset | {"path": "1"}]} | changes]


def write(path: Path, version: int, attributes: dict[str, Any] | None = None) -> np.ndarray:
    """Write an OME-Zarr of version 0.4 (zarr 2) or 0.5 (zarr 3)."""
    data = np.random.default_rng(0).integers(200, size=(2, 3, 4, 6, 5)).astype(np.uint16)
    attributes = {"multiscales": multiscales()} if attributes is None else attributes
    group = zarr.open_group(path, mode="w", zarr_format=version)
    group.attrs.update(attributes if version == 2 else {"ome": {"version": "0.5", **attributes}})
    for name, pixels in (("0", data), ("1", data[..., ::2, ::2])):
        group.create_array(name, shape=pixels.shape, dtype=pixels.dtype, chunks=(1, 1, 1, 6, 5))[...] = pixels
    return data


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cells.zarr"


@pytest.mark.parametrize("version", [2, 3])
def test_the_full_resolution_is_read_with_axes_pixel_size_and_units(folder, version):
    data = write(folder, version)
    image = read_image(folder)
    assert (image.axes, image.scale, image.name) == ("TCZYX", tuple(SCALE), "cells")
    assert image.units == ("second", "pixel", "micrometer", "micrometer", "micrometer")
    assert image.shape == data.shape
    np.testing.assert_array_equal(image.read_plane((1, 2, 3)), data[1, 2, 3])


def test_pixels_are_read_when_they_are_needed(folder):
    data = write(folder, 3)
    image = read_image(folder)
    assert not isinstance(image.data, np.ndarray)
    for chunk in (folder / "0" / "c" / "1").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    np.testing.assert_array_equal(image.read_plane((0, 2, 3)), data[0, 2, 3])
    with pytest.raises(ValueError, match="cells, plane T=1 C=2 Z=3 cannot be read"):
        image.read_plane((1, 2, 3))


def test_axes_that_the_user_gives_go_first(folder):
    write(folder, 3)
    assert read_image(folder, axes="ctzyx").axes == "CTZYX"
    with pytest.raises(ValueError, match=r"axes 'ZYX' name 3 axes, but cells has 5"):
        read_image(folder, axes="ZYX")


def test_a_bare_array_needs_its_axes_named(folder):
    array = zarr.create_array(folder, shape=(3, 4, 5), dtype="uint8")
    array[...] = 7
    with pytest.raises(ValueError, match=r"is a bare zarr array of shape \(3, 4, 5\); name its axes, .* --axes ZYX"):
        read_image(folder)
    image = read_image(folder, axes="TYX")
    assert (image.axes, image.units) == ("TYX", ("pixel",) * 3)


@pytest.mark.parametrize(
    ("attributes", "missing"),
    [
        ({}, "multiscales"),
        ({"multiscales": []}, "index"),
        ({"multiscales": multiscales(datasets=[])}, "index"),
        ({"multiscales": multiscales(datasets=[{"path": "0"}])}, "coordinateTransformations"),
        ({"multiscales": multiscales(datasets=[{"path": "0", "coordinateTransformations": []}])}, "StopIteration"),
        ({"multiscales": multiscales(axes=list("tczyx"))}, "indices"),
    ],
)
@pytest.mark.parametrize("version", [2, 3])
def test_incomplete_metadata_are_refused_by_name(folder, version, attributes, missing):
    write(folder, version, attributes)
    with pytest.raises(
        ValueError, match=rf"cells\.zarr is a zarr group without complete OME-Zarr metadata: .*{missing}"
    ):
        read_image(folder)


def test_a_dataset_that_is_not_there_is_refused_by_name(folder):
    scale = [{"type": "scale", "scale": SCALE}]
    write(folder, 3, {"multiscales": multiscales(datasets=[{"path": "7", "coordinateTransformations": scale}])})
    with pytest.raises(ValueError, match=r"cells\.zarr .*'7'"):
        read_image(folder)


def test_a_folder_that_is_no_zarr_is_refused_by_name(folder):
    folder.mkdir()
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"cells\.zarr is not an OME-Zarr image"):
        read_image(folder)


def test_a_missing_folder_is_refused_by_name(folder):
    with pytest.raises(ValueError, match=r"cells\.zarr does not exist; choose an image file"):
        read_image(folder)
