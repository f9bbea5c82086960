"""Open an image file by what it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_maskcal.read.image import Image


ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")


def read_image(path: str | Path, *, axes: str | None = None) -> Image:
    """Return the image in a TIFF, PNG or NPY file or an OME-Zarr folder.

    Parameters
    ----------
    path
        ``.tif``, ``.tiff``, ``.png``, ``.npy`` or ``.zarr``.
    axes
        One letter an axis, for files that do not say it; what is given here goes before what the file says.

    Raises
    ------
    ValueError
        If there is no such file, or it is not readable as an image.
    """
    path = _existing(path)
    if path.is_dir() or path.suffix.lower() in (".png", ".npy"):
        return open_image(path, axes=axes)
    from napari_maskcal.read.tiff import read_tiff

    return read_tiff(path, axes=axes)


def open_image(path: str | Path, *, axes: str | None = None) -> Image:
    """Return the same image as `read_image`, of which a plane is read when it is asked for.

    Raises
    ------
    ValueError
        As `read_image`, as far as it can be told without the pixels.
    """
    path = _existing(path)
    if path.is_dir():
        from napari_maskcal.read.zarr import read_zarr as read
    elif path.suffix.lower() == ".png":
        from napari_maskcal.read.plain import read_png as read
    elif path.suffix.lower() == ".npy":
        from napari_maskcal.read.plain import read_npy as read
    else:
        from napari_maskcal.read.tiff import open_tiff as read
    return read(path, axes=axes)


def is_zarr(path: Path) -> bool:
    """Return whether the folder `path` is one image, not a folder of images."""
    return path.is_dir() and (path.suffix.lower() == ".zarr" or any((path / name).exists() for name in ZARR_FILES))


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"{path} does not exist; choose an image file")
    return path
