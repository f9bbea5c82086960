"""TIFF files: pixels by tifffile, axes and pixel size from OME, ImageJ or plain metadata."""

from __future__ import annotations

import logging
import struct
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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
    try:
        with _strictly(), tifffile.TiffFile(path) as file:
            series = file.series[0]
            data, stored = series.asarray(), series.axes
            sizes = _sizes(file)
    except (OSError, ValueError, IndexError, struct.error, zlib.error, tifffile.TiffFileError) as error:
        raise ValueError(f"{path} cannot be read as TIFF: {error}") from error
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
def _strictly() -> Iterator[None]:
    """Make an error of what tifffile only logs: a stack that was cut off would come back as the planes left of it."""
    complaints: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
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
