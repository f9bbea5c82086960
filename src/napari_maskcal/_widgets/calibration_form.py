"""The first page of the Calibration dock: what is measured, and how."""

from typing import Any

import napari
from napari.layers import Image as ImageLayer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QLineEdit, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_maskcal._widgets.fields import (
    DeviceChooser,
    Field,
    ModelChooser,
    keep_narrow,
    parameter_widget,
    set_exactly,
    whole_number_box,
)
from napari_maskcal._widgets.layer_chooser import LayerChooser
from napari_maskcal._widgets.layers import describe_layer
from napari_maskcal._widgets.places import GroupChooser, PlaceChooser
from napari_maskcal._widgets.specimens_line import SpecimensLine
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.review.calibration_request import (
    CalibrationChoices,
    parts_needed,
    resolve_calibration,
)
from napari_maskcal.review.request import Problem, device_fault
from napari_maskcal.settings import (
    BOUND,
    CALIBRATION_CONFIDENCE,
    CALIBRATION_MASK_MODEL,
    CALIBRATION_TOLERANCE,
    DEGRADED_FOLDER,
    DELTA,
    DEVICE,
    DISTANCE,
    FIELD_PX,
    GROUP,
    GROUPING,
    GUARANTEE,
    INTENSITY,
    MANIFEST,
    MASK,
    NOTE,
    RESTORED_FOLDER,
    RESTORER,
    SEED,
    TRUTH_FOLDER,
    UNCERTAINTY_FOLDER,
    Parameter,
)

_PARTS = {"degraded": DEGRADED_FOLDER, "truth": TRUTH_FOLDER, "restored": RESTORED_FOLDER,
          "uncertainty": UNCERTAINTY_FOLDER}  # fmt: skip
_KINDS = {"folders": "folders", "a table (CSV)": "table", "layers of this window": "layers"}
_MASK_MODELS = {
    "smoothed residual, no training": "residual",
    "spread over flips and turns": "augmentation",
    "given uncertainty maps": "given",
}
_DISTANCES = {
    "mean absolute error (L1)": "l1",
    "root mean square error (L2)": "l2",
    "largest error of a pixel (L∞)": "linf",
    "largest error after a blur of 2 px": "linf-blur2",
    "structure: 1 − SSIM": "ssim",
    "perceived: LPIPS": "lpips",
}
_UNITS = {"share": "share of the intensity range", "raw": "intensities of the images"}
_GUARANTEES = {
    "marginal": "usual: holds on average",
    "pac": "strict: holds for this calibration",
    "expected": "the mean error only",
}
_MASKS = {"binary": "believed or not, as drawn", "soft": "believed in part (not drawn)"}
_GROUPINGS = {"worst": "all of them count", "one": "one of them is drawn"}
_START_DELTA, _START_BOUND = 0.1, 1.0
_DECIMALS, _DECIMALS_OF_SHARES = 5, 3
_LARGEST, _LARGEST_FIELD_PX = 1e9, 65536  # of numbers whose unit is the image's; of a side

_Row = tuple[str, QWidget, str]  # title, content and tooltip of a field


class CalibrationForm(QWidget):
    """Fields for all choices of a calibration, each with the reason below it when it can't be used.

    Emits `choicesChanged` whenever one of them has changed.
    """

    choicesChanged = Signal()

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self._make_source_widgets()
        self._make_widgets()
        self._make_rows()
        self._connect()
        self._show_wanted()

    def value(self) -> CalibrationChoices:
        """Return all choices as they stand, right or wrong."""
        kind = self.kind.currentData()
        layers = {part: describe_layer(layer) for part, layer in self.layers().items()}
        return CalibrationChoices(
            kind=kind,
            **({part: chooser.value() for part, chooser in self.places.items()} if kind == "folders" else {}),
            manifest=self.manifest.value() if kind == "table" else "",
            layers=layers if kind == "layers" else {},
            group={"folders": self.group.value(), "table": "", "layers": self.layer_groups.text()}[kind],
            restorer=self.restorer.value(), mask_model=self.mask_model.value(), distance=self._distance(),
            mask=self.mask_kind.value, intensity=self.intensity.value, field_px=self.field_px.value() or None,
            guarantee=self.guarantee.value, delta=self.delta.value, bound=self.bound.value,
            grouping=self.grouping.value, seed=self.seed.value, tolerance=self.tolerance.value or None,
            confidence=self.confidence.value,
        )  # fmt: skip

    def layers(self) -> dict[str, ImageLayer | None]:
        """Return the layers chosen, by the name of the part."""
        return {part: chooser.value() for part, chooser in self.layer_choosers.items()}

    @property
    def problems(self) -> list[Problem]:
        """All that stands in the way of measuring."""
        found = resolve_calibration(self.value())
        problems = found if isinstance(found, list) else []
        if fault := device_fault(self.device.value()):
            problems = [*problems, Problem(field="device", message=fault)]
        return problems

    def show_problems(self, *, quiet: bool = False) -> list[Problem]:
        """Write each reason below its field and return them all; `quiet`: nothing of what is not chosen yet."""
        problems = self.problems
        shown = [p for p in problems if not (quiet and p.message.startswith("choose the"))]
        faults = {problem.field: problem.message for problem in reversed(shown)}
        in_layers = self.kind.currentData() == "layers"
        for name, field in self.fields.items():
            if name.endswith("_layer"):
                field.set_fault(faults.get(name.removesuffix("_layer"), "") if in_layers else "")
            else:
                field.set_fault("" if in_layers and name in (*_PARTS, "group") else faults.get(name, ""))
        if any(self.fields[name].fault for name in ("device", "field_px")):
            self.more.expand(animate=False)
        self._show_wanted()
        return problems

    def release_viewer(self) -> None:
        """Stop listening to the viewer."""
        self.preview.stop()
        for chooser in self.layer_choosers.values():
            chooser.release_viewer()

    # ---- widgets

    def _make_source_widgets(self) -> None:
        self.kind = QComboBox()
        for title, kind in _KINDS.items():
            self.kind.addItem(title, kind)
        self.places = {part: PlaceChooser(f"Choose the folder of {part} images") for part in _PARTS}
        self.manifest = PlaceChooser("Choose a table", pattern="Table (*.csv *.tsv *.txt)")
        self.layer_choosers = {part: LayerChooser(self.viewer) for part in _PARTS}
        self.group = GroupChooser(GROUP.help)
        self.layer_groups = QLineEdit()
        self.layer_groups.setPlaceholderText("such as A, A, B or A: 2, B: 1")

    def _make_widgets(self) -> None:
        self.restorer = ModelChooser(".safetensors", given="already restored by another tool")
        self.mask_model = ModelChooser(".maskcal", words=_MASK_MODELS)
        self.mask_model.setValue(CALIBRATION_MASK_MODEL.default)
        self.distance = QComboBox()
        self.distance.setEditable(True)
        for title, name in _DISTANCES.items():
            self.distance.addItem(title, name)
        self.intensity = parameter_widget(INTENSITY, INTENSITY.default, _UNITS)
        self.guarantee = parameter_widget(GUARANTEE, GUARANTEE.default, _GUARANTEES)
        self.delta = parameter_widget(DELTA, _START_DELTA)
        self.bound = self._unbounded(BOUND, _START_BOUND)
        self.tolerance = self._unbounded(CALIBRATION_TOLERANCE, 0.0)
        self.tolerance.native.setSpecialValueText("choose after measuring")  # shown for the minimum, 0
        self.confidence = parameter_widget(CALIBRATION_CONFIDENCE, CALIBRATION_CONFIDENCE.default)
        for share in (self.delta, self.confidence):
            share.native.setDecimals(_DECIMALS_OF_SHARES)  # 0.995 must not become 1
        self.field_px = whole_number_box(FIELD_PX, smallest="a whole image", largest=_LARGEST_FIELD_PX)
        self.mask_kind = parameter_widget(MASK, MASK.default, _MASKS)
        self.grouping = parameter_widget(GROUPING, GROUPING.default, _GROUPINGS)
        self.seed = parameter_widget(SEED, SEED.default)
        self.note = QLineEdit(NOTE.default)
        self.device = DeviceChooser()
        for box in (self.kind, self.distance, self.intensity.native, self.guarantee.native, self.mask_kind.native,
                    self.grouping.native):  # fmt: skip
            keep_narrow(box)

    @staticmethod
    def _unbounded(parameter: Parameter, value: float) -> Any:
        widget = parameter_widget(parameter, 0.0)
        widget.max = _LARGEST
        widget.native.setDecimals(_DECIMALS)
        if value:
            set_exactly(widget, value)
        return widget

    def _source_rows(self) -> dict[str, _Row]:
        words = "The images: degraded, and the truth of the same fields, none of which trained either model."
        return {
            "kind": ("Images from", self.kind, words),
            "manifest": ("Table", self.manifest, MANIFEST.help),
            **{part: (part.capitalize(), self.places[part], _PARTS[part].help) for part in _PARTS},
            **{
                f"{part}_layer": (part.capitalize(), chooser, "(fields, Y, X), or (Y, X) for one field.")
                for part, chooser in self.layer_choosers.items()
            },
            "group": ("Specimens", self.group, "Fields of one specimen are alike: a specimen counts once."),
            "group_layer": ("Specimens", self.layer_groups, "Of each field in turn; nothing: each is its own."),
        }

    def _promise_rows(self) -> dict[str, _Row]:
        return {
            "restorer": ("Restorer", self.restorer, RESTORER.help),
            "mask_model": ("Mask model", self.mask_model, CALIBRATION_MASK_MODEL.help),
            "distance": ("Error", self.distance, DISTANCE.help),
            "intensity": ("measured in", self.intensity.native, INTENSITY.help),
            "guarantee": ("Promise", self.guarantee.native, GUARANTEE.help),
            "delta": ("Risk", self.delta.native, DELTA.help),
            "bound": ("Largest error", self.bound.native, BOUND.help),
            "tolerance": ("Tolerance", self.tolerance.native, CALIBRATION_TOLERANCE.help),
            "confidence": ("Confidence", self.confidence.native, CALIBRATION_CONFIDENCE.help),
        }

    def _further_rows(self) -> dict[str, _Row]:
        return {
            "field_px": ("Field size", self.field_px, FIELD_PX.help),
            "grouping": ("Many fields", self.grouping.native, GROUPING.help),
            "seed": ("Draw", self.seed.native, SEED.help),
            "mask": ("Mask", self.mask_kind.native, MASK.help + " Review draws binary masks only."),
            "note": ("Note", self.note, NOTE.help),
            "device": ("Device", self.device, DEVICE.help),
        }

    def _make_rows(self) -> None:
        self.preview = SpecimensLine(self, self.value)
        form, hidden = _form_layout(), _form_layout()
        self.fields = {name: Field(form, *row) for name, row in self._source_rows().items()}
        form.addRow(self.preview.label)
        self.fields |= {name: Field(form, *row) for name, row in self._promise_rows().items()}
        self.fields |= {name: Field(hidden, *row) for name, row in self._further_rows().items()}
        inside = QWidget()
        inside.setLayout(hidden)
        self.more = QCollapsible("More")
        self.more.addWidget(inside)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(form)
        column.addWidget(self.more)

    def _connect(self) -> None:
        for widget in (self.intensity, self.guarantee, self.delta, self.bound, self.tolerance, self.confidence,
                       self.mask_kind, self.grouping, self.seed):  # fmt: skip
            widget.changed.connect(self._changed)
        self.field_px.valueChanged.connect(self._changed)
        for chooser in (self.restorer, self.mask_model, self.device):
            chooser.valueChanged.connect(self._changed)
        self.distance.currentTextChanged.connect(self._changed)
        sources: list[Any] = [*self.places.values(), *self.layer_choosers.values(), self.manifest, self.group]
        for source in sources:
            source.valueChanged.connect(self._source_changed)
        self.kind.currentIndexChanged.connect(self._source_changed)
        self.layer_groups.textChanged.connect(self._source_changed)

    def _changed(self, *_: Any) -> None:
        self._show_wanted()
        self.choicesChanged.emit()

    def _source_changed(self, *_: Any) -> None:
        self.preview.ask()
        self._changed()

    def _distance(self) -> str:
        """Return the name behind a title, or what was typed."""
        text = self.distance.currentText().strip()
        return _DISTANCES.get(text, text)

    def _show_wanted(self) -> None:
        """Show the fields that the other choices ask for."""
        choices = self.value()
        needed = parts_needed(choices)
        shown = {
            **{part: choices.kind == "folders" and part in needed for part in _PARTS},
            **{f"{part}_layer": choices.kind == "layers" and part in needed for part in _PARTS},
            "manifest": choices.kind == "table",
            "group": choices.kind == "folders",
            "group_layer": choices.kind == "layers",
            "intensity": _in_intensities(choices.distance),
            "delta": choices.guarantee == "pac",
            "bound": choices.guarantee == "expected",
            "confidence": choices.guarantee != "expected",
            "seed": choices.grouping == "one",
        }
        for name, visible in shown.items():
            self.fields[name].set_visible(visible)


def _in_intensities(distance: str) -> bool:
    try:
        return parse_distance(distance).in_intensity_units
    except (ValueError, ImportError):
        return True


def _form_layout() -> QFormLayout:
    form = QFormLayout()
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return form
