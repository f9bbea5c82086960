"""Random crops of the training fields, turned and mirrored; each batch is a function of its seed alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_maskcal.mask.recipe import TrainingField


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Crops of N fields, each image (N, C, Y, X) or (N, C, Z, Y, X); `labels` say what fields they are of."""

    degraded: NDArray[np.float32]
    restored: NDArray[np.float32]
    truth: NDArray[np.float32]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crops:
    """Where crops may be cut; made by `plan_crops`.

    Attributes
    ----------
    size_px
        Of a crop along each spatial axis, on the restored grid.
    factor
        Restored pixels to a degraded one, along each spatial axis.
    chances
        Of each field, by its number of pixels: all pixels are seen as often.
    """

    fields: Sequence[TrainingField]
    size_px: tuple[int, ...]
    factor: tuple[int, ...]
    chances: NDArray[np.float64]

    def draw(self, count: int, *seed: int) -> Batch:
        """Return `count` random crops, the same for the same seed."""
        rng = np.random.default_rng(seed)
        chosen = [self.fields[i] for i in rng.choice(len(self.fields), size=count, p=self.chances)]
        images = zip(*(self._crop(field, rng) for field in chosen), strict=True)
        degraded, restored, truth = (np.stack(own) for own in images)
        return Batch(
            degraded=degraded, restored=restored, truth=truth, labels=tuple(field.label for field in chosen)
        )  # fmt: skip

    def _crop(self, field: TrainingField, rng: np.random.Generator) -> tuple[NDArray[np.float32], ...]:
        room = zip(field.restored.shape[1:], self.size_px, self.factor, strict=True)
        start = [factor * int(rng.integers((size - crop) // factor + 1)) for size, crop, factor in room]
        turns, mirrored = int(rng.integers(4)), rng.random(len(start) - 1) < 0.5
        flips = tuple(axis for axis, flip in zip((-1, -3), mirrored, strict=False) if flip)

        def cut(image: NDArray[np.float32], factor: Sequence[int]) -> NDArray[np.float32]:
            corners = zip(start, self.size_px, factor, strict=True)
            window = (slice(None), *(slice(first // f, (first + size) // f) for first, size, f in corners))
            turned: NDArray[np.float32] = np.rot90(image[window], turns, axes=(-2, -1))
            return np.flip(turned, flips)

        whole = (1,) * len(start)
        return cut(field.degraded, self.factor), cut(field.restored, whole), cut(field.truth, whole)


def plan_crops(fields: Sequence[TrainingField], *, crop_px: int, stride_px: int) -> Crops:
    """Return where crops of at most `crop_px` may be cut, in multiples of the network's stride.

    Fields that are smaller make all crops smaller; volumes have a size of their own along Z.

    Raises
    ------
    ValueError
        If there are no fields, they do not go together, are smaller than the stride, or hold NaN or infinite pixels.
    """
    if not fields:
        raise ValueError("there are no fields to train on; give at least one triplet")
    factor = _factor(fields[0])
    for field in fields:
        _check_alike(field, fields[0], factor)
    size_px = _crop_size(fields, crop_px=crop_px, steps=[lcm(stride_px, f) for f in factor])
    areas = np.array([np.prod(field.restored.shape[1:]) for field in fields], dtype=np.float64)
    return Crops(fields=fields, size_px=size_px, factor=factor, chances=areas / areas.sum())


def _factor(field: TrainingField) -> tuple[int, ...]:
    """Return how much finer the restored image is along each axis."""
    fine, coarse = field.restored.shape, field.degraded.shape
    if len(fine) not in (3, 4) or len(fine) != len(coarse):
        raise ValueError(
            f"field {field.label}: the degraded image has shape {coarse} and the restored one {fine}; both have to be "
            "(C, Y, X) or (C, Z, Y, X)"
        )
    factor = tuple(a // max(b, 1) for a, b in zip(fine[1:], coarse[1:], strict=True))
    whole = all(f >= 1 and a == f * b for a, b, f in zip(fine[1:], coarse[1:], factor, strict=True))
    if not whole or factor[-1] != factor[-2]:
        raise ValueError(
            f"field {field.label}: the restored image has {_sides(fine)} pixels and the degraded one {_sides(coarse)}; "
            "it has to be finer by a whole factor, the same along Y and X"
        )
    return factor


def _check_alike(field: TrainingField, first: TrainingField, factor: tuple[int, ...]) -> None:
    if field.restored.ndim != first.restored.ndim:
        raise ValueError(
            f"field {field.label} has {field.restored.ndim - 1} axes and {first.label} has {len(factor)}; "
            "train on planes or on volumes"
        )
    if field.restored.shape != field.truth.shape:
        raise ValueError(
            f"field {field.label}: the restored image has shape {field.restored.shape} and the truth "
            f"{field.truth.shape}; they have to be the same"
        )
    if (own := _factor(field)) != factor:
        raise ValueError(
            f"field {field.label} is restored {_times(own)} finer and {first.label} {_times(factor)}; "
            "train on fields of one restorer"
        )
    for what in ("degraded", "restored"):
        counts = [len(getattr(one, what)) for one in (field, first)]
        if counts[0] != counts[1]:
            raise ValueError(
                f"the {what} image of field {field.label} has {counts[0]} channel(s) and that of {first.label} "
                f"{counts[1]}; leave out fields of either kind"
            )
    for what in ("degraded", "restored", "truth"):
        if wrong := int(np.count_nonzero(~np.isfinite(getattr(field, what)))):
            raise ValueError(
                f"the {what} image of field {field.label} has {wrong} pixel(s) that are NaN or infinite; leave it out"
            )


def _crop_size(fields: Sequence[TrainingField], *, crop_px: int, steps: Sequence[int]) -> tuple[int, ...]:
    smallest = [min(field.restored.shape[axis] for field in fields) for axis in range(1, len(steps) + 1)]
    smallest[-2:] = [min(smallest[-2:])] * 2  # quarter turns need a square
    size = tuple(min(crop_px, side) // step * step for side, step in zip(smallest, steps, strict=True))
    for axis, (side, step) in enumerate(zip(size, steps, strict=True), start=1):
        if not side:
            field = min(fields, key=lambda field: min(field.restored.shape[axis:]))
            raise ValueError(
                f"field {field.label} has {_sides(field.restored.shape)} pixels and crops at most {crop_px}; "
                f"the network needs at least {step} along each axis: take larger fields, or fewer widths"
            )
    return size


def _sides(shape: tuple[int, ...]) -> str:
    return " × ".join(str(n) for n in shape[1:])


def _times(factor: tuple[int, ...]) -> str:
    return " × ".join(str(f) for f in factor)
