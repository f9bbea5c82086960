"""The first page of the Calibration dock: what is measured, and how."""

import napari
from qtpy.QtWidgets import QLineEdit

from napari_maskcal._widgets.fields import (
    DeviceChooser,
    DistanceChooser,
    ModelChooser,
    keep_narrow,
    parameter_widget,
    unbounded_widget,
    whole_number_box,
)
from napari_maskcal._widgets.restorer_chooser import RestorerChooser
from napari_maskcal._widgets.triplet_form import Row, TripletForm
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.review.calibration_request import (
    CalibrationChoices,
    parts_needed,
    preview_groups,
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
    GROUPING,
    GUARANTEE,
    INTENSITY,
    MASK,
    NOTE,
    RESTORED_FOLDER,
    RESTORER,
    SEED,
    TRUTH_FOLDER,
    UNCERTAINTY_FOLDER,
)

_PARTS = {"degraded": DEGRADED_FOLDER, "truth": TRUTH_FOLDER, "restored": RESTORED_FOLDER,
          "uncertainty": UNCERTAINTY_FOLDER}  # fmt: skip
_MASK_MODELS = {
    "smoothed residual, no training": "residual",
    "spread over flips and turns": "augmentation",
    "given uncertainty maps": "given",
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
_DECIMALS_OF_SHARES, _LARGEST_FIELD_PX = 3, 65536


class CalibrationForm(TripletForm):
    """Fields for all choices of a calibration, each with the reason below it when it can't be used.

    Emits `choicesChanged` whenever one of them has changed.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer, _PARTS)
        self._make_widgets()
        words = "The images: degraded, and the truth of the same fields, none of which trained either model."
        self.lay_out(words, self._promise_rows(), self._further_rows(), more="More")
        self._connect()
        self.show_wanted()

    def value(self) -> CalibrationChoices:
        """Return all choices as they stand, right or wrong."""
        return CalibrationChoices(
            **self.sources(),
            restorer=self.restorer.value(), mask_model=self.mask_model.value(), distance=self.distance.value(),
            mask=self.mask_kind.value, intensity=self.intensity.value, field_px=self.field_px.value() or None,
            guarantee=self.guarantee.value, delta=self.delta.value, bound=self.bound.value,
            grouping=self.grouping.value, seed=self.seed.value, tolerance=self.tolerance.value or None,
            confidence=self.confidence.value,
        )  # fmt: skip

    @property
    def problems(self) -> list[Problem]:
        """All that stands in the way of measuring."""
        found = resolve_calibration(self.value())
        problems = self.restorer.explained(found if isinstance(found, list) else [])
        if fault := device_fault(self.device.value()):
            problems = [*problems, Problem(field="device", message=fault)]
        return problems

    def needed_parts(self) -> tuple[str, ...]:
        """Return which parts have to be given, for the models chosen."""
        return parts_needed(self.value())

    def specimens_told(self, choices: CalibrationChoices) -> str:
        """Say which specimens the files give."""
        return preview_groups(choices)

    def further_shown(self) -> dict[str, bool]:
        """Return which of the other fields the choices ask for."""
        choices = self.value()
        return {
            "intensity": _in_intensities(choices.distance),
            "delta": choices.guarantee == "pac",
            "bound": choices.guarantee == "expected",
            "confidence": choices.guarantee != "expected",
            "seed": choices.grouping == "one",
        }

    def release_viewer(self) -> None:
        """Stop listening to the viewer, and trying a restorer."""
        super().release_viewer()
        self.restorer.stop()

    def _make_widgets(self) -> None:
        self.restorer = RestorerChooser(given="already restored by another tool")
        self.mask_model = ModelChooser(".maskcal", words=_MASK_MODELS)
        self.mask_model.setValue(CALIBRATION_MASK_MODEL.default)
        self.distance = DistanceChooser()
        self.intensity = parameter_widget(INTENSITY, INTENSITY.default, _UNITS)
        self.guarantee = parameter_widget(GUARANTEE, GUARANTEE.default, _GUARANTEES)
        self.delta = parameter_widget(DELTA, _START_DELTA)
        self.bound = unbounded_widget(BOUND, _START_BOUND)
        self.tolerance = unbounded_widget(CALIBRATION_TOLERANCE, 0.0)
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
        for widget in (self.intensity, self.guarantee, self.mask_kind, self.grouping):
            keep_narrow(widget.native)

    def _promise_rows(self) -> dict[str, Row]:
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

    def _further_rows(self) -> dict[str, Row]:
        return {
            "field_px": ("Field size", self.field_px, FIELD_PX.help),
            "grouping": ("Many fields", self.grouping.native, GROUPING.help),
            "seed": ("Draw", self.seed.native, SEED.help),
            "mask": ("Mask", self.mask_kind.native, MASK.help + " Review draws binary masks only."),
            "note": ("Note", self.note, NOTE.help),
            "device": ("Device", self.device, DEVICE.help),
        }

    def _connect(self) -> None:
        for widget in (self.intensity, self.guarantee, self.delta, self.bound, self.tolerance, self.confidence,
                       self.mask_kind, self.grouping, self.seed):  # fmt: skip
            widget.changed.connect(self.changed)
        self.field_px.valueChanged.connect(self.changed)
        for chooser in (self.restorer, self.mask_model, self.device, self.distance):
            chooser.valueChanged.connect(self.changed)
        self.connect_sources()


def _in_intensities(distance: str) -> bool:
    try:
        return parse_distance(distance).in_intensity_units
    except (ValueError, ImportError):
        return True
