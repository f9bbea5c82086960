"""The Calibration dock: choose triplets, measure them, explore, pin, and save a promise."""

from pathlib import Path
from typing import Any

import napari
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QTabWidget, QVBoxLayout, QWidget

from napari_maskcal._widgets.activity import Activity
from napari_maskcal._widgets.calibration_form import CalibrationForm
from napari_maskcal._widgets.calibration_layers import FieldLayers
from napari_maskcal._widgets.calibration_result import ResultPage
from napari_maskcal._widgets.calibration_table import FaultsTable, FieldsTable
from napari_maskcal._widgets.calibration_work import Calibrated, calibration_events, field_events, save_events
from napari_maskcal._widgets.docked import Docked
from napari_maskcal._widgets.fields import ProgressLine, one_line, set_exactly, wrapped_label
from napari_maskcal._widgets.layers import arrays_of
from napari_maskcal._widgets.pages import scrolled, stacked
from napari_maskcal._widgets.places import ask_where_to_save
from napari_maskcal._widgets.runner import Runner
from napari_maskcal.calibrate.certificate import Certificate
from napari_maskcal.read.faults import Fault, FaultyTriplets
from napari_maskcal.restore.events import Cancelled, Done, Event, Failed, FieldMeasured, FieldSurveyed, Warned
from napari_maskcal.review.calibration_request import CalibrationRequest, resolve_calibration
from napari_maskcal.review.exploration import Answer
from napari_maskcal.review.request import in_own_words

_SUFFIX = ".maskcal"
_CHOOSE, _PROMISE, _FIELDS, _FAULTS = range(4)


class CalibrationDock(Docked, QWidget):
    """Measures how far restored images are from their truth, and promises how far they will be.

    Emits `measureFinished` with a measurement's last event (the result of `Done` is a `Calibrated`), `fieldShown`
    with the last event of showing a field, and `saveFinished` with that of saving.
    """

    measureFinished = Signal(object)
    fieldShown = Signal(object)
    saveFinished = Signal(object)

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.form = CalibrationForm(napari_viewer)
        self.page = ResultPage(napari_viewer.theme)
        self.field_layers = FieldLayers(napari_viewer)
        self.fields_table, self.faults_table = FieldsTable(), FaultsTable()
        self.activity = Activity()
        self._layers_changed = self._changed_under_way = self._outdated = False
        self._watched: list[Any] = []
        self._wanted: int | None = None  # the field that was clicked while another was on its way
        self._showing: Calibrated | None = None  # what the field on its way belongs to
        self._shown_beside: Any = None  # the layer that fields were taken from, if any
        self._warnings: list[str] = []
        self._make_runners()
        self._make_buttons()
        self._lay_out()
        self._connect()
        self._choices_changed()

    # ---- building

    def _make_runners(self) -> None:
        self.runner, self.shower, self.saver = Runner(self), Runner(self), Runner(self)
        self.runner.happened.connect(self._take)
        self.runner.ended.connect(self._measured)
        self.shower.ended.connect(self._shown)
        self.saver.ended.connect(self._saved)
        for runner in (self.runner, self.shower, self.saver):
            self.destroyed.connect(runner.abandon)

    def _make_buttons(self) -> None:
        self.measure_button, self.cancel_button = QPushButton("Measure"), QPushButton("Cancel")
        self.copy_button = QPushButton("Copy all")
        self.cancel_button.setEnabled(False)

    def _lay_out(self) -> None:
        self.progress, self.message, self.hint = ProgressLine(), wrapped_label(), wrapped_label()
        self.tabs = QTabWidget()
        self.tabs.addTab(scrolled(self.form), "Choose")
        self.tabs.addTab(scrolled(self.page), "Promise")
        self.tabs.addTab(self._fields_page(), "Fields")
        self.tabs.addTab(self._faults_page(), "Faults")
        self.tabs.setTabVisible(_FAULTS, False)
        buttons = QHBoxLayout()
        buttons.addWidget(self.measure_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(4, 4, 4, 4)
        outer.addWidget(self.tabs, 1)
        outer.addWidget(self.hint)
        outer.addLayout(buttons)
        outer.addWidget(self.progress)
        outer.addWidget(self.message)
        self.setMinimumWidth(400)

    def _fields_page(self) -> QWidget:
        self.looking_at = wrapped_label("Click a field to see it with its mask.")
        return stacked(self.looking_at, self.fields_table)

    def _faults_page(self) -> QWidget:
        self.faults_head = wrapped_label()
        return stacked(self.faults_head, self.faults_table, self.copy_button)

    def _connect(self) -> None:
        self.measure_button.clicked.connect(self.measure)
        self.cancel_button.clicked.connect(self.cancel)
        self.copy_button.clicked.connect(lambda: self.faults_table.copy())
        self.form.choicesChanged.connect(self._choices_changed)
        self.form.note.textChanged.connect(self._take_note)
        self.page.answered.connect(self._answered)
        self.page.pinned.connect(self._take_pin)
        self.page.save_button.clicked.connect(self._ask_where)
        self.fields_table.fieldChosen.connect(self.show_field)
        self.viewer.events.theme.connect(self._theme_changed)

    # ---- measuring

    @property
    def calibrated(self) -> Calibrated | None:
        """The fields that are measured."""
        return self.page.calibrated

    @property
    def certificate(self) -> Certificate | None:
        """The promise that is shown, pinned or explored."""
        return self.page.certificate

    def measure(self) -> None:
        """Start, unless something is wrong or already under way."""
        request = resolve_calibration(self.form.value())
        if self.runner.running:
            return
        if not isinstance(request, CalibrationRequest) or self.form.problems:
            self._choices_changed()  # a folder may have gone since the button was enabled
            return
        try:
            arrays = self._arrays(request)
        except ValueError as error:
            self.message.setText(one_line(error))
            return
        self._warnings.clear()
        self.message.clear()
        self.tabs.setTabVisible(_FAULTS, False)
        self.progress.wait("loading the models and listing the files …")
        device = self.form.device.value()
        self.runner.start(lambda cancel: calibration_events(request, arrays, device, cancel))
        self._show_buttons()

    def cancel(self) -> None:
        """Stop after the field under way; what was measured before stays."""
        if self.runner.running:
            self.runner.cancel()
            self.cancel_button.setEnabled(False)
            self.message.setText("stopping after this field …")

    def _arrays(self, request: CalibrationRequest) -> dict[str, Any]:
        """Return the pixels of the layers chosen, and watch whether they are replaced."""
        for layer in self._watched:
            layer.events.data.disconnect(self._note_change)
        chosen = self.form.layers() if request.choices.kind == "layers" else {}
        self._watched = [layer for layer in chosen.values() if layer is not None]
        self._changed_under_way = False
        for layer in self._watched:
            layer.events.data.connect(self._note_change)
        return arrays_of(chosen)

    def _note_change(self, *_: Any) -> None:
        """Remember that the pixels are others than those that were measured."""
        self._layers_changed = self._changed_under_way = True
        self._choices_changed()

    def _take(self, event: Event) -> None:
        """Turn an event into what is seen. Runs on the GUI thread."""
        match event:
            case FieldSurveyed(done=done, total=total):
                self._count("looked at field", done, total)
            case FieldMeasured(done=done, total=total):
                self._count("measured field", done, total)
            case Warned(message=message):
                self._warnings.append(message)
                self.message.setText(message)
            case Done(result=result):
                self._show_result(result)
            case Cancelled():
                self.message.setText("stopped: nothing was changed" if self.calibrated else "stopped before the end")
            case Failed(error=error):
                self._show_failure(error)

    def _count(self, unit: str, done: int, total: int) -> None:
        if done == 1 or not self.activity.open:
            self.progress.start(total, unit)
            self.activity.start(total)
        self.progress.update_to(done, total)
        self.activity.update_to(done)

    def _show_result(self, result: Calibrated) -> None:
        self._layers_changed = self._changed_under_way
        self._shown_beside = self._watched[0] if self._watched else None
        self.field_layers.retire()
        self._outdated = False
        self._say_what_is_shown()
        self.fields_table.set_fields(result.exploration.measured)
        self.page.show_result(result)
        self.tabs.setCurrentIndex(_PROMISE)
        self.message.setText("; ".join(self._warnings))

    def _show_failure(self, error: Exception) -> None:
        if not isinstance(error, FaultyTriplets):
            self.message.setText(in_own_words(one_line(error), grouped=self._grouped()))
            return
        faults = [_in_own_words(fault, grouped=self._grouped()) for fault in error.faults]
        count = f"{len(faults)} fault{'s' * (len(faults) != 1)}"
        self.faults_head.setText(f"{count}: nothing was measured. Mend them, or leave the fields out.")
        self.faults_table.set_faults(faults)
        self.tabs.setTabText(_FAULTS, f"Faults ({len(faults)})")
        self.tabs.setTabVisible(_FAULTS, True)
        self.tabs.setCurrentIndex(_FAULTS)
        kept = "; the earlier result is kept" if self.calibrated is not None else ""
        self.message.setText(f"{count} in the images, nothing was measured{kept}")

    def _grouped(self) -> bool:
        """Whether the user names the specimens."""
        choices = self.form.value()
        return choices.kind == "table" or bool(choices.group)

    def _measured(self, last: Event | None) -> None:
        self.progress.stop()
        self.activity.close()
        self._choices_changed()
        self.measureFinished.emit(last)

    # ---- what is said

    def _choices_changed(self) -> None:
        problems = self.form.show_problems(quiet=True)
        self._problems = problems
        self._show_buttons()
        choices = self.form.value()
        outdated = self.calibrated is not None and (
            self._layers_changed or not choices.measures_like(self.calibrated.request.choices)
        )
        missing = problems[0].message if problems else ""
        if not self.runner.running:
            self.page.follow(choices, outdated=outdated, missing=missing)
        self._show_outdated(outdated)

    def _show_outdated(self, outdated: bool) -> None:
        """Mark, on all pages and in the viewer, whether what is shown belongs to what is chosen."""
        self.tabs.setTabText(_PROMISE, "Promise (outdated)" if outdated else "Promise")
        if self.calibrated is not None:
            count = len(self.calibrated.exploration.measured.fields)
            self.tabs.setTabText(_FIELDS, f"Fields ({count}{', outdated' * outdated})")
        if outdated == self._outdated:
            return
        self._outdated = outdated
        self.field_layers.set_outdated(outdated)
        self._say_what_is_shown()
        if outdated and not self.runner.running:
            self.message.clear()  # such as that a file was saved, of a promise that is no longer shown

    def _say_what_is_shown(self) -> None:
        seen = self.field_layers.seen
        if seen is None:
            self.looking_at.setText("Click a field to see it with its mask.")
        elif self._outdated:
            self.looking_at.setText(f"Outdated: {seen.name} is shown as it was measured before the choices changed.")
        else:
            self.looking_at.setText(f"{seen.name} is shown. Orange regions are masked; hide layers to compare.")

    def _take_note(self, text: str) -> None:
        """Let the next pin have the note as it stands."""
        self.page.note = text.strip()

    def _show_buttons(self) -> None:
        running = self.runner.running
        self.measure_button.setEnabled(not self._problems and not running)
        self.measure_button.setToolTip("; ".join(problem.message for problem in self._problems))
        self.cancel_button.setEnabled(running)
        missing = [problem.message for problem in self._problems if problem.message.startswith("choose the")]
        self.hint.setText(f"Next: {missing[0]}." if missing else "")
        self.hint.setVisible(bool(missing))

    def _answered(self, answer: Answer | None) -> None:
        if answer is not None:
            self.fields_table.set_answer(answer.thresholds, answer.shares)
            self.field_layers.mark(answer.certificate.threshold)

    def _take_pin(self, certificate: Certificate) -> None:
        """Let the first page say what is pinned."""
        with self.form.tolerance.changed.blocked(), self.form.confidence.changed.blocked():
            set_exactly(self.form.tolerance, certificate.tolerance)
            set_exactly(self.form.confidence, certificate.confidence)
        self.page.choices = self.form.value()

    def _theme_changed(self, *_: Any) -> None:
        self.page.set_theme(self.viewer.theme)

    # ---- one field in the viewer

    def show_field(self, number: int) -> None:
        """Show a calibration field, by its place among the measured ones, with its mask."""
        self._wanted = number
        if not self.shower.running:
            self._show_wanted()

    def _show_wanted(self) -> None:
        number, self._wanted = self._wanted, None
        if self.calibrated is None or number is None:
            return
        self._showing = self.calibrated
        plan, field = self.calibrated.plan, self.calibrated.exploration.measured.fields[number]
        self.looking_at.setText(f"{field.name}: restoring it …")
        device = self.form.device.value()
        self.shower.start(lambda cancel: field_events(plan, field, device, cancel))

    def _shown(self, last: Event | None) -> None:
        if self._showing is not self.calibrated:
            self._say_what_is_shown()  # other fields have been measured meanwhile
        elif isinstance(last, Failed):
            self.looking_at.setText(one_line(last.error))
        elif isinstance(last, Done) and self.page.answer is not None and self._wanted is None:
            self.field_layers.show(last.result, self.page.answer.certificate.threshold, beside=self._shown_beside)
            self._say_what_is_shown()
        elif isinstance(last, Done):
            self.looking_at.setText("no promise, no mask: choose another tolerance or confidence")
        self._show_wanted()
        self.fieldShown.emit(last)

    # ---- saving

    def _ask_where(self) -> None:
        if chosen := ask_where_to_save(self, "Save the mask model", f"Mask model (*{_SUFFIX})"):
            self.save(Path(chosen))

    def save(self, path: Path) -> None:
        """Write a bundle that Review opens; an existing file is replaced only by a complete one."""
        certificate = self.certificate
        if self.calibrated is None or certificate is None or certificate.exploration or self.page.outdated:
            self.message.setText("only a pinned promise of the present choices can be saved; measure and press Pin")
            return
        if self.saver.running:
            return
        path = path if path.suffix == _SUFFIX else path.with_name(path.name + _SUFFIX)
        plan, packs = self.calibrated.plan, self.page.with_restorer
        inside = plan.restorer if packs.isEnabled() and packs.isChecked() else None
        self.message.setText(f"saving {path} …")
        self.saver.start(lambda _: save_events(plan.mask_model, certificate, path, inside))

    def _saved(self, last: Event | None) -> None:
        if isinstance(last, Done):
            self.message.setText(f"Saved as {last.result}. Review opens it as its mask model, with the same restorer.")
        elif isinstance(last, Failed):
            self.message.setText(one_line(last.error))
        self.saveFinished.emit(last)

    # ---- going away

    def let_go(self) -> None:
        """Stop what goes on, and listen to the viewer no more."""
        for runner in (self.runner, self.shower, self.saver):
            runner.abandon()
        self.activity.close()
        self.page.later.stop()
        self.form.release_viewer()
        self.viewer.events.theme.disconnect(self._theme_changed)
        for layer in self._watched:
            layer.events.data.disconnect(self._note_change)


def _in_own_words(fault: Fault, *, grouped: bool) -> Fault:
    """Call groups what they are, where a fault is about the fields as a whole."""
    if fault.file != "the fields":
        return fault
    told, remedy = (in_own_words(text, grouped=grouped) for text in (fault.fault, fault.remedy))
    return Fault(file=fault.file, fault=told, remedy=remedy)
