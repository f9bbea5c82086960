"""Parts of the Calibration dock that say where images are and which of them belong to one specimen."""

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLineEdit, QToolButton, QVBoxLayout, QWidget

from napari_maskcal._widgets.fields import keep_narrow

GROUP_RULES: Mapping[str, str] = {
    "each image is a specimen of its own": "",
    "the folder that the file is in": r"^(?:.*/)?([^/]+)/[^/]+$",
    "file name up to the first _": r"^(?:.*/)?([^/_]+)_[^/]*$",
}
_OWN_RULE = "a pattern …"


def ask_where_to_save(parent: QWidget, title: str, pattern: str, start: str = "") -> str:
    """Return the file that the user chooses, with the suffix of `pattern`; empty if none."""
    dialog = QFileDialog(parent, title, start, pattern)
    dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
    dialog.setDefaultSuffix(pattern.rpartition("*.")[2].rstrip(")"))  # added before it asks about replacing a file
    return str(dialog.selectedFiles()[0]) if dialog.exec() else ""


class PlaceLine(QLineEdit):
    """A line for a path, on which a folder or file can be dropped."""

    def dragEnterEvent(self, event: Any) -> None:
        """Take files and folders, and text as ever."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()
            return
        super().dragEnterEvent(event)

    def dropEvent(self, event: Any) -> None:
        """Take the path of what is dropped, not its address."""
        if event.mimeData().hasUrls():
            self.setText(event.mimeData().urls()[0].toLocalFile())
            event.acceptProposedAction()
            return
        super().dropEvent(event)


class PlaceChooser(QWidget):
    """A folder or a file: typed, dropped, or chosen in a dialog; a pattern such as ``low/*.tif`` can be typed."""

    valueChanged = Signal(str)

    def __init__(self, title: str, *, pattern: str = "") -> None:
        super().__init__()
        self._title, self._pattern = title, pattern
        self.line, self.button = PlaceLine(), QToolButton()
        self.line.setPlaceholderText("file" if pattern else "folder, or a pattern such as low/*.tif")
        self.button.setText("…")
        self.button.setToolTip(title)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.line, 1)
        layout.addWidget(self.button)
        self.button.clicked.connect(self._ask)
        self.line.textChanged.connect(self.valueChanged)

    def value(self) -> str:
        """Return the path as it is written."""
        return self.line.text().strip()

    def setValue(self, path: object) -> None:
        """Choose a folder, a file or a pattern."""
        self.line.setText(str(path))

    def _ask(self) -> None:
        if self._pattern:
            chosen, _ = QFileDialog.getOpenFileName(self, self._title, self.value(), self._pattern)
        else:
            chosen = QFileDialog.getExistingDirectory(self, self._title, self.value())
        if chosen:
            self.setValue(chosen)


class SaveChooser(PlaceChooser):
    """A file that is to be written: typed, or chosen in a dialog, which asks before one may be replaced."""

    def __init__(self, title: str, *, pattern: str) -> None:
        super().__init__(title, pattern=pattern)
        self.line.setPlaceholderText("file to write")

    def _ask(self) -> None:
        if chosen := ask_where_to_save(self, self._title, self._pattern, self.value()):
            self.setValue(chosen)


class GroupChooser(QWidget):
    """How the specimen is found in a file's path: a ready rule, or a regular expression of the user's."""

    valueChanged = Signal(str)

    def __init__(self, help_text: str) -> None:
        super().__init__()
        self.rules, self.pattern = QComboBox(), QLineEdit()
        for title, pattern in GROUP_RULES.items():
            self.rules.addItem(title, pattern)
        self.rules.addItem(_OWN_RULE, None)
        keep_narrow(self.rules)
        self.pattern.setPlaceholderText(r"such as (specimen\d+)")
        self.pattern.setToolTip(help_text)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.rules)
        layout.addWidget(self.pattern)
        self.pattern.hide()
        self.rules.currentIndexChanged.connect(self._changed)
        self.pattern.textChanged.connect(self._changed)

    def value(self) -> str:
        """Return a regular expression; empty: each image is a specimen of its own."""
        rule = self.rules.currentData()
        return self.pattern.text() if rule is None else str(rule)

    def setValue(self, pattern: str) -> None:
        """Choose a regular expression."""
        ready = self.rules.findData(pattern)
        self.rules.setCurrentIndex(ready if ready >= 0 else self.rules.findText(_OWN_RULE))
        if ready < 0:
            self.pattern.setText(pattern)

    def _changed(self, *_: object) -> None:
        self.pattern.setVisible(self.rules.currentData() is None)
        self.valueChanged.emit(self.value())
