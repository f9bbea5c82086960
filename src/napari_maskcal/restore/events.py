"""What a run tells: one stream of events, read by the command line and by the dock alike.

Errors are events too. A generator that raises `RuntimeError` inside napari's thread worker emits no signal at
all, and an out-of-memory error is a `RuntimeError`: the progress bar would stay for ever.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The tiles are planned; `result` has the arrays that the run will fill."""

    planes: int
    tiles: int
    device: str
    result: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TileDone:
    """`done` of `total` tiles are computed."""

    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneDone:
    """A plane is whole: restored in the image's intensity units, uncertainty above 0, both float32.

    `offset` and `span` are what the plane's intensities were normalised with; for `prepared` see `ModelCard`.
    """

    index: tuple[int, ...]
    restored: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    offset: float = 0.0
    span: float = 1.0
    prepared: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneReviewed:
    """A plane is in the arrays of the review `result`, marked."""

    index: tuple[int, ...]
    result: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSurveyed:
    """`done` of `total` calibration fields were looked at for faults."""

    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldMeasured:
    """`done` of `total` calibration planes are measured; `fields` are those of the latest."""

    done: int
    total: int
    fields: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStarted:
    """A mask network is about to be trained on `fields` fields, from step `resumed_at` on."""

    steps: int
    fields: int
    device: str
    resumed_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """`step` of `steps` optimiser steps are done."""

    step: int
    steps: int
    loss: float
    seconds_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """What share of the validation fields is masked; `best` if less than ever before. `preview` shows one field."""

    step: int
    masked_share: float
    best: bool
    preview: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDone:
    """The mask network is trained.

    `network` is the best one, of `best_step`; without validation, the last. `losses` has one for each step,
    `validated` (step, masked share) for each validation.
    """

    network: Any
    step: int
    best_step: int
    losses: tuple[float, ...]
    validated: tuple[tuple[int, float], ...]
    stopped: Literal["finished", "early", "cancelled"]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UncertaintyJudged:
    """`done` of `total` uncertainties that a bundle could hold are compared on the validation fields.

    `masked_share` is that of their pixels, `untouched_share` that of the fields in which nothing is masked.
    """

    done: int
    total: int
    name: str
    masked_share: float
    untouched_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """The run goes on, but otherwise than asked for."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The run ended; `error` says why, `result` holds the planes that were done before, if it came that far."""

    error: Exception
    result: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The user stopped the run; `result` holds the planes that were done."""

    result: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """All planes are done."""

    result: Any


Event = (
    Started
    | TileDone
    | PlaneDone
    | PlaneReviewed
    | FieldSurveyed
    | FieldMeasured
    | TrainingStarted
    | StepDone
    | Validated
    | TrainingDone
    | UncertaintyJudged
    | Warned
    | Failed
    | Cancelled
    | Done
)


class CancelToken:
    """Set from any thread; looked at before each batch of tiles, and each step of a training."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the run to stop."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()
