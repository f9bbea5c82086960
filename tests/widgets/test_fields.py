from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtWidgets import QFileDialog, QFormLayout, QLabel, QLineEdit, QProgressBar, QWidget

from napari_maskcal._widgets.fields import (
    DeviceChooser,
    Field,
    ModelChooser,
    ProgressLine,
    _duration,
    parameter_widget,
    whole_number_box,
    wrapped_label,
)
from napari_maskcal.settings import AXES, CHANNEL, CONFIDENCE, REGION, TOLERANCE


@pytest.fixture
def field(qtbot: Any) -> tuple[Field, QWidget]:
    window = QWidget()
    qtbot.addWidget(window)
    field = Field(QFormLayout(window), "Axes", QLineEdit(), "what they are")
    window.show()
    return field, window


def shown_labels(window: QWidget) -> list[str]:
    return [label.text() for label in window.findChildren(QLabel) if label.isVisibleTo(window)]


def test_a_field_shows_its_fault_only_while_there_is_one(field):
    field, window = field
    assert (field.fault, shown_labels(window)) == ("", ["Axes"])
    field.set_fault("axes 'YZ' name 2 axes")
    assert field.fault == "axes 'YZ' name 2 axes"
    assert shown_labels(window) == ["Axes", "axes 'YZ' name 2 axes"]
    field.set_fault("")
    assert (field.fault, shown_labels(window)) == ("", ["Axes"])


def test_a_hidden_field_hides_its_title_and_its_fault_too(field):
    field, window = field
    field.set_fault("wrong")
    assert shown_labels(window) == ["Axes", "wrong"]
    field.set_visible(False)
    assert shown_labels(window) == []
    assert not field.content.isVisibleTo(window)
    field.set_visible(True)
    assert shown_labels(window) == ["Axes", "wrong"]


def test_a_fault_is_plain_text_that_can_be_copied(qtbot):
    label = wrapped_label()
    qtbot.addWidget(label)
    assert label.wordWrap()
    label.setText("from a field")
    label.setSelection(0, 4)
    assert label.selectedText() == "from"


def test_number_fields_take_range_and_step_from_the_settings(qtbot):
    for parameter in (TOLERANCE, CONFIDENCE):
        widget = parameter_widget(parameter, 0.5)
        assert (widget.min, widget.max, widget.step) == (parameter.minimum, parameter.maximum, parameter.step)
        assert widget.tooltip == parameter.help
    assert parameter_widget(AXES, "ZYX").value == "ZYX"
    assert tuple(parameter_widget(REGION, "all planes").choices) == REGION.choices


def test_a_whole_number_that_is_not_chosen_yet_is_shown_in_words(qtbot):
    box = whole_number_box(CHANNEL, smallest="choose")
    qtbot.addWidget(box)
    assert (box.value(), box.text()) == (-1, "choose")
    box.setValue(300)
    assert (box.value(), box.text()) == (300, "300")


def test_a_model_is_the_bundled_one_until_a_file_is_chosen(qtbot):
    chooser = ModelChooser(".safetensors")
    qtbot.addWidget(chooser)
    assert (chooser.value(), chooser.currentText()) == ("demo", "bundled demo")
    with qtbot.waitSignal(chooser.valueChanged) as changed:
        chooser.setValue("/models/denoise.safetensors")
    assert changed.args == ["/models/denoise.safetensors"]
    assert chooser.value() == "/models/denoise.safetensors"
    assert chooser.count() == 3
    with qtbot.assertNotEmitted(chooser.valueChanged):
        chooser.setValue("/models/denoise.safetensors")
    assert chooser.count() == 3
    with qtbot.waitSignal(chooser.valueChanged):
        chooser.setValue("demo")
    assert (chooser.value(), chooser.currentText()) == ("demo", "bundled demo")


def test_a_file_is_asked_for_and_cancelling_keeps_the_model(qtbot, monkeypatch):
    chooser = ModelChooser(".maskcal")
    qtbot.addWidget(chooser)
    asked: list[str] = []
    answers = ["", "/models/new.maskcal", "/models/new.maskcal", ""]

    def answer(parent: Any, title: str, folder: str, pattern: str) -> tuple[str, str]:
        asked.append(pattern)
        return answers.pop(0), ""

    monkeypatch.setattr(QFileDialog, "getOpenFileName", answer)  # a native dialog would wait for a person
    choose = chooser.findText("choose a file…")
    chooser.setCurrentIndex(choose)
    with qtbot.assertNotEmitted(chooser.valueChanged):
        chooser.activated.emit(choose)
    assert (chooser.value(), chooser.currentText()) == ("demo", "bundled demo")
    with qtbot.waitSignal(chooser.valueChanged):
        chooser.activated.emit(choose)
    assert chooser.value() == "/models/new.maskcal"
    assert chooser.currentData() == "/models/new.maskcal"
    choose = chooser.findText("choose a file…")
    with qtbot.waitSignal(chooser.valueChanged):  # again: there may be another file of that name by now
        chooser.activated.emit(choose)
    with qtbot.assertNotEmitted(chooser.valueChanged):
        chooser.activated.emit(choose)
    assert chooser.value() == "/models/new.maskcal"
    assert asked == ["Model (*.maskcal)"] * 4


def test_a_long_path_does_not_widen_the_chooser(qtbot):
    chooser = ModelChooser(".maskcal")
    qtbot.addWidget(chooser)
    before = chooser.sizeHint().width()
    chooser.setValue("/" + "a-very-long-folder/" * 30 + "new.maskcal")
    assert chooser.sizeHint().width() <= before


def test_a_device_can_be_typed(qtbot):
    chooser = DeviceChooser()
    qtbot.addWidget(chooser)
    assert chooser.value() == "auto"
    assert chooser.findText("cpu") >= 0
    assert chooser.findText("cuda:3") < 0
    with qtbot.waitSignal(chooser.valueChanged):
        chooser.setValue(" cuda:3 ")
    assert chooser.value() == "cuda:3"


def test_the_progress_line_counts_tiles_and_says_how_long_it_takes(qtbot, monkeypatch):
    line = ProgressLine()
    qtbot.addWidget(line)
    bar = line.findChild(QProgressBar)
    assert line.isHidden()
    line.wait("loading the networks …")
    assert not line.isHidden()
    assert (bar.minimum(), bar.maximum(), line.text) == (0, 0, "loading the networks …")
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    line.start(8)
    assert (bar.value(), bar.maximum(), line.text) == (0, 8, "tile 0 of 8")
    now = 110.0
    line.update_to(2, 8)
    assert (bar.value(), line.text) == (2, "tile 2 of 8, about 30 s left")
    line.update_to(3, 20)  # after an out-of-memory error there are more tiles
    assert (bar.value(), bar.maximum()) == (3, 20)
    line.stop()
    assert line.isHidden()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (95, "2 min"), (5000, "83 min"), (7200, "2.0 h")]
)
def test_durations_are_told_as_a_person_would(seconds, text):
    assert _duration(seconds) == text
