"""The first page of the Train dock: what a mask network is trained on, and for which promise."""

import napari
from qtpy.QtWidgets import QCheckBox

from napari_maskcal._widgets.fields import (
    DeviceChooser,
    DistanceChooser,
    keep_narrow,
    parameter_widget,
    unbounded_widget,
)
from napari_maskcal._widgets.places import SaveChooser
from napari_maskcal._widgets.restorer_chooser import RestorerChooser
from napari_maskcal._widgets.triplet_form import Row, TripletForm
from napari_maskcal.review.request import Problem, device_fault
from napari_maskcal.review.training_request import (
    TrainingChoices,
    resolve_training,
    specimens_to_train,
    training_parts,
)
from napari_maskcal.settings import (
    CROP_PX,
    DEGRADED_FOLDER,
    DEVICE,
    DISTANCE,
    LOSS,
    RESTORED_FOLDER,
    RESTORER,
    STEPS,
    TRAINING_CONFIDENCE,
    TRAINING_SEED,
    TRAINING_TOLERANCE,
    TRUTH_FOLDER,
    WITH_RESTORER,
)

_PARTS = {"degraded": DEGRADED_FOLDER, "truth": TRUTH_FOLDER, "restored": RESTORED_FOLDER}
_LOSSES = {
    "quantile": "range of the truth (quantile)",
    "likelihood": "size of the error (likelihood)",
    "score": "order of its magnitude (score)",
    "paper": "masked area against error (paper)",
}
_DECIMALS_OF_SHARES = 3


class TrainingForm(TripletForm):
    """Fields for all choices of a training, each with the reason below it when it can't be used.

    Emits `choicesChanged` whenever one of them has changed.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer, _PARTS)
        self._make_widgets()
        words = "The images: degraded, and the truth of the same fields, on which the restorer was not trained."
        self.lay_out(words, self._rows(), self._advanced_rows(), more="Advanced")
        self._connect()
        self.show_wanted()

    def value(self) -> TrainingChoices:
        """Return all choices as they stand, right or wrong."""
        return TrainingChoices(
            **self.sources(),
            restorer=self.restorer.value(), distance=self.distance.value(), tolerance=self.tolerance.value or None,
            confidence=self.confidence.value, loss=self.loss.value, steps=self.steps.value,
            crop_px=self.crop_px.value, seed=self.seed.value, out=self.out.value(),
            with_restorer=self.with_restorer.isChecked(),
        )  # fmt: skip

    @property
    def problems(self) -> list[Problem]:
        """All that stands in the way of training."""
        found = resolve_training(self.value())
        problems = self.restorer.explained(found if isinstance(found, list) else [])
        if fault := device_fault(self.device.value()):
            problems = [*problems, Problem(field="device", message=fault)]
        return problems

    def needed_parts(self) -> tuple[str, ...]:
        """Return which parts have to be given, for the restorer chosen."""
        return training_parts(self.value())

    def specimens_told(self, choices: TrainingChoices) -> str:
        """Say which specimens the files give."""
        return specimens_to_train(choices)

    def release_viewer(self) -> None:
        """Stop listening to the viewer, and trying a restorer."""
        super().release_viewer()
        self.restorer.stop()

    def _make_widgets(self) -> None:
        self.restorer = RestorerChooser(given="already restored by another tool")
        self.distance = DistanceChooser()
        self.tolerance = unbounded_widget(TRAINING_TOLERANCE, 0.0)
        self.tolerance.native.setSpecialValueText("none: calibrate later")  # shown for the minimum, 0
        self.confidence = parameter_widget(TRAINING_CONFIDENCE, TRAINING_CONFIDENCE.default)
        self.confidence.native.setDecimals(_DECIMALS_OF_SHARES)
        self.out = SaveChooser("Save the mask model as", pattern="Mask model (*.maskcal)")
        self.loss = parameter_widget(LOSS, LOSS.default, _LOSSES)
        keep_narrow(self.loss.native)
        self.steps, self.crop_px = parameter_widget(STEPS, STEPS.default), parameter_widget(CROP_PX, CROP_PX.default)
        self.seed = parameter_widget(TRAINING_SEED, TRAINING_SEED.default)
        self.device = DeviceChooser()
        self.fresh = QCheckBox("forget a training that was stopped")
        self.with_restorer = QCheckBox("the restorer too")

    def _rows(self) -> dict[str, Row]:
        return {
            "restorer": ("Restorer", self.restorer, RESTORER.help),
            "distance": ("Error", self.distance, DISTANCE.help),
            "tolerance": ("Tolerance", self.tolerance.native, TRAINING_TOLERANCE.help),
            "confidence": ("Confidence", self.confidence.native, TRAINING_CONFIDENCE.help),
            "out": ("Save as", self.out, "The .maskcal file that the trained mask model is written to."),
        }

    def _advanced_rows(self) -> dict[str, Row]:
        words = "Else the same training goes on where it was stopped."
        return {
            "loss": ("Learns", self.loss.native, LOSS.help),
            "steps": ("Steps", self.steps.native, STEPS.help),
            "crop_px": ("Crops", self.crop_px.native, CROP_PX.help),
            "seed": ("Seed", self.seed.native, TRAINING_SEED.help),
            "device": ("Device", self.device, DEVICE.help),
            "fresh": ("Anew", self.fresh, words),
            "with_restorer": ("Saves", self.with_restorer, WITH_RESTORER.help),
        }

    def _connect(self) -> None:
        for widget in (self.tolerance, self.confidence, self.loss, self.steps, self.crop_px, self.seed):
            widget.changed.connect(self.changed)
        for chooser in (self.restorer, self.distance, self.device, self.out):
            chooser.valueChanged.connect(self.changed)
        self.with_restorer.toggled.connect(self.changed)
        self.connect_sources()
