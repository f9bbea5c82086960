"""A .maskcal file that is dropped on napari's window, or opened: the Review dock chooses it."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from desk import drop, files
from napari.components import ViewerModel
from qtpy.QtWidgets import QFileDialog

from napari_maskcal._widgets.bundle_reader import get_reader
from napari_maskcal.bundle import write_bundle
from napari_maskcal.models import model_path
from napari_maskcal.restore.events import Done
from small_models import noisy_planes

PLANE = (64, 72)


def docks(viewer: Any) -> list[Any]:
    """Return all Review docks of a window."""
    return [dock for name, dock in viewer.window.dock_widgets.items() if name.startswith("Review")]


def canvas(viewer: Any) -> Any:
    """Return the middle of the window, which napari has no public name for."""
    return viewer.window._qt_viewer


@pytest.fixture
def mine(trained, tmp_path) -> Path:
    return Path(shutil.copy(trained.mask_path, tmp_path / "mine.maskcal"))


# ---- the ways in


def ask_for(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_, **__: ([str(path)], ""))


@pytest.mark.parametrize("how", ["dropped on the window", "File > Open", "viewer.open", "viewer.open with the plugin"])
def test_an_opened_bundle_is_the_mask_model_of_the_review_dock_and_adds_no_layer(viewer, tmp_path, monkeypatch, how):
    mine = Path(shutil.copy(model_path("demo", role="mask"), tmp_path / "mine.maskcal"))
    assert docks(viewer) == []
    match how:
        case "dropped on the window":
            assert drop(canvas(viewer), files(mine))
        case "File > Open":
            ask_for(monkeypatch, mine)
            canvas(viewer)._open_files_dialog()
        case "viewer.open":
            viewer.open(mine, plugin=None)
        case "viewer.open with the plugin":
            assert viewer.open(str(mine), plugin="napari-maskcal") == []
    (dock,) = docks(viewer)
    assert dock.mask_model.value() == str(mine)
    assert dock.mask_model.currentText() == "mine.maskcal"
    assert list(viewer.layers) == []
    assert [(problem.field, problem.message[:17]) for problem in dock.problems] == [("source", "there is no image")]


def test_a_dock_that_is_open_or_hidden_takes_the_bundle_and_there_is_never_a_second_one(desk, mine):
    desk.open(noisy_planes(*PLANE))
    assert desk.dock.mask_model.value() != str(mine)
    docked = desk.dock.parent()
    docked.hide()
    drop(canvas(desk.viewer), files(mine))
    assert docks(desk.viewer) == [desk.dock]
    assert not docked.isHidden()
    assert desk.dock.mask_model.value() == str(mine)
    assert isinstance(desk.run(), Done)


def test_a_dock_that_was_closed_is_opened_anew(desk, mine):
    desk.dock.parent().destroyOnClose()  # what the cross in the title bar is connected to
    assert docks(desk.viewer) == []
    drop(canvas(desk.viewer), files(mine))
    (dock,) = docks(desk.viewer)
    assert dock is not desk.dock
    assert dock.mask_model.value() == str(mine)


@pytest.mark.parametrize("stack", [False, True])
def test_of_several_bundles_the_last_is_chosen_and_all_can_be(desk, mine, tmp_path, stack):
    other = Path(shutil.copy(mine, tmp_path / "other.maskcal"))
    desk.viewer.open([mine, other], stack=stack, plugin=None)
    assert desk.dock.mask_model.value() == str(other)
    assert desk.dock.mask_model.findData(str(mine)) >= 0
    assert desk.names == []


def test_a_name_in_capitals_and_a_relative_path_are_understood(desk, mine, monkeypatch):
    shouted = mine.rename(mine.with_name("MINE.MASKCAL"))
    monkeypatch.chdir(mine.parent)
    desk.viewer.open("MINE.MASKCAL", plugin=None)
    assert desk.dock.mask_model.value() == str(shouted)


def test_other_files_are_left_to_other_readers(tmp_path):
    assert get_reader("mine.maskcal") is not None
    assert get_reader(["mine.maskcal", "other.maskcal"]) is not None
    for other in ("mine.tif", "mine.maskcal.json", ["mine.maskcal", "mine.tif"]):
        assert get_reader(other) is None


def test_without_a_window_it_is_said_that_one_is_needed(mine):
    with pytest.raises(ValueError, match=r"mine\.maskcal is opened in napari's Review dock, and there is no window"):
        ViewerModel().open(str(mine), plugin="napari-maskcal")


# ---- what is wrong with the file


def spoilt(path: Path, kind: str, trained: Any) -> None:
    """Make a bundle into something else of the same name."""
    match kind:
        case "pickle":
            path.write_bytes(pickle.dumps({"weights": [1, 2]}))
        case "truncated":
            path.write_bytes(path.read_bytes()[:-200])
        case "empty":
            path.write_bytes(b"")
        case "not calibrated":
            write_bundle(path, trained.mask_model.network, trained.mask_model.card, None)
        case "newer":
            with zipfile.ZipFile(path) as archive:
                parts = {name: archive.read(name) for name in archive.namelist()}
            parts["maskcal.json"] = json.dumps(json.loads(parts["maskcal.json"]) | {"schema_version": 2}).encode()
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in parts.items():
                    archive.writestr(name, content)


SPOILT = {
    "pickle": "is a pickle",
    "truncated": "or is truncated",
    "empty": "or is truncated",
    "not calibrated": "is not calibrated yet, so it promises nothing",
    "newer": "was written by a newer napari-maskcal (version 2 of the format); upgrade",
}


def test_what_is_wrong_with_a_dropped_file_is_one_line_below_the_mask_model(desk, mine, trained, qtbot):
    desk.open(noisy_planes(*PLANE))
    whole = mine.read_bytes()
    for kind, said in SPOILT.items():
        mine.write_bytes(whole)
        drop(canvas(desk.viewer), files(mine))
        assert desk.faults == {}, kind
        spoilt(mine, kind, trained)
        with qtbot.captureExceptions() as raised:
            assert drop(canvas(desk.viewer), files(mine)), kind
        assert not raised, kind
        assert set(desk.faults) == {"mask_model"}, kind
        assert said in desk.faults["mask_model"]
        assert "\n" not in desk.faults["mask_model"]
        assert not desk.dock.run_button.isEnabled(), kind
    assert desk.names == ["cells"]


# ---- during a run


def test_a_bundle_dropped_during_a_run_waits_for_the_next_one_and_the_run_keeps_its_promise(desk, mine, gate, trained):
    used = desk.dock.mask_model.value()
    desk.open(noisy_planes(2, *PLANE))
    desk.start()
    desk.wait(lambda: desk.dock.results is not None)
    drop(canvas(desk.viewer), files(mine))
    assert desk.dock.runner.running
    assert desk.dock.mask_model.value() == str(mine)
    gate.set()
    desk.wait(lambda: not desk.dock.runner.running)
    assert desk.dock.results.choices.mask_model == used
    assert desk.dock.results.review.complete
    assert desk.names == ["cells", "restored (outdated)", "uncertainty (outdated)", "uncertain (outdated)"]
    desk.dock.mask_model.setValue(used)
    assert desk.names == ["cells", "restored", "uncertainty", "uncertain"]


# ---- dropped on a dock


@pytest.mark.parametrize("where", ["the dock", "its chooser", "the chooser of the Calibrate dock"])
def test_a_bundle_dropped_on_a_dock_is_its_mask_model_and_other_files_are_not_taken(desk, mine, trained, where):
    if where == "the chooser of the Calibrate dock":
        _, calibration = desk.viewer.window.add_plugin_dock_widget("napari-maskcal", "Calibrate")
        chooser = target = calibration.form.mask_model
    else:
        chooser = desk.dock.mask_model
        target = desk.dock if where == "the dock" else chooser
    before = chooser.value()
    assert not drop(target, files(trained.restorer_path))
    assert chooser.value() == before
    assert drop(target, files(mine))
    desk.wait(lambda: chooser.value() != before)
    assert chooser.value() == str(mine)


def test_a_bundle_dropped_on_a_line_of_the_dock_does_not_become_its_text(desk, mine):
    desk.open(noisy_planes(*PLANE))
    axes, dragged = desk.dock.axes.native, files(mine)
    dragged.setText(str(mine))  # some file managers say the name as text too
    assert drop(axes, dragged)
    desk.wait(lambda: desk.dock.mask_model.value() == str(mine))
    assert desk.dock.axes.value == "YX"
    axes.setAcceptDrops(True)  # the test sees it when it does
    assert drop(axes, dragged)
    assert "mine.maskcal" in desk.dock.axes.value


def test_a_bundle_whose_restorer_is_damaged_promises_nothing_though_the_one_before_did(
    desk, own_cache, trained, tmp_path
):
    whole, damaged = tmp_path / "whole.maskcal", tmp_path / "damaged.maskcal"
    model = trained.mask_model
    write_bundle(whole, model.network, model.card, model.certificate, restorer=trained.restorer)
    with zipfile.ZipFile(whole) as archive:
        info = archive.getinfo("restorer")
    content = bytearray(whole.read_bytes())
    content[info.header_offset + 200 + info.file_size // 2] ^= 1
    damaged.write_bytes(bytes(content))
    desk.open(noisy_planes(*PLANE))
    drop(canvas(desk.viewer), files(damaged))
    assert desk.dock.restorer.value() == str(damaged)
    assert "Bad CRC" in desk.faults["restorer"]
    assert "No promise" in desk.dock.banner.text()
    assert not desk.dock.run_button.isEnabled()
    drop(canvas(desk.viewer), files(whole))
    assert (desk.faults, desk.dock.banner.text(), desk.dock.restorer.value()) == ({}, "", str(whole))
    drop(canvas(desk.viewer), files(damaged))
    # The same file by its hash, and it is in the cache by now.
    assert desk.faults == {}
