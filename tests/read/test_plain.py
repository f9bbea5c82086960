from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image as Pillow

from napari_maskcal.read.files import open_image, read_image
from triplet_files import noise


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_grey_png_is_read_unchanged(tmp_path, dtype):
    data = noise(6, 7, dtype=dtype) * (1 if dtype == "uint8" else 300)
    Pillow.fromarray(data).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image.axes, image.shape, image.data.dtype, image.name) == ("YX", (6, 7), dtype, "a")
    np.testing.assert_array_equal(image.read_plane(()), data)
    np.testing.assert_array_equal(image.data[2:4], data[2:4])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
def test_png_in_colour_is_refused(tmp_path, mode):
    Pillow.fromarray(noise(6, 7, 3, dtype="uint8")).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is an RGB image; .* save it in grey"):
        read_image(tmp_path / "a.png")


def test_a_damaged_png_is_refused_by_name(tmp_path):
    path = tmp_path / "a.png"
    Pillow.fromarray(noise(60, 70, dtype="uint8")).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.png cannot be read as PNG"):
        read_image(path).read_plane(())
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as PNG"):
        read_image(path)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npy_stack_is_mapped_and_needs_axes(tmp_path, order):
    data = np.asarray(noise(3, 6, 7), order=order)
    np.save(tmp_path / "a.npy", data)
    with pytest.raises(ValueError, match=r"a\.npy of shape \(3, 6, 7\) does not say .*--axes ZYX"):
        open_image(tmp_path / "a.npy")
    image = open_image(tmp_path / "a.npy", axes="zyx")
    assert isinstance(image.data, np.memmap)
    np.testing.assert_array_equal(image.read_plane((2,)), data[2])
    np.save(tmp_path / "b.npy", data[0])
    assert read_image(tmp_path / "b.npy").axes == "YX"


class Trap:
    def __reduce__(self):
        return pytest.fail, ("the file was unpickled",)


def test_npy_with_objects_is_refused_and_never_unpickled(tmp_path):
    array = np.empty((2, 2), object)
    array[:] = Trap()
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=rf"{name}\.npy cannot be read as NPY"):
            read_image(tmp_path / f"{name}.npy")


def test_an_npy_file_that_was_cut_off_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, noise(60, 70))
    content = path.read_bytes()
    for length in (0, 5, 60, 500, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a\.npy cannot be read as NPY"):
            read_image(path)
