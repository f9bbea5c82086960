"""The paper's loss may end in a mask that is the same everywhere, which says nothing: noticed here, and said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from napari_maskcal.mask.crops import Batch
    from napari_maskcal.mask.network import MaskNetwork

_SAME = 1e-3


class CollapsedError(RuntimeError):
    """The mask is the same everywhere: the weight of the paper's loss is outside the window in which it works."""


@torch.no_grad()
def refuse_collapse(network: MaskNetwork, batch: Batch, *, weight: float) -> None:
    """Raise CollapsedError if the mask hardly differs from pixel to pixel of a batch; it says which way to go."""
    device = next(network.parameters()).device
    crops = zip(
        *(torch.from_numpy(image).to(device)[:, None] for image in (batch.degraded, batch.restored)), strict=True
    )
    trust = torch.cat([torch.sigmoid(network.logits(*crop)) for crop in crops])
    if float(trust.std()) < _SAME:
        mean = float(trust.mean())
        wrong, remedy = ("low", "larger") if mean > 0.5 else ("high", "smaller")
        raise CollapsedError(
            f"the mask collapsed: it is {mean:.3f} everywhere; the loss weight {weight:g} is too {wrong}: take a "
            f"{remedy} one, or the loss quantile, which has none"
        )
