"""The bar in napari's activity dock, for a window in which this package's dock is hidden behind another."""

from typing import Any

from napari.utils import progress


class Activity:
    """One bar at a time; to be used on the GUI thread only."""

    def __init__(self, title: str = "Mask Calibration") -> None:
        self._title = title
        self._bar: Any = None

    @property
    def open(self) -> bool:
        """Whether there is a bar."""
        return self._bar is not None

    def start(self, total: int) -> None:
        """Show a new bar in place of the one before."""
        self.close()
        self._bar = progress(total=total, desc=self._title)

    def update_to(self, done: int) -> None:
        """Move the bar, if there is one."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
