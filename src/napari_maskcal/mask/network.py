"""The mask network: (degraded, restored) -> uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from napari_maskcal.restore.unet import UNet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Head = Literal["sigmoid", "exponential"]


class MaskNetwork(nn.Module):
    """Small U-Net that sees the degraded and the restored image and gives each pixel a positive uncertainty.

    Parameters
    ----------
    widths
        Channels at each level of the U-Net.
    channels
        Channels of the images; the uncertainty always has one.
    head
        ``"sigmoid"``: the paper's mask m = sigmoid(z), with uncertainty 1 - m.
        ``"exponential"``: log uncertainty itself, fitted by `score_loss`.

    References
    ----------
    Kutiel, Cohen, Elad, Freedman, "What's Behind the Mask: Estimating Uncertainty in Image-to-Image
    Problems", arXiv 2211.15211 (2022).
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64), *, channels: int = 1, head: Head = "sigmoid") -> None:
        super().__init__()
        if head not in ("sigmoid", "exponential"):
            raise ValueError(f"the mask network's head is {head!r}; it is 'sigmoid' or 'exponential'")
        self.head: Head = head
        self.trunk = UNet(widths, inputs=2 * channels)
        self.stride_px, self.halo_px = self.trunk.stride_px, self.trunk.halo_px
        # The paper's loss has no gradient left once m = 0 everywhere: start where nearly all is trusted.
        if self.trunk.head.bias is not None:
            nn.init.constant_(self.trunk.head.bias, 2.0 if head == "sigmoid" else -2.0)

    def logits(self, degraded: Tensor, restored: Tensor) -> Tensor:
        """Map two (N, channels, Y, X) images, in normalised intensities, to (N, 1, Y, X) raw outputs.

        A degraded image on a coarser grid is repeated onto the restored one.
        """
        if degraded.shape[-2:] != restored.shape[-2:]:
            degraded = nn.functional.interpolate(degraded, size=restored.shape[-2:], mode="nearest")
        z: Tensor = self.trunk(torch.cat((degraded, restored), dim=1))
        return z.clamp(-60, 60)  # keeps both heads inside float32's normal range

    def forward(self, degraded: Tensor, restored: Tensor) -> Tensor:
        """Return the uncertainty, (N, 1, Y, X), above 0."""
        z = self.logits(degraded, restored).float()
        # sigmoid(-z), not 1 - sigmoid(z): the difference has no digits left where m is near 1
        return torch.sigmoid(-z) if self.head == "sigmoid" else torch.exp(z)
