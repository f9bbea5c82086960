"""Foreign networks in the form that the engine runs: modules from one channel to one channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
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
        """Map (N, channels, Y, X) to (N, channels, factor Y, factor X)."""
        restored: Tensor = self.network(image)
        return restored


class Grey(nn.Module):
    """A network for colours that is shown a grey image as three equal ones; its answer is their mean."""

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, Y, X) to (N, 1, factor Y, factor X)."""
        restored: Tensor = self.network(image.expand(-1, self.channels, -1, -1))
        return restored.mean(dim=1, keepdim=True)


def adapted(network: nn.Module, spec: dict[str, Any]) -> nn.Module:
    """Return the network as it is used on one channel, by the `network` part of its card."""
    channels = spec.get("channels", 1)
    return network if channels == 1 else Grey(network, channels)
