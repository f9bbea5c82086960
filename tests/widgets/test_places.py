"""The chooser of a file that is to be written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtWidgets import QFileDialog

from napari_maskcal._widgets.places import SaveChooser

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def chooser(qtbot: Any) -> SaveChooser:
    found = SaveChooser("Save the mask model as", pattern="Mask model (*.maskcal)")
    qtbot.addWidget(found)
    return found


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list: what the dialog is answered with, and then the dialog."""
    answers: list[Any] = []

    def answered(dialog: QFileDialog) -> bool:
        chosen = answers.pop()
        answers.append(dialog)
        dialog.setFileMode(QFileDialog.FileMode.AnyFile)
        if chosen:
            dialog.selectFile(str(chosen))
        return bool(chosen)

    monkeypatch.setattr(QFileDialog, "exec", answered)
    return answers


def test_the_dialog_asks_to_save_and_adds_the_suffix(chooser, answer, tmp_path: Path):
    answer.append(tmp_path / "mine")
    chooser.button.click()
    assert chooser.value() == str(tmp_path / "mine.maskcal")
    (dialog,) = answer
    assert dialog.acceptMode() == QFileDialog.AcceptMode.AcceptSave
    assert not dialog.testOption(QFileDialog.Option.DontConfirmOverwrite)


def test_a_dialog_that_is_left_changes_nothing(chooser, answer, tmp_path: Path):
    chooser.setValue(tmp_path / "earlier.maskcal")
    answer.append(None)
    chooser.button.click()
    assert chooser.value() == str(tmp_path / "earlier.maskcal")
