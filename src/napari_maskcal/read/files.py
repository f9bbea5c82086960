"""Open an image file by what it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_maskcal.read.image import Image


def read_image(path: str | Path, *, axes: str | None = None) -> Image:
    """Return the image in a TIFF file or an OME-Zarr folder.

    Parameters
    ----------
    path
        ``.tif``, ``.tiff`` or ``.zarr``.
    axes
        One letter an axis, for files that do not say it; what is given here goes before what the file says.

    Raises
    ------
    ValueError
        If there is no such file, or it is not readable as an image.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"{path} does not exist; choose an image file")
    if path.is_dir():
        from napari_maskcal.read.zarr import read_zarr

        return read_zarr(path, axes=axes)
    from napari_maskcal.read.tiff import read_tiff

    return read_tiff(path, axes=axes)
