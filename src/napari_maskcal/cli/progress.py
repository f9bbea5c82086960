"""How far the work has come, on the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from napari_maskcal.restore.events import Event


class Progress:
    """A bar on stderr, where that is a terminal, fed by the events of the work; warnings are lines of their own."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._label = ""

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

    def __exit__(self, *_: object) -> None:
        self._close()

    def _move(self, label: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if self._bar is None or label != self._label:
            self._close()
            self._label = label
            self._bar = click.progressbar(length=total, label=label, file=sys.stderr)
            self._bar.__enter__()
        self._bar.length = total
        self._bar.update(done - self._bar.pos)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None
