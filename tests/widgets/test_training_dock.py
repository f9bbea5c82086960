"""The Train dock in a real window: from folders to a bundle that Review opens, and all that may come between."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from desk import PATIENCE_MS, Desk, open_bars
from qtpy.QtWidgets import QLabel

from napari_maskcal.mask.learner import Learner
from napari_maskcal.models import load_mask_model, load_restorer
from napari_maskcal.restore.events import (
    Cancelled,
    Done,
    Failed,
    StepDone,
    TrainingDone,
    TrainingStarted,
    UncertaintyJudged,
    Validated,
    Warned,
)
from napari_maskcal.review.overlay import COLOURS, OPACITY, UNCERTAIN
from napari_maskcal.review.request import describe_bundle
from napari_maskcal.training import Preview, Split, Trained
from small_models import noisy_planes
from triplet_files import write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari_maskcal._widgets.training_dock import TrainingDock

SHAPE = (64, 72)
GROUPS = 6
STEPS = 2000
TRAINING_MS = 3 * PATIENCE_MS  # with the first use of torch


def truth() -> np.ndarray:
    """The image that `noisy_planes` adds noise to."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (40 + 30 * np.sin(x / 9) * np.cos(y / 7)).round().astype(np.uint16)


def write_triplets(folder: Path, *, groups: int = GROUPS) -> tuple[Path, Path]:
    for group in range(groups):
        write(folder / "low" / f"S{group}_0.tif", noisy_planes(*SHAPE, seed=1 + group))
        write(folder / "high" / f"S{group}_0.tif", truth() + group)
    return folder / "low", folder / "high"


def preview() -> Preview:
    """A ramp whose lower half is masked."""
    plane = np.tile(np.linspace(0, 1, SHAPE[1], dtype=np.float32), (SHAPE[0], 1))
    uncertain = np.zeros(SHAPE, bool)
    uncertain[SHAPE[0] // 2 :] = True
    return Preview(name="S3_0", degraded=plane, restored=plane, truth=plane + uncertain * 0.1, uncertain=uncertain)


class Play:
    """What is played in place of a training: events up to a gate, and after it what `end` returns."""

    def __init__(self, model: Any) -> None:
        self.gate = threading.Event()
        self.before: list[Any] = [
            TrainingStarted(steps=STEPS, fields=4, device="cpu"),
            *(StepDone(step=step, steps=STEPS, loss=2 - step / STEPS, seconds_left=90) for step in range(10, 401, 10)),
            Validated(step=400, masked_share=0.3, best=True, preview=preview()),
            StepDone(step=600, steps=STEPS, loss=1.5, seconds_left=3600),
            Validated(step=600, masked_share=0.4, best=False, preview=preview()),
        ]
        self.model, self.stopped_at = model, 2000
        self.end: Callable[[], list[Any]] = lambda: [Done(result=self.trained("finished"))]
        self.seen: list[Any] = []  # the plans, with their checkpoints

    def __call__(self, plan: Any, *, checkpoint: Path | None, cancel: Any, **_: Any) -> Iterator[Any]:
        self.seen.append((plan, checkpoint))
        self.checkpoint = checkpoint
        yield from self.before
        while not (self.gate.wait(0.01) or cancel.cancelled):
            pass
        if checkpoint is not None:
            checkpoint.write_bytes(b"as far as it came")
        if cancel.cancelled:
            self.stopped_at = 600
            yield Cancelled(result=self.trained("cancelled"))
            return
        yield from self.end()

    def trained(self, stopped: Any) -> Trained:
        done = TrainingDone(
            network=self.model.network, step=self.stopped_at, best_step=400, losses=(1.0,) * self.stopped_at,
            validated=((400, 0.3), (600, 0.4)), stopped=stopped, seconds=60.0,
        )  # fmt: skip
        split = Split(training=("S0", "S1"), validation=("S3",), calibration=())
        model = replace(self.model, certificate=None)
        judged = () if stopped == "cancelled" else JUDGED
        return Trained(
            mask_model=model, split=split, recipe=self.seen[-1][0].recipe, done=done, judged=judged,
            checkpoint=self.checkpoint,
        )  # fmt: skip


JUDGED = tuple(
    UncertaintyJudged(done=i + 1, total=2, name=name, masked_share=share, untouched_share=untouched)
    for i, (name, share, untouched) in enumerate((("trained network", 0.3, 0.25), ("smoothed residual", 0.41, 0.0)))
)


class TrainingDesk:
    """The viewer and the dock in it, with what these tests do over and over."""

    def __init__(self, viewer: Any, dock: TrainingDock, qtbot: Any) -> None:
        self.viewer, self.dock, self.qtbot = viewer, dock, qtbot
        self.form, self.page = dock.form, dock.page

    def choose(self, folder: Path, *, groups: int = GROUPS) -> None:
        for part, place in zip(("degraded", "truth"), write_triplets(folder, groups=groups), strict=True):
            self.form.places[part].setValue(place)
        self.form.group.setValue(r"(S\d+)")
        self.form.out.setValue(folder / "mine.maskcal")

    def start(self) -> None:
        assert self.dock.train_button.isEnabled(), self.form.problems
        self.dock.train_button.click()
        assert not self.dock.train_button.isEnabled()

    def end(self, act: Callable[[], Any]) -> Any:
        """Return the last event of the training that `act` brings to its end."""
        with self.qtbot.waitSignal(self.dock.trainFinished, timeout=TRAINING_MS) as end:
            act()
        return end.args[0]

    def train(self) -> Any:
        return self.end(self.start)

    def wait(self, condition: Callable[[], Any]) -> None:
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=PATIENCE_MS)

    def wait_for_validation(self) -> None:
        self.wait(lambda: "at step 600" in self.page.share.text())

    @property
    def faults(self) -> dict[str, str]:
        return {name: field.fault for name, field in self.form.fields.items() if field.fault}

    @property
    def told(self) -> str:
        """All that the dock says, on whichever page."""
        return "\n".join(label.text() for label in self.dock.findChildren(QLabel) if label.text())

    def assert_nothing_goes_on(self) -> None:
        assert self.dock.progress.isHidden()
        assert not self.dock.cancel_button.isEnabled()
        assert self.dock.train_button.isEnabled()
        assert not open_bars()


@pytest.fixture
def bench(viewer: Any, trained: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The dock in a window, with the small restorer, and nothing kept from other tests."""
    monkeypatch.setenv("MASKCAL_CACHE_DIR", str(tmp_path / "cache"))
    _, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Train a mask model")
    dock.form.restorer.setValue(str(trained.restorer_path))
    dock.form.device.setValue("cpu")
    yield TrainingDesk(viewer, dock, qtbot)
    for runner in (dock.runner, dock.saver, dock.form.preview.runner):
        runner.cancel()
        qtbot.waitUntil(lambda runner=runner: not runner.running, timeout=PATIENCE_MS)


@pytest.fixture
def play(trained: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    playing = Play(trained.mask_model)
    monkeypatch.setattr("napari_maskcal.training.training", playing)
    monkeypatch.setattr("napari_maskcal._widgets.training_work._EVERY_S", 0)  # each step is shown
    yield playing
    playing.gate.set()


def test_from_folders_to_a_bundle_that_review_opens(bench, trained, tmp_path):
    bench.choose(tmp_path)
    bench.form.tolerance.value, bench.form.confidence.value = 0.05, 0.5
    bench.form.steps.value, bench.form.crop_px.value = 3, 32
    assert bench.faults == {}
    done = bench.train()
    assert isinstance(done, Done), done
    bench.assert_nothing_goes_on()
    path = tmp_path / "mine.maskcal"
    assert bench.dock.finished.path == path
    kept = describe_bundle(str(path))
    seen, calibrated = set(kept.card.trained_on), set(kept.certificate.groups)
    assert seen | calibrated == {f"S{i}" for i in range(GROUPS)}
    assert not seen & calibrated
    assert (kept.certificate.tolerance, kept.certificate.confidence) == (0.05, 0.5)
    assert kept.certificate.sentence in bench.told
    assert sorted(p.name for p in tmp_path.glob("mine*")) == ["mine.maskcal"]  # the checkpoint has done its work
    bench.dock.outcome.review_button.click()
    _, dock = bench.viewer.window.add_plugin_dock_widget("napari-maskcal", "Review")
    desk = Desk(bench.viewer, dock, bench.qtbot)
    assert (dock.restorer.value(), dock.mask_model.value()) == (str(trained.restorer_path), str(path))
    dock.device.setValue("cpu")
    desk.open(noisy_planes(*SHAPE, seed=99))
    assert isinstance(desk.run(), Done)
    np.testing.assert_array_equal(desk.uncertain.data, desk.uncertainty.data > kept.certificate.threshold)


def test_the_restorer_is_saved_with_the_network_when_asked(bench, play, own_cache, trained, tmp_path):
    play.gate.set()
    bench.choose(tmp_path)
    bench.form.with_restorer.click()
    assert isinstance(bench.train(), Done)
    assert load_restorer(tmp_path / "mine.maskcal").sha256 == trained.restorer.sha256
    bench.form.restorer.setValue("given")
    assert "there is no restorer to put into the file" in bench.faults["with_restorer"]
    bench.form.with_restorer.click()
    assert "with_restorer" not in bench.faults


def test_a_training_that_was_stopped_goes_on_where_it_was(bench, tmp_path, monkeypatch):
    step = Learner.step

    def slowly(*of: Any) -> float:
        time.sleep(0.05)
        return step(*of)

    monkeypatch.setattr(Learner, "step", slowly)
    bench.choose(tmp_path)
    bench.form.steps.value, bench.form.crop_px.value = 20, 32
    bench.start()
    bench.wait(lambda: bench.page.validated)
    stopped = bench.end(bench.dock.cancel_button.click)
    assert isinstance(stopped, Cancelled), stopped
    at = stopped.result.trained.done.step
    assert 0 < at < 20
    assert not (tmp_path / "mine.maskcal").exists()
    assert isinstance(bench.train(), Done)
    assert f"Going on at step {at} of 20" in bench.page.resumed.text()
    assert load_mask_model(tmp_path / "mine.maskcal").certificate is None
    assert sorted(p.name for p in tmp_path.glob("mine*")) == ["mine.maskcal"]


def test_while_it_runs_its_loss_its_masks_and_the_time_left_are_seen(bench, play, tmp_path):
    bench.viewer.window._qt_window.show()
    bench.choose(tmp_path)
    assert bench.page.share.text() == ""
    bench.start()
    bench.wait_for_validation()
    assert bench.page.share.text() == (
        "Masked at step 600: 40 % of the validation fields; best 30 %, at step 400."
    )  # fmt: skip
    assert bench.dock.progress.text == "step 600 of 2000, about 60 min left"
    assert len(open_bars()) == 1
    bench.wait(lambda: bench.page.plots)
    shares, loss = (plot.axes for plot in bench.page.plots)
    bench.wait(lambda: shares.get_lines() and len(shares.get_lines()[0].get_xdata()) == 2)  # drawn a moment later
    np.testing.assert_allclose(shares.get_lines()[0].get_xydata(), [(400, 30), (600, 40)])
    assert loss.get_lines()[0].get_xdata()[-1] == 600
    assert "S3_0, a validation field: 50 % of it masked." in bench.page.preview.title.text()
    play.gate.set()
    bench.wait(lambda: not bench.dock.runner.running)
    bench.assert_nothing_goes_on()


def test_the_preview_shows_the_mask_in_the_overlays_colour(bench, play, tmp_path):
    bench.viewer.window._qt_window.show()
    bench.choose(tmp_path)
    bench.start()
    bench.wait_for_validation()
    bench.wait(lambda: bench.page.preview.pictures["marked"].isVisible())
    picture = bench.page.preview.pictures["marked"]
    image = picture.grab().toImage()
    middle = image.width() // 2
    lower, upper = (image.pixelColor(middle, int(share * image.height())) for share in (0.75, 0.25))
    grey = upper.red()
    assert upper.red() == upper.green() == upper.blue()
    colour = [int(COLOURS[UNCERTAIN][i : i + 2], 16) for i in (1, 3, 5)]
    expected = [OPACITY * own + (1 - OPACITY) * grey for own in colour]
    np.testing.assert_allclose([lower.red(), lower.green(), lower.blue()], expected, atol=4)


def test_cancel_keeps_the_best_so_far_and_saves_it_when_asked(bench, play, tmp_path):
    bench.choose(tmp_path)
    bench.start()
    bench.wait_for_validation()
    assert isinstance(bench.end(bench.dock.cancel_button.click), Cancelled)
    bench.assert_nothing_goes_on()
    assert "Stopped at step 600 of 2000; the best, from step 400, is kept" in bench.told
    path = tmp_path / "mine.maskcal"
    assert not path.exists()
    assert bench.dock.save_button.isEnabled()
    with bench.qtbot.waitSignal(bench.dock.saveFinished, timeout=PATIENCE_MS):
        bench.dock.save(path)
    assert load_mask_model(path).sha256 == play.model.sha256
    assert str(path) in bench.told
    assert play.checkpoint.exists()  # it can still be gone on with


def test_what_it_was_trained_on_and_how_it_compares_is_told_at_the_end(bench, play, tmp_path):
    play.gate.set()
    bench.choose(tmp_path)
    done = bench.train()
    assert isinstance(done, Done)
    assert "the best, from step 400, is kept" in bench.told
    assert "S0, S1" in bench.told
    assert "masks 30 % of the validation fields" in bench.told
    assert "41 %" in bench.told
    assert str(tmp_path / "mine.maskcal") in bench.told
    assert load_mask_model(tmp_path / "mine.maskcal").sha256 == play.model.sha256
    assert not play.checkpoint.exists()


def test_what_is_not_calibrated_leads_on_to_calibration_and_not_to_review(bench, play, trained, tmp_path):
    play.gate.set()
    bench.choose(tmp_path)
    bench.train()
    assert "not calibrated yet" in bench.dock.outcome.place.text()
    assert bench.dock.outcome.review_button.isHidden()
    bench.dock.outcome.calibrate_button.click()
    _, dock = bench.viewer.window.add_plugin_dock_widget("napari-maskcal", "Calibrate")
    assert dock.form.mask_model.value() == str(tmp_path / "mine.maskcal")
    assert dock.form.restorer.value() == str(trained.restorer_path)
    assert {problem.field for problem in dock.form.problems} == {"degraded", "truth"}


def test_a_second_training_forgets_the_first_ones_numbers(bench, play, tmp_path):
    play.gate.set()
    bench.choose(tmp_path)
    bench.train()
    assert "at step 600" in bench.page.share.text()
    play.before, play.end = play.before[:1], lambda: [Failed(error=ValueError("no"))]
    bench.train()
    assert "at step 600" not in bench.page.share.text()
    assert bench.page.losses == []


@pytest.mark.parametrize(
    ("error", "told", "goes_on"),
    [
        (RuntimeError("CUDA out of memory:\n tried 2 GiB"), "CUDA out of memory: tried 2 GiB", True),
        (MemoryError(), "MemoryError", True),
        # the same choices lead to it again
        (
            FloatingPointError("the loss is nan at step 601,\n from S1_0"),
            "the loss is nan at step 601, from S1_0",
            False,
        ),
    ],
)
def test_a_failure_is_one_line_and_nothing_goes_on(bench, play, tmp_path, error, told, goes_on):
    play.end = lambda: [Failed(error=error)]
    bench.choose(tmp_path)
    bench.start()
    bench.wait_for_validation()
    assert isinstance(bench.end(play.gate.set), Failed)
    assert told in bench.dock.message.text()
    assert "\n" not in bench.dock.message.text()
    assert ("with the same choices" in bench.dock.message.text()) == goes_on  # its checkpoint is there
    assert not (tmp_path / "mine.maskcal").exists()
    bench.assert_nothing_goes_on()


def test_an_error_that_is_thrown_is_told_as_well(bench, play, tmp_path):
    def throw() -> list[Any]:
        raise RuntimeError("CUDA out of memory")

    play.end = throw
    play.gate.set()
    bench.choose(tmp_path)
    assert isinstance(bench.train(), Failed)
    assert "CUDA out of memory" in bench.dock.message.text()
    bench.assert_nothing_goes_on()


def test_warnings_stay_to_be_read(bench, play, tmp_path):
    play.before.insert(1, Warned(message="cpu ran out of memory; going on with 4 crop(s) at a time"))
    play.gate.set()
    bench.choose(tmp_path)
    assert isinstance(bench.train(), Done)
    assert "going on with 4 crop(s) at a time" in bench.told


def test_too_few_specimens_are_refused_with_how_many_it_takes(bench, tmp_path):
    bench.choose(tmp_path)
    bench.form.tolerance.value = 0.05
    assert isinstance(bench.train(), Failed)
    assert "calibration 9 specimens" in bench.told
    assert "there are 6" in bench.told
    bench.assert_nothing_goes_on()


def test_faults_of_files_are_told_by_file(bench, tmp_path):
    bench.choose(tmp_path)
    (tmp_path / "high" / "S2_0.tif").write_bytes(b"no image")
    write(tmp_path / "low" / "S1_0.tif", np.full(SHAPE, 7, np.uint16))
    assert isinstance(bench.train(), Failed)
    told = "\n".join([bench.told, *(str(row) for row in bench.dock.faults_table.columns.texts())])
    assert "high/S2_0.tif" in told
    assert "low/S1_0.tif" in told
    assert "constant" in told
    bench.assert_nothing_goes_on()


def test_nothing_chosen_disables_train_and_says_what_is_next(bench, tmp_path):
    assert not bench.dock.train_button.isEnabled()
    assert bench.faults == {}  # nothing is wrong yet
    assert "choose the degraded images" in bench.dock.train_button.toolTip()
    bench.choose(tmp_path)
    assert bench.dock.train_button.isEnabled()
    bench.form.out.setValue("/nowhere/mine.maskcal")
    assert "/nowhere does not exist" in bench.faults["out"]
    assert not bench.dock.train_button.isEnabled()


def test_a_fault_in_what_is_hidden_opens_it(bench, tmp_path):
    bench.choose(tmp_path)
    assert not bench.form.more.isExpanded()
    bench.form.device.setValue("gpu7")
    assert "'gpu7' is no device" in bench.faults["device"]
    assert bench.form.more.isExpanded()


def test_layers_may_go_while_they_are_trained_on(bench, play, tmp_path):
    low = bench.viewer.add_image(np.stack([noisy_planes(*SHAPE, seed=i) for i in range(GROUPS)]), name="low")
    high = bench.viewer.add_image(np.stack([truth() + i for i in range(GROUPS)]), name="high")
    bench.form.kind.setCurrentText("layers of this window")
    for part, layer in (("degraded", low), ("truth", high)):
        bench.form.layer_choosers[part].setValue(bench.viewer.layers[layer.name])
    bench.form.layer_groups.setText("A, B, C, D, E, F")
    bench.form.out.setValue(tmp_path / "mine.maskcal")
    bench.start()
    bench.wait_for_validation()
    bench.viewer.layers.clear()
    assert isinstance(bench.end(play.gate.set), Done)
    ((plan, _),) = play.seen
    assert sorted(triplet.group for triplet in plan.triplets) == list("ABCDEF")
    assert (tmp_path / "mine.maskcal").exists()
    assert bench.dock.progress.isHidden()
    assert not open_bars()
    assert not bench.dock.train_button.isEnabled()


def test_a_closed_dock_stops_its_training(bench, play, tmp_path):
    bench.choose(tmp_path)
    bench.start()
    bench.wait_for_validation()
    bench.viewer.window.remove_dock_widget("all")
    bench.viewer.add_image(noisy_planes(*SHAPE), name="later")
    assert bench.form.layer_choosers["degraded"].count() == 1
    bench.wait(lambda: play.stopped_at == 600)  # the cancel token was set
    bench.qtbot.wait(50)
    assert open_bars() == []
    assert not (tmp_path / "mine.maskcal").exists()


def test_an_existing_bundle_stays_when_the_new_one_cannot_be_written(bench, play, tmp_path, monkeypatch):
    bench.choose(tmp_path)
    path = tmp_path / "mine.maskcal"
    path.write_bytes(b"earlier")

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    bench.start()
    bench.wait_for_validation()
    with monkeypatch.context() as full:
        full.setattr("tempfile.mkstemp", refuse)
        failed = bench.end(play.gate.set)
    assert isinstance(failed, Failed)
    assert "No space left on device" in bench.dock.message.text()
    assert path.read_bytes() == b"earlier"
    assert bench.dock.save_button.isEnabled()  # elsewhere, or once there is room
    bench.assert_nothing_goes_on()


def test_the_plots_follow_the_theme(bench, play, tmp_path):
    bench.viewer.window._qt_window.show()
    play.gate.set()
    bench.choose(tmp_path)
    bench.train()
    bench.wait(lambda: bench.page.plots)
    dark = bench.page.plots[0].figure.get_facecolor()
    bench.viewer.theme = "light"
    assert np.mean(bench.page.plots[0].figure.get_facecolor()[:3]) > np.mean(dark[:3]) + 0.3


def cut_labels(dock: TrainingDock) -> list[str]:
    """Labels that show less than their text, or reach beyond the visible width."""
    found = []
    for label in dock.findChildren(QLabel):
        collapsed = dock.form.more.isAncestorOf(label) and not dock.form.more.isExpanded()
        if label.isVisible() and label.text() and not collapsed:
            needed = label.heightForWidth(label.width()) if label.wordWrap() else label.sizeHint().height()
            beyond = label.mapTo(dock, label.rect().topRight()).x() > dock.width()
            if label.height() < needed or beyond:
                found.append(label.text())
    return found


def test_no_text_is_cut_on_any_page(make_napari_viewer, play, trained, qtbot, tmp_path, monkeypatch):
    monkeypatch.setenv("MASKCAL_CACHE_DIR", str(tmp_path / "cache"))
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1000, 800)
    _, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Train a mask model")
    bench = TrainingDesk(viewer, dock, qtbot)
    bench.form.restorer.setValue(str(trained.restorer_path))
    bench.choose(tmp_path)
    bench.form.confidence.value = 1.0
    bench.form.device.setValue("gpu7")
    qtbot.wait(600)
    assert {"confidence", "device"} == set(bench.faults)
    assert cut_labels(dock) == []
    bench.form.confidence.value = 0.9
    bench.form.device.setValue("cpu")
    bench.start()
    bench.wait_for_validation()
    bench.wait(lambda: bench.page.plots)
    qtbot.wait(300)
    assert bench.page.share.isVisible()
    assert cut_labels(dock) == []
    bench.end(play.gate.set)
    qtbot.wait(300)
    assert cut_labels(dock) == []
    dock.message.setText("one line")
    dock.message.setFixedHeight(4)
    dock.message.show()
    qtbot.wait(50)
    assert cut_labels(dock) == ["one line"]  # the test sees it when something is
