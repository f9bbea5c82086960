"""Training of a mask network: one plain loop, told as a stream of events."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Literal

import torch

from napari_maskcal.mask.checkpoint import Keeper, Progress, plain
from napari_maskcal.mask.collapse import CollapsedError, refuse_collapse
from napari_maskcal.mask.crops import plan_crops
from napari_maskcal.mask.learner import Learner
from napari_maskcal.mask.losses import likelihood_loss, loss_for, paper_loss, quantile_loss, score_loss
from napari_maskcal.mask.network import network_for
from napari_maskcal.mask.recipe import Recipe, TrainingField, Validation
from napari_maskcal.restore.device import is_out_of_memory, pick_device
from napari_maskcal.restore.events import CancelToken, StepDone, TrainingDone, TrainingStarted, Validated, Warned

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from napari_maskcal.mask.crops import Batch, Crops
    from napari_maskcal.mask.network import MaskNetwork
    from napari_maskcal.restore.events import Event

__all__ = [
    "CollapsedError",
    "DivergedError",
    "Recipe",
    "TrainingField",
    "Validation",
    "likelihood_loss",
    "paper_loss",
    "quantile_loss",
    "score_loss",
    "train_mask_network",
]

Stopped = Literal["finished", "early", "cancelled"]
_LOOKED_AT = 16  # crops, to see whether the mask is the same everywhere


class DivergedError(FloatingPointError):
    """The loss or a gradient is not finite. `best` is the best network before; None if none was validated."""

    def __init__(self, message: str, best: MaskNetwork | None = None) -> None:
        super().__init__(message)
        self.best = best


def train_mask_network(
    fields: Sequence[TrainingField],
    recipe: Recipe,
    *,
    validation: Callable[[MaskNetwork], Validation] | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    cancel: CancelToken | None = None,
    about: str = "",
) -> Iterator[Event]:
    """Train a new mask network on random crops, flips and quarter turns of `fields`, and yield what happens.

    Parameters
    ----------
    fields
        Of one kind: as many channels and axes, and one restorer's scale factor.
    recipe
        All else that decides the weights.
    validation
        Called every `recipe.validate_every` steps, and after the last, with a copy of the network in its evaluation
        mode, on the device; it may keep the copy. The network with the smallest masked share is the result. Without
        it, the last one is.
    checkpoint
        Written at each validation and every half minute in between. If it is there, its training goes on, and ends
        with the weights that it would have had without interruption (on a processor, with as many threads).
    device
        See `pick_device`.
    cancel
        Polled before each step.
    about
        What else makes a training this one, such as what it is validated on; a checkpoint with another text is
        refused.

    Yields
    ------
    TrainingStarted, StepDone, Validated, Warned
    TrainingDone
        At the end, with the best network on the processor; when cancelled, with the best so far.

    Raises
    ------
    ValueError
        If the fields or the device cannot be, or the checkpoint is damaged, of another training, or not writable.
    DivergedError
        A FloatingPointError: the loss or a gradient is not finite. It names the step and the field.
    CollapsedError
        A RuntimeError: the paper's loss led to a mask that is the same everywhere.
    MemoryError
        If not even one crop fits the device.
    """
    crops = plan_crops(fields, crop_px=recipe.crop_px, stride_px=2 ** (len(recipe.widths) - 1))
    loss = loss_for(recipe, dims=len(crops.size_px), size_px=crops.size_px[-1])
    learner = Learner(network_for(recipe, fields), loss, recipe, pick_device(device))
    keeper = None if checkpoint is None else Keeper(checkpoint, recipe, fields, about)
    run = _Run(crops, learner, validation, keeper)
    yield TrainingStarted(
        steps=recipe.steps, fields=len(fields), device=str(learner.device), resumed_at=run.progress.step
    )  # fmt: skip
    stopped = yield from run.until_stopped(cancel or CancelToken())
    yield run.done(stopped)


class _Run:
    """One training from its start, or from its checkpoint, to its end."""

    def __init__(
        self,
        crops: Crops,
        learner: Learner,
        validation: Callable[[MaskNetwork], Validation] | None,
        keeper: Keeper | None,
    ) -> None:
        self.crops, self.learner, self.validation, self.keeper = crops, learner, validation, keeper
        self.recipe, self.progress = learner.recipe, Progress()
        if keeper is not None:
            keeper.open(learner, self.progress)
        self.began, self.began_at, self.seconds_before = time.monotonic(), self.progress.step, self.progress.seconds

    def until_stopped(self, cancel: CancelToken) -> Generator[Event, None, Stopped]:
        """Take steps until there are enough, or no validation found a better network for long, or it is cancelled."""
        steps, every = self.recipe.steps, self.recipe.validate_every
        while self.progress.step < steps:
            if self._waited() >= self.recipe.patience:
                return "early"
            if cancel.cancelled:
                yield from self._keep()
                return "cancelled"
            yield from self._step()
            if self.progress.step % every == 0 or self.progress.step == steps:
                yield from self._validate()
                yield from self._keep()
            elif self.keeper is not None and self.keeper.due:
                yield from self._keep()
        return "finished"

    def _step(self) -> Iterator[Event]:
        progress = self.progress
        batch = self.crops.draw(self.recipe.batch, self.recipe.seed, progress.step)
        progress.losses.append((yield from self._until_it_fits(batch)))
        progress.step += 1
        progress.seconds = self.seconds_before + time.monotonic() - self.began
        pace = (time.monotonic() - self.began) / (progress.step - self.began_at)
        left = pace * (self.recipe.steps - progress.step)
        yield StepDone(step=progress.step, steps=self.recipe.steps, loss=progress.losses[-1], seconds_left=left)

    def _until_it_fits(self, batch: Batch) -> Generator[Event, None, float]:
        """Take a step, with fewer crops at a time whenever memory runs out."""
        while True:
            try:
                return self.learner.step(batch, self.progress.step)
            except FloatingPointError as error:
                raise self._diverged(str(error), batch) from None
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.learner.lower()  # outside the except block: its traceback would keep the tensors alive
            yield Warned(
                message=f"{self.learner.device} ran out of memory; going on with {self.learner.micro} crop(s) at a "
                f"time, of {self.recipe.batch} in a step"
            )

    def _validate(self) -> Iterator[Event]:
        progress, network = self.progress, self.learner.snapshot()
        least = dict(progress.validated).get(progress.best_step, inf)
        found = None if self.validation is None else self.validation(network)
        best = found is None or found.masked_share < least
        # Before half of the steps a network may pass through a mask that is the same everywhere.
        if best and 2 * progress.step >= self.recipe.steps:
            self._refuse_collapse(network)
        if found is None:
            progress.best_step = progress.step
            return
        progress.validated.append((progress.step, float(found.masked_share)))
        if best:
            progress.best_step, progress.best = progress.step, plain(self.learner.network.state_dict())
        yield Validated(step=progress.step, masked_share=found.masked_share, best=best, preview=found.preview)

    def done(self, stopped: Stopped) -> TrainingDone:
        """Return the end of the stream, with the best network."""
        progress, network = self.progress, self._best()
        if stopped != "cancelled":
            self._refuse_collapse(network)
        return TrainingDone(
            network=network,
            step=progress.step,
            best_step=progress.best_step if progress.best else progress.step,
            losses=tuple(progress.losses),
            validated=tuple(progress.validated),
            stopped=stopped,
            seconds=progress.seconds,
        )

    def _best(self) -> MaskNetwork:
        network = self.learner.snapshot().to("cpu")
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if self.progress.best is not None:
            network.load_state_dict(self.progress.best)
        return network

    def _waited(self) -> int:
        """Return how many validations in a row found no better network."""
        return sum(step > self.progress.best_step for step, _ in self.progress.validated)

    def _keep(self) -> Iterator[Event]:
        if self.keeper is not None:
            yield from self.keeper.keep(self.learner, self.progress)

    def _refuse_collapse(self, network: MaskNetwork) -> None:
        if self.recipe.loss == "paper":
            refuse_collapse(network, self.crops.draw(_LOOKED_AT, 0), weight=self.recipe.weight)

    def _diverged(self, what: str, batch: Batch) -> DivergedError:
        faulty = self.learner.faulty(batch)
        source = f", from field {', '.join(faulty[:3])}" if faulty else ""
        remedy = "leave that field out, or take" if faulty else "take"
        kept = ""
        if self.keeper is not None and self.keeper.kept_step:
            kept = f"; {self.keeper.path} holds the training up to step {self.keeper.kept_step}"
        best = self._best() if self.progress.best is not None else None
        return DivergedError(
            f"{what} at step {self.progress.step + 1}{source}; {remedy} another loss or seed{kept}",
            best,
        )
