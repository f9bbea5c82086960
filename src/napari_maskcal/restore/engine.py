"""Runs a restorer and a mask network over the planes of an image, tile by tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd, lcm
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_maskcal.restore.arithmetic import exact_float32, normalise
from napari_maskcal.restore.asking import uncertainty_of, with_units
from napari_maskcal.restore.device import is_out_of_memory, pick_device
from napari_maskcal.restore.events import CancelToken, Event, PlaneDone, Started, TileDone, Warned
from napari_maskcal.restore.given import NOTHING_GIVEN, Given, check_given, read_uncertainty
from napari_maskcal.restore.stacks import StackUnits
from napari_maskcal.restore.tiles import Plan, Tile, plan_tiles, smallest_tile_px
from napari_maskcal.restore.volumes import Volumes, as_given

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_maskcal.models import MaskModel, Restorer
    from napari_maskcal.read.image import Image

__all__ = ["Effort", "Pair", "exact_float32", "normalise", "process"]

Index = tuple[int, ...]


class Pair(torch.nn.Module):
    """Restorer and mask network as one: the restored tile never leaves the device in between.

    Either may be missing, when its output is given with the image.

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
        self.card = first
        self.halo_px: int | None = None
        if first.halo_px is not None and second.halo_px is not None:
            own = -(-second.halo_px // self.factor)
            chained = getattr(self.mask, "sees_restored", True)
            reach = first.halo_px + own if chained else max(first.halo_px, own)
            self.halo_px = -(-reach // self.stride_px) * self.stride_px

    def forward(
        self, degraded: Tensor, given: Tensor | None = None, *, prepared: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Map normalised (N, 1, Y, X) to restored and uncertainty, both (N, 1, factor Y, factor X).

        `given` is the restored image where there is no restorer; `prepared` is for `with_units`. None stands for what
        no network makes.
        """
        restore = None if self.restorer is None else with_units(self.restorer, prepared)
        restored: Any = given if restore is None else restore(degraded)
        uncertainty = None if self.mask is None else uncertainty_of(self.mask, degraded, restored, restore)
        return None if self.restorer is None else restored, uncertainty


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is put on the device at once; `lower` is what an out-of-memory error leads to.

    `max_voxels` is for restorers of volumes, whose tiles come one by one.
    """

    device: torch.device
    max_tile_px: int = 1024
    batch: int = 1
    max_voxels: int = 2**21

    @classmethod
    def on(cls, device: torch.device) -> Effort:
        """Return the first try on a device: on a processor, one tile already keeps all cores busy."""
        if device.type == "cpu":
            return cls(device=device)
        return cls(device=device, batch=8, max_voxels=2**23)

    def lower(self, pair: Pair, plan: Plan, volumes: Volumes | None, *, cpu_allowed: bool) -> Effort | None:
        """Return half the batch, else half the tile of `plan`, else the processor, else None.

        Tiles of volumes become smaller at the same time: which of both was too large nobody says.
        """
        voxels = self.max_voxels if volumes is None else self._fewer_voxels(volumes)
        if self.batch > 1:
            return replace(self, batch=self.batch // 2, max_voxels=voxels)
        if pair.halo_px is not None:
            smallest = smallest_tile_px(halo_px=pair.halo_px, stride_px=pair.stride_px)
            half = max(plan.tile_shape) // 2
            if half >= smallest:
                return replace(self, max_tile_px=half, max_voxels=voxels)
        if voxels < self.max_voxels:
            return replace(self, max_voxels=voxels)
        if cpu_allowed and self.device.type != "cpu":
            return Effort.on(torch.device("cpu"))
        return None

    def _fewer_voxels(self, volumes: Volumes) -> int:
        """Return the largest halving of the voxels at which tiles are smaller; as many as now where there is none."""
        now, fewer = volumes.tile_shape(most_voxels=self.max_voxels), self.max_voxels // 2
        while fewer and volumes.tile_shape(most_voxels=fewer) == now:
            fewer //= 2
        return fewer or self.max_voxels


def process(
    image: Image,
    planes: Sequence[Index],
    restorer: Restorer,
    mask_model: MaskModel,
    *,
    given: Given = NOTHING_GIVEN,
    device: str = "auto",
    cancel: CancelToken | None = None,
) -> Iterator[Event]:
    """Restore `planes` of `image` and yield what happens.

    They come in the order given; those that a restorer of volumes makes together, after the first of them.

    Parameters
    ----------
    image, planes
        Where the pixels come from, and the indices of the planes along the leading axes.
    restorer, mask_model
        The networks; what they need of size and normalisation is in their cards.
    given
        The restored image or the uncertainty map, where there is no network for it.
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
        If a plane or its stack is too small for the networks, constant, or not finite, or the device is none; if more
        or less is given than the networks leave out, or the mask network asks for a restorer and there is none.
    MemoryError
        If the smallest tile does not fit the device.
    """
    check_given(image, restorer, mask_model, given)
    source = _Source.of(image, restorer, given)
    pair = Pair(restorer if source.volumes is None else as_given(restorer), mask_model).eval()
    shape = (image.shape[-2], image.shape[-1])
    if min(shape) < pair.min_size_px:
        raise ValueError(
            f"{image.name} has planes of {shape[0]} × {shape[1]} pixels; {restorer.card.name} needs at least "
            f"{pair.min_size_px} along each axis"
        )
    effort = Effort.on(pick_device(device))
    plan = _plan(shape, pair, effort)
    _, ahead = source.begin(planes, effort)
    yield Started(planes=len(planes), tiles=len(plan.tiles) * len(planes) + ahead, device=str(effort.device))
    try:
        yield from _until_it_fits(source, planes, plan, pair, effort, cancel or CancelToken(), device == "auto")
    finally:
        pair.to("cpu")  # the networks are the caller's, who may use them on the processor next
        if source.volumes is not None:
            source.volumes.to("cpu")


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the pixels come from, and what is known of their stacks."""

    image: Image
    given: Given
    units: StackUnits
    volumes: Volumes | None

    @classmethod
    def of(cls, image: Image, restorer: Restorer, given: Given) -> _Source:
        units = StackUnits(image, restorer.card.taken)
        return cls(image, given, units, Volumes(image, restorer, units) if restorer.card.of_volumes else None)

    def begin(self, planes: Sequence[Index], effort: Effort) -> tuple[list[Index], int]:
        """Return the planes in the order in which they come, and how many steps `prepare` takes for all of them."""
        if self.volumes is None:
            return list(planes), self.units.steps(planes)
        ordered = self.volumes.plan(planes, most_voxels=effort.max_voxels)
        return ordered, self.units.steps(planes) + self.volumes.steps

    def prepare(self, index: Index, device: torch.device, cancel: CancelToken) -> Iterator[None]:
        """Do what has to be done before a plane can be opened, and yield after each step."""
        for _ in self.units.measure(index):
            yield
            if cancel.cancelled:
                return
        if self.volumes is not None:
            yield from self.volumes.compute(index, device, cancel)

    def read_restored(self, index: Index) -> NDArray[Any] | None:
        """Return the restored plane where no network of the pair makes it."""
        if self.volumes is not None:
            return self.volumes.read_plane(index)
        return None if self.given.restored is None else self.given.restored.read_plane(index)


def _until_it_fits(
    source: _Source,
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
            yield from _run(source, pending, plan, pair, effort, cancel, len(planes))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            out_of_memory = True
        if out_of_memory:  # outside the except block: its traceback would keep the tensors alive
            tried, lowered = effort, effort.lower(pair, plan, source.volumes, cpu_allowed=cpu_allowed)
            if lowered is None:
                smallest: tuple[int, ...] = plan.tile_shape
                if source.volumes is not None:
                    smallest = source.volumes.tile_shape(most_voxels=tried.max_voxels)
                raise MemoryError(
                    f"{tried.device} has too little memory even for one tile of {' × '.join(map(str, smallest))} "
                    "pixels; close other programs or choose another device"
                )
            effort = lowered
            if tried.device.type == "cuda":
                torch.cuda.empty_cache()
            plan = _plan(plan.shape, pair, effort)
            yield Warned(
                message=f"{tried.device} ran out of memory; going on with {effort.batch} tile(s) of at most "
                f"{effort.max_tile_px} pixels{_of_volumes(source, effort)} at a time on {effort.device}"
            )


def _of_volumes(source: _Source, effort: Effort) -> str:
    return "" if source.volumes is None else f", and pieces of volumes of about {effort.max_voxels}"


def _plan(shape: tuple[int, int], pair: Pair, effort: Effort) -> Plan:
    return plan_tiles(shape, max_tile_px=effort.max_tile_px, halo_px=pair.halo_px, stride_px=pair.stride_px)


@dataclass(slots=True)
class _OpenPlane:
    """A plane whose tiles are under way.

    `inputs` are the degraded image and, if it is given, the restored one; for `prepared` see `with_units`.
    """

    index: Index
    inputs: list[Tensor]
    offset: float
    span: float
    prepared: tuple[float, float] | None
    restored: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    tiles_left: int


def _open(source: _Source, index: Index, plan: Plan, pair: Pair) -> _OpenPlane:
    plane = source.image.read_plane(index)
    where = source.image.describe(index)
    offset, span = pair.card.normalisation.measure(plane, where=where)
    stack = source.units.of(index) if pair.card.taken.needs_stack else None
    prepared = pair.card.prepared(plane, offset, span, where=where, stack=stack)
    inputs, given = [_padded(normalise(plane, offset, span), plan)], source.given
    outputs = [np.empty([pair.factor * n for n in plan.padded_shape], np.float32) for _ in range(2)]
    if (restored := source.read_restored(index)) is not None:
        inputs.append(_padded(normalise(restored, offset, span), plan))
        with np.errstate(over="ignore"):  # what becomes infinite here is refused with the outputs
            outputs[0] = restored.astype(np.float32)
    if given.uncertainty is not None:
        outputs[1] = read_uncertainty(given.uncertainty, index)
    return _OpenPlane(index, inputs, offset, span, prepared, outputs[0], outputs[1], len(plan.tiles))


def _padded(plane: NDArray[np.float32], plan: Plan) -> Tensor:
    padding = [(0, padded - n) for padded, n in zip(plan.padded_shape, plan.shape, strict=True)]
    if any(after for _, after in padding):
        plane = np.pad(plane, padding, mode="reflect")
    return torch.from_numpy(plane)[None]


def _run(
    source: _Source,
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
    if source.volumes is not None:
        source.volumes.to(effort.device)
    pending[:], ahead = source.begin(pending, effort)
    jobs = [(index, tile) for index in pending for tile in plan.tiles]
    total = planes * len(plan.tiles) + ahead
    done = total - len(jobs) - ahead
    open_planes: dict[Index, _OpenPlane] = {}
    for first in range(0, len(jobs), effort.batch):
        if cancel.cancelled:
            return
        batch = jobs[first : first + effort.batch]
        for index, _ in batch:
            if index in open_planes:
                continue
            for _ in source.prepare(index, effort.device, cancel):
                done += 1
                yield TileDone(done=done, total=total)
            if cancel.cancelled:
                return
            open_planes[index] = _open(source, index, plan, pair)
        _compute([(open_planes[index], tile) for index, tile in batch], pair, effort.device)
        done += len(batch)
        yield TileDone(done=done, total=total)
        for index in dict.fromkeys(index for index, _ in batch):
            if open_planes[index].tiles_left == 0:
                finished = open_planes.pop(index)
                pending.remove(index)
                yield _close(finished, plan, pair, where=source.image.describe(finished.index))


def _compute(batch: list[tuple[_OpenPlane, Tile]], pair: Pair, device: torch.device) -> None:
    inputs = [
        torch.stack([image[:, tile.read[0], tile.read[1]] for image, (_, tile) in zip(images, batch, strict=True)])
        for images in zip(*(plane.inputs for plane, _ in batch), strict=True)
    ]
    units = [plane.prepared for plane, _ in batch if plane.prepared is not None]
    prepared = torch.tensor(units, dtype=torch.float32, device=device).T[..., None, None, None] if units else None
    with torch.inference_mode(), exact_float32(device):
        outputs = pair(*(tiles.to(device, memory_format=torch.channels_last) for tiles in inputs), prepared=prepared)
    restored, uncertainty = (None if output is None else output.cpu().numpy()[:, 0] for output in outputs)
    for i, (plane, tile) in enumerate(batch):
        keep, target = tile.keep(pair.factor), tile.target(pair.factor)
        if restored is not None:
            plane.restored[target] = restored[i][keep]
        if uncertainty is not None:
            plane.uncertainty[target] = uncertainty[i][keep]
        plane.tiles_left -= 1


def _close(plane: _OpenPlane, plan: Plan, pair: Pair, *, where: str) -> PlaneDone:
    """Take the padding off and return to the image's own intensities."""
    inside = tuple(slice(0, pair.factor * n) for n in plan.shape)
    restored, uncertainty = plane.restored[inside], plane.uncertainty[inside]
    if pair.restorer is not None:  # what is given is in these intensities already
        with np.errstate(over="ignore", invalid="ignore"):  # refused below, with the number of pixels
            restored *= np.float32(plane.span)
            restored += np.float32(plane.offset)
    for what, values in (("restored image", restored), ("uncertainty", uncertainty)):
        if count := int(np.count_nonzero(~np.isfinite(values))):
            raise ValueError(
                f"{where}: the {what} has {count} values that are NaN or infinite; clip the extreme pixels of the image"
            )
    return PlaneDone(
        index=plane.index, restored=restored, uncertainty=uncertainty, offset=plane.offset, span=plane.span,
        prepared=plane.prepared,
    )  # fmt: skip
