"""A small fully convolutional U-Net: the bundled restorer, and the trunk of the mask networks."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_UPWARDS: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def _two_convolutions(inputs: int, outputs: int, dims: int) -> nn.Sequential:
    convolution = _CONVOLUTION[dims]
    return nn.Sequential(
        convolution(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        convolution(outputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """U-Net without normalisation layers, so that its reach is bounded and tiles can be exact.

    Parameters
    ----------
    widths
        Channels at each level; one halving of the resolution between neighbours, along all axes.
    inputs, outputs
        Channels in and out.
    residual
        Add the first `outputs` input channels, or the only one, to the output: the network learns the correction.
    dims
        2 for planes, 3 for volumes.

    References
    ----------
    Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        *,
        inputs: int = 1,
        outputs: int = 1,
        residual: bool = False,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if dims not in _CONVOLUTION:
            raise ValueError(f"a network has {dims!r} dimensions; give 2 for planes or 3 for volumes")
        if residual and 1 < inputs < outputs:
            raise ValueError(
                f"a residual network of {inputs} channels cannot have {outputs} outputs; give it at most as many"
            )
        self.residual, self.dims, self.outputs = residual, dims, outputs
        self.stride_px = 1 << (len(widths) - 1)
        self.halo_px = receptive_radius_px(levels=len(widths))
        self.down = nn.ModuleList(_two_convolutions(a, b, dims) for a, b in pairwise((inputs, *widths)))
        self.up = nn.ModuleList(_UPWARDS[dims](b, a, 2, stride=2) for a, b in pairwise(widths))
        self.merge = nn.ModuleList(_two_convolutions(2 * a, a, dims) for a in widths[:-1])
        self.head = _CONVOLUTION[dims](widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, Y, X) to (N, outputs, Y, X), each axis a multiple of `stride_px`; volumes have Z too."""
        pool = nn.functional.max_pool2d if self.dims == 2 else nn.functional.max_pool3d
        first, skips = x[:, : self.outputs], []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else pool(x, 2))
            skips.append(x)
        for up, merge, skip in reversed(list(zip(self.up, self.merge, skips[:-1], strict=True))):
            x = merge(torch.cat((up(x), skip), dim=1))
        x = self.head(x)
        return first + x if self.residual else x


def receptive_radius_px(*, levels: int) -> int:
    """How far an input pixel reaches, rounded up to the network's stride.

    Two 3 x 3 convolutions move 2 pixels of their own level, each level but the deepest has them twice,
    and pooling spreads a pixel over its cell.
    """
    stride = 1 << (levels - 1)
    reach = 2 * stride + 2 * 2 * (stride - 1) + (stride - 1)
    return -(-reach // stride) * stride
