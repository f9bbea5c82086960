"""What a training is made from: its fields, and all that decides the weights. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, get_args

from napari_maskcal.settings import CROP_PX, LOSS, STEPS, TRAINING_SEED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Loss = Literal["score", "likelihood", "paper", "quantile"]
LOSSES: tuple[Loss, ...] = get_args(Loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingField:
    """One field in normalised intensities, float32, with a channel axis: (C, Y, X) or (C, Z, Y, X).

    `restored` and `truth` are of one shape. `degraded` may have other channels, and may be coarser by a whole factor
    along each spatial axis. `prepared` is for restorers that take other units; see
    `napari_maskcal.restore.asking.with_units`.
    """

    degraded: NDArray[np.float32]
    restored: NDArray[np.float32]
    truth: NDArray[np.float32]
    name: str = ""
    group: str = ""
    prepared: tuple[float, float] | None = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return (self.name or "without a name") + (f" (group {self.group})" if self.group else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides the weights of a mask network, beside its fields.

    Attributes
    ----------
    loss
        ``"score"``, ``"likelihood"``, ``"paper"`` or ``"quantile"``; see `napari_maskcal.mask.losses`.
    distance
        The paper's loss takes any that has a gradient. For the others only the P of an ``"lP"`` counts, and any
        other distance stands for P = 1.
    weight
        Of the distance in the paper's loss.
    widths
        Channels at each level of the network.
    steps, batch, crop_px, learning_rate
        Of the optimiser (Adam with a one-cycle schedule) and its random crops; smaller fields make smaller crops.
    validate_every, patience
        Steps between two validations, and how many without a better one end the training.
    seed
        Same seed, fields and machine: same weights.

    Raises
    ------
    ValueError
        If one of them cannot be.
    """

    loss: Loss = LOSS.default
    distance: str = "l1"
    weight: float = 3.0
    widths: tuple[int, ...] = (16, 32, 64)
    steps: int = STEPS.default
    batch: int = 8
    crop_px: int = CROP_PX.default
    learning_rate: float = 2e-3
    validate_every: int = 200
    patience: int = 5
    seed: int = TRAINING_SEED.default

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"there is no loss {self.loss!r}; choose one of {', '.join(LOSSES)}")
        object.__setattr__(self, "widths", tuple(self.widths))  # a list, as JSON has it, would not compare
        for name in ("steps", "batch", "crop_px", "validate_every", "patience"):
            _check_count(name, getattr(self, name))
        for name in ("learning_rate", "weight"):
            value = getattr(self, name)
            if not (isinstance(value, float | int) and isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value!r}; give a number above 0")
        for width in self.widths:
            _check_count("a width", width)
        if not 1 <= len(self.widths) <= 8:
            raise ValueError(f"the network has {len(self.widths)} widths; give 1 to 8, such as 16, 32, 64")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed!r}; give a whole number from 0 on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What a validation found; `preview` is handed on to whoever shows the training."""

    masked_share: float
    preview: Any = None


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; give a whole number from 1 on")
