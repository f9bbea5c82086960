"""An image with named axes, pixel size and units."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.read.pixel_size import PixelSize, pixel_size

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

KNOWN_AXES = "TCZYX"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Pixels and what their axes mean.

    Attributes
    ----------
    data
        Array of any library that slices like numpy; it is read plane by plane.
    axes
        One letter an axis, out of T, C, Z, Y and X; the last two are YX.
    scale
        Pixel size (time step, plane distance) along each axis.
    units
        Unit of each axis as a word that pint knows, such as ``"micrometer"``; ``"pixel"`` where unknown.
    name
        What messages call the image.
    """

    data: Any
    axes: str
    scale: tuple[float, ...]
    units: tuple[str, ...]
    name: str = "image"

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""
        return tuple(int(n) for n in self.data.shape)

    @property
    def pixel_size(self) -> PixelSize | None:
        """Along Y and X; None where it is not known."""
        return pixel_size(self.scale, self.units)

    def planes(self, *, channel: int | None = None) -> list[tuple[int, ...]]:
        """Return the index of each plane along the leading axes; of one channel, where there are channels."""
        ranges = [
            [channel] if axis == "C" and channel is not None else range(n)
            for axis, n in zip(self.axes[:-2], self.shape[:-2], strict=True)
        ]
        return list(product(*ranges))

    def stack_of(self, index: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Return the indices of all planes along Z that a plane is among, its own included; without Z, that alone."""
        if "Z" not in self.axes:
            return (index,)
        z = self.axes.index("Z")
        return tuple((*index[:z], i, *index[z + 1 :]) for i in range(self.shape[z]))

    def read_plane(self, index: tuple[int, ...]) -> NDArray[Any]:
        """Return one (Y, X) plane as a numpy array, checked to be finite.

        Raises
        ------
        ValueError
            If it holds NaN or infinite values (the message counts them and names the first position), or cannot be
        read at all.
        """
        try:
            plane = np.asarray(self.data[index])
        except Exception as error:  # lazy arrays of any library fail in ways of their own
            raise ValueError(f"{self.describe(index)} cannot be read: {error}") from error
        check_finite(plane, where=self.describe(index))
        return plane

    def check_in_memory(self, indices: list[tuple[int, ...]]) -> None:
        """Check the planes at once if they are in memory, where that is cheap; else each is when it is read."""
        if _in_memory(self.data) and self.data.dtype.kind == "f":
            for index in indices:
                self.read_plane(index)

    def describe(self, index: tuple[int, ...]) -> str:
        """Name a plane for a message: ``nuclei, plane Z=3``."""
        position = " ".join(f"{axis}={i}" for axis, i in zip(self.axes, index, strict=False))
        return f"{self.name}, plane {position}" if position else self.name


def _in_memory(data: Any) -> bool:
    """Whether reading costs nothing: a numpy array that is not, and is no view of, a file on disk."""
    while isinstance(data, np.ndarray):
        if isinstance(data, np.memmap):
            return False
        if data.base is None:
            return True
        data = data.base
    return False


def from_array(
    data: Any,
    *,
    axes: str,
    scale: tuple[float, ...] | None = None,
    units: tuple[str, ...] | None = None,
    name: str = "image",
) -> Image:
    """Return an `Image`, checked.

    Raises
    ------
    ValueError
        If the axes don't fit the array, are unknown or do not end in YX, or the dtype is not a number's.
    """
    axes = check_axes(axes, tuple(data.shape), name=name)
    check_dtype(data.dtype, name=name)
    n = len(axes)
    return Image(
        data=data, axes=axes, scale=scale or (1.0,) * n, units=units or ("pixel",) * n, name=name
    )  # fmt: skip


def check_dtype(dtype: DTypeLike, *, name: str) -> None:
    """Raise ValueError unless images of `dtype` can be restored: integers to 32 bits, or floating point."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise ValueError(f"{name} has dtype {dtype}; restoring takes integer or floating-point images")
    if dtype.kind in "ui" and dtype.itemsize == 8:
        raise ValueError(f"{name} has dtype {dtype}, which exceeds what float32 can tell apart; convert it to uint32")


def check_axes(axes: str, shape: tuple[int, ...], *, name: str) -> str:
    """Return `axes` in capitals, or say in a ValueError why they do not fit `shape`."""
    upper = axes.upper()
    if len(shape) == 3 and shape[-1] in (3, 4) and upper.endswith("S"):
        raise ValueError(f"{name} is an RGB image; the network takes one channel: split the channels first")
    unknown = sorted(set(upper) - set(KNOWN_AXES))
    if unknown:
        raise ValueError(f"axes {axes!r} of {name} have {', '.join(unknown)}; known are T, C, Z, Y and X")
    if len(upper) != len(shape):
        raise ValueError(f"axes {axes!r} name {len(upper)} axes, but {name} has {len(shape)}, of shape {shape}")
    if len(set(upper)) != len(upper) or not upper.endswith("YX"):
        raise ValueError(f"axes {axes!r} of {name} have to end in YX and name each axis once, such as TZYX")
    return upper


def propose_axes(ndim: int) -> str:
    """Return what an image of `ndim` unnamed axes most often is; to be shown to the user, never used unseen."""
    return {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}.get(ndim, "")


def check_finite(plane: NDArray[Any], *, where: str) -> None:
    """Raise ValueError, counting them and naming the first, if `plane` has NaN or infinite values."""
    if plane.dtype.kind != "f":
        return
    wrong = ~np.isfinite(plane)
    if count := int(np.count_nonzero(wrong)):
        first = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), plane.shape))
        raise ValueError(
            f"{where} has {count} NaN or infinite values, the first at (y, x) = {first}; replace them before restoring"
        )
