"""PNG and NPY files: pixels without pixel size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.read.image import Image, from_array, propose_axes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_GREY = {"L": np.uint8, "I;16": np.uint16, "I": np.uint16, "1": np.bool_}  # Pillow 10 calls 16 bits "I"


def read_png(path: Path, *, axes: str | None = None) -> Image:
    """Return a grey PNG image; its pixels are read when needed.

    Raises
    ------
    ValueError
        If the file is missing, damaged, in colour, or moving, or `axes` are not YX.
    """
    return from_array(PngPixels(path), axes=axes or "YX", name=path.stem)


class PngPixels:
    """The pixels of a grey PNG file, decoded each time they are asked for."""

    ndim = 2

    def __init__(self, path: Path) -> None:
        self._path = path
        mode, (width, height), frames = self._decode(lambda picture: (picture.mode, picture.size, _frames(picture)))
        if mode not in _GREY:
            raise ValueError(f"{path.name} is an RGB image; the network takes one channel: save it in grey")
        if frames > 1:
            raise ValueError(f"{path.name} is a moving image of {frames} frames; save it as a TIFF stack")
        self.shape, self.dtype = (height, width), np.dtype(_GREY[mode])

    def __getitem__(self, index: Any) -> NDArray[Any]:
        pixels: NDArray[Any] = self._decode(lambda picture: np.array(picture, self.dtype))
        return pixels[index]  # type: ignore[no-any-return]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[()], dtype)

    def _decode(self, function: Any) -> Any:
        from PIL import Image as Pillow

        try:
            with Pillow.open(self._path, formats=("PNG",)) as picture:
                return function(picture)
        except Exception as error:  # a damaged PNG file comes as SyntaxError, EOFError, zlib.error and more
            raise ValueError(f"{self._path} cannot be read as PNG: {error}") from error


def _frames(picture: Any) -> int:
    return int(getattr(picture, "n_frames", 1))


def read_npy(path: Path, *, axes: str | None = None) -> Image:
    """Return the array in an NPY file; its pixels are read when needed.

    Raises
    ------
    ValueError
        If the file is missing or damaged, holds Python objects, or has axes without names and `axes` is None.
    """
    try:
        data = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header fails in many ways; it is never unpickled
        raise ValueError(f"{path} cannot be read as NPY: {error}") from error
    if axes is None and data.ndim != 2:
        raise ValueError(
            f"{path.name} of shape {data.shape} does not say what its axes are; name them, such as "
            f"--axes {propose_axes(data.ndim) or 'TCZYX'}"
        )
    return from_array(data, axes=axes or "YX", name=path.stem)
