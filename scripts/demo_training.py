"""Training of the demo's two networks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_maskcal.mask.collapse import CollapsedError
from napari_maskcal.mask.recipe import Recipe
from napari_maskcal.mask.train import train_mask_network
from napari_maskcal.restore.events import TrainingDone
from napari_maskcal.restore.unet import UNet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from demo_fields import Pair, Plane

    from napari_maskcal.mask.network import MaskNetwork
    from napari_maskcal.mask.recipe import TrainingField

WIDTHS = (16, 32, 64)
CROP_PX = 96
LEARNING_RATE = 2e-3
# The paper's loss works in a narrow window of its weight, so two are tried.
_RECIPE = Recipe(widths=WIDTHS, crop_px=CROP_PX, learning_rate=LEARNING_RATE)
CANDIDATES = {
    "score": replace(_RECIPE, loss="score"),
    "paper, weight 30": replace(_RECIPE, loss="paper", weight=30.0),
    "paper, weight 100": replace(_RECIPE, loss="paper", weight=100.0),
}


def train_restorer(
    pairs: Sequence[Pair], steps: int, rng: np.random.Generator, *, say: Callable[[str], None], batch: int = 8
) -> UNet:
    """Return a denoiser trained on random crops with the mean absolute error."""
    network = UNet(WIDTHS, residual=True)
    torch.nn.init.zeros_(network.head.weight)  # start from "nothing is changed"
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=LEARNING_RATE, total_steps=steps)
    areas = np.array([pair.truth.size for pair in pairs], dtype=np.float64)
    losses = []
    for step in range(1, steps + 1):
        chosen = rng.choice(len(pairs), size=batch, p=areas / areas.sum())
        crops = zip(*(_crop(pairs[i], rng) for i in chosen), strict=True)
        degraded, truth = (torch.from_numpy(np.stack(a))[:, None] for a in crops)
        loss = (network(degraded) - truth).abs().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 200 == 0 or step == steps:
            say(f"restorer, step {step} of {steps}: mean absolute error {np.mean(losses[-200:]):.4f}")
    return network.requires_grad_(False).eval()


def _crop(pair: Pair, rng: np.random.Generator, *, size: int = CROP_PX) -> tuple[Plane, Plane]:
    """Return one random crop of both images, turned and mirrored alike."""
    y, x = (int(rng.integers(n - size + 1)) for n in pair.truth.shape)
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
    turned = [np.rot90(image[y : y + size, x : x + size], turns) for image in (pair.degraded, pair.truth)]
    degraded, truth = (np.ascontiguousarray(image[:, ::-1] if mirror else image) for image in turned)
    return degraded, truth


def train_candidates(
    fields: Sequence[TrainingField], steps: int, *, seed: int, say: Callable[[str], None]
) -> dict[str, MaskNetwork]:
    """Return the mask networks that trained without collapse, by the name of their loss."""
    trained = {}
    for name, recipe in CANDIDATES.items():
        try:
            *_, done = train_mask_network(fields, replace(recipe, steps=steps, seed=seed))
        except CollapsedError as error:
            say(f"mask network, {name}: left out, {error}")
            continue
        if isinstance(done, TrainingDone):
            say(f"mask network, {name}: loss {np.mean(done.losses[-100:]):.4f}")
            trained[name] = done.network
    return trained
