"""The numbers that networks are given, and the float32 that they compute in."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def normalise(plane: NDArray[Any], offset: float, span: float) -> NDArray[np.float32]:
    """Return ``(plane - offset) / span`` in float32."""
    # float32 holds 16-bit integers exactly; wider ones would lose digits before the offset is taken off.
    if plane.dtype.itemsize > 2:
        with np.errstate(over="ignore"):  # what becomes infinite here is refused with the outputs
            return np.asarray((plane.astype(np.float64) - offset) / span, dtype=np.float32)
    return (plane.astype(np.float32) - np.float32(offset)) / np.float32(span)


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Compute in the float32 that was calibrated, whatever precision others have asked of torch.

    TensorFloat-32, torch's default for convolutions on CUDA, has 10 bits, and autocast has 7 or 10.
    """
    with ExitStack() as settings:
        settings.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            settings.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        yield
