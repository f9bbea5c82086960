"""LPIPS: how different two images look to a network that was trained on people's judgements."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from napari_maskcal.distance.fields import checked_planes, in_batches
from napari_maskcal.distance.lpips_weights import TRUNKS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_maskcal.distance.lpips_network import Loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Lpips:
    """LPIPS version 0.1 between trust * restored and trust * truth, by the package ``lpips``.

    The images are in normalised intensities, shares of the plane's range: 0 to 1, which the network sees as -1 to 1.
    Values beyond are not clipped. A masked pixel is 0, so black. Grey images are repeated to three channels.

    Trusting more may lower it, since the network compares what is beside each other: it is not monotone.

    Attributes
    ----------
    network
        ``"alex"`` (AlexNet; fields from 31 × 31 pixels) or ``"vgg"`` (VGG-16; from 16 × 16, ten times slower).
    weights
        A torchvision state dict of that network, .safetensors or .pth; by default the one that torchvision has
        downloaded before. Nothing is downloaded here.
    device
        Where `between` runs, as for networks; float32 on each, so that they agree to rounding.

    References
    ----------
    Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
    (2018, arXiv 1801.03924).
    """

    network: str = "alex"
    weights: Path | None = None
    device: str = field(default="auto", compare=False)

    monotone: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    in_intensity_units: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.network not in TRUNKS:
            raise ValueError(f"LPIPS has no network {self.network!r}; it is one of {', '.join(TRUNKS)}")

    @property
    def name(self) -> str:
        """``"lpips-alex"``, or ``"lpips-alex:FILE"``."""
        return f"lpips-{self.network}" + ("" if self.weights is None else f":{self.weights}")

    @property
    def sentence_name(self) -> str:
        """What the promise calls it."""
        return f"LPIPS distance ({TRUNKS[self.network].title})"

    @property
    def identity(self) -> str:
        """The version and the SHA-256 of the weights, which are read for it; ValueError if they cannot be had."""
        return self._load(self.device).identity

    def between(self, trust: NDArray[Any], restored: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
        """Return the distances of N fields; see `Distance.between`.

        Raises
        ------
        ValueError
            If the weights cannot be had, the fields are too small, or they have neither one nor three channels.
        """
        import torch

        from napari_maskcal.restore.engine import exact_float32

        trunk, loaded = TRUNKS[self.network], self._load(self.device)
        images = checked_planes("LPIPS", trust, restored, truth, smallest_px=trunk.smallest_px)
        at_once = min(max(trunk.pixels_at_once // math.prod(trust.shape[1:]), 1), 8)
        with torch.inference_mode(), exact_float32(loaded.device):
            return in_batches(images, lambda *batch: _distances(loaded, *batch), at_once=at_once, device=loaded.device)

    def loss(self, trust: Tensor, restored: Tensor, truth: Tensor) -> Tensor:
        """Return the mean distance of a batch, (N, 1, Y, X) or (N, 3, Y, X), with a gradient, on its device."""
        return _distances(self._load(str(restored.device)), trust, restored, truth).mean()

    def _load(self, device: str) -> Loaded:
        from napari_maskcal.distance.lpips_network import load

        return load(self.network, self.weights, device)


def _distances(loaded: Loaded, trust: Tensor, restored: Tensor, truth: Tensor) -> Tensor:
    found: Tensor = loaded.module(_seen(trust * restored), _seen(trust * truth))
    return found.flatten()


def _seen(image: Tensor) -> Tensor:
    """Return what the network sees of normalised intensities: three channels, -1 for 0 and 1 for 1, not clipped."""
    import torch

    if image.shape[1] not in (1, 3):
        raise ValueError(f"LPIPS takes images of one or three channels, got {image.shape[1]}; choose a channel")
    return (2 * image - 1).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
