"""What the widget tests do over and over with the dock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.utils import progress
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_maskcal._widgets.review_dock import ReviewDock

PATIENCE_MS = 20_000


class Desk:
    """The viewer and the dock in it, with what the tests do over and over."""

    def __init__(self, viewer: Any, dock: ReviewDock, qtbot: Any) -> None:
        self.viewer, self.dock, self.qtbot = viewer, dock, qtbot

    def open(self, data: Any, **options: Any) -> Any:
        """Add an image and return its layer."""
        return self.viewer.add_image(data, **{"name": "cells"} | options)

    def start(self) -> None:
        """Press Run and return while the run is under way."""
        assert self.dock.run_button.isEnabled(), self.dock.problems
        self.dock.run_button.click()
        assert not self.dock.run_button.isEnabled()

    def run(self) -> Any:
        """Press Run and return the run's last event."""
        assert self.dock.run_button.isEnabled(), self.dock.problems
        with self.qtbot.waitSignal(self.dock.runFinished, timeout=PATIENCE_MS) as end:
            self.dock.run_button.click()
        return end.args[0]

    def cancel(self) -> Any:
        """Press Cancel and return the run's last event."""
        with self.qtbot.waitSignal(self.dock.runFinished, timeout=PATIENCE_MS) as end:
            self.dock.cancel_button.click()
        return end.args[0]

    def wait(self, condition: Callable[[], Any]) -> None:
        """Let the window live until `condition` holds."""
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=PATIENCE_MS)

    @property
    def restored(self) -> Any:
        """The layer of the latest run."""
        return self.dock.results.layers[0]

    @property
    def uncertainty(self) -> Any:
        """The layer of the latest run."""
        return self.dock.results.layers[1]

    @property
    def uncertain(self) -> Any:
        """The layer of the latest run."""
        return self.dock.results.layers[2]

    @property
    def names(self) -> list[str]:
        """The names of all layers."""
        return [layer.name for layer in self.viewer.layers]

    @property
    def faults(self) -> dict[str, str]:
        """What is said beside each field that is wrong."""
        return {name: field.fault for name, field in self.dock.fields.items() if field.fault}

    def assert_nothing_goes_on(self) -> None:
        """No spinner is left in the dock or in napari, and Run can be pressed again."""
        assert self.dock.progress.isHidden()
        assert not self.dock.cancel_button.isEnabled()
        assert self.dock.run_button.isEnabled()
        assert not open_bars()


def open_bars() -> list[Any]:
    """Return the progress bars in napari's activity dock; napari has no public way to ask."""
    return list(progress._all_instances)


def files(*paths: Path) -> QMimeData:
    """Return what a file manager drags for these files."""
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    return mime


def drop(widget: Any, mime: QMimeData) -> bool:
    """Drop something on a widget as a file manager does; return whether it was taken."""
    buttons, keys = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    enter = QDragEnterEvent(QPoint(5, 5), Qt.DropAction.CopyAction, mime, buttons, keys)
    enter.ignore()
    QApplication.sendEvent(widget, enter)
    if not enter.isAccepted():
        return False
    QApplication.sendEvent(widget, QDropEvent(QPointF(5, 5), Qt.DropAction.CopyAction, mime, buttons, keys))
    return True
