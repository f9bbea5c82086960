"""Work that may wait a moment, so that many requests in a row are answered once."""

import time
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QWidget


class Later:
    """Calls back once, `after_ms` after the last of many requests, and about `at_most_ms` after the first."""

    def __init__(self, parent: QWidget, call: Any, *, after_ms: int, at_most_ms: int) -> None:
        self._at_most_s, self._since = at_most_ms / 1000, 0.0
        self._timer = QTimer(parent)
        self._timer.setSingleShot(True)
        self._timer.setInterval(after_ms)
        self._timer.timeout.connect(call)

    def ask(self) -> None:
        """Ask for the call; a call that is due is put off, but not for ever."""
        if not self._timer.isActive():
            self._since = time.monotonic()
        if not self._timer.isActive() or time.monotonic() - self._since < self._at_most_s:
            self._timer.start()

    def stop(self) -> None:
        """Forget what was asked."""
        self._timer.stop()
