"""What a trial run shows of a network that nobody describes: its channels, its scale, its grid and its reach."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import lcm
from typing import TYPE_CHECKING, Any

import torch

from napari_maskcal.restore.arithmetic import exact_float32
from napari_maskcal.restore.loaders.adapted import check_float32
from napari_maskcal.restore.loaders.base import Said

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from napari_maskcal.restore.card import Axes

    Network = Callable[[Tensor], Tensor]

_CHANNELS = (1, 3)
_STRIDES = (1, 2, 4, 8, 16, 32, 64)
_SIZES_PX = {"YX": (128, 64, 96, 256, 512), "ZYX": (16, 32, 24, 64)}
_LONGEST_PX = 1024  # of a strip on which a reach is looked for
_LONGEST_OF_VOLUMES_PX = 512
LONGEST_S = 120.0  # after which no longer strip is tried
_SAME = 2e-5  # of the answers' spread: two orders in which the same sums are added differ by less
_TRIALS = 3
_LARGEST_FACTOR = 16
_SHAPES = {"YX": "plane", "ZYX": "volume"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found; the attributes are those of `napari_maskcal.restore.card.ModelCard`, for the network itself."""

    axes: Axes
    channels: int
    scale_factor: int
    stride_px: int
    halo_px: int | None
    min_size_px: int
    stride_z: int = 1
    halo_z: int | None = 0
    min_size_z: int = 1


def probe(network: Any, *, name: str, said: Said | None = None) -> Found:
    """Return what trial runs on random images show.

    The grid is the smallest shift at which the answer only shifts; the reach is how far the answer to a changed block
    changes, and then how much room a piece needs to be answered as in the whole. Both are looked for along each axis,
    on longer and longer strips; what reaches across the longest is called unbounded, and its images are never cut.

    Parameters
    ----------
    network
        Maps (N, channels, Y, X) to (N, channels, factor Y, factor X), or (N, channels, Z, Y, X) to the same.
    name
        For the messages.
    said
        What is known already; halos and strides are lower bounds.

    Raises
    ------
    ValueError
        If it is no network from images to images of one scale, gives another answer each time, or one that is not
        finite.
    """
    said, started = said or Said(), time.monotonic()
    with torch.inference_mode(), exact_float32(torch.device("cpu")):
        trial = _accepted(network, said, name)
        factor = trial.factor()
        trial.check_repeatable()
        along = {"px": (-2, -1), "z": (-3,)} if trial.axes == "ZYX" else {"px": (-2, -1)}
        least = {"px": said.stride_px or 1, "z": said.stride_z or 1}
        grids = {
            axis: _grid(trial, factor, least[part], axis, started) for part, axes in along.items() for axis in axes
        }
        strides = {
            part: lcm(*(grids[axis] or _accepted_step(trial, factor, least[part], axes) for axis in axes))
            for part, axes in along.items()
        }
        halos: dict[str, int | None] = dict.fromkeys(along)
        if None not in grids.values():
            halos = {
                part: _halo(trial, factor, strides[part], axes, getattr(said, f"halo_{part}"), started)
                for part, axes in along.items()
            }
        if None in halos.values():
            halos = dict.fromkeys(along)
        smallest = {part: _smallest(trial, factor, strides[part], axes) for part, axes in along.items()}
    found = Found(
        axes=trial.axes, channels=trial.channels, scale_factor=factor, stride_px=strides["px"], halo_px=halos["px"],
        min_size_px=smallest["px"],
    )  # fmt: skip
    if trial.axes == "YX":
        return found
    return replace(found, stride_z=strides["z"], halo_z=halos["z"], min_size_z=smallest["z"])


@dataclass(frozen=True, slots=True)
class _Trial:
    """A network that takes images with so many channels and pixels along each of the axes, and random ones for it."""

    network: Network
    axes: Axes
    channels: int
    size: int
    name: str

    def shape(self, length: int, axes: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an image that is `length` long along some axes, counted from the end."""
        return tuple(length if i - len(self.axes) in axes else self.size for i in range(len(self.axes)))

    def image(self, shape: tuple[int, ...], seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        # Smooth and rough parts, as images have: noise alone leaves some networks silent.
        few = [max(2, n // 8) for n in shape]
        coarse = torch.rand(1, self.channels, *few, generator=generator)
        mode = "bilinear" if len(shape) == 2 else "trilinear"
        smooth = torch.nn.functional.interpolate(coarse, size=shape, mode=mode)
        return 0.7 * smooth + 0.3 * torch.rand(1, self.channels, *shape, generator=generator)

    def answer(self, image: Tensor) -> Tensor:
        found = self.network(image.contiguous())
        if not isinstance(found, torch.Tensor):
            raise ValueError(f"{self.name} gives {type(found).__name__} and not one image; it is no restorer")
        return found

    def tried(self, image: Tensor) -> Tensor | None:
        """Return the answer, or None where the network does not like the size."""
        try:
            return self.answer(image)
        except Exception:  # noqa: BLE001 - foreign networks and their libraries raise whatever they like
            return None

    def takes(self, shape: tuple[int, ...], factor: int | None = None) -> bool:
        answer = self.tried(self.image(shape))
        if answer is None or answer.ndim != 2 + len(shape) or len(answer) != 1:
            return False
        return factor is None or tuple(answer.shape[2:]) == tuple(factor * n for n in shape)

    def factor(self) -> int:
        given = self.shape(self.size, ())
        answer = self.answer(self.image(given))
        check_float32(answer, self.name)
        shape = tuple(answer.shape)
        ratio = shape[-1] / self.size
        if len(shape) != 2 + len(given) or shape[1] not in (1, self.channels) or len(set(shape[2:])) > 1:
            raise ValueError(
                f"{self.name} makes {shape} of an image of shape {(1, self.channels, *given)}; it is no restorer"
            )
        if self.axes == "ZYX" and ratio != 1:
            raise ValueError(
                f"{self.name} makes volumes of {shape[2:]} of those of {given}; only networks that keep the size of "
                "volumes can be used"
            )
        if ratio != int(ratio) or not 1 <= ratio <= _LARGEST_FACTOR:
            raise ValueError(
                f"{self.name} makes {shape[-1]} pixels of {self.size}; only networks that keep the size, or enlarge it "
                f"2 to {_LARGEST_FACTOR} times, can be used"
            )
        return int(ratio)

    def check_repeatable(self) -> None:
        first, second = (self.answer(self.image(self.shape(self.size, ()))) for _ in range(2))
        if not torch.isfinite(first).all():
            raise ValueError(f"{self.name} gives values that are NaN or infinite for an image between 0 and 1")
        if not torch.equal(first, second):
            raise ValueError(
                f"{self.name} gives another answer each time, so no promise could be made about it; take a network "
                "without random parts"
            )

    def tells_images_apart(self) -> bool:
        """Whether two images at once are answered as each by itself."""
        first, second = (self.image(self.shape(self.size, ()), seed) for seed in (0, 1))
        both, alone = self.tried(torch.cat([first, second])), self.tried(second)
        if both is None or alone is None:
            return False
        if both.dtype != torch.float32 or not alone.numel():
            return True  # that is refused later, in words
        return len(both) == 2 and _same(both[1:], alone, alone)


def _accepted(network: Network, said: Said, name: str) -> _Trial:
    """Return a trial of a kind of image that the network takes: planes, if it takes them as such."""
    channels = (said.channels,) if said.channels else _CHANNELS
    kinds: tuple[Axes, ...] = (said.axes,) if said.axes else ("YX", "ZYX")
    found = [trial for axes in kinds if (trial := _taken(network, axes, channels, name))]
    # Layers for volumes take a plane too: for one volume without an axis that counts volumes.
    if len(found) == 2 and not found[0].tells_images_apart():
        return found[1]
    if found:
        return found[0]
    kind = kinds[0]
    trial = _Trial(network, kind, channels[0], _SIZES_PX[kind][0], name)
    try:
        trial.answer(trial.image(trial.shape(trial.size, ())))
        reason = "its answer is no image"
    except Exception as error:  # noqa: BLE001 - the foreign network's own words say most
        reason = " ".join(str(error).split())[:200]
    what = " and no ".join(_SHAPES[one] for one in kinds)
    tried, sizes = " or ".join(str(count) for count in channels), _SIZES_PX[kind]
    raise ValueError(f"{name} takes no {what} of {tried} channels and {min(sizes)} to {max(sizes)} pixels: {reason}")


def _taken(network: Network, axes: Axes, channels: tuple[int, ...], name: str) -> _Trial | None:
    """Return a trial of a number of channels and a size that the network takes."""
    trials = (_Trial(network, axes, count, size, name) for size in _SIZES_PX[axes] for count in channels)
    return next((trial for trial in trials if trial.takes(trial.shape(trial.size, ()))), None)


def _longest(trial: _Trial) -> int:
    return _LONGEST_PX if trial.axes == "YX" else _LONGEST_OF_VOLUMES_PX


def _grid(trial: _Trial, factor: int, least: int, axis: int, started: float) -> int | None:
    """Return the smallest shift along an axis at which the answer only shifts.

    None where there is none on the longest strip, or to look on a longer one would take too long.
    """
    length = trial.size
    while length <= _longest(trial):
        found = next((s for s in _STRIDES if s % least == 0 and _is_grid(trial, length, factor, s, axis)), None)
        if found is not None or time.monotonic() - started > LONGEST_S:
            return found
        length *= 2
    return None


def _accepted_step(trial: _Trial, factor: int, least: int, axes: tuple[int, ...]) -> int:
    """Return the smallest step between sizes that are taken, where no shift leaves the answer as it is."""
    steps = (s for s in _STRIDES if s % least == 0 and s < trial.size)
    return next((s for s in steps if trial.takes(trial.shape(trial.size - s, axes), factor)), _STRIDES[-1])


def _smallest(trial: _Trial, factor: int, stride: int, axes: tuple[int, ...]) -> int:
    """Return the smallest size along some axes that is taken."""
    sizes = range(stride, trial.size + 1, stride)
    return next((n for n in sizes if trial.takes(trial.shape(n, axes), factor)), trial.size)


def _is_grid(trial: _Trial, length: int, factor: int, shift: int, axis: int) -> bool:
    """Whether strips shorter by `shift` are taken, and one that begins so much later is answered so, in its middle."""
    middle, width = length // 2, max(length // 16, 8)
    if middle - width < shift or not trial.takes(trial.shape(length - shift, (axis,)), factor):
        return False
    image = trial.image(trial.shape(length + _STRIDES[-1], (axis,)), seed=1)
    first = trial.tried(image.narrow(axis, 0, length))
    second = trial.tried(image.narrow(axis, shift, length))
    if first is None or second is None:
        return False
    here = first.narrow(axis, factor * (middle - width), 2 * factor * width)
    there = second.narrow(axis, factor * (middle - width - shift), 2 * factor * width)
    return _same(here, there, first)


def _halo(
    trial: _Trial, factor: int, stride: int, axes: tuple[int, ...], said: int | None, started: float
) -> int | None:
    """Return the reach along some axes, or what was said if that is more; None where it has no bound."""
    reaches = [_reach_on_strips(trial, factor, stride, axis, started) for axis in axes]
    if None in reaches:
        return None
    return max(-(-(said or 0) // stride) * stride, *(reach for reach in reaches if reach is not None))


def _reach_on_strips(trial: _Trial, factor: int, stride: int, axis: int, started: float) -> int | None:
    """Return the reach along an axis; None where it is to the ends of the longest strip, or would take too long."""
    length = 2 * trial.size
    while length <= _longest(trial) and time.monotonic() - started < LONGEST_S:
        shape = trial.shape(-(-length // stride) * stride, (axis,))
        if trial.takes(shape, factor) and (found := _reach(trial, shape, factor, stride, axis)) is not None:
            return found
        length *= 2
    return None


def _reach(trial: _Trial, shape: tuple[int, ...], factor: int, stride: int, axis: int) -> int | None:
    """Return how far a block reaches along an axis, rounded up to the stride; None where it is to the ends."""
    length = shape[axis]
    middle, farthest = length // 2 // stride * stride, 0
    for seed in range(_TRIALS):
        image = trial.image(shape, seed=10 + seed)
        changed = image.clone()
        changed.narrow(axis, middle, stride).copy_(
            trial.image(shape, seed=50 + seed).narrow(axis, middle, stride) + (-1) ** seed * 0.5
        )
        # Any change at all counts: what fades with the distance still reaches.
        differs = (trial.answer(image) != trial.answer(changed)).movedim(axis, 0).flatten(1).any(dim=1)
        places = differs.nonzero().flatten()
        if len(places):
            before = middle - int(places[0]) // factor
            after = -(-int(places[-1] + 1) // factor) - (middle + stride)
            farthest = max(farthest, before, after)
    halo = -(-farthest // stride) * stride
    while halo + stride <= length // 4:
        if _pieces_agree(trial, shape, factor, halo, stride, axis):
            return halo
        halo = max(2 * halo, stride)
    return None


def _pieces_agree(trial: _Trial, shape: tuple[int, ...], factor: int, halo: int, stride: int, axis: int) -> bool:
    """Whether the middle of a piece with this halo around it is answered as in the whole strip."""
    image = trial.image(shape, seed=2)
    whole = trial.answer(image)
    start, kept = shape[axis] // 4 // stride * stride, shape[axis] // 2 // stride * stride
    if start < halo:
        return False
    piece = trial.tried(image.narrow(axis, start - halo, kept + 2 * halo))
    if piece is None:
        return False
    inside = piece.narrow(axis, factor * halo, factor * kept)
    return _same(whole.narrow(axis, factor * start, factor * kept), inside, whole)


def _same(one: Tensor, other: Tensor, whole: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    spread = float(whole.std()) or 1.0
    return bool((one - other).abs().max() <= _SAME * spread)
