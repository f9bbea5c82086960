"""What a dock does when napari closes it."""

from typing import Any

from qtpy.QtCore import QEvent


class Docked:
    """Goes before a QWidget among the bases of a dock, and tells it when napari has closed it.

    napari keeps the widget of a closed dock, without a parent.
    """

    _docked = False

    def let_go(self) -> None:
        """Stop what goes on, and listen to the viewer no more."""
        raise NotImplementedError

    def changeEvent(self, event: QEvent | None) -> None:
        """Notice that there is no parent any more."""
        widget: Any = self
        super().changeEvent(event)  # type: ignore[misc]
        if event is not None and event.type() == QEvent.Type.ParentChange:
            if self._docked and widget.parent() is None:
                self.let_go()
            self._docked = widget.parent() is not None
