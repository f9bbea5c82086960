"""Sliders for tolerance and confidence, and the tolerances that are suggested."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QDoubleSpinBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from napari_maskcal._widgets.fields import wrapped_label

_PERCENT = (50, 99)  # of the confidence slider; any other can be typed
_DECIMALS, _LARGEST = 12, 1e9
_RANGE = " of the range"  # what a percentage is of; a button has no room for it


class NumberBox(QDoubleSpinBox):
    """A number of any size, shown with the digits that it has; its arrows step by a tenth of it."""

    def __init__(self, largest: float = _LARGEST) -> None:
        super().__init__()
        self.setDecimals(_DECIMALS)
        self.setRange(0.0, largest)
        self.setKeyboardTracking(False)  # half a number is none
        self.setStepType(QAbstractSpinBox.StepType.AdaptiveDecimalStepType)

    def textFromValue(self, value: float) -> str:
        """Return no more digits than there are."""
        return self.locale().toString(value, "g", 6)


class PromiseControls(QWidget):
    """Tolerance and confidence, each with a slider and a number.

    Emits `moved` when the user moves one of them.
    """

    moved = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._ladder: NDArray[np.float64] = np.array([1.0])
        self.tolerance, self.confidence = NumberBox(), NumberBox(largest=1.0)
        self.tolerance_slider, self.confidence_slider = _slider(), _slider()
        self.tolerance_slider.setRange(0, 0)  # until there is a ladder
        self.confidence_slider.setRange(*_PERCENT)
        self.unit = wrapped_label()
        self.unit.setAlignment(Qt.AlignmentFlag.AlignRight)
        self._lay_out()
        self.tolerance_slider.valueChanged.connect(lambda i: self._take(self.tolerance, float(self._ladder[i])))
        self.confidence_slider.valueChanged.connect(lambda i: self._take(self.confidence, i / 100))
        self.tolerance.valueChanged.connect(self._typed)
        self.confidence.valueChanged.connect(self._typed)

    def set_ladder(self, ladder: NDArray[np.float64]) -> None:
        """Let the tolerance's slider pass these, ascending: its steps are the same factor everywhere."""
        self._ladder = ladder
        self.tolerance_slider.blockSignals(True)
        self.tolerance_slider.setRange(0, len(ladder) - 1)
        self.tolerance_slider.blockSignals(False)

    def set_values(self, *, tolerance: float | None = None, confidence: float | None = None) -> None:
        """Show these numbers, exactly, and tell nobody."""
        for box, value in ((self.tolerance, tolerance), (self.confidence, confidence)):
            if value is not None:
                _quietly(box, value)
        self._follow()

    def show_confidence(self, shown: bool) -> None:
        """Hide the confidence where the promise is about a mean."""
        for widget in self._of_confidence:
            widget.setVisible(shown)

    def suggest(self, suggestions: dict[int, tuple[float, str]]) -> None:
        """Offer a button for each tolerance."""
        for button in self._suggestions:
            self._row.removeWidget(button)
            button.deleteLater()
        self._suggestions.clear()
        for share, (tolerance, words) in suggestions.items():
            button = QPushButton(f"{share} %:  {tolerance:g}" + (f"\n{words.removesuffix(_RANGE)}" if words else ""))
            button.setToolTip(f"{share} % of the calibration fields would need no mask at all at this tolerance")
            button.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)  # must not widen the dock
            button.clicked.connect(lambda *_, value=tolerance: self._take(self.tolerance, value))
            self._row.addWidget(button)
            self._suggestions.append(button)
        self._suggested.setVisible(bool(suggestions))

    def _lay_out(self) -> None:
        self._suggested = wrapped_label("Tolerance at which this share of the fields would need no mask at all:")
        self._row, self._suggestions = QHBoxLayout(), list[QPushButton]()
        title = QLabel("Confidence")
        self._of_confidence = (title, self.confidence_slider, self.confidence)
        grid = QGridLayout()
        grid.addWidget(QLabel("Tolerance"), 0, 0)
        grid.addWidget(self.tolerance_slider, 0, 1)
        grid.addWidget(self.tolerance, 0, 2)
        grid.addWidget(self.unit, 1, 0, 1, 3)
        for column, widget in enumerate(self._of_confidence):
            grid.addWidget(widget, 2, column)
        grid.setColumnStretch(1, 1)
        for box in (self.tolerance, self.confidence):
            box.setMinimumWidth(96)
        column_ = QVBoxLayout(self)
        column_.setContentsMargins(0, 0, 0, 0)
        column_.addLayout(grid)
        column_.addWidget(self._suggested)
        column_.addLayout(self._row)
        self._suggested.hide()

    def _take(self, box: NumberBox, value: float) -> None:
        _quietly(box, value)
        self._typed()

    def _typed(self, *_: Any) -> None:
        self._follow()
        self.moved.emit()

    def _follow(self) -> None:
        """Put the sliders where the numbers are, or at the end that is nearest."""
        nearest = int(np.argmin(np.abs(np.log(self._ladder / max(self.tolerance.value(), 1e-300)))))
        for slider, place in (
            (self.tolerance_slider, nearest),
            (self.confidence_slider, round(100 * self.confidence.value())),
        ):
            slider.blockSignals(True)
            slider.setValue(place)
            slider.blockSignals(False)


def _slider() -> QSlider:
    return QSlider(Qt.Orientation.Horizontal)


def _quietly(box: NumberBox, value: float) -> None:
    box.blockSignals(True)
    box.setValue(value)
    box.blockSignals(False)
