"""Networks of spandrel in the form that the engine runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_maskcal.restore.loaders.adapted import Frozen

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    Call = Callable[[nn.Module, Tensor], Tensor]

_TRIAL_PX = 32


class Called(Frozen):
    """A network with the way in which it is to be called, such as with a map of noise beside the image."""

    def __init__(self, network: nn.Module, call: Call, *, batched: bool) -> None:
        super().__init__(network)
        self.call, self.batched = call, batched

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, channels, Y, X) to (N, channels, factor Y, factor X), without cutting off what is above 1."""
        if self.batched or len(image) == 1:
            return self.call(self.network, image)
        return torch.cat([self.call(self.network, one[None]) for one in image])


def takes_batches(network: nn.Module, call: Call, *, channels: int, multiple_px: int, least_px: int) -> bool:
    """Whether several images at once are answered, each as it would be alone."""
    size = max(least_px, -(-_TRIAL_PX // multiple_px) * multiple_px)
    images = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        try:
            both, alone = call(network, images), call(network, images[1:])
        except Exception:  # noqa: BLE001 - whatever a network does not like about two images
            return False
    return both.shape[1:] == alone.shape[1:] and len(both) == 2 and torch.allclose(both[1:], alone, atol=1e-4)
