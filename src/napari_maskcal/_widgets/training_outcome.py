"""What came of a training, and what can be done with it: on the second page of the Train dock."""

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_maskcal._widgets.fields import wrapped_label
from napari_maskcal._widgets.training_work import Finished
from napari_maskcal.review.training_words import compared_words, specimens_words, stopped_words


class TrainingOutcome(QWidget):
    """Which network was kept, what it was trained on, how it compares, what it promises, and where it is.

    Emits `wanted` with the name of the dock that the user wants to go on with.
    """

    wanted = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.ended = wrapped_label(style="font-weight: bold;")
        self.promise = wrapped_label(style="font-size: 13px; font-weight: bold;")
        self.compared, self.place = wrapped_label(), wrapped_label()
        self.trained_on = wrapped_label(style="font-size: 11px;")
        self.review_button, self.calibrate_button = QPushButton("Review with it"), QPushButton("Calibrate it")
        self.save_button = QPushButton("Save …")
        self.review_button.setToolTip("Open the Review dock with this mask model and its restorer.")
        self.calibrate_button.setToolTip("Open the Calibrate dock with it; take specimens that it was not trained on.")
        self.save_button.setToolTip("Write the network to a .maskcal file.")
        self.review_button.clicked.connect(lambda: self.wanted.emit("Review"))
        self.calibrate_button.clicked.connect(lambda: self.wanted.emit("Calibrate"))
        buttons = QHBoxLayout()
        for button in (self.review_button, self.calibrate_button, self.save_button):
            buttons.addWidget(button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for label in (self.ended, self.promise, self.compared, self.trained_on, self.place):
            column.addWidget(label)
        column.addLayout(buttons)
        self.show_finished(None)

    def show_finished(self, finished: Finished | None) -> None:
        """Show what came of a training, or nothing."""
        self.setVisible(finished is not None)
        if finished is None:
            return
        trained, path = finished.trained, finished.path
        self.ended.setText(stopped_words(trained.done, steps=finished.request.recipe.steps))
        self.promise.setText(trained.certificate.sentence if trained.certificate is not None else "")
        stopped = "" if trained.done.stopped == "cancelled" else "The comparison with other uncertainties was stopped."
        self.compared.setText(compared_words(trained.kept, trained.judged) if trained.judged else stopped)
        self.trained_on.setText(_specimens(trained))
        self.place.setText(_place(finished))
        for label in (self.promise, self.compared):
            label.setVisible(bool(label.text()))
        self.review_button.setVisible(path is not None and trained.certificate is not None)
        self.calibrate_button.setVisible(path is not None and trained.certificate is None)
        self.save_button.setVisible(path is None)


def _specimens(trained: Any) -> str:
    split = trained.split
    told = [("Trained on", split.training), ("Judged on", split.validation), ("Calibrated on", split.calibration)]
    return "\n".join(specimens_words(part, groups) for part, groups in told if groups)


def _place(finished: Finished) -> str:
    if finished.path is None:
        return "It is in no file yet: press Save."
    if finished.trained.certificate is not None:
        return f"Saved as {finished.path}."
    return f"Saved as {finished.path}, not calibrated yet: nothing is promised."
