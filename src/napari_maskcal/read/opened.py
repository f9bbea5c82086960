"""Images that are open for reading, and what an image file says before its pixels are read."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.read.files import open_image

if TYPE_CHECKING:
    from pathlib import Path

    from napari_maskcal.read.cache import Cache
    from napari_maskcal.read.image import Image

_KEPT_OPEN = 4  # one stack for each part of a triplet
_CLOCK_TICK_S = 0.02  # file systems tell times apart that lie this far from each other


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is known of an image without its pixels.

    Attributes
    ----------
    axes, shape, dtype
        Letters, sizes and the name of the dtype in the computer's own byte order.
    scale, units
        Pixel size along each axis, as in `Image`.
    """

    axes: str
    shape: tuple[int, ...]
    dtype: str
    scale: tuple[float, ...]
    units: tuple[str, ...]

    @property
    def stack(self) -> dict[str, int]:
        """Size of each axis along which there is more than one plane."""
        leading = zip(self.axes[:-2], self.shape[:-2], strict=True)
        return {axis: size for axis, size in leading if size != 1}


_KIND = f"header of {' '.join(Header.__slots__)}"  # what an earlier version kept had other ones


def header_of(image: Image) -> Header:
    """Return what `image` says of itself."""
    dtype = np.dtype(image.data.dtype).newbyteorder("=").name
    scale = tuple(map(float, image.scale))
    return Header(axes=image.axes, shape=image.shape, dtype=dtype, scale=scale, units=tuple(image.units))


def read_header(path: Path, *, axes: str | None, cache: Cache | None = None) -> Header:
    """Return the header of a file, out of `cache` if the file is as it was then.

    Raises
    ------
    ValueError
        As `open_image`.
    """
    key = file_key(_KIND, path, file_state(path), axes) if cache else ""
    if cache and (kept := _parsed(cache.get(key))):
        return kept
    header = header_of(open_image(path, axes=axes))
    if cache:
        cache.put(key, json.dumps(asdict(header)).encode())
    return header


def _parsed(kept: bytes | None) -> Header | None:
    if kept is None:
        return None
    v = json.loads(kept)
    shape, scale, units = tuple(v["shape"]), tuple(v["scale"]), tuple(v["units"])
    return Header(axes=v["axes"], shape=shape, dtype=v["dtype"], scale=scale, units=units)


def file_state(path: Path, *, settled: bool = False) -> tuple[Any, ...]:
    """Return what changes whenever the file, or a file in the OME-Zarr folder, does.

    Waits a moment if one just did, unless the caller knows that it has `settled`.

    Raises
    ------
    ValueError
        If there is no such file.
    """
    try:
        state, changed = _folder_state(path) if path.is_dir() else _state(os.stat(path))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    age = time.time() - changed
    if settled or not 0 <= age < _CLOCK_TICK_S:
        return state
    time.sleep(_CLOCK_TICK_S - age)  # a change right after this one would have the same time
    return file_state(path, settled=True)


def _state(status: os.stat_result) -> tuple[tuple[Any, ...], float]:
    changed = max(status.st_mtime, status.st_ctime)
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino), changed


def _folder_state(folder: Path) -> tuple[tuple[Any, ...], float]:
    digest, changed = hashlib.sha256(), 0.0
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(place, name)
            state, at = _state(os.stat(path))
            digest.update(repr((os.path.relpath(path, folder), state)).encode(errors="surrogateescape"))
            changed = max(changed, at)
    return (digest.hexdigest(),), changed


def file_key(kind: str, path: Path, *more: Any) -> str:
    """Return the name under which something about the file `path` is kept in a `Cache`."""
    return json.dumps([kind, 1, os.path.abspath(path), *more])


class OpenImages:
    """The few stacks that were read from last, each open until others take its place or its file changes."""

    def __init__(self, kept_open: int = _KEPT_OPEN) -> None:
        self._images: OrderedDict[tuple[Any, ...], Image] = OrderedDict()
        self._kept_open = kept_open
        self._lock = threading.Lock()

    def open(self, path: Path, *, axes: str | None) -> Image:
        """Return the image, opened before or now."""
        key = (path, axes, *_identity(path))
        with self._lock:
            image = self._images.pop(key, None) or open_image(path, axes=axes)
            self._images[key] = image
            while len(self._images) > self._kept_open:
                self._images.popitem(last=False)
        return image

    def __reduce__(self) -> tuple[type[OpenImages], tuple[int]]:
        return type(self), (self._kept_open,)  # another process opens its own


def _identity(path: Path) -> tuple[Any, ...]:
    try:
        return _state(os.stat(path))[0]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
