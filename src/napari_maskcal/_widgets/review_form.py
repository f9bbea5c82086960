"""The upper half of the Review dock: what is chosen, and what is wrong with it."""

import math
from typing import Any

import napari
from napari.layers import Image as ImageLayer
from napari.layers import Layer
from qtpy.QtCore import QEvent, Signal
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QToolButton, QWidget
from superqt import QElidingLabel

from napari_maskcal._widgets.fields import (
    DeviceChooser,
    Field,
    ModelChooser,
    parameter_widget,
    set_exactly,
    whole_number_box,
)
from napari_maskcal._widgets.layer_chooser import LayerChooser
from napari_maskcal._widgets.layers import describe_layer, is_result, named_axes
from napari_maskcal._widgets.restorer_chooser import RestorerChooser
from napari_maskcal.calibrate.certificate import Certificate
from napari_maskcal.review.request import (
    Choices,
    Part,
    Problem,
    brings_restorer,
    describe_bundle,
    device_fault,
    in_own_words,
    parts_wanted,
    resolve,
)
from napari_maskcal.settings import (
    AXES,
    CHANNEL,
    CONFIDENCE,
    DEVICE,
    MASK_MODEL,
    REGION,
    RESTORED,
    RESTORER,
    TOLERANCE,
    UNCERTAINTY,
)

_TOLERANCE_HELP = "Largest error you accept outside the marked regions, "
_UNITS = {
    "share": (" of the range", "as a share of the plane's intensity range."),
    "raw": (" intensity units", "in the raw intensities of the image."),
    "none": ("", "in the distance's own numbers: it has no unit."),
}  # behind the number, and in the tooltip
_DECIMALS_OF_SHARES, _DECIMALS = 3, 2  # at least
_PIN_STYLE = (
    "QToolButton { border: 1px solid gray; border-radius: 3px; padding: 2px 6px; }"
    "QToolButton:checked { background: #0072B2; color: white; }"
)


class ReviewForm(QWidget):
    """Fields for all choices of a review, each with the reason below it when it can't be used.

    Emits `choicesChanged` whenever one of them, or the selected layer, has changed.
    """

    choicesChanged = Signal()

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self._input: Layer | None = None
        self._pinned: Certificate | None = None  # the mask model's own, when it was last looked at
        self._make_widgets()
        self._make_rows()
        self._take_pinned_values()
        self._connect()

    def value(self) -> Choices:
        """Return all choices as they stand, right or wrong."""
        given = self.given_layers()
        return Choices(
            source=describe_layer(self._input),
            axes=self.axes.value,
            channel=self.channel.value() if self._has_channels() and self.channel.value() >= 0 else None,
            region=self.region.value,
            restorer=self.restorer.value(),
            mask_model=self.mask_model.value(),
            tolerance=self.tolerance.value,
            confidence=self.confidence.value,
            restored=describe_layer(given.get("restored")),
            uncertainty=describe_layer(given.get("uncertainty")),
        )

    def given_layers(self) -> dict[Part, ImageLayer | None]:
        """Return the layers chosen for what no network makes; only for what is wanted."""
        choosers: dict[Part, LayerChooser] = {"restored": self.restored, "uncertainty": self.uncertainty}
        wanted = parts_wanted(self.restorer.value(), self.mask_model.value())
        return {part: choosers[part].value() for part in wanted}

    @property
    def problems(self) -> list[Problem]:
        """All that stands in the way of a run."""
        found = resolve(self.value())
        problems = self.restorer.explained(self._in_own_words(found) if isinstance(found, list) else [])
        if fault := device_fault(self.device.value()):
            problems = [*problems, Problem(field="device", message=fault)]
        return problems

    def show_problems(self) -> list[Problem]:
        """Write each reason below its field, the first where there are several, and return them all."""
        problems = self.problems
        faults = {problem.field: problem.message for problem in reversed(problems)}
        for name, field in self.fields.items():
            field.set_fault(faults.get(name, ""))
        wanted = parts_wanted(self.restorer.value(), self.mask_model.value())
        for name in ("restored", "uncertainty"):
            self.fields[name].set_visible(name in wanted)
        self.fields["channel"].set_visible(self._has_channels())
        self.fields["axes"].set_visible(self._input is not None)
        return problems

    def follow_active(self, *_: Any) -> None:
        """Take the selected layer as input, unless the input is pinned or the layer is a result."""
        active = self.viewer.layers.selection.active
        looking_at_results = is_result(active) or (active is None and self._input in self.viewer.layers)
        if not (self.pin.isChecked() and self._input is not None) and not looking_at_results:
            self._take_input(active)
        self.choicesChanged.emit()

    def look_again(self) -> None:
        """Notice that a model's file was replaced; values that were not moved follow the mask model's new pin."""
        self._follow_pin()
        self.choicesChanged.emit()

    def enterEvent(self, event: Any) -> None:
        """Look at the files again when the mouse comes: another dock may have written them."""
        super().enterEvent(event)
        self.look_again()

    def changeEvent(self, event: Any) -> None:
        """Look at the files again when the window is returned to: another program may have written them."""
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.ActivationChange and self.isActiveWindow():
            self.look_again()

    def release_viewer(self) -> None:
        """Stop listening to the viewer."""
        self.viewer.layers.selection.events.active.disconnect(self.follow_active)
        self.viewer.layers.events.removed.disconnect(self._layer_removed)
        self.restorer.stop()
        self.restored.release_viewer()
        self.uncertainty.release_viewer()
        if self._input is not None:
            self._input.events.name.disconnect(self._show_name)

    def _make_widgets(self) -> None:
        self.restorer = RestorerChooser(given="restored by another tool")
        self.restored, self.uncertainty = LayerChooser(self.viewer), LayerChooser(self.viewer)
        self.mask_model = ModelChooser(".maskcal")
        self.axes = parameter_widget(AXES, "")
        self.channel = whole_number_box(CHANNEL, smallest="choose")
        self.region = parameter_widget(REGION, REGION.default)
        self.tolerance = parameter_widget(TOLERANCE, TOLERANCE.minimum)
        self.confidence = parameter_widget(CONFIDENCE, CONFIDENCE.minimum)
        self.device = DeviceChooser()

    def _make_rows(self) -> None:
        self.form = QFormLayout()
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows = {
            "source": ("Image", self._input_row(), "The image that is restored: the selected layer."),
            "axes": ("Axes", self.axes.native, AXES.help),
            "channel": ("Channel", self.channel, CHANNEL.help),
            "region": ("Region", self.region.native, REGION.help),
            "restorer": ("Restorer", self.restorer, RESTORER.help),
            "restored": ("Restored", self.restored, RESTORED.help),
            "mask_model": ("Mask model", self.mask_model, MASK_MODEL.help),
            "uncertainty": ("Uncertainty", self.uncertainty, UNCERTAINTY.help),
            "tolerance": ("Tolerance", self.tolerance.native, TOLERANCE.help),
            "confidence": ("Confidence", self.confidence.native, CONFIDENCE.help),
            "device": ("Device", self.device, DEVICE.help),
        }
        self.fields = {name: Field(self.form, *row) for name, row in rows.items()}

    def _input_row(self) -> QWidget:
        row = QWidget()
        self.input_name = QElidingLabel()  # a long name must not widen the dock
        self.pin = QToolButton()
        self.pin.setText("Pin")
        self.pin.setStyleSheet(_PIN_STYLE)
        self.pin.setCheckable(True)
        self.pin.setToolTip("Keep this image as input when another layer is selected.")
        layout = QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.input_name, 1)
        layout.addWidget(self.pin)
        return row

    def _connect(self) -> None:
        for widget in (self.axes, self.region, self.tolerance, self.confidence):
            widget.changed.connect(self._changed)
        self.channel.valueChanged.connect(self._changed)
        for chooser in (self.restorer, self.restored, self.uncertainty):
            chooser.valueChanged.connect(self._changed)
        self.device.valueChanged.connect(self._changed)
        self.mask_model.valueChanged.connect(self._mask_model_changed)
        self.pin.toggled.connect(self.follow_active)
        self.viewer.layers.selection.events.active.connect(self.follow_active)
        self.viewer.layers.events.removed.connect(self._layer_removed)

    def _changed(self, *_: Any) -> None:
        self.choicesChanged.emit()

    def _mask_model_changed(self, *_: Any) -> None:
        self._take_pinned_values()
        if brings_restorer(self.mask_model.value()):
            self.restorer.choose(self.mask_model.value())
        self.choicesChanged.emit()

    def _take_pinned_values(self) -> None:
        """Start from the tolerance and confidence that the certificate was pinned to."""
        try:
            pinned = describe_bundle(self.mask_model.value()).certificate
        except (ValueError, OSError, MemoryError):
            return  # the field says why
        self._pinned = pinned
        with self.tolerance.changed.blocked(), self.confidence.changed.blocked():
            self._show_unit(pinned)
            set_exactly(self.tolerance, pinned.tolerance)
            set_exactly(self.confidence, pinned.confidence)

    def _follow_pin(self) -> None:
        try:
            now = describe_bundle(self.mask_model.value()).certificate
        except (ValueError, OSError, MemoryError):
            return  # said when it is needed
        before = self._pinned
        if now is before:
            return
        shown = (self.tolerance.value, self.confidence.value)
        moved = before is not None and shown != (before.tolerance, before.confidence)
        if before is None or not moved or before.intensity != now.intensity:
            self._take_pinned_values()
        self._pinned = now

    def _show_unit(self, pinned: Certificate) -> None:
        """Say what the tolerance is measured in, and let its arrows step by what is sensible there."""
        suffix, words = _UNITS[pinned.intensity]
        self.tolerance.native.setSuffix(suffix)
        self.fields["tolerance"].content.setToolTip(_TOLERANCE_HELP + words)
        place = math.floor(math.log10(pinned.tolerance)) - 1  # of the digit that is a tenth of the first
        share = pinned.intensity == "share"
        self.tolerance.native.setDecimals(_DECIMALS_OF_SHARES if share else max(_DECIMALS, 1 - place))
        self.tolerance.step = TOLERANCE.step if share else 10.0**place

    def _take_input(self, layer: Layer | None) -> None:
        if layer == self._input:
            return
        if self._input is not None:
            self._input.events.name.disconnect(self._show_name)
        self._input = layer
        self._show_name()
        if layer is not None:
            layer.events.name.connect(self._show_name)
        if not isinstance(layer, ImageLayer):
            return
        axes, said = named_axes(layer)
        with self.axes.changed.blocked():
            self.axes.value = axes
        self.axes.tooltip = AXES.help if said else AXES.help + " The layer does not say: this is the usual order."

    def _show_name(self, *_: Any) -> None:
        self.input_name.setText(self._input.name if self._input is not None else "none")

    def _layer_removed(self, event: Any) -> None:
        if event.value == self._input:
            self.pin.setChecked(False)
            self._take_input(None)
            self.follow_active()

    def _in_own_words(self, problems: list[Problem]) -> list[Problem]:
        """Speak of specimens, or of images, where the mask model was calibrated on such."""
        try:
            grouped = describe_bundle(self.mask_model.value()).certificate.grouped
        except (ValueError, OSError, MemoryError):
            return problems
        words = ("tolerance", "confidence")
        told = [in_own_words(p.message, grouped=grouped) if p.field in words else p.message for p in problems]
        return [Problem(field=p.field, message=text) for p, text in zip(problems, told, strict=True)]

    def _has_channels(self) -> bool:
        return "C" in self.axes.value.upper()
