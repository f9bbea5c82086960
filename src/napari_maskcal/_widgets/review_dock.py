"""The Review dock: choose, run, and see what can be believed."""

from collections.abc import Iterator
from typing import Any

import napari
from napari.layers import Image as ImageLayer
from napari.layers import Layer
from napari.qt.threading import GeneratorWorker, create_worker
from napari.utils import progress
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QPushButton, QScrollArea, QToolButton, QVBoxLayout, QWidget
from superqt import QElidingLabel

from napari_maskcal._widgets.fields import (
    DeviceChooser,
    Field,
    ModelChooser,
    ProgressLine,
    parameter_widget,
    wrapped_label,
)
from napari_maskcal._widgets.layers import describe_layer, image_of, is_result, named_axes, plane_at, visible_plane
from napari_maskcal._widgets.results import Results
from napari_maskcal.calibrate.certificate import Certificate
from napari_maskcal.pipeline import Review, check_channel, rethreshold, review
from napari_maskcal.read.image import Image
from napari_maskcal.restore.events import (
    Cancelled,
    CancelToken,
    Done,
    Event,
    Failed,
    PlaneDone,
    Started,
    TileDone,
    Warned,
)
from napari_maskcal.review.overlay import COLOURS, NOT_COMPUTED, UNCERTAIN, masked_share
from napari_maskcal.review.request import Choices, Problem, Request, describe_bundle, device_fault, resolve
from napari_maskcal.settings import AXES, CHANNEL, CONFIDENCE, DEVICE, MASK_MODEL, REGION, RESTORER, TOLERANCE


class ReviewDock(QWidget):
    """Runs a restorer and a mask model on the active layer and draws the uncertain regions over it.

    Emits `runFinished` with the run's last event: `Done`, `Cancelled` or `Failed`.
    """

    runFinished = Signal(object)

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.results: Results | None = None
        self._input: Layer | None = None
        self._data_version = 0
        self._worker: GeneratorWorker | None = None
        self._cancel = CancelToken()
        self._activity: Any = None
        self._last_event: Event | None = None
        self._build()
        self._take_pinned_values()
        self.viewer.layers.selection.events.active.connect(self._follow_active)
        self.viewer.layers.events.removed.connect(self._layer_removed)
        self.viewer.dims.events.point.connect(self._show_share)
        self._follow_active()

    # ---- what the user sees

    def _build(self) -> None:
        self.restorer = ModelChooser(".safetensors")
        self.mask_model = ModelChooser(".maskcal")
        self.axes = parameter_widget(AXES, "")
        self.channel = parameter_widget(CHANNEL, -1)
        self.channel.native.setSpecialValueText("choose")  # shown for the minimum, -1
        self.region = parameter_widget(REGION, REGION.default)
        self.tolerance = parameter_widget(TOLERANCE, TOLERANCE.minimum)
        self.confidence = parameter_widget(CONFIDENCE, CONFIDENCE.minimum)
        self.device = DeviceChooser()
        self._form = QFormLayout()
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows = {
            "source": ("Image", self._input_row(), "The image that is restored: the selected layer."),
            "axes": ("Axes", self.axes.native, AXES.help),
            "channel": ("Channel", self.channel.native, CHANNEL.help),
            "region": ("Region", self.region.native, REGION.help),
            "restorer": ("Restorer", self.restorer, RESTORER.help),
            "mask_model": ("Mask model", self.mask_model, MASK_MODEL.help),
            "tolerance": ("Tolerance", self.tolerance.native, TOLERANCE.help),
            "confidence": ("Confidence", self.confidence.native, CONFIDENCE.help),
            "device": ("Device", self.device, DEVICE.help),
        }
        self.fields = {name: Field(self._form, *row) for name, row in rows.items()}
        for widget in (self.axes, self.channel, self.region, self.tolerance, self.confidence):
            widget.changed.connect(self._choices_changed)
        self.restorer.valueChanged.connect(self._choices_changed)
        self.device.valueChanged.connect(self._choices_changed)
        self.mask_model.valueChanged.connect(self._mask_model_changed)
        self.run_button, self.cancel_button = QPushButton("Run"), QPushButton("Cancel")
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.cancel)
        self.cancel_button.setEnabled(False)
        self.progress = ProgressLine()
        self.message = wrapped_label()
        self.promise = wrapped_label(style="font-size: 13px; font-weight: bold;")
        self.limits, self.share = wrapped_label(), wrapped_label()
        self._lay_out()

    def _input_row(self) -> QWidget:
        row = QWidget()
        self.input_name = QElidingLabel()  # a long name must not widen the dock
        self.pin = QToolButton()
        self.pin.setText("Pin")
        self.pin.setStyleSheet(
            "QToolButton { border: 1px solid gray; border-radius: 3px; padding: 2px 6px; }"
            "QToolButton:checked { background: #0072B2; color: white; }"
        )
        self.pin.setCheckable(True)
        self.pin.setToolTip("Keep this image as input when another layer is selected.")
        self.pin.toggled.connect(self._follow_active)
        layout = QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.input_name, 1)
        layout.addWidget(self.pin)
        return row

    def _lay_out(self) -> None:
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.addLayout(self._form)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        column.addLayout(buttons)
        legend = wrapped_label(
            f"<span style='color:{COLOURS[UNCERTAIN]}'>■</span> uncertain &nbsp; "
            f"<span style='color:{COLOURS[NOT_COMPUTED]}'>■</span> not computed"
        )
        for widget in (self.progress, self.message, self.promise, self.share, legend, self.limits):
            column.addWidget(widget)
        column.addStretch(1)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(inside)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(scroll)
        self.setMinimumWidth(340)

    # ---- what the user chose

    def value(self) -> Choices:
        """Return all choices as they stand, right or wrong."""
        return Choices(
            source=describe_layer(self._input, self._data_version),
            axes=self.axes.value,
            channel=self.channel.value if "C" in self.axes.value.upper() and self.channel.value >= 0 else None,
            region=self.region.value,
            restorer=self.restorer.value(),
            mask_model=self.mask_model.value(),
            tolerance=self.tolerance.value,
            confidence=self.confidence.value,
        )

    @property
    def problems(self) -> list[Problem]:
        """What keeps Run from being pressed."""
        found = resolve(self.value())
        problems = found if isinstance(found, list) else []
        if fault := device_fault(self.device.value()):
            problems = [*problems, Problem(field="device", message=fault)]
        return problems

    def _choices_changed(self, *_: Any) -> None:
        faults: dict[str, str] = {}
        for problem in self.problems:
            faults.setdefault(problem.field, problem.message)
        for name, field in self.fields.items():
            field.set_fault(faults.get(name, ""))
        self.fields["channel"].set_visible("C" in self.axes.value.upper())
        self.fields["axes"].set_visible(self._input is not None)
        self.run_button.setEnabled(not faults and self._worker is None)
        self.run_button.setToolTip("; ".join(faults.values()))
        if self.results is not None and self._input is not None and self._worker is None:
            self.results.mark_outdated(self.value() != self.results.choices)
        self._show_promise()

    def _mask_model_changed(self, *_: Any) -> None:
        self._take_pinned_values()
        self._choices_changed()

    def _take_pinned_values(self) -> None:
        """Start from the tolerance and confidence that the certificate was pinned to."""
        try:
            pinned = describe_bundle(self.mask_model.value()).certificate
        except (ValueError, OSError):
            return  # the field says why
        with self.tolerance.changed.blocked(), self.confidence.changed.blocked():
            self.tolerance.value, self.confidence.value = pinned.tolerance, pinned.confidence

    def _follow_active(self, *_: Any) -> None:
        active = self.viewer.layers.selection.active
        looking_at_results = is_result(active) or (active is None and self._input in self.viewer.layers)
        if not (self.pin.isChecked() and self._input is not None) and not looking_at_results:
            self._take_input(active)
        self._choices_changed()

    def _take_input(self, layer: Layer | None) -> None:
        if layer == self._input:
            return
        if isinstance(self._input, ImageLayer):
            self._input.events.data.disconnect(self._data_changed)
        self._input, self._data_version = layer, 0
        self.input_name.setText(layer.name if layer is not None else "none")
        if not isinstance(layer, ImageLayer):
            return
        layer.events.data.connect(self._data_changed)
        axes, said = named_axes(layer)
        self.axes.value = axes
        self.axes.tooltip = AXES.help if said else AXES.help + " The layer does not say: this is the usual order."

    def _data_changed(self, *_: Any) -> None:
        self._data_version += 1
        self._choices_changed()

    def _layer_removed(self, event: Any) -> None:
        if event.value == self._input:
            self.pin.setChecked(False)
            self._input = None
            self.input_name.setText("none")
            self._follow_active()

    # ---- running

    def run(self) -> None:
        """Start, unless something is wrong or already under way."""
        request = resolve(self.value())
        if isinstance(request, list) or self._worker is not None or not isinstance(self._input, ImageLayer):
            return
        self._cancel = CancelToken()
        self.message.clear()
        self.progress.wait("loading the networks …")
        self._start(self._events(request, self._input), request.choices)

    def _events(self, request: Request, layer: ImageLayer) -> Iterator[Event]:
        """Return the stream for a request; all that touches layers happens here, before the thread starts."""
        done = self.results
        drawn = done.review if done is not None and done.present else None
        if done and drawn and drawn.complete and request.choices.differs_in_promise_only(done.choices):
            return _rethreshold_events(drawn, request)
        image = image_of(layer, request.axes)
        here = visible_plane(layer, self.viewer.dims.point, image.shape)
        if request.choices.channel is not None:
            position = request.axes.index("C")
            here = (*here[:position], request.choices.channel, *here[position + 1 :])
        planes = check_channel(image, request.choices.channel).planes(channel=request.choices.channel)
        if request.choices.region == "current plane":
            planes = [here]
        # the plane in view comes first
        planes.sort(key=lambda index: index != here)
        return _run_events(image, request, planes, self.device.value(), self._cancel)

    def _start(self, events: Iterator[Event], choices: Choices) -> None:
        def stream() -> Iterator[Event]:  # a generator function is what makes a worker that yields
            yield from events

        worker = create_worker(stream, _start_thread=False)
        worker.yielded.connect(lambda event: self._take(event, choices))
        worker.finished.connect(self._finished)
        self._worker = worker
        self.run_button.setEnabled(False)
        self.cancel_button.setEnabled(True)
        worker.start()

    def cancel(self) -> None:
        """Stop after the tile under way; what is done is kept and marked as partial."""
        if self._worker is None:
            return
        self._cancel.cancel()
        self.cancel_button.setEnabled(False)
        self.message.setText("stopping after this tile …")

    def _take(self, event: Event, choices: Choices) -> None:
        """Turn an event of the run into what is seen. Runs on the GUI thread."""
        self._last_event = event
        match event:
            case Started():
                self._add_layers(event, choices)
            case TileDone(done=done, total=total):
                self.progress.update_to(done, total)
                if self._activity is not None:
                    self._activity.update(done - self._activity.n)
            case PlaneDone(restored=plane) if self.results is not None:
                self.results.refresh(plane)
                self._show_share()
            case Warned(message=message):
                self.message.setText(message)
            case Done(result=result) | Cancelled(result=result):
                self._conclude(result, choices)
            case Failed(error=error, result=result):
                self._conclude(result, choices)
                self.message.setText(_one_line(error))
            case _:
                pass

    def _add_layers(self, event: Started, choices: Choices) -> None:
        self.progress.start(event.tiles)
        self._activity = progress(total=event.tiles, desc="Mask Calibration")
        if not isinstance(self._input, ImageLayer):
            self._cancel.cancel()
            return
        if self.results is not None and self.results.present:
            self.results.retire()
        self.results = Results(self.viewer, self._input, event.result, choices)
        self._show_promise()

    def _conclude(self, result: Review | None, choices: Choices) -> None:
        if self.results is None or result is None:
            return
        if result.restored is not self.results.review.restored:
            return
        if result.uncertain is not self.results.review.uncertain:
            self.results.redraw(result, choices)
        elif result.planes_done == 0:
            self.results.remove()
            self.results = None
            self.message.setText("stopped before the first plane was done: nothing was drawn")
        else:
            self.results.finish(result)
            done = f"{result.planes_done} of {result.planes} planes are done, the others are grey"
            self.message.setText("" if result.complete else f"stopped: {done}")

    def _finished(self) -> None:
        self._worker = None
        self.progress.stop()
        self.cancel_button.setEnabled(False)
        if self._activity is not None:
            self._activity.close()
            self._activity = None
        self._choices_changed()
        self._show_share()
        self.runFinished.emit(self._last_event)

    # ---- the promise in words

    def _shown_certificate(self) -> Certificate | None:
        """Return the promise of what is drawn, or of what would be."""
        if self.results is not None:
            return self.results.review.certificate
        request = resolve(self.value())
        return request.certificate if isinstance(request, Request) else None

    def _show_promise(self) -> None:
        certificate = self._shown_certificate()
        if certificate is None:
            self.promise.clear()
            self.limits.clear()
            return
        lead = "Exploration, not a promise to quote: " if certificate.exploration else ""
        outdated = self.results is not None and self.results.outdated
        stale = "OUTDATED: the choices above have changed, press Run. " if outdated else ""
        self.promise.setText(stale + lead + certificate.sentence)
        self.limits.setText(certificate.limits)

    def _show_share(self, *_: Any) -> None:
        if self.results is None or not self.results.present:
            self.share.clear()
            return
        layer = self.results.uncertain
        index = plane_at(layer, self.viewer.dims.point)
        share = masked_share(layer.data[index]) if index is not None else float("nan")
        if share != share:
            self.share.setText("This plane is not computed.")
        else:
            self.share.setText(f"Marked uncertain: {100 * share:.1f} % of this plane.")

    def closeEvent(self, event: QCloseEvent | None) -> None:
        """Stop a run when the dock goes away."""
        self._cancel.cancel()
        if self._worker is not None:
            self._worker.yielded.disconnect()
            self._worker.finished.disconnect()
        super().closeEvent(event)


def _run_events(
    image: Image, request: Request, planes: list[tuple[int, ...]], device: str, cancel: CancelToken
) -> Iterator[Event]:
    """Load the networks and review; runs in a thread, so torch is first imported here."""
    try:
        from napari_maskcal.models import load_mask_model, load_restorer

        restorer, mask_model = load_restorer(request.restorer), load_mask_model(request.mask_model)
    except Exception as error:  # noqa: BLE001 - an exception in a generator worker would be lost
        yield Failed(error=error)
        return
    yield from review(image, restorer, mask_model, request.certificate, planes=planes, device=device, cancel=cancel)


def _rethreshold_events(done: Review, request: Request) -> Iterator[Event]:
    try:
        yield Done(result=rethreshold(done, request.certificate))
    except Exception as error:  # noqa: BLE001 - an exception in a generator worker would be lost
        yield Failed(error=error)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and "DLL" in str(error):
        return f"torch could not be loaded ({error}); restart napari with torch imported first, or reinstall torch"
    return " ".join(str(error).split()) or type(error).__name__
