"""Room for results: in memory while they are small, in an unnamed temporary file when they are not."""

from __future__ import annotations

import os
import tempfile
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

_IN_MEMORY_BYTES = 2**30


def allocate(shape: Sequence[int], dtype: DTypeLike, *, fill: int = 0) -> NDArray[Any]:
    """Return an array of `fill`; above 1 GiB it lives in a temporary file that vanishes with it.

    Raises
    ------
    ValueError
        If the temporary folder has too little room.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    if size <= _IN_MEMORY_BYTES:
        return np.full(shape, fill, dtype)
    with tempfile.TemporaryFile() as file:
        try:
            # A sparse file on a full disk would kill the process at some later write, without a word.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            raise ValueError(
                f"the result needs {size / 2**30:.1f} GiB in {tempfile.gettempdir()}: {error.strerror}; make room, "
                "or set the environment variable TMPDIR to a larger disk"
            ) from error
        array = np.memmap(file, dtype=dtype, mode="r+", shape=tuple(shape))
    if fill:
        array[...] = fill
    return array
