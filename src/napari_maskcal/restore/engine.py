"""Runs a restorer and a mask network over the planes of an image, tile by tile."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import gcd, lcm
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_maskcal.restore.device import pick_device
from napari_maskcal.restore.events import CancelToken, Event, PlaneDone, Started, TileDone, Warned
from napari_maskcal.restore.tiles import Plan, Tile, plan_tiles, smallest_tile_px

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_maskcal.models import MaskModel, Restorer
    from napari_maskcal.read.image import Image

Index = tuple[int, ...]


class Pair(torch.nn.Module):
    """Restorer and mask network as one: the restored tile never leaves the device in between.

    Attributes
    ----------
    factor
        Restored pixels to a degraded pixel, along each axis.
    stride_px, halo_px
        Of both together, on the degraded grid; a halo of None means that planes are not cut.
    """

    def __init__(self, restorer: Restorer, mask_model: MaskModel) -> None:
        super().__init__()
        self.restorer, self.mask = restorer.network, mask_model.network
        first, second = restorer.card, mask_model.card
        self.factor = first.scale_factor
        self.stride_px = lcm(first.stride_px, second.stride_px // gcd(second.stride_px, self.factor))
        self.min_size_px = max(first.min_size_px, -(-second.min_size_px // self.factor))
        self.normalisation = first.normalisation
        self.halo_px: int | None = None
        if first.halo_px is not None and second.halo_px is not None:
            reach = first.halo_px + -(-second.halo_px // self.factor)
            self.halo_px = -(-reach // self.stride_px) * self.stride_px

    def forward(self, degraded: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised (N, 1, Y, X) to restored and uncertainty, both (N, 1, factor Y, factor X)."""
        restored = self.restorer(degraded)
        return restored, self.mask(degraded, restored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is put on the device at once; `lower` is what an out-of-memory error leads to."""

    device: torch.device
    max_tile_px: int = 1024
    batch: int = 1

    @classmethod
    def on(cls, device: torch.device) -> Effort:
        """Return the first try on a device: on a processor, one tile already keeps all cores busy."""
        return cls(device=device, batch=1 if device.type == "cpu" else 8)

    def lower(self, pair: Pair, plan: Plan, *, cpu_allowed: bool) -> Effort | None:
        """Return half the batch, else half the tile of `plan`, else the processor, else None."""
        if self.batch > 1:
            return replace(self, batch=self.batch // 2)
        if pair.halo_px is not None:
            smallest = smallest_tile_px(halo_px=pair.halo_px, stride_px=pair.stride_px)
            half = max(plan.tile_shape) // 2
            if half >= smallest:
                return replace(self, max_tile_px=half)
        if cpu_allowed and self.device.type != "cpu":
            return Effort.on(torch.device("cpu"))
        return None


def process(
    image: Image,
    planes: Sequence[Index],
    restorer: Restorer,
    mask_model: MaskModel,
    *,
    device: str = "auto",
    cancel: CancelToken | None = None,
) -> Iterator[Event]:
    """Restore `planes` of `image` in the order given and yield what happens.

    Parameters
    ----------
    image, planes
        Where the pixels come from, and the indices of the planes along the leading axes.
    restorer, mask_model
        The networks; what they need of size and normalisation is in their cards.
    device
        See `pick_device`. Only ``auto`` may fall back to the processor when memory runs out.
    cancel
        Polled before each batch of tiles; once set, the stream simply ends.

    Yields
    ------
    Started, TileDone, PlaneDone, Warned

    Raises
    ------
    ValueError
        If the plane is too small for the networks, constant, or not finite, or the device is none.
    MemoryError
        If the smallest tile does not fit the device.
    """
    pair = Pair(restorer, mask_model).eval()
    shape = (image.shape[-2], image.shape[-1])
    if min(shape) < pair.min_size_px:
        raise ValueError(
            f"{image.name} has planes of {shape[0]} × {shape[1]} pixels; {restorer.card.name} needs at least "
            f"{pair.min_size_px} along each axis"
        )
    effort = Effort.on(pick_device(device))
    plan = _plan(shape, pair, effort)
    yield Started(planes=len(planes), tiles=len(plan.tiles) * len(planes), device=str(effort.device))
    try:
        yield from _until_it_fits(image, planes, plan, pair, effort, cancel or CancelToken(), device == "auto")
    finally:
        pair.to("cpu")  # the networks are the caller's, who may use them on the processor next


def _until_it_fits(
    image: Image,
    planes: Sequence[Index],
    plan: Plan,
    pair: Pair,
    effort: Effort,
    cancel: CancelToken,
    cpu_allowed: bool,
) -> Iterator[Event]:
    """Run all planes, with less at a time whenever memory runs out."""
    pending = list(planes)
    while pending and not cancel.cancelled:
        out_of_memory = False
        try:
            yield from _run(image, pending, plan, pair, effort, cancel, len(planes))
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            out_of_memory = True
        if out_of_memory:  # outside the except block: its traceback would keep the tensors alive
            tried, lowered = effort, effort.lower(pair, plan, cpu_allowed=cpu_allowed)
            if lowered is None:
                raise MemoryError(
                    f"{tried.device} has too little memory even for one tile of {plan.tile_shape[0]} × "
                    f"{plan.tile_shape[1]} pixels; close other programs or choose another device"
                )
            effort = lowered
            if tried.device.type == "cuda":
                torch.cuda.empty_cache()
            plan = _plan(plan.shape, pair, effort)
            yield Warned(
                message=f"{tried.device} ran out of memory; going on with {effort.batch} tile(s) of at most "
                f"{effort.max_tile_px} pixels at a time on {effort.device}"
            )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; processors, Apple's GPUs and CUDA's libraries have no class of their own, only texts."""
    texts = ("out of memory", "not enough memory", "can't allocate memory", "_STATUS_ALLOC_FAILED", "std::bad_alloc")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in texts)


def _plan(shape: tuple[int, int], pair: Pair, effort: Effort) -> Plan:
    return plan_tiles(shape, max_tile_px=effort.max_tile_px, halo_px=pair.halo_px, stride_px=pair.stride_px)


@dataclass(slots=True)
class _OpenPlane:
    """A plane whose tiles are under way."""

    index: Index
    degraded: Tensor
    offset: float
    span: float
    restored: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    tiles_left: int


def _open(image: Image, index: Index, plan: Plan, pair: Pair) -> _OpenPlane:
    plane = image.read_plane(index)
    offset, span = pair.normalisation.measure(plane, where=image.describe(index))
    normalised = normalise(plane, offset, span)
    padding = [(0, padded - n) for padded, n in zip(plan.padded_shape, plan.shape, strict=True)]
    if any(after for _, after in padding):
        normalised = np.pad(normalised, padding, mode="reflect")
    outputs = [np.empty([pair.factor * n for n in plan.padded_shape], np.float32) for _ in range(2)]
    tensor = torch.from_numpy(normalised)[None]
    return _OpenPlane(index, tensor, offset, span, outputs[0], outputs[1], len(plan.tiles))


def normalise(plane: NDArray[Any], offset: float, span: float) -> NDArray[np.float32]:
    """Return ``(plane - offset) / span`` in float32."""
    # float32 holds 16-bit integers exactly; wider ones would lose digits before the offset is taken off.
    if plane.dtype.itemsize > 2:
        with np.errstate(over="ignore"):  # what becomes infinite here is refused with the outputs
            return np.asarray((plane.astype(np.float64) - offset) / span, dtype=np.float32)
    return (plane.astype(np.float32) - np.float32(offset)) / np.float32(span)


def _run(
    image: Image,
    pending: list[Index],
    plan: Plan,
    pair: Pair,
    effort: Effort,
    cancel: CancelToken,
    planes: int,
) -> Iterator[Event]:
    """Compute the tiles of all pending planes; each plane that is whole leaves `pending`.

    A batch may take tiles of several planes, so that small planes fill a large device.
    """
    pair.to(effort.device)
    pair.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    jobs = [(index, tile) for index in pending for tile in plan.tiles]
    total = planes * len(plan.tiles)
    done = total - len(jobs)
    open_planes: dict[Index, _OpenPlane] = {}
    for first in range(0, len(jobs), effort.batch):
        if cancel.cancelled:
            return
        batch = jobs[first : first + effort.batch]
        for index, _ in batch:
            if index not in open_planes:
                open_planes[index] = _open(image, index, plan, pair)
        _compute([(open_planes[index], tile) for index, tile in batch], pair, effort.device)
        done += len(batch)
        yield TileDone(done=done, total=total)
        for index in dict.fromkeys(index for index, _ in batch):
            if open_planes[index].tiles_left == 0:
                finished = open_planes.pop(index)
                pending.remove(index)
                yield _close(finished, plan, pair.factor, where=image.describe(finished.index))


def _compute(batch: list[tuple[_OpenPlane, Tile]], pair: Pair, device: torch.device) -> None:
    degraded = torch.stack([plane.degraded[:, tile.read[0], tile.read[1]] for plane, tile in batch])
    degraded = degraded.to(device, memory_format=torch.channels_last)
    with torch.inference_mode(), exact_float32(device):
        outputs = [output.cpu().numpy()[:, 0] for output in pair(degraded)]
    for (plane, tile), restored, uncertainty in zip(batch, *outputs, strict=True):
        keep, target = tile.keep(pair.factor), tile.target(pair.factor)
        plane.restored[target] = restored[keep]
        plane.uncertainty[target] = uncertainty[keep]
        plane.tiles_left -= 1


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Compute in the float32 that was calibrated, whatever precision others have asked of torch.

    TensorFloat-32, torch's default for convolutions on CUDA, has 10 bits, and autocast has 7 or 10.
    """
    with ExitStack() as settings:
        settings.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            settings.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        yield


def _close(plane: _OpenPlane, plan: Plan, factor: int, *, where: str) -> PlaneDone:
    """Take the padding off and return to the image's own intensities."""
    inside = tuple(slice(0, factor * n) for n in plan.shape)
    restored = plane.restored[inside]
    with np.errstate(over="ignore", invalid="ignore"):  # refused below, with the number of pixels
        restored *= np.float32(plane.span)
        restored += np.float32(plane.offset)
    uncertainty = plane.uncertainty[inside]
    for what, values in (("restored image", restored), ("uncertainty", uncertainty)):
        if count := int(np.count_nonzero(~np.isfinite(values))):
            raise ValueError(
                f"{where}: the {what} has {count} values that are NaN or infinite; clip the extreme pixels of the image"
            )
    return PlaneDone(index=plane.index, restored=restored, uncertainty=uncertainty)
