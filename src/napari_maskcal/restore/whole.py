"""One plane or volume through one network, uncut: what `Restorer` and `MaskModel` do when called directly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_maskcal.models import check_pair
from napari_maskcal.restore.arithmetic import exact_float32, normalise
from napari_maskcal.restore.asking import asks_restorer, uncertainty_of, with_units
from napari_maskcal.restore.given import check_asked
from napari_maskcal.restore.stacks import Summary
from napari_maskcal.restore.volumes import run_volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_maskcal.models import MaskModel, Restorer


def restore_plane(restorer: Restorer, plane: NDArray[Any]) -> NDArray[np.float32]:
    """Return `plane`, (Y, X), restored in its own intensity units."""
    if restorer.network is None:
        raise ValueError(f"{restorer.card.name} makes no image itself; take pipeline.run, with restored=...")
    offset, span = restorer.card.normalisation.measure(plane)
    padded = _padded(normalise(plane, offset, span), restorer.card.stride_px)
    restore = with_units(restorer.network, restorer.card.prepared(plane, offset, span, where="the plane"))
    with torch.inference_mode(), exact_float32(torch.device("cpu")):
        output = restore(padded)[0, 0].numpy()
    factor = restorer.card.scale_factor
    inside = tuple(slice(0, factor * n) for n in plane.shape)
    return np.asarray(output[inside] * np.float32(span) + np.float32(offset), dtype=np.float32)


def restore_volume(restorer: Restorer, volume: NDArray[Any]) -> NDArray[np.float32]:
    """Return `volume`, (Z, Y, X), restored in its own intensity units."""
    card, network = restorer.card, restorer.network
    if network is None or volume.ndim != 3:
        raise ValueError(f"{card.name} restores volumes, (Z, Y, X), and got an array of shape {volume.shape}")
    summary, (offset, span) = Summary(card.taken, len(volume)), (card.taken.offset, card.taken.span)
    if card.taken.needs_stack:
        for plane in volume:
            summary.add(plane)
        offset, span = summary.units(where="the volume")
    strides = (card.stride_z, card.stride_px, card.stride_px)
    padding = [(0, -n % stride) for n, stride in zip(volume.shape, strides, strict=True)]
    padded = np.pad(normalise(volume, offset, span), padding, mode="reflect")
    output = run_volume(network, padded, torch.device("cpu"), name=card.name)
    inside = tuple(slice(n) for n in volume.shape)
    return np.asarray(output[inside] * np.float32(span) + np.float32(offset), dtype=np.float32)


def plane_uncertainty(
    mask_model: MaskModel, degraded: NDArray[Any], restored: NDArray[Any], restorer: Restorer | None
) -> NDArray[np.float32]:
    """Return the uncertainty of `restored`, (Y, X), whose normalisation is measured on `degraded`."""
    if mask_model.network is None:
        raise ValueError(f"{mask_model.card.name} makes no map itself; take pipeline.run, with uncertainty=...")
    factor = restored.shape[0] // degraded.shape[0]
    if restored.shape != tuple(factor * n for n in degraded.shape):
        raise ValueError(f"the restored plane has shape {restored.shape}, which is no multiple of {degraded.shape}")
    stride = mask_model.card.stride_px
    if any(n % stride for n in restored.shape):
        raise ValueError(
            f"the plane has shape {restored.shape}; cut it to multiples of {stride} pixels, or take "
            "pipeline.run, which restores and masks it in one go: padding it here would not give the same uncertainty"
        )
    offset, span = mask_model.card.normalisation.measure(degraded)
    low, high = (torch.from_numpy(normalise(plane, offset, span))[None, None] for plane in (degraded, restored))
    asked = None
    if restorer is not None and restorer.network is not None:
        check_asked(restorer, mask_model)
        check_pair(restorer, mask_model)
        if restorer.card.scale_factor != factor:
            raise ValueError(
                f"{restorer.card.name} makes {restorer.card.scale_factor} pixels of one along each axis, and the "
                f"restored plane has {factor}; give the restorer that made it"
            )
        if asks_restorer(mask_model.network):
            asked = with_units(restorer.network, restorer.card.prepared(degraded, offset, span, where="the plane"))
    with torch.inference_mode(), exact_float32(torch.device("cpu")):
        output = uncertainty_of(mask_model.network, low, high, asked)  # brings both to one grid itself
    return np.asarray(output[0, 0].numpy(), dtype=np.float32)


def _padded(plane: NDArray[Any], stride_px: int) -> torch.Tensor:
    padding = [(0, -n % stride_px) for n in plane.shape]
    return torch.from_numpy(np.pad(plane, padding, mode="reflect"))[None, None]
