"""What a trial run shows of a network that nobody describes: its channels, its scale, its grid and its reach."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING, Any

import torch

from napari_maskcal.restore.engine import exact_float32
from napari_maskcal.restore.loaders.adapted import check_float32

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Network = Callable[[Tensor], Tensor]

_CHANNELS = (1, 3)
_STRIDES = (1, 2, 4, 8, 16, 32, 64)
_SIZES_PX = (128, 64, 96, 256, 512)
_LONGEST_PX = 1024  # of a strip on which a reach is looked for
_LONGEST_S = 120.0  # after which no longer strip is tried
_SAME = 2e-5  # of the answers' spread: two orders in which the same sums are added differ by less
_TRIALS = 3
_LARGEST_FACTOR = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found; the attributes are those of `napari_maskcal.restore.card.ModelCard`, for the network itself."""

    channels: int
    scale_factor: int
    stride_px: int
    halo_px: int | None
    min_size_px: int


def probe(
    network: Any, *, name: str, channels: int | None = None, halo_px: int | None = None, stride_px: int | None = None
) -> Found:
    """Return what trial runs on random images show.

    The grid is the smallest shift at which the answer only shifts; the reach is how far the answer to a changed block
    changes, and then how much room a piece needs to be answered as in the whole. Both are looked for along each axis,
    on longer and longer strips; what reaches across the longest is called unbounded, and its planes are never cut.

    Parameters
    ----------
    network
        Maps (N, channels, Y, X) to (N, channels, factor Y, factor X).
    name
        For the messages.
    channels, halo_px, stride_px
        What is known already; halo and stride are lower bounds.

    Raises
    ------
    ValueError
        If it is no network from images to images of one scale, gives another answer each time, or one that is not
        finite.
    """
    started = time.monotonic()
    with torch.inference_mode(), exact_float32(torch.device("cpu")):
        taken, size = _accepted(network, (channels,) if channels else _CHANNELS, name)
        trial = _Trial(network, taken, name)
        factor = trial.factor(size)
        trial.check_repeatable(size)
        least = stride_px or 1
        grids = [_grid(trial, size, factor, least, axis) for axis in (-2, -1)]
        stride, reach = lcm(*(grid or _accepted_step(trial, size, factor, least) for grid in grids)), None
        if None not in grids:
            reaches = [_reach_on_strips(trial, size, factor, stride, axis, started) for axis in (-2, -1)]
            reach = None if None in reaches else max(one for one in reaches if one is not None)
        if reach is not None:
            reach = max(reach, -(-(halo_px or 0) // stride) * stride)
        smallest = next((n for n in range(stride, size + 1, stride) if trial.takes((n, n), factor)), size)
    return Found(channels=taken, scale_factor=factor, stride_px=stride, halo_px=reach, min_size_px=smallest)


@dataclass(frozen=True, slots=True)
class _Trial:
    """A network that takes so many channels, and random images for it."""

    network: Network
    channels: int
    name: str

    def image(self, shape: tuple[int, int], seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        # Smooth and rough parts, as images have: noise alone leaves some networks silent.
        few = [max(2, n // 8) for n in shape]
        coarse = torch.rand(1, self.channels, *few, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=shape, mode="bilinear")
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

    def takes(self, shape: tuple[int, int], factor: int | None = None) -> bool:
        answer = self.tried(self.image(shape))
        if answer is None or answer.ndim != 4 or len(answer) != 1:
            return False
        return factor is None or tuple(answer.shape[2:]) == tuple(factor * n for n in shape)

    def factor(self, size: int) -> int:
        answer = self.answer(self.image((size, size)))
        check_float32(answer, self.name)
        shape = tuple(answer.shape)
        ratio = shape[-1] / size
        if len(shape) != 4 or shape[1] not in (1, self.channels) or shape[-1] != shape[-2]:
            raise ValueError(
                f"{self.name} makes {shape} of an image of shape {(1, self.channels, size, size)}; it is no restorer"
            )
        if ratio != int(ratio) or not 1 <= ratio <= _LARGEST_FACTOR:
            raise ValueError(
                f"{self.name} makes {shape[-1]} pixels of {size}; only networks that keep the size, or enlarge it 2 to "
                f"{_LARGEST_FACTOR} times, can be used"
            )
        return int(ratio)

    def check_repeatable(self, size: int) -> None:
        first, second = (self.answer(self.image((size, size))) for _ in range(2))
        if not torch.isfinite(first).all():
            raise ValueError(f"{self.name} gives values that are NaN or infinite for an image between 0 and 1")
        if not torch.equal(first, second):
            raise ValueError(
                f"{self.name} gives another answer each time, so no promise could be made about it; take a network "
                "without random parts"
            )


def _accepted(network: Network, channels: tuple[int, ...], name: str) -> tuple[int, int]:
    """Return a number of channels and a size that the network takes."""
    for size in _SIZES_PX:
        for count in channels:
            if _Trial(network, count, name).takes((size, size)):
                return count, size
    tried = " or ".join(str(count) for count in channels)
    try:
        _Trial(network, channels[0], name).answer(
            _Trial(network, channels[0], name).image((_SIZES_PX[0], _SIZES_PX[0]))
        )
        reason = "its answer is no image"
    except Exception as error:  # noqa: BLE001 - the foreign network's own words say most
        reason = " ".join(str(error).split())[:200]
    raise ValueError(
        f"{name} takes no plane of {tried} channels and {min(_SIZES_PX)} to {max(_SIZES_PX)} pixels: {reason}"
    )


def _strip(size: int, length: int, axis: int) -> tuple[int, int]:
    """Return the shape of a strip of `size` pixels that is `length` long along an axis."""
    return (length, size) if axis == -2 else (size, length)


def _grid(trial: _Trial, size: int, factor: int, least: int, axis: int) -> int | None:
    """Return the smallest shift along an axis at which the answer only shifts; None if there is none."""
    length = size
    while length <= _LONGEST_PX:
        found = next((s for s in _STRIDES if s % least == 0 and _is_grid(trial, size, length, factor, s, axis)), None)
        if found is not None:
            return found
        length *= 2
    return None


def _accepted_step(trial: _Trial, size: int, factor: int, least: int) -> int:
    """Return the smallest step between sizes that are taken, where no shift leaves the answer as it is."""
    steps = (s for s in _STRIDES if s % least == 0 and trial.takes((size - s, size - s), factor))
    return next(steps, _STRIDES[-1])


def _is_grid(trial: _Trial, size: int, length: int, factor: int, shift: int, axis: int) -> bool:
    """Whether strips shorter by `shift` are taken, and one that begins so much later is answered so, in its middle."""
    middle, width = length // 2, max(length // 16, 8)
    if middle - width < shift or not trial.takes(_strip(size, length - shift, axis), factor):
        return False
    image = trial.image(_strip(size, length + _STRIDES[-1], axis), seed=1)
    first = trial.tried(image.narrow(axis, 0, length))
    second = trial.tried(image.narrow(axis, shift, length))
    if first is None or second is None:
        return False
    here = first.narrow(axis, factor * (middle - width), 2 * factor * width)
    there = second.narrow(axis, factor * (middle - width - shift), 2 * factor * width)
    return _same(here, there, first)


def _reach_on_strips(trial: _Trial, size: int, factor: int, stride: int, axis: int, started: float) -> int | None:
    """Return the reach along an axis; None where it is to the ends of the longest strip, or would take too long."""
    length = 2 * size
    while length <= _LONGEST_PX and time.monotonic() - started < _LONGEST_S:
        shape = _strip(size, -(-length // stride) * stride, axis)
        if trial.takes(shape, factor) and (found := _reach(trial, shape, factor, stride, axis)) is not None:
            return found
        length *= 2
    return None


def _reach(trial: _Trial, shape: tuple[int, int], factor: int, stride: int, axis: int) -> int | None:
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
        if _pieces_agree(trial, shape, factor, halo, axis):
            return halo
        halo = max(2 * halo, stride)
    return None


def _pieces_agree(trial: _Trial, shape: tuple[int, int], factor: int, halo: int, axis: int) -> bool:
    """Whether the middle of a piece with this halo around it is answered as in the whole strip."""
    image = trial.image(shape, seed=2)
    whole = trial.answer(image)
    start = shape[axis] // 4 // _STRIDES[-1] * _STRIDES[-1]
    kept = shape[axis] // 2 // _STRIDES[-1] * _STRIDES[-1] or _STRIDES[-1]
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
