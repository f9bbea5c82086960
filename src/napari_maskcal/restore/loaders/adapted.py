"""Foreign networks in the form that the engine runs: modules from one channel to one channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor


class Frozen(nn.Module):
    """A network that cannot be put into another mode, since what it computes was fixed when it was exported."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> Frozen:
        """Stay as it is."""
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, channels, Y, X) to (N, channels, factor Y, factor X); of volumes with Z."""
        restored: Tensor = self.network(image)
        return restored


class OfArrays(nn.Module):
    """A function of one (Y, X) or (Z, Y, X) numpy array, as a module."""

    def __init__(self, function: Callable[[NDArray[np.float32]], Any], name: str) -> None:
        super().__init__()
        self._function, self._name = function, name

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, Y, X) to (N, 1, factor Y, factor X), or (N, 1, Z, Y, X) to the same."""
        arrays = [self._of(array) for array in image[:, 0].cpu().numpy()]
        return torch.from_numpy(np.stack(arrays))[:, None].to(image.device)

    def _of(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        restored = np.asarray(self._function(array.copy()))
        if restored.ndim != array.ndim or restored.dtype.kind not in "fiub":
            raise ValueError(
                f"{self._name} gave an array of shape {restored.shape} and type {restored.dtype}; a restorer gives a "
                f"{'plane' if array.ndim == 2 else 'volume'} of numbers"
            )
        return restored.astype(np.float32)


class Grey(nn.Module):
    """A network for colours that is shown a grey image as three equal ones; its answer is their mean."""

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, Y, X) to (N, 1, factor Y, factor X)."""
        restored: Tensor = self.network(image.expand(-1, self.channels, *image.shape[2:]))
        check_float32(restored, "the restorer")
        return restored.mean(dim=1, keepdim=True)


class InFloat32(nn.Module):
    """A network that is refused once it gives anything but float32: a promise is about the very numbers it gives."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, Y, X) to (N, 1, factor Y, factor X)."""
        restored: Tensor = self.network(image)
        check_float32(restored, "the restorer")
        return restored


def check_float32(restored: Tensor, name: str) -> None:
    """Raise ValueError for an answer of another type, which would have to be rounded, or counts in other units."""
    if restored.dtype != torch.float32:
        given = str(restored.dtype).removeprefix("torch.")
        raise ValueError(f"{name} gives {given}, and not float32; export it so that its last step gives float32")


def adapted(network: nn.Module, spec: dict[str, Any]) -> nn.Module:
    """Return the network as it is used on one channel, by the `network` part of its card."""
    channels = spec.get("channels", 1)
    return InFloat32(network) if channels == 1 else Grey(network, channels)
