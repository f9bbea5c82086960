"""One run at a time in a thread, its events handed over one after the other on the GUI thread."""

from collections import deque
from collections.abc import Callable, Iterator

from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QObject, Signal

from napari_maskcal.restore.events import CancelToken, Event


class Runner(QObject):
    """Iterates a stream of events in a thread.

    `happened` is emitted with each event, then `ended` with the last one. Neither is emitted while a slot of an
    earlier one still runs: napari's progress bars process pending events whenever they move, so slots connected to
    the worker itself would be entered again from inside, out of order and without end.
    """

    happened = Signal(object)
    ended = Signal(object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._worker: GeneratorWorker | None = None
        self._cancel = CancelToken()
        self._inbox: deque[Event | None] = deque()
        self._draining = False
        self._last: Event | None = None

    @property
    def running(self) -> bool:
        """Whether a run is under way or its last events are still to be handled."""
        return self._worker is not None

    def start(self, make_events: Callable[[CancelToken], Iterator[Event]]) -> None:
        """Run the stream that `make_events` returns; it must not raise."""
        self._cancel = cancel = CancelToken()

        def stream() -> Iterator[Event]:  # a generator function is what makes a worker that yields
            yield from make_events(cancel)

        self._worker = create_worker(stream, _start_thread=False)
        self._worker.yielded.connect(self._take)
        self._worker.finished.connect(self._take_end)
        self._worker.start()

    def cancel(self) -> None:
        """Ask the run to stop after the tile under way."""
        self._cancel.cancel()

    def abandon(self) -> None:
        """Stop the run and tell nobody: those who would be told are going away."""
        self._cancel.cancel()
        self._inbox.clear()
        if self._worker is not None:
            self._worker.yielded.disconnect(self._take)
            self._worker.finished.disconnect(self._take_end)
            self._worker = None

    def _take(self, event: Event) -> None:
        self._inbox.append(event)
        self._drain()

    def _take_end(self) -> None:
        self._inbox.append(None)
        self._drain()

    def _drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        try:
            while self._inbox:
                event = self._inbox.popleft()
                if event is None:
                    self._worker = None
                    self.ended.emit(self._last)
                else:
                    self._last = event
                    self.happened.emit(event)
        finally:
            self._draining = False
