"""How far the work has come, on the terminal."""

from __future__ import annotations

import sys
from math import inf
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from napari_maskcal.restore.events import Event, StepDone, TrainingStarted, Validated


class Progress:
    """A bar on stderr, where that is a terminal, fed by the events of the work; warnings are lines of their own.

    Where it is none, such as in the log of a cluster, each validation of a training is a line.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._label = ""
        self._best, self._masked = inf, ""
        self._step: StepDone | None = None

    def __enter__(self) -> Progress:
        return self

    def __call__(self, event: Event) -> None:
        """Show an event."""
        from napari_maskcal.restore.events import FieldMeasured, FieldSurveyed, Started, TileDone, Warned

        if isinstance(event, Warned):
            self._close()
            click.echo(f"maskcal: {event.message}", err=True)
        elif isinstance(event, Started):
            self._move(f"on {event.device}", 0, event.tiles)
        elif isinstance(event, TileDone):
            self._move(self._label, event.done, event.total)
        elif isinstance(event, FieldSurveyed):
            self._move("looking at the fields", event.done, event.total)
        elif isinstance(event, FieldMeasured):
            self._move("measuring them", event.done, event.total)
        else:
            self._train(event)

    def __exit__(self, *_: object) -> None:
        self._close()

    def _train(self, event: Event) -> None:
        from napari_maskcal.restore.events import StepDone, TrainingStarted, UncertaintyJudged, Validated

        if isinstance(event, TrainingStarted):
            self._begin(event)
        elif isinstance(event, StepDone):
            self._step = event
            self._move("training", event.step, event.steps, shown=f"training: {self._told(event)}")
        elif isinstance(event, Validated):
            self._validated(event)
        elif isinstance(event, UncertaintyJudged):
            self._move("comparing", event.done, event.total)

    def _begin(self, event: TrainingStarted) -> None:
        self._close()
        self._best, self._masked = inf, ""
        if event.resumed_at:
            click.echo(f"maskcal: going on at step {event.resumed_at} of {event.steps}", err=True)

    def _validated(self, event: Validated) -> None:
        if event.best:
            self._best = event.masked_share
        best = f" (best {self._best:.1%})" if self._best < inf else ""  # that of an earlier session is not known
        self._masked = f", masked {event.masked_share:.1%}{best}"
        if self._step is not None and not sys.stderr.isatty():
            click.echo(f"maskcal: step {event.step} of {self._step.steps}: {self._told(self._step)}", err=True)

    def _told(self, event: StepDone) -> str:
        minutes, seconds = divmod(round(event.seconds_left), 60)
        return f"loss {event.loss:.3f}{self._masked}, {minutes}:{seconds:02} left"

    def _move(self, label: str, done: int, total: int, *, shown: str = "") -> None:
        """Move the bar, or begin one where the label is another; `shown` is what a changing label says now."""
        if not sys.stderr.isatty():
            return
        if self._bar is None or label != self._label:
            self._close()
            self._label = label
            self._bar = click.progressbar(length=total, label=shown or label, file=sys.stderr, show_eta=not shown)
            self._bar.__enter__()
        self._bar.length = total
        self._bar.label = shown or label
        self._bar.update(done - self._bar.pos)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None
