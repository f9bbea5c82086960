"""The Calibration dock in a real window: from folders to a bundle that Review opens."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from desk import PATIENCE_MS, Desk, open_bars
from qtpy.QtCore import QItemSelectionModel, QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent, QGuiApplication
from qtpy.QtWidgets import QLabel

from napari_maskcal._widgets.calibration_table import ColumnsModel
from napari_maskcal._widgets.fields import _FAULT_STYLE
from napari_maskcal.calibrate.certificate import Pin
from napari_maskcal.restore.events import Cancelled, Done, Failed
from napari_maskcal.review.overlay import mark_uncertain
from napari_maskcal.review.request import brings_restorer, describe_bundle
from small_models import noisy_planes
from triplet_files import write

if TYPE_CHECKING:
    from pathlib import Path

    from napari_maskcal._widgets.calibration_dock import CalibrationDock

SHAPE = (64, 72)
SHOWN = [f"calibration field: {name}" for name in ("degraded", "truth", "restored", "error", "uncertain")]


def truth(seed: int) -> np.ndarray:
    """The image that `noisy_planes` adds noise to, with something that tells it from the others."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    bump = (1 + seed % 7) * np.exp(-((y - 5 * seed % 60) ** 2 + (x - 20) ** 2) / 60)
    return (40 + 30 * np.sin(x / 9) * np.cos(y / 7) + bump + seed / 10).round().astype(np.uint16)


def write_triplets(folder: Path, *, groups: int = 12, each: int = 1) -> tuple[Path, Path]:
    for group in range(groups):
        for i in range(each):
            seed = 1 + group * each + i
            write(folder / "low" / f"S{group:02}_{i}.tif", noisy_planes(*SHAPE, seed=seed))
            write(folder / "high" / f"S{group:02}_{i}.tif", truth(seed))
    return folder / "low", folder / "high"


class CalibrationDesk:
    """The viewer and the dock in it, with what these tests do over and over."""

    def __init__(self, viewer: Any, dock: CalibrationDock, qtbot: Any) -> None:
        self.viewer, self.dock, self.qtbot = viewer, dock, qtbot
        self.form, self.page = dock.form, dock.page

    def choose(self, folders: tuple[Path, Path]) -> None:
        for part, folder in zip(("degraded", "truth"), folders, strict=True):
            self.form.places[part].setValue(folder)

    def measure(self) -> Any:
        assert self.dock.measure_button.isEnabled(), self.form.problems
        with self.qtbot.waitSignal(self.dock.measureFinished, timeout=PATIENCE_MS) as end:
            self.dock.measure_button.click()
        return end.args[0]

    def show(self, row: int) -> Any:
        """Click a row of the table."""
        table = self.dock.fields_table
        with self.qtbot.waitSignal(self.dock.fieldShown, timeout=PATIENCE_MS) as end:
            table.clicked.emit(table.columns.index(row, 0))
        return end.args[0]

    def save(self, path: Path) -> Any:
        with self.qtbot.waitSignal(self.dock.saveFinished, timeout=PATIENCE_MS) as end:
            self.dock.save(path)
        return end.args[0]

    def slide(self, tolerance: float) -> None:
        """Move the slider to the step next to a tolerance."""
        ladder = self.page.calibrated.exploration.ladder
        self.page.controls.tolerance_slider.setValue(int(np.argmin(np.abs(ladder - tolerance))))

    def column(self, title: str) -> list[str]:
        rows = self.dock.fields_table.columns.texts()
        return [row[rows[0].index(title)] for row in rows[1:]]

    @property
    def names(self) -> list[str]:
        return [layer.name for layer in self.viewer.layers]

    @property
    def faults(self) -> dict[str, str]:
        return {name: field.fault for name, field in self.form.fields.items() if field.fault}

    @property
    def state(self) -> str:
        return self.page.badge.text().split(":")[0].split(" 20")[0]


@pytest.fixture
def bench(viewer: Any, trained: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The dock in a window, with the small restorer, and nothing kept from other tests."""
    monkeypatch.setenv("MASKCAL_CACHE_DIR", str(tmp_path / "cache"))
    _, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Calibrate")
    dock.form.restorer.setValue(str(trained.restorer_path))
    dock.form.device.setValue("cpu")
    yield CalibrationDesk(viewer, dock, qtbot)
    for runner in (dock.runner, dock.shower, dock.saver, dock.form.preview.runner):
        runner.cancel()
        qtbot.waitUntil(lambda runner=runner: not runner.running, timeout=PATIENCE_MS)


def test_from_folders_to_a_bundle_that_review_opens(bench, trained, tmp_path):
    bench.choose(write_triplets(tmp_path))
    bench.form.group.setValue(r"(S\d+)")
    assert (bench.faults, bench.page.certificate) == ({}, None)
    done = bench.measure()
    assert isinstance(done, Done)
    assert bench.state == "EXPLORATION"
    assert not bench.page.save_button.isEnabled()
    bench.page.controls.set_values(tolerance=bench.page.calibrated.exploration.suggestions()[60][0])
    bench.page.refresh()
    bench.form.note.setText(" beads, before the move ")  # after measuring: it counts when it is pinned
    bench.page.pin_button.click()
    assert bench.state == "PINNED"
    assert bench.page.certificate.note == "beads, before the move"
    saved = bench.save(tmp_path / "mine")
    assert isinstance(saved, Done)
    assert saved.result == tmp_path / "mine.maskcal"
    assert f"Saved as {saved.result}" in bench.dock.message.text()
    kept = describe_bundle(str(saved.result)).certificate
    assert kept.model_dump() == bench.page.certificate.model_dump()
    assert kept.groups == {f"S{i:02}": 1 for i in range(12)}
    assert (kept.n_fields, kept.field_shape, kept.exploration) == (12, SHAPE, False)
    _, dock = bench.viewer.window.add_plugin_dock_widget("napari-maskcal", "Review")
    desk = Desk(bench.viewer, dock, bench.qtbot)
    dock.restorer.setValue(str(trained.restorer_path))
    dock.mask_model.setValue(str(saved.result))
    dock.device.setValue("cpu")
    desk.open(noisy_planes(*SHAPE, seed=99))
    assert isinstance(desk.run(), Done)
    np.testing.assert_array_equal(desk.uncertain.data, desk.uncertainty.data > kept.threshold)
    assert 0 < desk.uncertain.data.mean() < 1
    assert bench.page.certificate.sentence in dock.promise.text()


def test_a_bundle_that_is_saved_with_its_restorer_is_all_that_review_needs(bench, own_cache, tmp_path):
    bench.choose(write_triplets(tmp_path))
    assert isinstance(bench.measure(), Done)
    bench.page.controls.set_values(tolerance=bench.page.calibrated.exploration.suggestions()[60][0])
    bench.page.refresh()
    bench.page.pin_button.click()
    without, whole = bench.save(tmp_path / "without").result, None
    bench.page.with_restorer.click()
    whole = bench.save(tmp_path / "whole").result
    assert not brings_restorer(str(without))
    assert brings_restorer(str(whole))
    _, dock = bench.viewer.window.add_plugin_dock_widget("napari-maskcal", "Review")
    desk = Desk(bench.viewer, dock, bench.qtbot)
    dock.device.setValue("cpu")
    desk.open(noisy_planes(*SHAPE, seed=99))
    dock.mask_model.choose(str(without))
    assert "restorer" in " ".join(desk.faults.values())
    dock.mask_model.choose(str(whole))
    assert dock.restorer.value() == str(whole)
    assert desk.faults == {}
    assert isinstance(desk.run(), Done)
    assert bench.page.certificate.sentence in dock.promise.text()


def test_images_that_another_tool_restored_have_no_restorer_to_save(bench, tmp_path):
    low, high = write_triplets(tmp_path)
    shutil.copytree(low, tmp_path / "restored")
    bench.form.restorer.setValue("given")
    bench.choose((low, high))
    bench.form.places["restored"].setValue(tmp_path / "restored")
    bench.page.with_restorer.click()
    assert isinstance(bench.measure(), Done)
    assert not bench.page.with_restorer.isEnabled()
    bench.page.pin_button.click()
    assert isinstance(bench.save(tmp_path / "mine"), Done)
    assert not brings_restorer(str(tmp_path / "mine.maskcal"))


def test_the_preview_names_the_specimens_without_opening_a_file(bench, tmp_path):
    low, high = write_triplets(tmp_path, groups=3, each=2)
    for path in low.iterdir():
        path.write_bytes(b"no image")
    bench.choose((low, high))
    bench.qtbot.waitUntil(lambda: "6 files, each taken as a specimen" in bench.form.preview.text, timeout=5000)
    bench.form.group.setValue(r"^(?:.*/)?([^/_]+)_[^/]*$")
    assert bench.form.group.rules.currentText() == "file name up to the first _"
    told = "3 specimens: S00 (2), S01 (2), S02 (2)"
    bench.qtbot.waitUntil(lambda: bench.form.preview.text == told, timeout=5000)
    bench.form.group.setValue("(T)")
    bench.qtbot.waitUntil(lambda: "no specimen is found in 6 of 6" in bench.form.preview.text, timeout=5000)
    bench.form.group.setValue("(")
    assert "'(' is not a regular expression" in bench.faults["group"]
    assert not bench.dock.measure_button.isEnabled()


def test_every_fault_of_every_file_is_in_a_table_that_can_be_copied_and_the_earlier_result_stays(bench, tmp_path):
    low, high = write_triplets(tmp_path)
    bench.choose((low, high))
    bench.measure()
    earlier = bench.page.certificate
    write(low / "S00_0.tif", np.full(SHAPE, 7, np.uint16))
    (high / "S01_0.tif").unlink()
    (high / "S02_0.tif").write_bytes(b"no image")
    failed = bench.measure()
    assert isinstance(failed, Failed)
    QGuiApplication.clipboard().clear()
    bench.dock.copy_button.click()
    rows = [line.split("\t") for line in QGuiApplication.clipboard().text().splitlines()]
    assert rows[0] == ["File", "Fault", "Remedy"]
    told = {row[0]: row[1] for row in rows[1:]}
    assert "low/S00_0.tif" in told
    assert "constant" in told["low/S00_0.tif"]
    assert told["low/S01_0.tif"] == "has no truth of the same name"
    assert "high/S02_0.tif" in told
    assert all(len(row) == 3 and row[2] for row in rows)
    assert bench.dock.tabs.isTabVisible(3)
    assert f"{len(rows) - 1} faults in the images, nothing was measured" in bench.dock.message.text()
    assert bench.page.certificate is not None
    assert bench.page.certificate.fields == earlier.fields
    write_triplets(tmp_path)
    assert isinstance(bench.measure(), Done)
    assert not bench.dock.tabs.isTabVisible(3)


def test_too_few_specimens_are_refused_with_the_number_it_takes_and_nothing_is_drawn(bench, tmp_path):
    bench.choose(write_triplets(tmp_path, groups=5))
    bench.form.group.setValue(r"(S\d+)")
    assert isinstance(bench.measure(), Failed)
    rows = bench.dock.faults_table.columns.texts()
    assert [row[:2] for row in rows[1:]] == [["the fields", "are of 5 specimens, and 9 are needed"]]
    assert bench.page.certificate is None
    bench.form.confidence.value = 0.75
    assert isinstance(bench.measure(), Done)
    assert bench.page.certificate is not None
    bench.page.controls.confidence.setValue(0.9)
    assert bench.page.certificate is None
    assert bench.state == "NO PROMISE"
    assert "at least 9 specimens are needed for a confidence of 0.9, got 5" in bench.page.verdict.text()
    assert not bench.page.pin_button.isEnabled()
    assert not bench.page.save_button.isEnabled()


def test_cancelling_leaves_nothing_and_the_next_measurement_runs(bench, gate, tmp_path):
    bench.choose(write_triplets(tmp_path))
    bench.dock.measure_button.click()
    bench.qtbot.waitUntil(lambda: "measured field 1 of 12" in bench.dock.progress.text, timeout=PATIENCE_MS)
    assert open_bars()
    with bench.qtbot.waitSignal(bench.dock.measureFinished, timeout=PATIENCE_MS) as end:
        bench.dock.cancel_button.click()
        gate.set()
    assert isinstance(end.args[0], Cancelled)
    assert (bench.page.certificate, bench.names, open_bars()) == (None, [], [])
    assert bench.dock.progress.isHidden()
    assert not bench.dock.cancel_button.isEnabled()
    assert isinstance(bench.measure(), Done)
    assert bench.page.certificate is not None


def test_a_tolerance_that_was_fixed_beforehand_is_pinned_and_a_slider_explores(bench, tmp_path):
    bench.choose(write_triplets(tmp_path))
    bench.form.tolerance.value = 0.05
    bench.measure()
    pinned = bench.page.certificate
    assert bench.state == "PINNED"
    assert (pinned.tolerance, pinned.confidence, pinned.history) == (0.05, 0.9, ())
    shares = bench.column("Masked %")
    bench.slide(0.03)
    explored = bench.page.certificate
    assert bench.state == "EXPLORATION"
    assert explored.exploration
    assert explored.tolerance == 0.03
    assert explored.threshold < pinned.threshold
    assert bench.column("Masked %") != shares
    assert not bench.page.save_button.isEnabled()
    bench.dock.save(bench.page.calibrated and tmp_path / "explored.maskcal")
    assert "only a pinned promise" in bench.dock.message.text()
    bench.page.controls.tolerance.setValue(0.05)
    assert (bench.state, bench.page.certificate) == ("PINNED", pinned)
    bench.slide(0.03)
    bench.page.pin_button.click()
    assert bench.state == "PINNED"
    bench.slide(0.04)
    bench.form.grouping.value = "one"  # another choice leaves the sliders where they are
    assert bench.page.certificate.tolerance == 0.04
    bench.form.grouping.value = "worst"
    bench.slide(0.03)
    assert bench.page.certificate.history == (Pin(tolerance=0.05, confidence=0.9, date=pinned.created),)
    assert bench.form.tolerance.value == 0.03
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "high", "low"]


def test_other_choices_make_the_result_outdated_until_it_is_measured_again(bench, tmp_path):
    bench.choose(write_triplets(tmp_path))
    bench.form.tolerance.value = 0.05
    bench.measure()
    bench.show(2)
    bench.save(tmp_path / "mine.maskcal")
    assert (bench.dock.tabs.tabText(2), bench.names) == ("Fields (12)", SHOWN)
    assert bench.dock.looking_at.text().startswith("S02_0 is shown.")
    bench.form.distance.setCurrentText("root mean square error (L2)")
    assert bench.state == "OUTDATED"
    assert bench.dock.tabs.tabText(2) == "Fields (12, outdated)"
    assert bench.names == [name.replace("calibration", "outdated") for name in SHOWN]
    assert bench.dock.looking_at.text().startswith("Outdated: S02_0 ")
    assert bench.dock.message.text() == ""  # nothing of what was saved
    bench.show(3)
    assert all(name.startswith("outdated field: ") for name in bench.names)
    assert not bench.page.save_button.isEnabled()
    bench.dock.save(tmp_path / "old.maskcal")
    assert not (tmp_path / "old.maskcal").exists()
    bench.form.distance.setCurrentText("mean absolute error (L1)")
    assert bench.state == "PINNED"
    assert (bench.dock.tabs.tabText(2), bench.names) == ("Fields (12)", SHOWN)
    assert bench.dock.looking_at.text().startswith("S03_0 is shown.")
    bench.form.guarantee.value = "expected"  # of the same measurement: no need to measure again
    assert bench.state == "NO PROMISE"
    assert "at least 19 images are needed for a mean of at most 0.05" in bench.page.verdict.text()
    bench.form.bound.value = 0.2
    assert bench.state == "EXPLORATION"
    assert bench.page.certificate.guarantee == "expected"
    assert "On average over new images" in bench.page.sentence.text()


def test_everything_or_nothing_masked_is_said(bench, tmp_path):
    bench.choose(write_triplets(tmp_path))
    bench.measure()
    distances = bench.page.calibrated.exploration.measured.distances
    assert bench.page.verdict.text() == ""
    assert "on average; each of them in part." in bench.page.facts.text()
    controls = bench.page.controls
    controls.tolerance.setValue(float(distances.max()) * 1.05)
    assert "Nothing is marked in any field: the tolerance of" in bench.page.verdict.text()
    assert "is not below the largest distance" in bench.page.verdict.text()
    assert set(bench.column("Masked %")) == {"0"}
    controls.tolerance.setValue(float(distances.min()) * 0.9)
    assert "below the smallest distance" in bench.page.verdict.text()
    assert "0" not in bench.column("Masked %")
    controls.tolerance.setValue(1e-9)
    assert "Everything is marked in 12 of 12 fields" in bench.page.verdict.text()
    assert set(bench.column("Masked %")) == {"100"}
    assert "Masked: 100 % of the calibration fields on average; 12 of 12 are masked altogether." in (
        bench.page.facts.text()
    )


def test_a_click_shows_the_triplet_with_its_mask_and_the_next_one_uses_the_same_layers(bench, trained, tmp_path):
    low, _ = write_triplets(tmp_path)
    bench.choose((low, tmp_path / "high"))
    bench.form.tolerance.value = 0.05
    bench.measure()
    assert isinstance(bench.show(3), Done)
    assert bench.names == SHOWN
    layers = list(bench.viewer.layers)
    degraded = noisy_planes(*SHAPE, seed=4)
    restored = trained.restorer(degraded)
    np.testing.assert_array_equal(layers[0].data, degraded)
    np.testing.assert_array_equal(layers[1].data, truth(4))
    np.testing.assert_allclose(layers[2].data, restored, rtol=1e-5)
    np.testing.assert_allclose(layers[3].data, np.abs(restored - truth(4)), rtol=1e-4, atol=1e-4)
    uncertainty = bench.dock.field_layers.seen.uncertainty
    threshold = bench.page.certificate.threshold
    np.testing.assert_array_equal(layers[4].data, mark_uncertain(uncertainty, threshold))
    assert 0 < layers[4].data.mean() < 1
    assert float(bench.column("Masked %")[3]) == pytest.approx(100 * layers[4].data.mean(), abs=0.3)
    marked = layers[4].data.copy()
    bench.slide(0.03)  # the mask follows the slider
    assert layers[4].data.sum() > marked.sum()
    bench.dock.fields_table.columns.sort(2, Qt.SortOrder.DescendingOrder)
    worst = int(np.argmax(bench.page.calibrated.exploration.measured.distances))
    bench.show(0)
    assert list(bench.viewer.layers) == layers
    np.testing.assert_array_equal(layers[1].data, truth(worst + 1))
    bench.viewer.layers.remove(layers[2])
    bench.show(1)
    assert sorted(bench.names) == sorted(SHOWN)
    write(low / "S00_0.tif", noisy_planes(*SHAPE, seed=55))
    assert isinstance(bench.show(bench.column("Field").index("S00_0")), Failed)
    assert "S00_0 has changed since it was measured" in bench.dock.looking_at.text()
    bench.measure()  # what is drawn is of the calibration before
    assert all(name.startswith("outdated field: ") for name in bench.names)


def test_a_field_of_an_earlier_measurement_that_comes_late_is_not_drawn(bench, tmp_path):
    bench.choose(write_triplets(tmp_path))
    bench.form.tolerance.value = 0.05
    bench.measure()
    result = bench.page.calibrated
    bench.dock.show_field(1)
    bench.dock._take(Done(result=replace(result)))  # measured again meanwhile
    bench.qtbot.waitUntil(lambda: not bench.dock.shower.running, timeout=PATIENCE_MS)
    assert bench.names == []
    assert bench.dock.looking_at.text() == "Click a field to see it with its mask."
    bench.show(1)
    assert bench.names == SHOWN


def test_a_block_of_a_plane_is_shown_in_its_plane_with_an_outline(bench, tmp_path):
    bench.choose(write_triplets(tmp_path))
    bench.form.field_px.setValue(32)
    bench.measure()
    assert len(bench.column("Field")) == 12 * 4
    bench.show(5)
    assert bench.column("Field")[5] == "S01_0 y0 x32"
    outline = bench.viewer.layers["calibration field: outline"]
    np.testing.assert_array_equal(outline.data[0].min(0), (-0.5, 31.5))
    assert bench.viewer.layers["calibration field: restored"].data.shape == SHAPE
    bench.show(2)
    assert bench.viewer.layers["calibration field: outline"] is outline  # a new layer would take most of a second
    assert (outline.data[0].min(0).tolist(), outline.data[0].max(0).tolist()) == ([31.5, -0.5], [63.5, 31.5])
    assert (list(outline.shape_type), outline.edge_width) == (["rectangle"], [SHAPE[1] / 200])
    assert len(bench.names) == len(SHOWN) + 1


def test_an_existing_file_is_kept_when_the_target_cannot_be_written(bench, tmp_path, monkeypatch):
    bench.choose(write_triplets(tmp_path))
    bench.form.tolerance.value = 0.05
    bench.measure()
    path = tmp_path / "out" / "mine.maskcal"
    path.parent.mkdir()
    path.write_bytes(b"earlier")

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as read_only:
        read_only.setattr("tempfile.mkstemp", refuse)
        assert isinstance(bench.save(path), Failed)
    assert f"{path} cannot be written: Read-only file system; " in bench.dock.message.text()
    assert ([p.name for p in path.parent.iterdir()], path.read_bytes()) == (["mine.maskcal"], b"earlier")
    assert isinstance(bench.save(path), Done)
    assert describe_bundle(str(path)).certificate.tolerance == 0.05


def test_pins_of_the_bundle_that_the_mask_model_came_from_stay_in_the_history(bench, trained, tmp_path):
    bench.choose(write_triplets(tmp_path))
    bench.form.mask_model.setValue(str(trained.mask_path))
    bench.form.tolerance.value = 0.05
    bench.measure()
    before = trained.mask_model.certificate
    (pin,) = bench.page.certificate.history
    assert (pin.tolerance, pin.date) == (before.tolerance, before.created)
    assert bench.page.certificate.fingerprint == before.fingerprint


def test_layers_of_the_window_are_fields_and_replaced_pixels_make_the_result_outdated(bench):
    low = bench.viewer.add_image(np.stack([noisy_planes(*SHAPE, seed=i) for i in range(12)]), name="low",
                                 scale=(1, 0.5, 0.5), units=("um",) * 3)  # fmt: skip
    bench.viewer.add_image(np.stack([truth(i) for i in range(12)]), name="high", units=("um",) * 3)
    bench.viewer.add_image(np.zeros((3, *SHAPE)), name="short", units=("um",) * 3)
    bench.form.kind.setCurrentText("layers of this window")
    assert not bench.dock.measure_button.isEnabled()
    for part, name in (("degraded", "low"), ("truth", "short")):
        bench.form.layer_choosers[part].setValue(bench.viewer.layers[name])
    assert "short has 3 fields, the degraded layer 12" in bench.faults["truth_layer"]
    bench.form.layer_choosers["truth"].setValue(bench.viewer.layers["high"])
    bench.form.layer_groups.setText("A: 2, B")
    assert "3 specimens are named for 12 fields" in bench.faults["group_layer"]
    bench.form.layer_groups.setText(", ".join("ABCDEFGHIJKL"))
    assert bench.faults == {}
    assert isinstance(bench.measure(), Done)
    assert set(bench.page.certificate.groups) == set("ABCDEFGHIJKL")
    assert bench.state == "EXPLORATION"
    bench.show(2)
    shown = bench.viewer.layers["calibration field: restored"]
    np.testing.assert_array_equal(shown.scale, (0.5, 0.5))
    assert shown.units == low.units[-2:]
    low.data = low.data + 1
    assert bench.state == "OUTDATED"
    high = bench.viewer.layers["high"]
    kept = high.data.copy()
    high.data = np.zeros_like(kept)
    assert isinstance(bench.measure(), Failed)
    assert bench.state == "OUTDATED"  # still
    high.data = kept
    bench.measure()
    assert bench.state == "EXPLORATION"
    bench.viewer.layers.remove(high)
    assert not bench.dock.measure_button.isEnabled()
    assert "press Measure" not in bench.page.badge.text()
    assert bench.page.verdict.text() == "It can't be measured again yet: choose the layer with the clean images."


def test_a_table_names_files_and_specimens_and_one_that_is_none_is_told(bench, tmp_path):
    write_triplets(tmp_path)
    lines = [f"low/S{i:02}_0.tif,high/S{i:02}_0.tif,mouse {i}" for i in range(12)]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["degraded,truth,group", *lines]))
    bench.form.kind.setCurrentText("a table (CSV)")
    bench.form.manifest.setValue(tmp_path / "none.csv")
    assert "does not exist; choose a CSV or TSV file" in bench.faults["manifest"]
    bench.form.manifest.setValue(table)
    assert isinstance(bench.measure(), Done)
    assert "mouse 3" in bench.page.certificate.groups
    assert bench.column("Specimen")[3] == "mouse 3"


def test_ten_thousand_rows_are_sorted_at_once_and_the_chosen_row_stays_chosen(qtbot):
    model, rng = ColumnsModel(), np.random.default_rng(0)
    values = rng.random(10_000)
    model.set_columns(("Field", "Error"), ([f"field {i}" for i in range(10_000)], values))
    chosen = QItemSelectionModel(model)
    chosen.setCurrentIndex(model.index(17, 0), QItemSelectionModel.SelectionFlag.Select)
    model.sort(1, Qt.SortOrder.AscendingOrder)
    assert model.row_of(model.index(0, 0)) == np.argmin(values)
    assert model.row_of(chosen.currentIndex()) == 17
    assert model.rowCount() == 10_000


def test_a_dropped_folder_is_taken_by_its_path(bench, tmp_path):
    dropped = QMimeData()
    dropped.setUrls([QUrl.fromLocalFile(str(tmp_path))])
    nothing = Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier
    event = QDropEvent(QPointF(2, 2), Qt.DropAction.CopyAction, dropped, *nothing)
    bench.form.places["truth"].line.dropEvent(event)
    assert bench.form.value().truth == str(tmp_path)


def test_a_fault_takes_the_colour_of_the_themes_own_text():
    assert "color:" not in _FAULT_STYLE.replace("border-left", "")


def cut_labels(dock: CalibrationDock) -> list[str]:
    """Labels of the page in front that show less than their text, or reach beyond the visible width."""
    found = []
    for label in dock.findChildren(QLabel):
        collapsed = dock.form.more.isAncestorOf(label) and not dock.form.more.isExpanded()
        if label.isVisible() and label.text() and not collapsed:
            needed = label.heightForWidth(label.width()) if label.wordWrap() else label.sizeHint().height()
            beyond = label.mapTo(dock, label.rect().topRight()).x() > dock.width()
            if label.height() < needed or beyond:
                found.append(label.text())
    return found


def test_no_text_is_cut_on_any_page(make_napari_viewer, trained, qtbot, tmp_path, monkeypatch):
    monkeypatch.setenv("MASKCAL_CACHE_DIR", str(tmp_path / "cache"))
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1100, 800)
    _, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Calibrate")
    bench = CalibrationDesk(viewer, dock, qtbot)
    bench.form.restorer.setValue(str(trained.restorer_path))
    qtbot.wait(100)
    assert "Next: choose the degraded images." in dock.hint.text()
    bench.choose(write_triplets(tmp_path))
    bench.form.intensity.value = "raw"
    bench.form.group.setValue(r"(S\d+_\d)")
    bench.form.confidence.value = 1.0
    bench.form.device.setValue("gpu7")  # a fault in what is hidden opens it
    qtbot.wait(600)
    assert set(bench.faults) == {"confidence", "device"}
    assert bench.form.more.isExpanded()
    assert "12 specimens: S00_0 (1), S01_0 (1)" in bench.form.preview.text
    assert cut_labels(dock) == []
    bench.form.confidence.value = 0.9
    bench.form.device.setValue("cpu")
    bench.measure()
    for tolerance in (bench.page.controls.tolerance.value(), 1e-9):
        bench.page.controls.tolerance.setValue(tolerance)
        qtbot.waitUntil(lambda: bench.page.plots is not None and not bench.page.plots._waiting, timeout=PATIENCE_MS)
        qtbot.wait(100)
        assert cut_labels(dock) == []
        assert all(plot.axes.get_legend() is not None for plot in bench.page.plots.plots)
        assert all(plot.mapTo(dock, plot.rect().topRight()).x() <= dock.width() for plot in bench.page.plots.plots)
    dock.hint.setText("one line")
    dock.hint.setFixedHeight(4)
    dock.hint.show()
    qtbot.wait(50)
    assert cut_labels(dock) == ["one line"]  # the test sees it when something is


def test_a_closed_dock_stops_and_follows_nothing(bench, gate, tmp_path):
    bench.choose(write_triplets(tmp_path))
    bench.dock.measure_button.click()
    bench.qtbot.waitUntil(lambda: "measured field 1" in bench.dock.progress.text, timeout=PATIENCE_MS)
    bench.viewer.window.remove_dock_widget("all")
    gate.set()
    bench.viewer.add_image(noisy_planes(*SHAPE), name="later")
    assert bench.form.layer_choosers["degraded"].count() == 1
    bench.qtbot.wait(100)
    assert bench.page.certificate is None
    assert open_bars() == []
    shutil.rmtree(tmp_path / "low")
