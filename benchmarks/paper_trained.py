"""The uncertainties that are learned: mask networks by their losses, and what was tried to make their masks smaller.

All see the same fields for as many steps, and keep the weights of their best validation. A network that does not
depend on the distance is trained once for a task.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from napari_maskcal.calibrate.guarantee import rank_of
from napari_maskcal.calibrate.threshold import image_threshold
from napari_maskcal.distance.lp import Lp, error_magnitude
from napari_maskcal.mask.budget import error_budget
from napari_maskcal.mask.network import network_for
from napari_maskcal.mask.recipe import Recipe, TrainingField, Validation
from napari_maskcal.mask.scores import FLOOR
from napari_maskcal.mask.train import train_mask_network
from napari_maskcal.mask.weight import search_weight
from napari_maskcal.read.atomic import write_atomically
from napari_maskcal.restore.events import TrainingDone
from paper_fields import stacked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_maskcal.mask.network import MaskNetwork
    from paper_fields import PaperField
    from paper_methods import Question

    Map = NDArray[np.float32]

VERSION = 1  # of the code that trains: networks of another are trained anew
STEPS, VALIDATE_EVERY = 400, 100
WEIGHT_STEPS, WEIGHT_LADDER = 100, (0.3, 1.0)
CONFIDENCE, PERCENTILES = 0.9, (30, 60, 80)
SMOOTHED_PX = 5
_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A trained mask network; `figure` is its mean masked share on the validation fields."""

    network: MaskNetwork
    train_s: float
    figure: float
    weight: float


def learned(question: Question, loss: str, **changes: Any) -> Learned:
    """Return the task's network of one loss, trained once for all distances and runs of one `VERSION`."""
    chosen = {"seed": question.workshop.seed, **changes}
    recipe = Recipe(loss=loss, steps=STEPS, validate_every=VALIDATE_EVERY, patience=STEPS, **chosen)
    return question.workshop.once(("learned", question.task.name, recipe), lambda: _kept(question, recipe))


def _kept(question: Question, recipe: Recipe) -> Learned:
    """Return what an earlier run has trained, or train it."""
    fields = training_fields(question.task.training)
    path = question.workshop.cache / f"{_digest(question, recipe)}.safetensors"
    if not path.is_file():
        _train(question, recipe, fields, path)
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        network = network_for(recipe, fields)
        network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return Learned(network=network.requires_grad_(False).eval(), **facts)


def _train(question: Question, recipe: Recipe, fields: Sequence[TrainingField], path: Path) -> None:
    task, say, started = question.task, question.workshop.say, time.perf_counter()
    figure = Figure.on(task.validation)

    def validation(network: MaskNetwork) -> Validation:
        maps = maps_of(network, task.validation)
        return Validation(masked_share=figure(maps if recipe.loss == "paper" else budgets(maps, power=1)))

    if recipe.loss == "paper":
        search = search_weight(fields, recipe, validation=validation, steps=WEIGHT_STEPS, ladder=WEIGHT_LADDER)
        recipe = _last(search, say)
    for event in train_mask_network(fields, recipe, validation=validation):
        if isinstance(event, TrainingDone):
            done = event
    seconds, best = time.perf_counter() - started, min(share for _, share in done.validated)
    say(f"{task.name}: {recipe.loss} in {seconds:.0f} s, {best:.3f} on validation, best at step {done.best_step}")
    facts = json.dumps({"train_s": seconds, "figure": best, "weight": recipe.weight})
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in done.network.state_dict().items()}
    write_atomically(path, save(state, metadata={"facts": facts}))


def _digest(question: Question, recipe: Recipe) -> str:
    """Return the hash of all that decides a training: its fields, its recipe, and the version of its code."""
    digest = hashlib.sha256(f"{VERSION} {recipe}".encode())
    for field in (*question.task.training, *question.task.validation):
        digest.update(field.name.encode() + field.degraded.tobytes() + field.restored.tobytes())
        digest.update(field.truth.tobytes())
    return digest.hexdigest()[:20]


def training_fields(fields: Sequence[PaperField]) -> list[TrainingField]:
    """Return fields as `train_mask_network` takes them."""
    return [
        TrainingField(degraded=f.degraded, restored=f.restored, truth=f.truth, name=f.name, group=f.group)
        for f in fields
    ]


def _last(search: Any, say: Callable[[str], None]) -> Any:
    """Exhaust a generator, say what it warns of, and return what it returns."""
    while True:
        try:
            event = next(search)
        except StopIteration as end:
            return end.value
        if message := getattr(event, "message", ""):
            say(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What networks are chosen by: the mean masked share of the validation fields at three tolerances, L1."""

    fields: Sequence[PaperField]
    tolerances: tuple[float, ...]

    @classmethod
    def on(cls, fields: Sequence[PaperField]) -> Figure:
        """Take the percentiles of these fields' distances."""
        distances = [error_magnitude(f.restored, f.truth, f.truth.shape[1:]).mean() for f in fields]
        return cls(fields=fields, tolerances=tuple(float(t) for t in np.percentile(distances, PERCENTILES)))

    def __call__(self, maps: Sequence[Map]) -> float:
        """Return the figure; the threshold is that of these very fields."""
        return float(np.mean([self._share(maps, tolerance) for tolerance in self.tolerances]))

    def _share(self, maps: Sequence[Map], tolerance: float) -> float:
        own = [
            image_threshold(u, f.restored, f.truth, Lp(1.0), tolerance, "binary")
            for u, f in zip(maps, self.fields, strict=True)
        ]
        threshold = sorted(own)[max(1, rank_of(len(own), CONFIDENCE)) - 1]
        return float(np.mean([(u > threshold).mean() for u in maps]))


@torch.inference_mode()
def maps_of(network: nn.Module, fields: Sequence[PaperField]) -> list[Map]:
    """Return the network's uncertainty of each field, (Y, X)."""
    degraded, restored = (torch.from_numpy(stacked(fields, image)) for image in ("degraded", "restored"))
    parts = zip(degraded.split(_AT_ONCE), restored.split(_AT_ONCE), strict=True)
    return list(torch.cat([network(*pair) for pair in parts])[:, 0].numpy())


@torch.inference_mode()
def budgets(maps: Sequence[Map], *, power: float) -> list[Map]:
    """Return error budgets of maps; see `napari_maskcal.mask.budget`."""
    batches = torch.from_numpy(np.stack(maps)[:, None]).split(_AT_ONCE)
    return list(torch.cat([error_budget(batch, power=power) for batch in batches])[:, 0].numpy())


def smoothed(maps: Sequence[Map], window_px: int = SMOOTHED_PX) -> list[Map]:
    """Return the mean over a window around each pixel; at the border over what lies inside."""
    batch = torch.from_numpy(np.stack(maps))
    pooled = nn.functional.avg_pool2d(batch, window_px, stride=1, padding=window_px // 2, count_include_pad=False)
    return list(pooled.numpy())


def residuals(fields: Sequence[PaperField], window_px: int) -> list[Map]:
    """Return |restored - degraded|, the norm over channels, averaged over a window."""
    restored = torch.from_numpy(stacked(fields, "restored"))
    degraded = torch.from_numpy(stacked(fields, "degraded"))
    size = (restored - nn.functional.interpolate(degraded, size=restored.shape[-2:], mode="nearest")).norm(dim=1)
    return [one + np.float32(FLOOR) for one in smoothed(list(size.numpy()), window_px)]
