"""TIFF files: pixels by tifffile, axes and pixel size from OME, ImageJ or plain metadata."""

from __future__ import annotations

import logging
import math
import struct
import threading
import weakref
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from napari_maskcal.read.image import KNOWN_AXES, Image, from_array, propose_axes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_UNITS = {"µm": "micrometer", "um": "micrometer", "micron": "micrometer", "nm": "nanometer", "mm": "millimeter",
          "s": "second", "ms": "millisecond", "sec": "second"}  # fmt: skip
_SHORT = {"micrometer": "µm", "nanometer": "nm", "millimeter": "mm", "second": "s", "millisecond": "ms"}


def read_tiff(path: Path, *, axes: str | None = None) -> Image:
    """Return the first image series of a TIFF file.

    Raises
    ------
    ValueError
        If the file is missing or damaged, is an RGB image, or has axes without names and `axes` is None.
    """
    with _named_errors(path), tifffile.TiffFile(path) as file:
        series = file.series[0]
        data, stored, sizes = series.asarray(), series.axes, _sizes(file)
    return _image(data, stored, sizes, path=path, axes=axes)


def open_tiff(path: Path, *, axes: str | None = None) -> Image:
    """Return the same image as `read_tiff`, of which a plane is read when it is asked for.

    Raises
    ------
    ValueError
        As `read_tiff`, as far as it can be told without the pixels.
    """
    with _named_errors(path):
        pixels = TiffPixels(path)
    return _image(pixels, pixels.axes, pixels.sizes, path=path, axes=axes)


class TiffPixels:
    """The pixels of the first series of a TIFF file, read plane by plane.

    Attributes
    ----------
    axes, sizes
        What the file says of its axes, and of the size and unit of each.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._file = tifffile.TiffFile(path)
        weakref.finalize(self, self._file.close)
        self._series = series = self._file.series[0]
        if series.is_multifile:
            raise ValueError("it is one of several files of an OME-TIFF set; save the set as one file each image")
        self.axes, self.sizes = series.axes, _sizes(self._file)
        self.shape, self.dtype, self.ndim = tuple(series.shape), np.dtype(series.dtype), len(series.shape)
        self._offset = None if series.transform else series.dataoffset
        size = math.prod(self.shape) * self.dtype.itemsize
        if self._offset is not None and self._offset + size > self._file.filehandle.size:
            raise ValueError("the file is damaged or was cut off: it is too short for its pixels")

    def __getitem__(self, index: tuple[int, ...]) -> NDArray[Any]:
        """Return the plane at `index`, which counts along all axes but the last two."""
        number = int(np.ravel_multi_index(index, self.shape[:-2])) if index else 0
        with _named_errors(self._path):
            return self._read(number)

    def _read(self, number: int) -> NDArray[Any]:
        if self._offset is not None:
            return self._read_raw(self._offset, number)
        series = self._series
        if len(series) != math.prod(self.shape[:-2]) or series.transform or series.keyframe.shape != self.shape[-2:]:
            planes = np.asarray(series.asarray()).reshape(-1, *self.shape[-2:])
            return np.array(planes[number])
        with self._lock:
            page = series[number]
            if page is None:
                raise ValueError("the plane is missing in the file")
            return np.asarray(page.asarray())

    def _read_raw(self, offset: int, number: int) -> NDArray[Any]:
        plane = np.empty(self.shape[-2:], self.dtype.newbyteorder(self._file.byteorder))
        with self._path.open("rb") as file:
            file.seek(offset + number * plane.nbytes)
            if file.readinto(plane.reshape(-1).view(np.uint8).data) != plane.nbytes:
                raise ValueError("the file is damaged or was cut off: it is too short for its pixels")
        return plane.astype(self.dtype, copy=False)


def _image(data: Any, stored: str, sizes: dict[str, tuple[float, str]], *, path: Path, axes: str | None) -> Image:
    """Return `data` with the axes that the user gives, else those that the file says."""
    if stored.endswith("S") and axes is None:
        raise ValueError(f"{path.name} is an RGB image; the network takes one channel: split the channels first")
    if axes is None and not set(stored) <= set(KNOWN_AXES):
        raise ValueError(
            f"{path.name} of shape {data.shape} does not say what its axes are; name them, such as "
            f"--axes {propose_axes(data.ndim) or 'TCZYX'}"
        )
    named = (axes or stored).upper()
    scale, units = zip(*(sizes.get(axis, (1.0, "pixel")) for axis in named), strict=True)
    return from_array(data, axes=named, scale=scale, units=units, name=path.stem)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Make a ValueError that begins with `path` of whatever a damaged file leads to."""
    try:
        with _strictly():
            yield
    # RuntimeError: those of imagecodecs, which tifffile decompresses with where it is installed.
    except (OSError, ValueError, IndexError, RuntimeError, struct.error, zlib.error, tifffile.TiffFileError) as error:
        raise ValueError(f"{path} cannot be read as TIFF: {error}") from error


@contextmanager
def _strictly() -> Iterator[None]:
    """Make an error of what tifffile only logs: a stack that was cut off would come back as the planes left of it."""
    complaints: list[str] = []
    thread = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                complaints.append(record.getMessage())

    logger, collector = logging.getLogger("tifffile"), Collector(logging.ERROR)
    logger.addHandler(collector)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate
    if complaints:
        raise ValueError(f"the file is damaged or was cut off: {complaints[0]}")


def write_tiff(path: Path, data: NDArray[Any], like: Image) -> None:
    """Write `data` as OME-TIFF with the axes, pixel size and units of `like`, which is of the same shape."""
    metadata: dict[str, Any] = {"axes": like.axes}
    for axis, size, unit in zip(like.axes, like.scale, like.units, strict=True):
        if unit == "pixel" or axis == "C":
            continue
        key = "TimeIncrement" if axis == "T" else f"PhysicalSize{axis}"
        metadata |= {key: size, f"{key}Unit": _SHORT.get(unit, unit)}
    tifffile.imwrite(path, data, ome=True, metadata=metadata, compression="zlib")


def _sizes(file: tifffile.TiffFile) -> dict[str, tuple[float, str]]:
    """Return (size, unit) of each axis that the file gives."""
    if file.ome_metadata:
        return _ome_sizes(tifffile.xml2dict(file.ome_metadata))
    if file.imagej_metadata:
        return _imagej_sizes(file)
    return {}


def _ome_sizes(ome: dict[str, Any]) -> dict[str, tuple[float, str]]:
    image = ome["OME"]["Image"]
    pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
    keys = {"Z": "PhysicalSizeZ", "Y": "PhysicalSizeY", "X": "PhysicalSizeX", "T": "TimeIncrement"}
    return {
        axis: (float(pixels[key]), _unit(pixels.get(f"{key}Unit", "s" if axis == "T" else "µm")))
        for axis, key in keys.items()
        if key in pixels
    }


def _imagej_sizes(file: tifffile.TiffFile) -> dict[str, tuple[float, str]]:
    metadata = file.imagej_metadata or {}
    unit = _unit(str(metadata.get("unit", "pixel")))
    sizes: dict[str, tuple[float, str]] = {}
    tags = file.pages.first.tags
    for axis, tag in (("X", "XResolution"), ("Y", "YResolution")):
        pixels, per = tags[tag].value if tag in tags else (1, 1)
        if pixels and unit != "pixel":
            sizes[axis] = (per / pixels, unit)
    if "spacing" in metadata and unit != "pixel":
        sizes["Z"] = (float(metadata["spacing"]), unit)
    if "finterval" in metadata:
        sizes["T"] = (float(metadata["finterval"]), _unit(str(metadata.get("tunit", "s"))))
    return sizes


def _unit(text: str) -> str:
    # ImageJ writes the micro sign as an escape
    clean = text.replace("\\u00B5", "µ").replace("μ", "µ").strip()
    return _UNITS.get(clean, clean) or "pixel"
