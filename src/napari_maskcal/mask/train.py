"""Training of a mask network: two losses and one plain loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_maskcal.mask.network import MaskNetwork

Loss = Literal["paper", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Triplet:
    """One field in normalised intensities.

    `restored` and `truth` are (Y, X); `degraded` is too, or coarser by the restorer's scale factor.
    """

    degraded: NDArray[np.float32]
    restored: NDArray[np.float32]
    truth: NDArray[np.float32]


def paper_loss(logits: Tensor, restored: Tensor, truth: Tensor, *, weight: float, p: float = 1.0) -> Tensor:
    """Mean (1 - m)^2 + weight * mean |m (restored - truth)|^p, with m = sigmoid(logits).

    References
    ----------
    Kutiel et al., arXiv 2211.15211, section 4. The weight works in a narrow window: too small gives m = 1
    everywhere, too large m = 0.
    """
    trust = torch.sigmoid(logits)
    error = (restored - truth).abs().pow(p)
    return torch.sigmoid(-logits).square().mean() + weight * (trust.pow(p) * error).mean()


def score_loss(logits: Tensor, restored: Tensor, truth: Tensor, *, p: float = 1.0, floor: float = 1e-3) -> Tensor:
    """Mean squared difference between log uncertainty and log of the error that occurred.

    `floor`, in normalised intensities, keeps the logarithm of errors near 0 from ruling the loss.
    """
    error = (restored - truth).abs().pow(p)
    return (logits - torch.log(error + floor**p)).square().mean()


def train_mask_network(
    network: MaskNetwork,
    triplets: Sequence[Triplet],
    *,
    loss: Loss,
    weight: float = 3.0,
    steps: int = 2000,
    batch: int = 8,
    crop_px: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    report: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train `network` in place on random crops, flips and quarter turns of `triplets`.

    Parameters
    ----------
    network
        Its head has to fit the loss: ``"sigmoid"`` for the paper's, ``"exponential"`` for the score.
    triplets
        Fields of any size from `crop_px` on, on the restored grid.
    loss
        ``"paper"`` or ``"score"``.
    weight
        Of the paper's distance term; unused by the score.
    steps, batch, crop_px, learning_rate
        Of the optimiser (Adam, one-cycle schedule).
    seed
        Same seed, same weights, on the same machine.
    report
        Called with (step, loss) after each step.

    Returns
    -------
    list of float
        The loss at each step.

    Raises
    ------
    ValueError
        If the head does not fit the loss, or no triplet is as large as a crop.
    FloatingPointError
        If the loss is no longer finite; the message names the step.
    RuntimeError
        If the paper's loss collapsed: the mask is the same everywhere.
    """
    if (loss == "paper") != (network.head == "sigmoid"):
        raise ValueError(f"the {loss} loss does not fit a mask network with a {network.head} head")
    usable = [t for t in triplets if min(t.restored.shape) >= crop_px]
    if not usable:
        raise ValueError(f"none of the {len(triplets)} triplets is {crop_px} pixels large along both axes")
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=learning_rate, total_steps=steps)
    history: list[float] = []
    network.train()
    for step in range(steps):
        degraded, restored, truth = _random_batch(usable, batch=batch, crop_px=crop_px, rng=rng)
        logits = network.logits(degraded, restored)
        if loss == "paper":
            value = paper_loss(logits, restored, truth, weight=weight)
        else:
            value = score_loss(logits, restored, truth)
        if not torch.isfinite(value):
            raise FloatingPointError(f"the loss is {value.item()} at step {step}; lower the learning rate")
        optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        history.append(float(value.detach()))
        if report is not None:
            report(step, history[-1])
    network.eval()
    if loss == "paper":
        _refuse_collapse(network, usable, crop_px=crop_px, weight=weight)
    return history


def _random_batch(
    triplets: Sequence[Triplet], *, batch: int, crop_px: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    crops = [_random_crop(triplets[i], crop_px, rng) for i in rng.integers(len(triplets), size=batch)]
    degraded, restored, truth = (torch.from_numpy(np.stack(images)[:, None]) for images in zip(*crops, strict=True))
    return degraded, restored, truth


def _random_crop(
    triplet: Triplet, crop_px: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    factor = triplet.restored.shape[0] // triplet.degraded.shape[0]
    start = [factor * int(rng.integers((size - crop_px) // factor + 1)) for size in triplet.restored.shape]
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))

    def cut(image: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
        window = tuple(slice(first // scale, (first + crop_px) // scale) for first in start)
        turned = np.rot90(image[window], turns)
        return np.ascontiguousarray(turned[:, ::-1] if mirror else turned)

    return cut(triplet.degraded, factor), cut(triplet.restored, 1), cut(triplet.truth, 1)


@torch.inference_mode()
def _refuse_collapse(network: MaskNetwork, triplets: Sequence[Triplet], *, crop_px: int, weight: float) -> None:
    rng = np.random.default_rng(0)
    degraded, restored, _ = _random_batch(triplets, batch=16, crop_px=crop_px, rng=rng)
    trust = torch.sigmoid(network.logits(degraded, restored))
    if trust.std() < 1e-3:
        end = "low" if trust.mean() > 0.5 else "high"
        raise RuntimeError(
            f"the mask collapsed: it is {float(trust.mean()):.3f} everywhere; the loss weight {weight:g} is too {end}"
        )
