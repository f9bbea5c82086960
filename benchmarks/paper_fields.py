"""Fields of the benchmark: what they are, how groups are split, and how fields are drawn from whole images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Plane = NDArray[np.float32]
    Degrade = Callable[[Plane, np.random.Generator], tuple[Plane, Plane]]
    Window = tuple[slice, slice]

FIELD_PX = 128
FIELDS_PER_GROUP = 8
TRAINING_FIELDS = 384
FLATTEST = 0.01  # standard deviation below which a window counts as empty, in shares of the range


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A field before it is restored: (C, Y, X) each, `degraded` perhaps with other channels or coarser."""

    group: str
    name: str
    degraded: Plane
    truth: Plane


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperField:
    """A field of a task, float32, about 0 to 1.

    Attributes
    ----------
    group, name
        The source photo or specimen; the field's own name within the task.
    degraded
        (C', Y', X'): other channels than the truth, or coarser by a whole factor, where the task wants it.
    restored, truth
        (C, 128, 128).
    """

    group: str
    name: str
    degraded: Plane
    restored: Plane
    truth: Plane


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSplit:
    """Which groups serve what; no group is in two of them.

    `held_out` groups are split again, at random and many times, into those of the calibration and those of the test.
    A mask network that is trained on what its restorer has seen learns too small errors, so these two have groups
    of their own.
    """

    restorer: tuple[str, ...]
    training: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: tuple[str, ...]

    def __post_init__(self) -> None:
        check_split({"restorer": self.restorer, "training": self.training, "validation": self.validation,
                     "held_out": self.held_out})  # fmt: skip

    @classmethod
    def draw(
        cls, groups: Sequence[str], rng: np.random.Generator, *, restorer: bool = True, held_out: int | None = None
    ) -> GroupSplit:
        """Split groups at random: half held out; of the rest 40 % each train the restorer and the mask network.

        Without a restorer to train, 60 % of the rest train the mask network.
        """
        names = [sorted(groups)[i] for i in rng.permutation(len(groups))]
        held_out = -(-len(names) // 2) if held_out is None else held_out
        rest = len(names) - held_out
        first = round(0.4 * rest) if restorer else 0
        second = first + round((0.4 if restorer else 0.6) * rest)
        own = names[held_out:]
        return cls(
            restorer=tuple(own[:first]), training=tuple(own[first:second]), validation=tuple(own[second:]),
            held_out=tuple(names[:held_out]),
        )  # fmt: skip


def check_split(parts: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError if a group is in two parts: what is learned of a specimen must not be tested on it."""
    home: dict[str, str] = {}
    for part, groups in parts.items():
        for group in groups:
            if home.setdefault(group, part) != part:
                raise ValueError(f"group {group} is in {home[group]} and in {part}; give each group to one of them")


def n_calibration(held_out_groups: int) -> int:
    """Return how many of the held-out groups calibrate: 19 where 7 are left to test on, else 9."""
    return 19 if held_out_groups >= 26 else 9


def training_fields(
    planes: Mapping[str, Sequence[Plane]], degrade: Degrade, rng: np.random.Generator, *, total: int = TRAINING_FIELDS
) -> list[Pair]:
    """Return about `total` windows at random places, as many of each group, each degraded anew."""
    each = -(-total // len(planes))
    return [
        _cut(group, f"{group} {i}", *degrade(own[int(rng.integers(len(own)))], rng), rng)
        for group, own in planes.items()
        for i in range(each)
    ]


def drawn_fields(planes: Mapping[str, Sequence[Plane]], degrade: Degrade, rng: np.random.Generator) -> list[Pair]:
    """Return `FIELDS_PER_GROUP` blocks of each group, drawn without replacement; each plane is degraded once."""
    return [pair for group, own in planes.items() for pair in _of_group(group, own, degrade, rng)]


def _of_group(group: str, planes: Sequence[Plane], degrade: Degrade, rng: np.random.Generator) -> Iterator[Pair]:
    every = [(i, block) for i, plane in enumerate(planes) for block in blocks(plane) if _holds_something(plane, block)]
    chosen = [every[j] for j in rng.permutation(len(every))[:FIELDS_PER_GROUP]]
    for i in sorted({i for i, _ in chosen}):
        degraded, truth = degrade(planes[i], rng)
        yield from (crop(group, f"{group} {i}", degraded, truth, block) for j, block in chosen if j == i)


def blocks(plane: Plane) -> list[Window]:
    """Return the whole fields of a plane, (C, Y, X), row by row."""
    rows, columns = ([slice(i, i + FIELD_PX) for i in range(0, n - FIELD_PX + 1, FIELD_PX)] for n in plane.shape[1:])
    return [(row, column) for row in rows for column in columns]


def _holds_something(plane: Plane, block: Window) -> bool:
    return float(plane[(slice(None), *block)].std()) > FLATTEST


def _cut(group: str, name: str, degraded: Plane, truth: Plane, rng: np.random.Generator) -> Pair:
    factor = truth.shape[1] // degraded.shape[1]
    start = [factor * int(rng.integers((n - FIELD_PX) // factor + 1)) for n in truth.shape[1:]]
    return crop(
        group, name, degraded, truth, (slice(start[0], start[0] + FIELD_PX), slice(start[1], start[1] + FIELD_PX))
    )


def crop(group: str, name: str, degraded: Plane, truth: Plane, window: Window) -> Pair:
    """Return one window of both images; the degraded one may be coarser by a whole factor."""
    factor = truth.shape[1] // degraded.shape[1]
    coarse = tuple(slice(part.start // factor, part.stop // factor) for part in window)
    return Pair(
        group=group, name=f"{name} y{window[0].start} x{window[1].start}",
        degraded=np.ascontiguousarray(degraded[(slice(None), *coarse)], dtype=np.float32),
        truth=np.ascontiguousarray(truth[(slice(None), *window)], dtype=np.float32),
    )  # fmt: skip


def stacked(pairs: Sequence[Any], name: str) -> Plane:
    """Return one image of each field as one array, (fields, C, Y, X)."""
    return np.stack([getattr(pair, name) for pair in pairs])
