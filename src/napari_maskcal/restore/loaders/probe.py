"""What a trial run shows of a network that nobody describes: its channels, its scale, its grid and its reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from napari_maskcal.restore.engine import exact_float32

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Network = Callable[[Tensor], Tensor]

_CHANNELS = (1, 3)
_STRIDES = (1, 2, 4, 8, 16, 32, 64)
_SIZES_PX = (128, 64, 96, 256, 512)
_LARGEST_PX = 1024  # of a plane on which a reach is looked for: a few seconds for a small network
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
    changes, and then how much room a piece needs to be answered as in the whole. Both are looked for on
    larger and larger images; what reaches across the largest is called unbounded, and its planes are never cut.

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
    with torch.inference_mode(), exact_float32(torch.device("cpu")):
        taken, size = _accepted(network, (channels,) if channels else _CHANNELS, name)
        trial = _Trial(network, taken, name)
        factor = trial.factor(size)
        trial.check_repeatable(size)
        stride, reach = _grid_and_reach(trial, size, factor, stride_px or 1)
        if reach is not None:
            reach = max(reach, -(-(halo_px or 0) // stride) * stride)
        smallest = next((n for n in range(stride, size + 1, stride) if trial.takes(n, factor)), size)
    return Found(channels=taken, scale_factor=factor, stride_px=stride, halo_px=reach, min_size_px=smallest)


@dataclass(frozen=True, slots=True)
class _Trial:
    """A network that takes so many channels, and random images for it."""

    network: Network
    channels: int
    name: str

    def image(self, size: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        # Smooth and rough parts, as images have: noise alone leaves some networks silent.
        coarse = torch.rand(1, self.channels, max(2, size // 8), max(2, size // 8), generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
        return (0.7 * smooth + 0.3 * torch.rand(1, self.channels, size, size, generator=generator)).contiguous()

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

    def takes(self, size: int, factor: int | None = None) -> bool:
        answer = self.tried(self.image(size))
        if answer is None or answer.ndim != 4 or len(answer) != 1:
            return False
        return factor is None or tuple(answer.shape[2:]) == (factor * size,) * 2

    def factor(self, size: int) -> int:
        shape = tuple(self.answer(self.image(size)).shape)
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
        first, second = (self.answer(self.image(size)) for _ in range(2))
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
            if _Trial(network, count, name).takes(size):
                return count, size
    tried = " or ".join(str(count) for count in channels)
    try:
        _Trial(network, channels[0], name).answer(_Trial(network, channels[0], name).image(_SIZES_PX[0]))
        reason = "its answer is no image"
    except Exception as error:  # noqa: BLE001 - the foreign network's own words say most
        reason = " ".join(str(error).split())[:200]
    raise ValueError(
        f"{name} takes no plane of {tried} channels and {min(_SIZES_PX)} to {max(_SIZES_PX)} pixels: {reason}"
    )


def _grid_and_reach(trial: _Trial, size: int, factor: int, least: int) -> tuple[int, int | None]:
    """Return the stride, and the reach or None, on images as large as it takes."""
    stride = least
    while size <= _LARGEST_PX:
        if trial.takes(size, factor):
            found = next((s for s in _STRIDES if s % least == 0 and _is_grid(trial, size, factor, s)), None)
            if found is not None:
                stride = found
                reach = _reach(trial, size, factor, stride)
                if reach is not None:
                    return stride, reach
        size *= 2
    fits = next((s for s in _STRIDES if s % least == 0 and trial.takes(size // 2 - s, factor)), None)
    return fits or stride, None


def _is_grid(trial: _Trial, size: int, factor: int, shift: int) -> bool:
    """Whether sizes that differ by `shift` are taken, and an image that begins so much later is answered so."""
    if not trial.takes(size - shift, factor):
        return False
    image = trial.image(size + _STRIDES[-1], seed=1)
    first = trial.tried(image[..., :size, :size])
    second = trial.tried(image[..., shift : shift + size, shift : shift + size])
    if first is None or second is None:
        return False
    middle, width = size // 2, max(size // 16, 8)
    window = slice(factor * (middle - width), factor * (middle + width))
    moved = slice(factor * (middle - width - shift), factor * (middle + width - shift))
    return _same(first[..., window, window], second[..., moved, moved], first)


def _reach(trial: _Trial, size: int, factor: int, stride: int) -> int | None:
    """Return how far a block reaches, rounded up to the stride; None where it is to the border."""
    middle, farthest = size // 2 // stride * stride, 0
    block = slice(middle, middle + stride)
    for seed in range(_TRIALS):
        image = trial.image(size, seed=10 + seed)
        changed = image.clone()
        changed[..., block, block] = trial.image(size, seed=50 + seed)[..., block, block] + (-1) ** seed * 0.5
        first = trial.answer(image)
        # Any change at all counts: what fades with the distance still reaches.
        differs = (first != trial.answer(changed)).flatten(0, 1).any(dim=0)
        for axis in (0, 1):
            places = differs.any(dim=1 - axis).nonzero().flatten()
            if len(places):
                before = middle - int(places[0]) // factor
                after = -(-int(places[-1] + 1) // factor) - (middle + stride)
                farthest = max(farthest, before, after)
    halo = -(-farthest // stride) * stride
    while halo + stride <= middle // 2:
        if _pieces_agree(trial, size, factor, halo):
            return halo
        halo = max(2 * halo, stride)
    return None


def _pieces_agree(trial: _Trial, size: int, factor: int, halo: int) -> bool:
    """Whether the middle of a piece with this halo around it is answered as in the whole."""
    image = trial.image(size, seed=2)
    whole = trial.answer(image)
    quarter = size // 4
    start, stop = quarter, size - quarter
    cut = slice(start - halo, stop + halo)
    if start - halo < 0:
        return False
    piece = trial.tried(image[..., cut, cut])
    if piece is None:
        return False
    inside = slice(factor * halo, factor * (halo + stop - start))
    middle = slice(factor * start, factor * stop)
    return _same(whole[..., middle, middle], piece[..., inside, inside], whole)


def _same(one: Tensor, other: Tensor, whole: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    spread = float(whole.std()) or 1.0
    return bool((one - other).abs().max() <= _SAME * spread)
