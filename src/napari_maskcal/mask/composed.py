"""Mask models put together: architecture and weights side by side, as a model card and a bundle keep them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from napari_maskcal.mask.scores import FLOOR
from napari_maskcal.restore.kinds import VIEWS, make_network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from napari_maskcal.mask.network import MaskNetwork
    from napari_maskcal.models import Restorer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Composed:
    """What a mask model is made of; nothing is computed before `network`.

    Attributes
    ----------
    spec
        As a model card's `network` has it.
    weights
        By their names in the state dict of that architecture.
    """

    spec: dict[str, Any]
    weights: dict[str, Tensor]

    def network(self) -> nn.Module:
        """Return the module, which shares its weights with whatever they came from."""
        with torch.device("meta"):
            made = make_network(self.spec, role="mask")
        made.load_state_dict(self.weights, assign=True)
        return made.requires_grad_(False).eval()


def of_network(network: MaskNetwork) -> Composed:
    """Return a mask network by itself."""
    return Composed(spec=network.spec, weights=dict(network.state_dict()))


def of_residual(*, window_px: int) -> Composed:
    """Return |restored - degraded|, averaged over a window."""
    return Composed(spec={"kind": "residual", "window_px": window_px, "floor": FLOOR}, weights={})


def of_views(*, mirrors: bool) -> Composed:
    """Return the spread of the restorer over turned views; see `napari_maskcal.mask.scores.ViewSpread`."""
    return Composed(spec={"kind": VIEWS, "mirrors": mirrors, "floor": FLOOR}, weights={})


def of_spread(restorers: Sequence[Restorer]) -> Composed:
    """Return the spread of restorers; see `napari_maskcal.mask.scores.Spread`."""
    return _with_members({"kind": "spread"}, restorers)


def of_interval(lower: Restorer, upper: Restorer) -> Composed:
    """Return the width between two restorers that give quantiles."""
    return _with_members({"kind": "interval"}, (lower, upper))


def mean_of(parts: Sequence[Composed]) -> Composed:
    """Return the geometric mean of several."""
    return Composed(
        spec={"kind": "mask-ensemble", "members": [part.spec for part in parts]},
        weights={k: v for i, part in enumerate(parts) for k, v in _under(f"members.{i}", part.weights).items()},
    )


def budget_of(part: Composed, *, power: float) -> Composed:
    """Return the error budget of one; see `napari_maskcal.mask.budget.ErrorBudget`."""
    from napari_maskcal.mask.budget import RADIUS_CELLS

    spec = {"kind": "budget", "of": part.spec, "power": float(power), "radius_cells": RADIUS_CELLS}
    return Composed(spec=spec, weights=_under("of", part.weights))


def _with_members(spec: dict[str, Any], restorers: Sequence[Restorer]) -> Composed:
    weights: dict[str, Tensor] = {}
    for i, restorer in enumerate(restorers):
        if restorer.network is None:
            raise ValueError(f"{restorer.card.name} is no network that could be asked again; choose a file")
        state = restorer.network.state_dict()
        # Copies: a member may be the restorer itself, which the engine moves between devices.
        weights |= _under(f"members.{i}", {name: tensor.detach().cpu().clone() for name, tensor in state.items()})
    members = [restorer.card.network for restorer in restorers]
    return Composed(spec=spec | {"members": members, "floor": FLOOR}, weights=weights)


def _under(place: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{place}.{name}": tensor for name, tensor in weights.items()}
