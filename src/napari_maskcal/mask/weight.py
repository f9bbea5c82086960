"""The weight of the paper's loss: it works in a narrow window, which short trainings find."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from napari_maskcal.mask.collapse import CollapsedError
from napari_maskcal.mask.crops import plan_crops
from napari_maskcal.mask.losses import loss_for
from napari_maskcal.mask.train import train_mask_network
from napari_maskcal.restore.events import CancelToken, TrainingDone, Warned

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from napari_maskcal.mask.network import MaskNetwork
    from napari_maskcal.mask.recipe import Recipe, TrainingField, Validation
    from napari_maskcal.restore.events import Event

LADDER = (0.3, 1.0, 3.0, 10.0)
_CROPS = 64
_CERTAIN = 60.0  # a logit at which the mask is 1


def search_weight(
    fields: Sequence[TrainingField],
    recipe: Recipe,
    *,
    validation: Callable[[MaskNetwork], Validation],
    steps: int = 300,
    ladder: Sequence[float] = LADDER,
    device: str = "cpu",
    cancel: CancelToken | None = None,
) -> Generator[Event, None, Recipe]:
    """Train shortly with each weight of a ladder and return the recipe with the best, by ``yield from``.

    Parameters
    ----------
    fields, recipe, validation, device, cancel
        See `train_mask_network`; the recipe's loss is ``"paper"``. When cancelled, what was found so far is taken.
    steps
        Of each short training.
    ladder
        Multiples of the weight at which both terms of the loss are 1: one over the distance with nothing masked.

    Yields
    ------
    Warned
        What each weight led to.

    Raises
    ------
    CollapsedError
        If the mask collapsed at each weight.
    ValueError, FloatingPointError, MemoryError
        See `train_mask_network`.
    """
    cancel = cancel or CancelToken()
    balance = _balancing_weight(fields, recipe)
    shares: dict[float, float] = {}
    for weight in (float(f"{step * balance:.3g}") for step in ladder):
        if cancel.cancelled:
            break
        trial = replace(recipe, weight=weight, steps=min(steps, recipe.steps))
        share = yield from _try(fields, trial, validation, device, cancel)
        if share is not None:
            shares[weight] = share
            yield Warned(message=f"the paper's loss with weight {weight:g} masks {share:.1%} of the validation fields")
    if shares:
        return replace(recipe, weight=min(shares, key=shares.__getitem__))
    if cancel.cancelled:
        return recipe
    raise CollapsedError(
        f"the mask collapsed with each of {len(ladder)} weights around {balance:.3g}; take the loss quantile, "
        "which has none"
    )


def _try(
    fields: Sequence[TrainingField],
    trial: Recipe,
    validation: Callable[[MaskNetwork], Validation],
    device: str,
    cancel: CancelToken,
) -> Generator[Event, None, float | None]:
    """Return the masked share that a weight leads to; None if it collapses, or nothing was validated."""
    try:
        for event in train_mask_network(fields, trial, validation=validation, device=device, cancel=cancel):
            if isinstance(event, Warned):
                yield event
            elif isinstance(event, TrainingDone):
                return min((share for _, share in event.validated), default=None)
    except CollapsedError as error:
        yield Warned(message=str(error))
    return None


def _balancing_weight(fields: Sequence[TrainingField], recipe: Recipe) -> float:
    """Return one over the distance of some crops with nothing masked."""
    crops = plan_crops(fields, crop_px=recipe.crop_px, stride_px=2 ** (len(recipe.widths) - 1))
    batch = crops.draw(_CROPS, recipe.seed)
    loss = loss_for(replace(recipe, weight=1.0), dims=len(crops.size_px), size_px=crops.size_px[-1])
    restored, truth = torch.from_numpy(batch.restored), torch.from_numpy(batch.truth)
    with torch.no_grad():
        distance = float(loss(torch.full_like(restored[:, :1], _CERTAIN), restored, truth))
    if not distance > 0:
        raise ValueError(f"the distance {recipe.distance} between restored and truth is {distance:g}: nothing to learn")
    return 1 / distance
