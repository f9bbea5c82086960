"""The mask network: (degraded, restored) -> uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from napari_maskcal.mask.scores import FLOOR
from napari_maskcal.restore.unet import UNet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from napari_maskcal.mask.recipe import Recipe, TrainingField

Head = Literal["sigmoid", "exponential", "quantile"]
_HEADS = ("sigmoid", "exponential", "quantile")
_HEAD_OF: dict[str, Head] = {
    "paper": "sigmoid",
    "score": "exponential",
    "likelihood": "exponential",
    "quantile": "quantile",
}
_STARTS = {
    "sigmoid": (2.0,),  # the paper's loss has no gradient left once m = 0 everywhere: nearly all is trusted
    "exponential": (-2.0,),
    "quantile": (-0.1, 0.1),  # an interval that is open, of a tenth of the intensity range to each side
}


class MaskNetwork(nn.Module):
    """Small U-Net that sees the degraded and the restored image and gives each pixel a positive uncertainty.

    Parameters
    ----------
    widths
        Channels at each level of the U-Net.
    channels
        Channels of the restored image; the uncertainty always has one.
    head
        ``"sigmoid"``: the paper's mask m = sigmoid(z), with uncertainty 1 - m.
        ``"exponential"``: log uncertainty itself, fitted by `score_loss` or `likelihood_loss`.
        ``"quantile"``: where the truth's quantiles lie from the restored image, fitted by `quantile_loss`; the
        uncertainty is the width between them, over channels its norm, plus `FLOOR`. Where they cross, the width is 0.
    degraded_channels
        Channels of the degraded image; None for those of the restored one.
    dims
        2 for planes, 3 for volumes.

    References
    ----------
    Kutiel, Cohen, Elad, Freedman, "What's Behind the Mask: Estimating Uncertainty in Image-to-Image
    Problems", arXiv 2211.15211 (2022). Angelopoulos et al., "Image-to-Image Regression with Distribution-Free
    Uncertainty Quantification and Applications in Imaging", ICML 2022.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        *,
        channels: int = 1,
        head: Head = "sigmoid",
        degraded_channels: int | None = None,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if head not in _HEADS:
            raise ValueError(f"the mask network's head is {head!r}; it is 'sigmoid', 'exponential' or 'quantile'")
        self.head: Head = head
        self.channels, self.dims, self.widths = channels, dims, tuple(widths)
        self.degraded_channels = channels if degraded_channels is None else degraded_channels
        outputs = 2 * channels if head == "quantile" else 1
        self.trunk = UNet(widths, inputs=self.degraded_channels + channels, outputs=outputs, dims=dims)
        self.stride_px, self.halo_px = self.trunk.stride_px, self.trunk.halo_px
        with torch.no_grad():
            for bias, start in zip(self.trunk.head.bias.split(channels), _STARTS[head], strict=False):
                bias.fill_(start)

    @property
    def spec(self) -> dict[str, Any]:
        """What a model card's `network` says, so that `make_network` makes one like this."""
        spec: dict[str, Any] = {"kind": "mask-unet", "head": self.head, "widths": list(self.widths)}
        others = {"channels": self.channels, "degraded_channels": self.degraded_channels, "dims": self.dims}
        usual = {"channels": 1, "degraded_channels": self.channels, "dims": 2}
        return spec | {name: value for name, value in others.items() if value != usual[name]}

    def logits(self, degraded: Tensor, restored: Tensor) -> Tensor:
        """Map two images, in normalised intensities, to raw outputs.

        Parameters
        ----------
        degraded, restored
            (N, degraded_channels, Y, X) and (N, channels, Y, X), for volumes with Z before Y. A degraded image on a
            coarser grid is repeated onto the restored one.

        Returns
        -------
        Tensor
            (N, 1, Y, X); of the quantile head (N, 2 channels, Y, X), the lower ends before the upper ones.
        """
        if degraded.shape[2:] != restored.shape[2:]:
            degraded = nn.functional.interpolate(degraded, size=restored.shape[2:], mode="nearest")
        z: Tensor = self.trunk(torch.cat((degraded, restored), dim=1))
        return z.clamp(-60, 60)  # keeps all heads inside float32's normal range

    def forward(self, degraded: Tensor, restored: Tensor) -> Tensor:
        """Return the uncertainty, (N, 1, Y, X), for volumes (N, 1, Z, Y, X), above 0."""
        z = self.logits(degraded, restored).float()
        if self.head == "quantile":
            width = (z[:, self.channels :] - z[:, : self.channels]).clamp(min=0)
            norm: Tensor = torch.linalg.vector_norm(width, dim=1, keepdim=True)
            return norm + FLOOR
        # sigmoid(-z), not 1 - sigmoid(z): the difference has no digits left where m is near 1
        return torch.sigmoid(-z) if self.head == "sigmoid" else torch.exp(z)


def network_for(recipe: Recipe, fields: Sequence[TrainingField]) -> MaskNetwork:
    """Return a new network with the recipe's seed, loss and widths that takes these fields."""
    first = fields[0]
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        torch.manual_seed(recipe.seed)
        return MaskNetwork(
            recipe.widths,
            channels=len(first.restored),
            head=_HEAD_OF[recipe.loss],
            degraded_channels=len(first.degraded),
            dims=first.restored.ndim - 1,
        )
