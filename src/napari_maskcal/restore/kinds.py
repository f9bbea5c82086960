"""The architectures that a model card may name, and where each is defined; none is imported before it is built."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

BUDGET_CELL_PX = 8  # windows of an error budget move in steps of so many pixels
VIEWS = "views"  # asks the restorer again
GIVEN = "given"  # no network at all: the map, or the restored image, comes with the input
KINDS = {
    "restorer": {
        "unet": "napari_maskcal.restore.unet:UNet",
    },
    "mask": {
        "mask-unet": "napari_maskcal.mask.network:MaskNetwork",
        "residual": "napari_maskcal.mask.scores:Residual",
        "spread": "napari_maskcal.mask.scores:Spread",
        VIEWS: "napari_maskcal.mask.scores:ViewSpread",
        "interval": "napari_maskcal.mask.scores:IntervalWidth",
        "budget": "napari_maskcal.mask.budget:ErrorBudget",
        "mask-ensemble": "napari_maskcal.mask.scores:MaskEnsemble",
        "constant": "napari_maskcal.mask.scores:Constant",
    },
}


def make_network(spec: dict[str, Any], *, role: str) -> nn.Module:
    """Return a new network of the architecture and with the arguments that a card's `network` names.

    Parameters
    ----------
    spec
        Such as ``{"kind": "unet", "widths": [16, 32, 64]}``.
    role
        ``"restorer"`` or ``"mask"``: what the network has to be.

    Raises
    ------
    ValueError
        If there is no such kind, or it is of the other role. Wrong arguments raise what the architecture raises.
    """
    arguments = dict(spec)
    kind = check_kind(arguments.pop("kind", None), role=role)
    module, _, name = KINDS[role][kind].partition(":")
    network: nn.Module = getattr(import_module(module), name)(**arguments)
    return network


def check_kind(kind: Any, *, role: str) -> str:
    """Return `kind`, or say in a ValueError why a network of that role is not of it."""
    known = [name for names in KINDS.values() for name in names]
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"a network of kind {kind!r}; known are {', '.join(known)}")
    if kind not in KINDS[role]:
        raise ValueError(f"a network of kind {kind!r} as its {role}; those are {', '.join(KINDS[role])}")
    return kind
