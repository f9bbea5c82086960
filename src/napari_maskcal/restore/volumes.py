"""Planes that are restored as parts of volumes: slab by slab, each by tiles, so that memory has a bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_maskcal.models import GIVEN_RESTORER, Restorer
from napari_maskcal.restore.arithmetic import exact_float32, normalise
from napari_maskcal.restore.tiles import VolumePlan, plan_volume

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from napari_maskcal.read.image import Image
    from napari_maskcal.restore.card import ModelCard
    from napari_maskcal.restore.events import CancelToken
    from napari_maskcal.restore.stacks import StackUnits

    Index = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Slab:
    """Planes of one stack that are restored together.

    Attributes
    ----------
    stack
        The indices of all planes of the stack.
    read, write
        What goes into the network along Z, halo included, and what is kept of its answer.
    asked
        The planes that were asked for; all of them are in `write`.
    """

    stack: tuple[Index, ...]
    plan: VolumePlan
    read: slice
    write: slice
    asked: tuple[Index, ...]


class Volumes:
    """The restored planes of an image, for a restorer of volumes.

    One slab is held at a time: the planes that are read for it, and those of its restored planes that were asked for.

    Raises
    ------
    ValueError
        From `plan`, if a stack has too few planes for the network.
    """

    def __init__(self, image: Image, restorer: Restorer, units: StackUnits) -> None:
        self._image, self._units = image, units
        self._card, self._network = restorer.card, _network(restorer)
        self._slabs: dict[Index, _Slab] = {}
        self._read: dict[Index, NDArray[Any]] = {}
        self._restored: dict[Index, NDArray[np.float32]] = {}

    def plan(self, planes: Sequence[Index], *, most_voxels: int) -> list[Index]:
        """Return `planes` in the order in which they come: those of one slab together, else as they were given.

        The first one comes before the others of its slab, if that is much sooner: somebody may be looking at it.
        """
        members: dict[Index, tuple[tuple[Index, ...], list[Index]]] = {}
        for index in planes:
            stack = self._image.stack_of(index)
            members.setdefault(stack[0], (stack, []))[1].append(index)
        slabs = [slab for stack, asked in members.values() for slab in self._slabs_of(stack, asked, most_voxels)]
        parts = (*_first_alone(slabs[0]), *slabs[1:]) if slabs else ()
        self._slabs = {index: slab for slab in parts for index in slab.asked}
        return list(self._slabs)

    @property
    def steps(self) -> int:
        """How many tiles there are to compute, as planned."""
        slabs = {id(slab): slab for slab in self._slabs.values()}
        return sum(len(slab.plan.y) * len(slab.plan.x) for slab in slabs.values())

    def tile_shape(self, *, most_voxels: int) -> tuple[int, int, int]:
        """Return the (Z, Y, X) of the largest tile that the planned stacks would be read in."""
        depths = {len(slab.stack) for slab in self._slabs.values()}
        shapes = [self._plan(depth, most_voxels).tile_shape for depth in depths]
        return max(shapes, key=lambda shape: int(np.prod(shape)))

    def to(self, device: torch.device | str) -> None:
        """Put the network on a device."""
        self._network.to(device)

    def compute(self, index: Index, device: torch.device, cancel: CancelToken) -> Iterator[None]:
        """Restore the slab that a plane is in, unless it is there; yield after each tile, and stop when cancelled."""
        if index in self._restored:
            return
        slab = self._slabs[index]
        self._restored = {}
        sources = _reflected(len(slab.stack), slab.plan.padded_shape[0])[slab.read]
        needed = {slab.stack[z] for z in sources}
        self._read = {one: plane for one, plane in self._read.items() if one in needed}
        for one in sorted(needed - self._read.keys()):
            if cancel.cancelled:
                return
            self._read[one] = self._image.read_plane(one)
        shape = slab.plan.shape
        made = np.empty((slab.write.stop - slab.write.start, *shape[1:]), np.float32)
        keep_z = slice(slab.write.start - slab.read.start, slab.write.stop - slab.read.start)
        for (y, keep_y), (x, keep_x) in product(slab.plan.y, slab.plan.x):
            if cancel.cancelled:
                return
            answer = self._answer([self._read[slab.stack[z]] for z in sources], slab, y, x, device)
            inside = (_inside(keep_y, shape[1]), _inside(keep_x, shape[2]))
            kept = tuple(
                slice(part.start - read.start, part.stop - read.start)
                for part, read in zip(inside, (y, x), strict=True)
            )  # fmt: skip
            made[:, *inside] = answer[keep_z, *kept]
            yield
        self._restored = {one: made[slab.stack.index(one) - slab.write.start] for one in slab.asked}

    def read_plane(self, index: Index) -> NDArray[np.float32]:
        """Return a plane that was computed, in the image's own intensities; it may be NaN or infinite."""
        offset, span = self._units.of(index)
        with np.errstate(over="ignore", invalid="ignore"):  # refused with the outputs
            return np.asarray(self._restored[index] * np.float32(span) + np.float32(offset), dtype=np.float32)

    def _answer(
        self, planes: Sequence[NDArray[Any]], slab: _Slab, y: slice, x: slice, device: torch.device
    ) -> NDArray[np.float32]:
        """Return what the network makes of one tile, (Z, Y, X)."""
        padded, shape = slab.plan.padded_shape, slab.plan.shape
        window = np.ix_(*(_reflected(shape[i], padded[i])[part] for i, part in ((1, y), (2, x))))
        offset, span = self._units.of(slab.asked[0])
        volume = np.stack([normalise(plane[window], offset, span) for plane in planes])
        return run_volume(self._network, volume, device, name=self._card.name)

    def _plan(self, depth: int, most_voxels: int) -> VolumePlan:
        card = self._card
        bounded = card.halo_px is not None and card.halo_z is not None
        height, width = self._image.shape[-2:]
        return plan_volume(
            (depth, height, width), most_voxels=most_voxels,
            halo=(card.halo_z or 0, card.halo_px or 0) if bounded else None, stride=(card.stride_z, card.stride_px),
            least=(card.min_size_z, card.min_size_px),
        )  # fmt: skip

    def _slabs_of(self, stack: tuple[Index, ...], asked: Sequence[Index], most_voxels: int) -> Iterator[_Slab]:
        """Yield the slabs of a stack that have planes which are asked for, in the order of the first of these."""
        check_depth(self._card, stack, self._image)
        plan, place = self._plan(len(stack), most_voxels), {index: z for z, index in enumerate(stack)}
        members: dict[int, list[Index]] = {}
        for index in asked:
            members.setdefault(plan.slab_of(place[index]), []).append(index)
        for number, inside in members.items():
            heights = [place[index] for index in inside]
            read, write = plan.narrowed(number, min(heights), max(heights) + 1)
            yield _Slab(stack, plan, read, write, tuple(inside))


def _first_alone(slab: _Slab) -> tuple[_Slab, ...]:
    """Return the first plane of a slab and the others, where it needs at most a quarter of what all together do."""
    z = slab.stack.index(slab.asked[0])
    read, write = slab.plan.narrowed(slab.plan.slab_of(z), z, z + 1)
    if len(slab.asked) == 1 or 4 * (read.stop - read.start) > slab.read.stop - slab.read.start:
        return (slab,)
    return replace(slab, read=read, write=write, asked=slab.asked[:1]), replace(slab, asked=slab.asked[1:])


def as_given(restorer: Restorer) -> Restorer:
    """Return what stands for a restorer of volumes where planes are masked: their restored images come with them."""
    card = restorer.card
    kept = {"name": card.name, "normalisation": card.normalisation, "min_size_px": card.min_size_px}
    return replace(restorer, card=GIVEN_RESTORER.card.model_copy(update=kept), network=None)


def check_depth(card: ModelCard, stack: Sequence[Index], image: Image) -> None:
    """Raise ValueError unless a stack has as many planes as the network needs; what looks at others needs two."""
    least = max(card.min_size_z, 1 if card.halo_z == 0 else 2)
    if len(stack) < least:
        found = "is a single plane" if len(stack) == 1 else f"is in a stack of {len(stack)} planes"
        raise ValueError(
            f"{card.name} restores volumes of at least {least} planes, and {image.describe(stack[0])} {found}; give "
            "stacks, with an axis Z"
        )


def run_volume(
    network: nn.Module, volume: NDArray[np.float32], device: torch.device, *, name: str
) -> NDArray[np.float32]:
    """Return what a network makes of a normalised (Z, Y, X) volume.

    Raises
    ------
    ValueError
        If it is of another size.
    """
    with torch.inference_mode(), exact_float32(device):
        answer: Tensor = network(torch.from_numpy(volume)[None, None].to(device))
    if tuple(answer.shape) != (1, 1, *volume.shape):
        raise ValueError(f"{name} makes {tuple(answer.shape)} of a volume of {volume.shape}; it has to keep its size")
    return np.asarray(answer[0, 0].cpu().numpy())


def _network(restorer: Restorer) -> nn.Module:
    if restorer.network is None:
        raise ValueError(f"{restorer.card.name} makes no image itself; give the restored images")
    return restorer.network


def _reflected(n: int, padded: int) -> NDArray[np.intp]:
    """Return which of `n` places each of `padded` places is filled from."""
    return np.pad(np.arange(n), (0, padded - n), mode="reflect")


def _inside(part: slice, n: int) -> slice:
    return slice(part.start, min(part.stop, n))
