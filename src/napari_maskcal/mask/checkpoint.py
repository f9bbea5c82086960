"""A training on disk: one safetensors file, replaced as a whole, from which a killed training goes on.

No pickle, and no state of random numbers: batches and learning rates are functions of the step.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from napari_maskcal.read.atomic import write_atomically
from napari_maskcal.read.facts import content_hash
from napari_maskcal.restore.events import Warned
from napari_maskcal.restore.kinds import make_network

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from napari_maskcal.mask.learner import Learner
    from napari_maskcal.mask.network import MaskNetwork
    from napari_maskcal.mask.recipe import Recipe, TrainingField

_KEY, _HASH, _VERSION = "napari_maskcal_training", "sha256", 1
_ANEW = "delete it to start anew, or name another file"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a training is; `best` are the weights of `best_step`, None before the first validation."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    validated: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    best: dict[str, Tensor] | None = None
    seconds: float = 0.0


class Keeper:
    """Writes one training's checkpoint, and reads it when that training begins again.

    Parameters
    ----------
    path
        The file; what is there is gone on with.
    recipe, fields, about
        What makes a training this one.
    """

    every_s = 30.0

    def __init__(self, path: Path, recipe: Recipe, fields: Sequence[TrainingField], about: str = "") -> None:
        self.path, self.kept_step = path, 0
        self._recipe: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
        self._fields, self._about = fields_sha256(fields), about
        self._warned, self._written = False, 0.0

    def open(self, learner: Learner, progress: Progress) -> None:
        """Bring learner and progress to where the file is, if there is one, and make sure that it can be written.

        Raises
        ------
        ValueError
            If it is damaged, that of another training, or cannot be written.
        """
        if self.path.exists():
            state, tensors = _read(self.path)
            self._check_same(state)
            try:
                _restore(learner, progress, state, tensors)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise ValueError(f"{self.path} does not hold a whole training: {_line(error)}; {_ANEW}") from None
        self._write(learner, progress)

    @property
    def due(self) -> bool:
        """Whether the latest checkpoint is old."""
        return time.monotonic() - self._written > self.every_s

    def keep(self, learner: Learner, progress: Progress) -> Iterator[Warned]:
        """Replace the file; a disk that is full is told once, and tried again the next time."""
        try:
            self._write(learner, progress)
        except ValueError as error:
            self._written = time.monotonic()
            if not self._warned:
                self._warned = True
                yield Warned(message=f"{error}; the training goes on, but cannot be taken up again after an end")

    def _write(self, learner: Learner, progress: Progress) -> None:
        identity = {"recipe": self._recipe, "fields": self._fields, "about": self._about}
        write_atomically(self.path, _content(learner, progress, identity))
        self._written, self.kept_step = time.monotonic(), progress.step

    def _check_same(self, state: Mapping[str, Any]) -> None:
        kept = state["recipe"]
        differing = [
            f"{name} {kept.get(name)!r}, now {self._recipe.get(name)!r}"
            for name in dict.fromkeys([*self._recipe, *kept])
            if kept.get(name) != self._recipe.get(name)
        ]
        if state["fields"] != self._fields:
            differing.append("other training fields")
        if state.get("about", "") != self._about:
            differing.append("validated otherwise")
        if differing:
            raise ValueError(f"{self.path} is the checkpoint of another training: {'; '.join(differing)}; {_ANEW}")


def read_best(path: Path) -> MaskNetwork:
    """Return the best network of the training in a checkpoint; without validation its last one.

    Raises
    ------
    ValueError
        If it is no checkpoint, or damaged.
    """
    state, tensors = _read(path)
    try:
        network: Any = make_network(state["network"], role="mask")
        network.load_state_dict(_part(tensors, "best.") or _part(tensors, "network."))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold a whole training: {_line(error)}; {_ANEW}") from None
    found: MaskNetwork = network.requires_grad_(False).eval()
    return found


def read_recipe(path: Path) -> Recipe:
    """Return the recipe of the training in a checkpoint.

    Raises
    ------
    ValueError
        If it is no checkpoint, or damaged.
    """
    from napari_maskcal.mask.recipe import Recipe

    try:
        return Recipe(**_read(path)[0]["recipe"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not hold a whole training: {_line(error)}; {_ANEW}") from None


def fields_sha256(fields: Sequence[TrainingField]) -> str:
    """Return a hash of all pixels that a training sees, in their order."""
    digest = hashlib.sha256()
    for own in fields:
        for image in (own.degraded, own.restored, own.truth):
            digest.update(content_hash(image).encode())
    return digest.hexdigest()


def _content(learner: Learner, progress: Progress, identity: dict[str, Any]) -> bytes:
    from safetensors.torch import save

    optimiser = learner.optimiser.state
    moments = [(i, optimiser[w]) for i, w in enumerate(learner.network.parameters()) if w in optimiser]
    tensors = {
        **{f"network.{name}": tensor for name, tensor in learner.network.state_dict().items()},
        **{f"best.{name}": tensor for name, tensor in (progress.best or {}).items()},
        **{f"adam.{i}.{name}": own[name] for i, own in moments for name in _MOMENTS},
        "losses": torch.tensor(progress.losses, dtype=torch.float64),
    }
    tensors = plain(tensors)
    state = identity | {
        "version": _VERSION, "network": learner.network.spec, "step": progress.step,
        "validated": progress.validated, "best_step": progress.best_step, "seconds": progress.seconds,
        "micro": learner.micro, "scaler": learner.scaler.state_dict(),
        "updates": float(moments[0][1]["step"]) if moments else 0.0,
    }  # fmt: skip
    text = json.dumps(state)
    return save(tensors, metadata={_KEY: text, _HASH: _sha256(text, tensors)})


def _restore(learner: Learner, progress: Progress, state: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Fill both; weights keep the layout in memory that they have, since it decides in which order sums are taken."""
    losses = [float(loss) for loss in tensors["losses"]]
    if len(losses) != state["step"]:
        raise ValueError(f"it has {len(losses)} losses for {state['step']} steps")
    learner.network.load_state_dict(_part(tensors, "network."))
    for i, weight in enumerate(learner.network.parameters()):
        if state["updates"]:
            own = {name: torch.zeros_like(weight).copy_(tensors[f"adam.{i}.{name}"]) for name in _MOMENTS}
            learner.optimiser.state[weight] = {"step": torch.tensor(float(state["updates"])), **own}
    if state["scaler"] and learner.scaler.is_enabled():
        learner.scaler.load_state_dict(state["scaler"])
    learner.micro = min(int(state["micro"]), learner.micro)
    progress.step, progress.losses = int(state["step"]), losses
    progress.validated = [(int(step), float(share)) for step, share in state["validated"]]
    progress.best_step, progress.seconds = int(state["best_step"]), float(state["seconds"])
    progress.best = _part(tensors, "best.") or None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what was written, after its hash and version are found right."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no checkpoint of a training, or is truncated: {_line(error)}; {_ANEW}") from None
    text = metadata.get(_KEY)
    if text is None:
        raise ValueError(f"{path} has weights, but is no checkpoint of a training; name another file")
    if metadata.get(_HASH) != _sha256(text, tensors):
        raise ValueError(f"{path} is damaged or was changed: its hash is not the one it was written with; {_ANEW}")
    state: dict[str, Any] = json.loads(text)
    if state.get("version") != _VERSION:
        raise ValueError(
            f"{path} was written by another napari-maskcal (version {state.get('version')} of checkpoints, this one "
            f"reads {_VERSION}); {_ANEW}"
        )
    return state, tensors


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the processor, laid out as a file has them."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _sha256(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} ".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
