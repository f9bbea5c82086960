"""One step of training: a network, its optimiser, and how both use the device."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from napari_maskcal.mask.crops import Batch
    from napari_maskcal.mask.losses import LossOf
    from napari_maskcal.mask.network import MaskNetwork
    from napari_maskcal.mask.recipe import Recipe

    Images = tuple[Tensor, Tensor, Tensor]

_RISING = 0.3  # share of the steps
_FIRST, _LAST = 1 / 25, 1 / 25e4  # of the largest learning rate
_MOMENTUM = (0.85, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """What a forward pass is computed in; None is float32. `scaled`: gradients would leave its range otherwise."""

    autocast: torch.dtype | None = None
    scaled: bool = False


def precision_for(kind: str, *, bf16: bool) -> Precision:
    """Return the precision for a kind of device, ``"cpu"``, ``"cuda"`` or ``"mps"``; `bf16`: it computes in that."""
    if kind != "cuda":
        return Precision()
    return Precision(autocast=torch.bfloat16) if bf16 else Precision(autocast=torch.float16, scaled=True)


def one_cycle(step: int, *, steps: int, learning_rate: float) -> tuple[float, float]:
    """Return the learning rate and Adam's first beta at a step, counted from 0.

    As torch's OneCycleLR with its defaults, but a function of the step: a training that goes on needs no state of it.

    References
    ----------
    Smith, Topin, "Super-convergence: very fast training of neural networks using large learning rates" (2019,
    arXiv 1708.07120).
    """
    low, high = _MOMENTUM
    peak = _RISING * steps - 1
    if step <= peak:
        done = step / peak if peak else 1.0
        return _between(_FIRST * learning_rate, learning_rate, done), _between(high, low, done)
    done = (step - peak) / (steps - 1 - peak)
    return _between(learning_rate, _LAST * learning_rate, done), _between(low, high, done)


def _between(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + cos(pi * done))


class Learner:
    """A mask network that is being trained on a device.

    Attributes
    ----------
    network
        On the device, in float32.
    optimiser, scaler
        Adam, and what keeps half-precision gradients in range; the latter does nothing elsewhere.
    micro
        Crops on the device at once. Fewer than a batch are accumulated: the mean gradient is the same.
    """

    def __init__(self, network: MaskNetwork, loss: LossOf, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device, self._loss = recipe, device, loss
        self.network = network.to(device).train()
        if network.dims == 2:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=recipe.learning_rate)
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.precision = precision_for(device.type, bf16=bf16)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.scaled)
        self.micro = recipe.batch

    def step(self, batch: Batch, number: int) -> float:
        """Take the step `number`, counted from 0, and return its loss.

        Raises
        ------
        FloatingPointError
            If the loss or a gradient is not finite; the weights are as before.
        """
        images = self._on_device(batch)
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for part in _split(images, self.micro):
            value = self._loss_of(part) * (len(part[0]) / len(images[0]))
            total += (own := value.item())
            if not isfinite(own):
                raise FloatingPointError(f"the loss is {own}")
            self.scaler.scale(value).backward()  # type: ignore[no-untyped-call]
        self._descend(number)
        return total

    def _descend(self, number: int) -> None:
        self.scaler.unscale_(self.optimiser)
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        # The scaler leaves such a step out by itself, and scales less at the next.
        if not self.precision.scaled and not torch.nn.utils.get_total_norm(gradients).isfinite():
            raise FloatingPointError("the gradient is not finite")
        rate, beta = one_cycle(number, steps=self.recipe.steps, learning_rate=self.recipe.learning_rate)
        for group in self.optimiser.param_groups:
            group["lr"], group["betas"] = rate, (beta, group["betas"][1])
        self.scaler.step(self.optimiser)
        self.scaler.update()

    def lower(self) -> None:
        """Put half as many crops on the device at once.

        Raises
        ------
        MemoryError
            If it is one already.
        """
        if self.micro == 1:
            raise MemoryError(
                f"{self.device} has too little memory to train on even one crop; take smaller crops or fewer widths, "
                "close other programs, or choose another device"
            )
        self.micro //= 2
        self.optimiser.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def faulty(self, batch: Batch) -> list[str]:
        """Return the labels of the fields in a batch whose own loss is not finite."""
        crops = _split(self._on_device(batch), 1)
        lost = [label for label, crop in zip(batch.labels, crops, strict=True) if not self._loss_of(crop).isfinite()]
        return list(dict.fromkeys(lost))

    def snapshot(self) -> MaskNetwork:
        """Return a copy of the network as it is now, to be used and not trained, on the same device."""
        return deepcopy(self.network).eval().requires_grad_(False)

    def _loss_of(self, images: Images) -> Tensor:
        degraded, restored, truth = images
        return self._loss(self._raw(degraded, restored), restored, truth)

    def _raw(self, degraded: Tensor, restored: Tensor) -> Tensor:
        chosen = self.precision.autocast
        with torch.autocast(self.device.type, dtype=chosen, enabled=chosen is not None):
            raw = self.network.logits(degraded, restored)
        return raw.float()

    def _on_device(self, batch: Batch) -> Images:
        layout = torch.channels_last if self.network.dims == 2 else torch.contiguous_format
        degraded, restored, truth = (
            torch.from_numpy(image).to(self.device, torch.float32, memory_format=layout)
            for image in (batch.degraded, batch.restored, batch.truth)
        )
        return degraded, restored, truth


def _split(images: Images, count: int) -> Iterator[Images]:
    degraded, restored, truth = (torch.split(image, count) for image in images)
    return zip(degraded, restored, truth, strict=True)
