"""The benchmark's restorers that are trained here: small U-Nets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from napari_maskcal.restore.unet import UNet
from paper_fields import stacked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from paper_fields import Pair

WIDTHS = (16, 32, 64)
CROP_PX, BATCH, LEARNING_RATE = 96, 8, 2e-3


class Enlarging(nn.Module):
    """Bicubic interpolation, and a U-Net that corrects it."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.unet = UNet(WIDTHS, residual=True)

    def forward(self, degraded: Tensor) -> Tensor:
        """Map (N, 1, Y, X) to (N, 1, factor Y, factor X)."""
        return self.unet(nn.functional.interpolate(degraded, scale_factor=self.factor, mode="bicubic"))


def train_restorer(
    network: nn.Module, pairs: Sequence[Pair], *, steps: int, seed: int, say: Callable[[str], None]
) -> nn.Module:
    """Return `network`, trained on random crops of the fields with the mean absolute error; its U-Net starts at 0."""
    unet = network if isinstance(network, UNet) else network.unet
    nn.init.zeros_(unet.head.weight)
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=LEARNING_RATE, total_steps=steps)
    images = stacked(pairs, "degraded"), stacked(pairs, "truth")
    losses = []
    for step in range(1, steps + 1):
        degraded, truth = _random_crops(*images, rng)
        loss = (network(degraded) - truth).abs().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 200 == 0 or step == steps:
            say(f"restorer, step {step} of {steps}: mean absolute error {np.mean(losses[-100:]):.4f}")
    return network.requires_grad_(requires_grad=False).eval()


def _random_crops(
    degraded: NDArray[np.float32], truth: NDArray[np.float32], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return a batch of crops of both images, each turned and mirrored alike."""
    factor = truth.shape[-1] // degraded.shape[-1]
    crops = []
    for i in rng.integers(len(truth), size=BATCH):
        y, x = (int(rng.integers((n - CROP_PX) // factor + 1)) for n in truth.shape[2:])
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        fine = truth[i, :, factor * y : factor * y + CROP_PX, factor * x : factor * x + CROP_PX]
        coarse = degraded[i, :, y : y + CROP_PX // factor, x : x + CROP_PX // factor]
        crops.append([np.rot90(image, turns, (1, 2))[..., :: -1 if mirror else 1] for image in (coarse, fine)])
    first, second = (torch.from_numpy(np.stack(images)) for images in zip(*crops, strict=True))
    return first, second


@torch.inference_mode()
def restore_all(network: nn.Module, degraded: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a network makes of many fields, (fields, C, Y, X)."""
    return np.concatenate([network(part).numpy() for part in torch.from_numpy(degraded).split(16)])
