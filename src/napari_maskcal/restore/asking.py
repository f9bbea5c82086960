"""How a restorer is run: in the units that it takes, and once more by networks for masks that ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Restore = Callable[["Tensor"], "Tensor"]
"""Maps normalised (N, channels, Y, X) to what is restored, (N, channels, factor Y, factor X)."""


def with_units(network: Restore, prepared: tuple[Any, Any] | None) -> Restore:
    """Return a restorer of normalised images; `prepared` is the (gain, shift) to what it takes, or None.

    They are numbers, or tensors of (N, 1, 1, 1).
    """
    if prepared is None:
        return network
    gain, shift = prepared
    return lambda image: (network(image * gain + shift) - shift) / gain


def asks_restorer(network: nn.Module) -> bool:
    """Whether a network for masks takes the restorer as a third argument."""
    return bool(getattr(network, "asks_restorer", False))


def uncertainty_of(network: nn.Module, degraded: Tensor, restored: Tensor, restorer: Restore | None) -> Tensor:
    """Return what a network for masks says of an image, and hand it the restorer if it asks for that.

    Raises
    ------
    ValueError
        If it asks, and there is none.
    """
    if not asks_restorer(network):
        return _tensor(network(degraded, restored))
    if restorer is None:
        raise ValueError("the mask model asks the restorer again, for turned views: give the restorer with the images")
    return _tensor(network(degraded, restored, restorer))


def _tensor(output: Any) -> Tensor:
    """Say what calling a module gives."""
    tensor: Tensor = output
    return tensor
