"""Several fields at once on a device, so that no field's distance depends on which others it is computed with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

Images = tuple["NDArray[Any]", "NDArray[Any]", "NDArray[Any]"]


def checked_planes(
    name: str, trust: NDArray[Any], restored: NDArray[Any], truth: NDArray[Any], *, smallest_px: int
) -> Images:
    """Return trust (N, 1, Y, X) and the two images (N or 1, C, Y, X).

    Raises
    ------
    ValueError
        If the shapes do not go together, or a side is shorter than `smallest_px`.
    """
    if trust.ndim != 3:
        raise ValueError(f"{name} takes planes, (N, Y, X); the trust has shape {trust.shape}")
    if min(trust.shape[1:]) < smallest_px:
        size = " × ".join(str(n) for n in trust.shape[1:])
        raise ValueError(
            f"{name} needs fields of at least {smallest_px} × {smallest_px} pixels, got {size}; take larger fields"
        )
    restored, truth = (_with_channels(name, image, trust.shape) for image in (restored, truth))
    return trust[:, None], restored, truth


def _with_channels(name: str, image: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    given = image.shape
    image = image[:, None] if image.ndim == len(shape) else image
    if image.ndim != 4 or image.shape[2:] != shape[1:] or len(image) not in (1, shape[0]):
        raise ValueError(f"{name}: an image has shape {given}, the trust {shape}; they have to be the same")
    return image


def in_batches(
    images: Images,
    compute: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    at_once: int,
    device: torch.device,
) -> NDArray[np.float64]:
    """Return what `compute` gives for each of N fields, in float32 on `device`.

    It always gets `at_once` of them, the last batch being filled up with its last field: torch chooses its kernels
    by the size of the batch, and with them the last digits of the result.
    """
    trust, *others = images
    n = len(trust)
    found = np.empty(n)
    for start in range(0, n, at_once):
        own = np.minimum(np.arange(start, start + at_once), n - 1)
        rows = (trust[own], *(image[own] if len(image) > 1 else image for image in others))  # one stands for all
        found[own] = compute(*(_tensor(image).to(device) for image in rows)).cpu().numpy()
    return found


def _tensor(image: NDArray[Any]) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
