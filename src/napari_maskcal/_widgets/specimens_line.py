"""The line that says which specimens the chosen files give, before any of them is opened."""

from collections.abc import Callable, Iterator
from typing import Any

from qtpy.QtCore import QObject, QTimer

from napari_maskcal._widgets.fields import one_line, wrapped_label
from napari_maskcal._widgets.runner import Runner
from napari_maskcal.restore.events import Done, Event, Failed

_AFTER_MS = 400


class SpecimensLine(QObject):
    """Lists the files in a thread, a moment after it was last asked: a network drive may take its time.

    `choices` are taken on the GUI thread, and what they give is `told` in the other.
    """

    def __init__(self, parent: QObject, choices: Callable[[], Any], told: Callable[[Any], str]) -> None:
        super().__init__(parent)
        self._choices, self._told = choices, told
        self.label = wrapped_label()  # a row of its own: inside another widget its second line would be cut off
        self.runner = Runner(self)
        self.runner.ended.connect(self._show)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_AFTER_MS)
        self._timer.timeout.connect(self._start)
        self.label.hide()

    @property
    def text(self) -> str:
        """What is said."""
        return self.label.text()

    def ask(self) -> None:
        """Look at the choices again, soon."""
        self._timer.start()

    def stop(self) -> None:
        """Ask and answer no more."""
        self._timer.stop()
        self.runner.abandon()

    def _start(self) -> None:
        if self.runner.running:  # a slow disk: ask again when it has answered
            self._timer.start()
            return
        choices = self._choices()
        self.runner.start(lambda _: _previewed(self._told, choices))

    def _show(self, event: Event | None) -> None:
        told = one_line(event.error) if isinstance(event, Failed) else ""
        self.label.setText(str(event.result) if isinstance(event, Done) else told)
        self.label.setVisible(bool(self.text))


def _previewed(told: Callable[[Any], str], choices: Any) -> Iterator[Event]:
    try:
        yield Done(result=told(choices))
    except Exception as error:  # noqa: BLE001 - an exception in a generator worker would be lost
        yield Failed(error=error)
