"""The three plots of a calibration; importing this imports matplotlib."""

from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_maskcal._widgets.plot import Plot
from napari_maskcal.review.calibration_figures import draw_coverage, draw_masked_share, draw_thresholds
from napari_maskcal.review.exploration import Answer, Exploration

_UNITS = {"share": "share of the range", "raw": "intensities", "none": ""}


class CalibrationPlots(QWidget):
    """Histogram of image thresholds, coverage over confidence, masked share over tolerance.

    One plot takes 40 ms to draw, and a slider that moves must not wait for all three: they are drawn one after the
    other, and what else is to be done comes in between.
    """

    def __init__(self, theme: str) -> None:
        super().__init__()
        self.plots = [Plot(theme) for _ in range(3)]
        self._answer: tuple[Exploration, Answer] | None = None
        self._masked: tuple[Any, Any] = (None, None)
        self._waiting: list[int] = []
        self._next = QTimer(self)
        self._next.setSingleShot(True)
        self._next.timeout.connect(self._draw_next)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for plot in self.plots:
            column.addWidget(plot)

    def show_answer(self, exploration: Exploration, answer: Answer) -> None:
        """Draw, soon, what a promise costs, and what others would; those plots first that are behind the most."""
        self._answer = exploration, answer
        self._waiting += [i for i in range(len(self.plots)) if i not in self._waiting]
        self._next.start()

    def set_theme(self, theme: str) -> None:
        """Draw in the colours of one of napari's themes."""
        for plot in self.plots:
            plot.set_theme(theme)

    def _draw_next(self) -> None:
        if self._answer is None:
            return
        number = self._waiting.pop(0)
        draw = (self._draw_thresholds, self._draw_coverage, self._draw_masked)[number]
        draw(self.plots[number].axes, *self._answer)
        self.plots[number].paint()
        if self._waiting:
            self._next.start()

    def _draw_thresholds(self, axes: Any, _: Exploration, answer: Answer) -> None:
        draw_thresholds(axes, answer.thresholds, answer.certificate.threshold)

    def _draw_coverage(self, axes: Any, exploration: Exploration, answer: Answer) -> None:
        promise, unit = answer.certificate.promise, answer.certificate.group_word
        confidences, kept = exploration.coverage_over_confidence(promise)
        chosen = promise.confidence if promise.guarantee != "expected" else None
        draw_coverage(axes, confidences, confidences, kept, chosen=chosen, unit=unit)
        axes.set_ylabel(f"{unit} within\ntolerance")  # no longer than the plot is high

    def _draw_masked(self, axes: Any, exploration: Exploration, answer: Answer) -> None:
        certificate = answer.certificate
        # The curve stays as it is while only the tolerance moves.
        key = (exploration, certificate.promise.moved(tolerance=certificate.bound or 1.0))
        if self._masked[0] != key:
            self._masked = key, exploration.masked_over_tolerance(certificate.promise)
        tolerances, shares = self._masked[1]
        draw_masked_share(axes, tolerances, shares, certificate.tolerance, unit=_UNITS[certificate.intensity])
