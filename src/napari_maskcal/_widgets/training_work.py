"""What the Train dock has done in a thread, as streams of events that never raise."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from napari_maskcal.models import Restorer
from napari_maskcal.packed import packable
from napari_maskcal.read.cache import Cache
from napari_maskcal.restore.events import Cancelled, CancelToken, Done, Event, Failed, StepDone, Warned
from napari_maskcal.review.training_request import TrainingRequest, make_training_plan

_EVERY_S = 0.25  # of the steps that are shown; a GPU makes a hundred in that time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finished:
    """A trained mask model; `path` is its bundle, None while there is none. `trained` is a `Trained`.

    `restorer` is what is to be put into the bundle too, or None.
    """

    request: TrainingRequest
    trained: Any
    restorer: Restorer | None
    path: Path | None = None


def training_events(
    request: TrainingRequest, layers: Mapping[str, Any], device: str, fresh: bool, cancel: CancelToken
) -> Iterator[Event]:
    """List the files, train, and write the bundle; the result of `Done` and `Cancelled` is a `Finished`.

    `fresh` forgets a training that was stopped. One that is stopped now writes no bundle: `save_events` does.
    """
    try:
        from napari_maskcal.training import training  # torch comes with it

        if fresh:
            request.checkpoint.unlink(missing_ok=True)
        cache = Cache()
        plan = make_training_plan(request, layers, cache)
        inside = plan.restorer if request.choices.with_restorer else None
        if inside is not None:
            packable(inside)
        events = training(plan, device=device, checkpoint=request.checkpoint, cache=cache, cancel=cancel)
        for event in thinned(events):
            if isinstance(event, Done | Cancelled) and cache.fault:
                yield Warned(message=cache.fault)
            if isinstance(event, Done):
                yield from save_events(
                    Finished(request=request, trained=event.result, restorer=inside), request.out
                )  # fmt: skip
            elif isinstance(event, Cancelled) and event.result is not None:
                yield Cancelled(result=Finished(request=request, trained=event.result, restorer=inside))
            else:
                yield event
    except Exception as error:  # noqa: BLE001 - an exception in a generator worker would be lost
        yield Failed(error=error)


def save_events(finished: Finished, path: Path) -> Iterator[Event]:
    """Write a bundle; the result is a `Finished` with its path, and without one where it could not be written."""
    try:
        finished.trained.save(path, restorer=finished.restorer)
        yield Done(result=replace(finished, path=path))
    except Exception as error:  # noqa: BLE001 - an exception in a generator worker would be lost
        yield Failed(error=error, result=finished)


def thinned(events: Iterable[Event]) -> Iterator[Event]:
    """Pass on no more steps than can be seen, with the mean of the losses of those that are left out."""
    losses: list[float] = []
    told = -_EVERY_S
    for event in events:
        if not isinstance(event, StepDone):
            yield event
            continue
        losses.append(event.loss)
        now = time.monotonic()
        if now - told >= _EVERY_S or event.step == event.steps:
            yield replace(event, loss=fmean(losses))
            losses.clear()
            told = now
