"""Parts of a dock: a field with room for its fault, a chooser of model files, a progress line."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magicgui.widgets import create_widget
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QFormLayout, QLabel, QProgressBar, QSpinBox, QVBoxLayout, QWidget

from napari_maskcal.models import DEMO
from napari_maskcal.restore.kinds import GIVEN
from napari_maskcal.review.request import likely_devices
from napari_maskcal.settings import Parameter

# The text keeps the theme's own colour: none has a contrast of 4.5 on napari's dark and on its light ground alike.
_FAULT_STYLE = "font-weight: bold; border-left: 4px solid #D55E00; padding-left: 6px;"

_DISTANCES = {
    "mean absolute error (L1)": "l1",
    "root mean square error (L2)": "l2",
    "largest error of a pixel (L∞)": "linf",
    "largest error after a blur of 2 px": "linf-blur2",
    "structure: 1 − SSIM": "ssim",
    "perceived: LPIPS": "lpips",
}
_DECIMALS, _LARGEST = 5, 1e9  # of numbers whose unit is the image's


class Field:
    """A row of a form, and below it a line that says what is wrong with its value."""

    def __init__(self, form: QFormLayout, title: str, content: QWidget, tooltip: str) -> None:
        self.content = content
        content.setToolTip(tooltip)
        self._title = QLabel(title)
        # A row of its own: inside another widget a wrapped label would be cut off at one line's height.
        self._fault = wrapped_label(style=_FAULT_STYLE)
        form.addRow(self._title, content)
        form.addRow(self._fault)
        self.set_fault("")

    @property
    def fault(self) -> str:
        """What is said to be wrong; empty if nothing is."""
        return self._fault.text()

    def set_fault(self, message: str) -> None:
        """Show why the value can't be used, or nothing."""
        self._fault.setText(message)
        self._fault.setVisible(bool(message))

    def set_visible(self, visible: bool) -> None:
        """Show or hide the row, and its fault with it."""
        self.content.setVisible(visible)
        self._title.setVisible(visible)
        self._fault.setVisible(visible and bool(self.fault))


def parameter_widget(parameter: Parameter, value: Any, titles: Mapping[str, str] | None = None) -> Any:
    """Return magicgui's widget for a parameter, with the range, step, choices and tooltip that settings give it.

    `titles` are what the choices are called on the screen, where they are not called as in the settings.
    """
    options: dict[str, Any] = {"tooltip": parameter.help}
    if parameter.choices:
        options["choices"] = [((titles or {}).get(choice, choice), choice) for choice in parameter.choices]
    limits = {"min": parameter.minimum, "max": parameter.maximum, "step": parameter.step}
    options |= {name: limit for name, limit in limits.items() if limit is not None}
    return create_widget(value=value, annotation=parameter.kind, options=options)


def set_exactly(widget: Any, value: float) -> None:
    """Set a number field without rounding or clipping: a pinned value must not become another one by being shown."""
    digits = len(f"{value:.12f}".rstrip("0").partition(".")[2])
    widget.native.setDecimals(max(widget.native.decimals(), digits))
    widget.max = max(widget.max, value)
    widget.value = value


def unbounded_widget(parameter: Parameter, value: float) -> Any:
    """Return a field for a number whose unit is the image's, so that it may be of any size."""
    widget = parameter_widget(parameter, 0.0)
    widget.max = _LARGEST
    widget.native.setDecimals(_DECIMALS)
    if value:
        set_exactly(widget, value)
    return widget


def whole_number_box(parameter: Parameter, *, smallest: str, largest: int = 2**31 - 1) -> QSpinBox:
    """Return a field for a whole number that begins with its smallest value, shown in words.

    magicgui's own box for whole numbers shows no words for it.
    """
    box = QSpinBox()
    box.setRange(int(parameter.minimum or 0), largest)
    box.setSingleStep(int(parameter.step or 1))
    box.setSpecialValueText(smallest)
    box.setKeyboardTracking(False)
    box.setValue(box.minimum())
    return box


class ModelChooser(QComboBox):
    """The bundled model, or a file; with `given` named, also none at all, where another tool has done its work.

    A file whose name ends in `suffix` may be dropped. `words` are the titles of models that need no file, with the
    words that stand for them. When the user chooses what is chosen already, `valueChanged` tells it too: there may be
    another file of that name by now.
    """

    valueChanged = Signal(str)
    _dropped = Signal(str)

    def __init__(self, suffix: str, *, given: str = "", words: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._suffix, self._pattern = suffix, f"Model (*{suffix})"
        self.addItem("bundled demo", DEMO)
        for title, word in {**(words or {}), **({given: GIVEN} if given else {})}.items():
            self.addItem(title, word)
        self.addItem("choose a file…", None)
        keep_narrow(self)
        self._value = DEMO
        self.activated.connect(self._activated)
        self.setAcceptDrops(True)
        # Later: while a drop is handled, the program that it comes from may stand still.
        self._dropped.connect(self.choose, Qt.ConnectionType.QueuedConnection)

    def value(self) -> str:
        """Return ``"demo"``, ``"given"``, another word, or the path of a file."""
        return self._value

    def setValue(self, value: str | Path) -> None:
        """Choose the bundled model, or a file by its path."""
        value = str(value)
        if self.findData(value) < 0:
            name = Path(value).name
            self.insertItem(1, value if self.findText(name) >= 0 else name, value)
            self.setItemData(1, value, Qt.ItemDataRole.ToolTipRole)  # the whole path
        self.setCurrentIndex(self.findData(value))
        if value != self._value:
            self._value = value
            self.valueChanged.emit(value)

    def choose(self, value: str) -> None:
        """Take what the user chose."""
        same = value == self._value
        self.setValue(value)
        if same:
            self.valueChanged.emit(value)

    def dragEnterEvent(self, event: Any) -> None:
        """Take a file that can be chosen."""
        if self._file_of(event):
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Choose the file that is dropped; of several, the last, as where napari opens them one after the other."""
        if file := self._file_of(event):
            event.acceptProposedAction()
            self._dropped.emit(file)

    def _file_of(self, event: Any) -> str:
        """Return the path of what is dragged; empty if it is no file that can be chosen."""
        paths = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        return next((path for path in reversed(paths) if path.lower().endswith(self._suffix)), "")

    def _activated(self, index: int) -> None:
        chosen = self.itemData(index)
        if chosen is None:
            chosen, _ = QFileDialog.getOpenFileName(self, "Choose a model", "", self._pattern)
        self.setCurrentIndex(self.findData(self._value))  # until another is taken
        if chosen:
            self.choose(chosen)


class DistanceChooser(QComboBox):
    """The distances that this package brings, by what they measure; the name of another can be typed."""

    valueChanged = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setEditable(True)
        for title, name in _DISTANCES.items():
            self.addItem(title, name)
        keep_narrow(self)
        self.currentTextChanged.connect(lambda _: self.valueChanged.emit(self.value()))

    def value(self) -> str:
        """Return the name behind a title, or what was typed."""
        text = self.currentText().strip()
        return _DISTANCES.get(text, text)


class DeviceChooser(QComboBox):
    """The devices that are likely here; another can be typed."""

    valueChanged = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.addItems(likely_devices())
        self.setEditable(True)
        self.currentTextChanged.connect(self.valueChanged)

    def value(self) -> str:
        """Return the device's name."""
        return self.currentText().strip()

    def setValue(self, value: str) -> None:
        """Choose a device by its name."""
        self.setCurrentText(value)


class ProgressLine(QWidget):
    """Bar, count and remaining time."""

    def __init__(self) -> None:
        super().__init__()
        self._bar, self._text = QProgressBar(), QLabel()
        self._bar.setTextVisible(False)
        self._since, self._unit = 0.0, ""
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._bar)
        layout.addWidget(self._text)
        self.hide()

    @property
    def text(self) -> str:
        """The line under the bar."""
        return self._text.text()

    @property
    def unit(self) -> str:
        """What is counted; empty while nothing is."""
        return self._unit

    def wait(self, text: str) -> None:
        """Show that something goes on whose length is not known."""
        self._unit = ""
        self._bar.setRange(0, 0)
        self._text.setText(text)
        self.show()

    def start(self, total: int, unit: str = "tile") -> None:
        """Begin to count."""
        self._since, self._unit = time.monotonic(), unit
        self._bar.setRange(0, total)
        self._bar.setValue(0)
        self._text.setText(f"{unit} 0 of {total}")

    def update_to(self, done: int, total: int, *, left: float | None = None) -> None:
        """Show how many are done and how long the rest will take; None: in proportion to what is done."""
        self._bar.setRange(0, total)
        self._bar.setValue(done)
        if left is None:
            left = (time.monotonic() - self._since) * (total - done) / max(done, 1)
        self._text.setText(f"{self._unit} {done} of {total}, about {_duration(left)} left")

    def stop(self) -> None:
        """Hide all."""
        self.hide()


def keep_narrow(box: QComboBox) -> None:
    """Let no long entry widen the dock."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(18)


def wrapped_label(text: str = "", style: str = "") -> QLabel:
    """Return a label that wraps its lines and lets its text be copied."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setStyleSheet(style)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


def one_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    if isinstance(error, OSError) and "DLL" in str(error):
        return f"torch could not be loaded ({error}); restart napari with torch imported first, or reinstall torch"
    return " ".join(str(error).split()) or type(error).__name__


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
