"""Small fields to train on: their right half is restored badly, and is brighter, so that a network can see where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_maskcal.mask.recipe import Recipe, TrainingField
from napari_maskcal.mask.train import train_mask_network
from napari_maskcal.restore.events import TrainingDone

if TYPE_CHECKING:
    from napari_maskcal.mask.network import MaskNetwork

QUICK = Recipe(
    loss="score", widths=(4, 8), steps=6, batch=4, crop_px=32, learning_rate=1e-2, validate_every=3
)  # fmt: skip


def training_fields(
    count: int = 4, *, shape: tuple[int, ...] = (48, 48), channels: int = 1, factor: int = 1, degraded_channels: int = 0
) -> list[TrainingField]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        truth = rng.random((channels, *shape)).astype(np.float32) * 0.2
        error = rng.normal(0, 0.01, truth.shape)
        truth[..., shape[-1] // 2 :] += 0.8
        error[..., shape[-1] // 2 :] *= 30
        restored = (truth + error).astype(np.float32)
        coarse = restored[(slice(degraded_channels or None), *[slice(None, None, factor)] * len(shape))]
        found.append(TrainingField(
            degraded=coarse.copy(), restored=restored, truth=truth, name=f"cell {i}", group=f"specimen {i}"
        ))  # fmt: skip
    return found


def trained(fields: list[TrainingField], recipe: Recipe = QUICK, **options: Any) -> TrainingDone:
    """Train to the end."""
    *_, done = train_mask_network(fields, recipe, **options)
    assert isinstance(done, TrainingDone)
    return done


def weights(network: MaskNetwork) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in network.state_dict().values()])
