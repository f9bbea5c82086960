"""The second page of the Calibration dock: the promise, its sliders, and what it costs."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_maskcal._widgets.calibration_controls import PromiseControls
from napari_maskcal._widgets.calibration_work import Calibrated, pins_of
from napari_maskcal._widgets.fields import wrapped_label
from napari_maskcal._widgets.later import Later
from napari_maskcal.calibrate.certificate import Certificate, Pin
from napari_maskcal.calibrate.promise import Promise
from napari_maskcal.review.calibration_request import CalibrationChoices
from napari_maskcal.review.certificate_words import percent
from napari_maskcal.review.exploration import Answer
from napari_maskcal.review.pins import earlier_pins
from napari_maskcal.review.request import in_own_words
from napari_maskcal.settings import WITH_RESTORER

# Badges bring a ground of their own, so that they are read on any theme.
_BADGE = "font-weight: bold; padding: 4px 8px; border-radius: 4px;"
_PINNED = _BADGE + "background: #00694f; color: white;"
_EXPLORED = _BADGE + "background: #E69F00; color: black;"
_STALE = _BADGE + "background: #a04000; color: white;"
_REDRAW_AFTER_MS, _REDRAW_AT_MOST_MS = 50, 250


class ResultPage(QWidget):
    """What the measured fields promise at the tolerance and confidence of the sliders.

    Emits `answered` with each new `Answer`, or None where there is none, and `pinned` with the certificate.
    """

    answered = Signal(object)
    pinned = Signal(object)

    def __init__(self, theme: str) -> None:
        super().__init__()
        self.calibrated: Calibrated | None = None
        self.pin_made: Certificate | None = None
        self.answer: Answer | None = None
        self.outdated = False
        self.missing = ""  # why what is outdated can't be measured again
        self.note = ""
        self.plots: Any = None
        self._theme = theme
        self.choices: CalibrationChoices | None = None
        self._history: tuple[Pin, ...] = ()
        self.later = Later(self, self._draw, after_ms=_REDRAW_AFTER_MS, at_most_ms=_REDRAW_AT_MOST_MS)
        self._lay_out()
        self.controls.moved.connect(self.refresh)
        self.pin_button.clicked.connect(self.pin)
        self.refresh()

    @property
    def certificate(self) -> Certificate | None:
        """The promise that is shown."""
        return self.answer.certificate if self.answer is not None else None

    def show_result(self, calibrated: Calibrated) -> None:
        """Take other fields; a tolerance that was fixed before they were measured is pinned at once."""
        choices, measured = calibrated.request.choices, calibrated.exploration.measured
        before = earlier_pins(self.pin_made, measured) if self.pin_made is not None else ()
        self._history = before or calibrated.inherited
        self.calibrated, self.choices, self.pin_made, self.outdated = calibrated, choices, None, False
        suggestions = calibrated.exploration.suggestions()
        ladder = calibrated.exploration.ladder
        middle = suggestions[60][0] if suggestions else float(ladder[len(ladder) // 2])
        self.controls.set_ladder(ladder)
        self.controls.suggest(suggestions)
        self.controls.set_values(tolerance=choices.tolerance or middle, confidence=choices.confidence)
        self.refresh()
        if choices.tolerance is not None:
            self.pin()

    def follow(self, choices: CalibrationChoices, *, outdated: bool, missing: str = "") -> None:
        """Take over what was changed of the promise on the first page, and know whether the fields are still those.

        `missing` says why they can't be measured again, if they can't.
        """
        before, self.choices, self.outdated, self.missing = self.choices, choices, outdated, missing
        if self.calibrated is None or before is None:
            return
        changed = {name for name in ("tolerance", "confidence") if getattr(before, name) != getattr(choices, name)}
        self.controls.set_values(**{name: getattr(choices, name) for name in changed})
        self.refresh()

    def refresh(self) -> None:
        """Answer for the sliders as they stand."""
        self.answer, fault = None, ""
        if self.calibrated is not None:
            try:
                self.answer = self.calibrated.exploration.answer(self._promise(), self.pin_made)
            except ValueError as error:
                fault = in_own_words(str(error), grouped=self.calibrated.exploration.measured.grouped)
        self._show(fault)
        self.answered.emit(self.answer)
        self.later.ask()

    def pin(self) -> None:
        """Fix the promise, dated today; the earlier pins go into its history."""
        if self.calibrated is None or self.answer is None or not self.answer.certificate.exploration:
            return
        history = pins_of(self.pin_made) or self._history
        self.pin_made = self.calibrated.exploration.pin(self._promise(), history=history, note=self.note)
        self.refresh()
        self.pinned.emit(self.pin_made)

    def set_theme(self, theme: str) -> None:
        """Draw in the colours of another of napari's themes."""
        self._theme = theme
        if self.plots is not None:
            self.plots.set_theme(theme)

    def showEvent(self, event: Any) -> None:
        """Draw what has changed while another page was in front."""
        super().showEvent(event)
        self.later.ask()

    def _promise(self) -> Promise:
        if self.choices is None:
            raise ValueError("nothing is measured yet")
        tolerance, confidence = self.controls.tolerance.value(), self.controls.confidence.value()
        promise = self.choices.promise(tolerance=tolerance, confidence=confidence)
        if self.pin_made is None:
            return promise
        near = self.pin_made.promise.moved(tolerance=tolerance, confidence=confidence)
        return replace(promise, tolerance=near.tolerance, confidence=near.confidence)

    def _lay_out(self) -> None:
        self.badge, self.hint = QLabel(), wrapped_label("Measure first: what the fields promise is shown here.")
        self.sentence = wrapped_label(style="font-size: 13px; font-weight: bold;")
        self.verdict = wrapped_label(style="font-weight: bold; border-left: 4px solid #D55E00; padding-left: 6px;")
        self.facts, self.limits = wrapped_label(), wrapped_label(style="font-size: 11px;")
        self.controls = PromiseControls()
        self.pin_button, self.save_button = QPushButton("Pin"), QPushButton("Save …")
        self.pin_button.setToolTip("Fix this tolerance and confidence, with today's date: only then it may be quoted.")
        self.save_button.setToolTip("Write a .maskcal file of the mask model with the pinned promise.")
        self.with_restorer = QCheckBox("with its restorer")
        self.with_restorer.setToolTip(WITH_RESTORER.help)
        buttons = QHBoxLayout()
        for button in (self.pin_button, self.save_button, self.with_restorer):
            buttons.addWidget(button)
        badge_row = QHBoxLayout()
        badge_row.addWidget(self.badge)
        badge_row.addStretch(1)
        self._column = QVBoxLayout(self)
        self._column.addLayout(badge_row)
        for widget in (self.hint, self.sentence, self.limits, self.verdict, self.facts, self.controls):
            self._column.addWidget(widget)
        self._column.addLayout(buttons)
        self._column.addStretch(1)

    def _show(self, fault: str) -> None:
        certificate = self.certificate
        self.hint.setVisible(self.calibrated is None)
        self.controls.setVisible(self.calibrated is not None)
        self.controls.show_confidence(self.choices is None or self.choices.guarantee != "expected")
        self.sentence.setText(certificate.sentence if certificate is not None else "")
        self.limits.setText(certificate.limits if certificate is not None else "")
        told = fault or (self.answer.verdict if self.answer is not None else "")
        waits = f"It can't be measured again yet: {self.missing}." if self.outdated and self.missing else ""
        self.verdict.setText(waits or told)
        self.facts.setText(_facts(certificate, self.answer) if certificate is not None and self.answer else "")
        for label in (self.sentence, self.limits, self.verdict, self.facts):
            label.setVisible(bool(label.text()))
        self._show_badge(certificate)
        explored = certificate is not None and certificate.exploration
        self.pin_button.setEnabled(explored and not self.outdated)
        self.save_button.setEnabled(certificate is not None and not explored and not self.outdated)
        if self.calibrated is not None:
            self.with_restorer.setEnabled(self.calibrated.plan.restorer.source is not None)
            self.controls.unit.setText(self._tolerance_words())

    def _show_badge(self, certificate: Certificate | None) -> None:
        if self.calibrated is not None and self.outdated:
            text, style = f"OUTDATED: {'see below' if self.missing else 'press Measure'}", _STALE
        elif certificate is None:
            text, style = ("NO PROMISE" if self.calibrated is not None else ""), _STALE
        elif certificate.exploration:
            text, style = "EXPLORATION: not to be quoted", _EXPLORED
        else:
            text, style = f"PINNED {certificate.created}", _PINNED
        self.badge.setText(text)
        self.badge.setStyleSheet(style)
        self.badge.setVisible(bool(text))

    def _tolerance_words(self) -> str:
        exploration = self.calibrated.exploration if self.calibrated is not None else None
        tolerance = self.controls.tolerance.value()
        if exploration is None or not tolerance:
            return ""
        unit = {"share": f"{percent(tolerance)} of the intensity range ", "raw": f"{tolerance:.4g} counts "}
        return unit.get(exploration.measured.intensity, "") + exploration.in_image_units(tolerance)

    def _draw(self) -> None:
        """Draw the plots if they can be seen; they take longer than a slider may wait."""
        if not self.isVisible() or self.calibrated is None:
            return
        if self.plots is None:
            from napari_maskcal._widgets.calibration_plots import CalibrationPlots

            self.plots = CalibrationPlots(self._theme)
            self._column.insertWidget(self._column.count() - 1, self.plots)
        self.plots.setVisible(self.answer is not None)
        if self.answer is not None:
            self.plots.show_answer(self.calibrated.exploration, self.answer)


def _facts(certificate: Certificate, answer: Answer) -> str:
    """Say what the promise costs, and what the fields themselves say of it."""
    shares = answer.shares
    told = f"Masked: {percent(float(shares.mean()))} of the calibration fields on average; {_spread(shares)}."
    if (left_out := certificate.leave_one_out) is None:
        return told
    words = certificate.group_word
    return f"{told} Left out in turn, {left_out.kept} of {left_out.of} {words} are within tolerance."


def _spread(shares: NDArray[np.float64]) -> str:
    """Say how many fields are masked not at all, or altogether."""
    counts = {"left untouched": int((shares == 0).sum()), "masked altogether": int((shares == 1).sum())}
    told = [f"{count} of {len(shares)} are {how}" for how, count in counts.items() if count]
    return ", ".join(told) or "each of them in part"
