"""The Train dock: choose triplets, train a mask network, watch it, and save it."""

from pathlib import Path
from typing import Any

import napari
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QTabWidget, QVBoxLayout, QWidget

from napari_maskcal._widgets.activity import Activity
from napari_maskcal._widgets.calibration_table import FaultsTable
from napari_maskcal._widgets.docked import Docked
from napari_maskcal._widgets.fields import ProgressLine, one_line, wrapped_label
from napari_maskcal._widgets.layers import arrays_of
from napari_maskcal._widgets.pages import scrolled, stacked
from napari_maskcal._widgets.places import ask_where_to_save
from napari_maskcal._widgets.runner import Runner
from napari_maskcal._widgets.training_form import TrainingForm
from napari_maskcal._widgets.training_outcome import TrainingOutcome
from napari_maskcal._widgets.training_page import TrainingPage
from napari_maskcal._widgets.training_work import Finished, save_events, training_events
from napari_maskcal.read.faults import FaultyTriplets
from napari_maskcal.restore.events import (
    Cancelled,
    Done,
    Event,
    Failed,
    FieldMeasured,
    FieldSurveyed,
    Started,
    StepDone,
    TileDone,
    TrainingDone,
    TrainingStarted,
    UncertaintyJudged,
    Validated,
    Warned,
)
from napari_maskcal.review.request import in_own_words
from napari_maskcal.review.training_request import SUFFIX, TrainingRequest, bundle_path, place_fault, resolve_training
from napari_maskcal.review.training_words import gone_on_words

_CHOOSE, _TRAINING, _FAULTS = range(3)
_LOADING = "loading the restorer and listing the files …"


class TrainingDock(Docked, QWidget):
    """Trains a mask network for a restorer, and calibrates it if a tolerance is given.

    Emits `trainFinished` with a training's last event (the result of `Done`, and of `Cancelled` if anything was
    trained, is a `Finished`), and `saveFinished` with that of saving.
    """

    trainFinished = Signal(object)
    saveFinished = Signal(object)

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.form = TrainingForm(napari_viewer)
        self.page, self.outcome = TrainingPage(napari_viewer.theme), TrainingOutcome()
        self.faults_table = FaultsTable()
        self.activity = Activity("Mask Training")
        self.finished: Finished | None = None
        self._request: TrainingRequest | None = None  # what is trained, or was last
        self._step = 0
        self._warnings: list[str] = []
        self._make_runners()
        self._lay_out()
        self._connect()
        self._choices_changed()

    # ---- building

    def _make_runners(self) -> None:
        self.runner, self.saver = Runner(self), Runner(self)
        self.runner.happened.connect(self._take)
        self.runner.ended.connect(self._ended)
        self.saver.ended.connect(self._saved)
        for runner in (self.runner, self.saver):
            self.destroyed.connect(runner.abandon)

    def _lay_out(self) -> None:
        self.train_button, self.cancel_button = QPushButton("Train"), QPushButton("Cancel")
        self.copy_button, self.faults_head = QPushButton("Copy all"), wrapped_label()
        self.save_button = self.outcome.save_button
        self.progress, self.message, self.hint = ProgressLine(), wrapped_label(), wrapped_label()
        self.tabs = QTabWidget()
        self.tabs.addTab(scrolled(self.form), "Choose")
        self.tabs.addTab(scrolled(stacked(self.outcome, self.page)), "Training")
        self.tabs.addTab(stacked(self.faults_head, self.faults_table, self.copy_button), "Faults")
        self.tabs.setTabVisible(_FAULTS, False)
        buttons = QHBoxLayout()
        buttons.addWidget(self.train_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(4, 4, 4, 4)
        outer.addWidget(self.tabs, 1)
        outer.addWidget(self.hint)
        outer.addLayout(buttons)
        outer.addWidget(self.progress)
        outer.addWidget(self.message)
        self.setMinimumWidth(400)

    def _connect(self) -> None:
        self.train_button.clicked.connect(self.train)
        self.cancel_button.clicked.connect(self.cancel)
        self.copy_button.clicked.connect(lambda: self.faults_table.copy())
        self.save_button.clicked.connect(self._ask_where)
        self.outcome.wanted.connect(self._open)
        self.form.choicesChanged.connect(self._choices_changed)
        self.viewer.events.theme.connect(self._theme_changed)

    # ---- training

    def train(self) -> None:
        """Start, unless something is wrong or already under way."""
        if self.runner.running or self.saver.running:
            return
        request = resolve_training(self.form.value())
        if not isinstance(request, TrainingRequest) or self.form.problems:
            self._choices_changed()  # a folder may have gone since the button was enabled
            return
        try:
            arrays = arrays_of(self.form.layers() if request.choices.kind == "layers" else {})
        except ValueError as error:
            self.message.setText(one_line(error))
            return
        self._begin(request)
        device, fresh = self.form.device.value(), self.form.fresh.isChecked()
        self.runner.start(lambda cancel: training_events(request, arrays, device, fresh, cancel))
        self._show_buttons()

    def _begin(self, request: TrainingRequest) -> None:
        self._request, self._step = request, 0
        self._warnings.clear()
        self.message.clear()
        self.tabs.setTabVisible(_FAULTS, False)
        self.progress.wait(_LOADING)

    def cancel(self) -> None:
        """Stop after the step under way; the best network so far is kept."""
        if self.runner.running:
            self.runner.cancel()
            self.cancel_button.setEnabled(False)
            self.message.setText("stopping after this step …")

    def _take(self, event: Event) -> None:
        """Turn an event into what is seen. Runs on the GUI thread."""
        self.page.take(event)
        match event:
            case FieldSurveyed(done=done, total=total):
                self._count("looked at field", done, total)
            case Started(tiles=tiles):
                self._count("restored tile", 0, tiles)
            case TileDone(done=done, total=total):
                self._count("restored tile", done, total)
            case UncertaintyJudged(done=done, total=total):
                self._count("compared uncertainty", done, total)
            case FieldMeasured(done=done, total=total):
                self._count("calibrated field", done, total)
            case TrainingStarted() | StepDone() | Validated() | TrainingDone():
                self._follow_training(event)
            case Warned(message=message):
                self._warnings.append(in_own_words(message, grouped=self._grouped()))
                self.message.setText(self._warnings[-1])
            case Done(result=result) | Cancelled(result=result):
                self._show_result(result)
            case Failed(error=error, result=result):
                self._show_failure(error, result)

    def _follow_training(self, event: Event) -> None:
        match event:
            case TrainingStarted(steps=steps, resumed_at=step):
                self._step = step
                self.finished = None
                self.outcome.show_finished(None)
                self.tabs.setCurrentIndex(_TRAINING)
                self.progress.start(steps, "step")
                self.activity.start(steps)
            case StepDone(step=step, steps=steps, seconds_left=left):
                self._step = step
                self._count("step", step, steps, left=left)
            case TrainingDone(step=step, stopped=stopped):
                self._step = step
                self.progress.wait("stopping …" if stopped == "cancelled" else "the network is trained, comparing it …")

    def _count(self, unit: str, done: int, total: int, *, left: float | None = None) -> None:
        if unit != self.progress.unit or not self.activity.open:
            self.progress.start(total, unit)
            self.activity.start(total)
        self.progress.update_to(done, total, left=left)
        self.activity.update_to(done)

    def _show_result(self, result: Finished | None) -> None:
        if result is None:
            self.message.setText("stopped before the first step: nothing was changed")
            return
        self.finished = result
        self.outcome.show_finished(result)
        self.page.share.hide()  # the outcome says it
        self.tabs.setCurrentIndex(_TRAINING)
        stopped = result.path is None and result.request.checkpoint.exists()
        told = [*self._warnings, *([self._how_to_go_on(result.request)] if stopped else [])]
        self.message.setText(". ".join(told))

    def _show_failure(self, error: Exception, result: Finished | None) -> None:
        if isinstance(error, FaultyTriplets):
            self._show_faults(error)
            return
        told = in_own_words(one_line(error), grouped=self._grouped())
        if result is not None:  # it is trained, but could not be written
            self._show_result(result)
        elif isinstance(error, FloatingPointError):
            pass  # the same choices would lead to the same step, and the message says what to change
        elif self._step and self._request is not None and self._request.checkpoint.exists():
            told = f"{told}. {self._how_to_go_on(self._request)}"
        elif self._request is not None and self._request.checkpoint.name in told:  # it is damaged, or of another one
            told = f"{told}; or tick Anew under Advanced"
        self.message.setText(told)

    def _show_faults(self, error: FaultyTriplets) -> None:
        count = f"{len(error.faults)} fault{'s' * (len(error.faults) != 1)}"
        self.faults_head.setText(f"{count}: nothing was trained. Mend them, or leave the fields out.")
        self.faults_table.set_faults(error.faults)
        self.tabs.setTabText(_FAULTS, f"Faults ({len(error.faults)})")
        self.tabs.setTabVisible(_FAULTS, True)
        self.tabs.setCurrentIndex(_FAULTS)
        self.message.setText(f"{count} in the images, nothing was trained")

    def _how_to_go_on(self, request: TrainingRequest) -> str:
        return gone_on_words(self._step, checkpoint=request.checkpoint.name)

    def _grouped(self) -> bool:
        """Whether the user names the specimens."""
        choices = self._request.choices if self._request is not None else self.form.value()
        return choices.kind == "table" or bool(choices.group)

    def _ended(self, last: Event | None) -> None:
        self.progress.stop()
        self.activity.close()
        self._choices_changed()
        self.trainFinished.emit(last)

    # ---- what is said

    def _choices_changed(self) -> None:
        self._problems = self.form.show_problems(quiet=True)
        self._show_buttons()

    def _show_buttons(self) -> None:
        running = self.runner.running
        self.train_button.setEnabled(not self._problems and not running)
        self.train_button.setToolTip("; ".join(problem.message for problem in self._problems))
        self.cancel_button.setEnabled(running)
        self.save_button.setEnabled(not running and not self.saver.running)
        missing = [problem.message for problem in self._problems if problem.message.startswith("choose the")]
        self.hint.setText(f"Next: {missing[0]}." if missing else "")
        self.hint.setVisible(bool(missing) and not running)

    def _theme_changed(self, *_: Any) -> None:
        self.page.set_theme(self.viewer.theme)

    # ---- saving, and what comes after

    def _ask_where(self) -> None:
        start = str(self.finished.request.out) if self.finished is not None else ""
        if chosen := ask_where_to_save(self, "Save the mask model", f"Mask model (*{SUFFIX})", start):
            self.save(Path(chosen))

    def save(self, path: Path) -> None:
        """Write what is trained; an existing file is replaced only by a complete one."""
        if self.finished is None or self.runner.running or self.saver.running:
            return
        path = bundle_path(path)
        if fault := place_fault(path):
            self.message.setText(fault)
            return
        finished = self.finished
        self.message.setText(f"saving {path} …")
        self.saver.start(lambda _: save_events(finished, path))
        self._show_buttons()

    def _saved(self, last: Event | None) -> None:
        if isinstance(last, Done):
            self.finished = last.result
            self.outcome.show_finished(self.finished)
            self.message.clear()
        elif isinstance(last, Failed):
            self.message.setText(one_line(last.error))
        self._show_buttons()
        self.saveFinished.emit(last)

    def _open(self, title: str) -> None:
        """Open another dock with the mask model and its restorer."""
        if self.finished is None or self.finished.path is None:
            return
        _, dock = self.viewer.window.add_plugin_dock_widget("napari-maskcal", title, tabify=True)
        form = dock if title == "Review" else dock.form
        form.restorer.setValue(self.finished.request.choices.restorer)
        form.mask_model.setValue(self.finished.path)

    # ---- going away

    def let_go(self) -> None:
        """Stop what goes on, and listen to the viewer no more."""
        for runner in (self.runner, self.saver):
            runner.abandon()
        self.activity.close()
        self.page.later.stop()
        self.form.release_viewer()
        self.viewer.events.theme.disconnect(self._theme_changed)
