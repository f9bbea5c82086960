"""Choosing a restorer in a foreign format: the question, the trial, what is shown of it, and what goes wrong."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from desk import PATIENCE_MS, drop, files
from qtpy.QtCore import QMimeData, QUrl
from qtpy.QtWidgets import QApplication, QFileDialog, QLabel, QMessageBox, QVBoxLayout, QWidget
from torch import nn

from foreign_models import as_onnx, as_torchscript, small_unet
from napari_maskcal._widgets import restorer_chooser
from napari_maskcal._widgets.restorer_chooser import RestorerChooser
from napari_maskcal._widgets.restorer_dialog import RestorerDialog
from napari_maskcal.models import load_restorer
from napari_maskcal.read.pixel_size import PixelSize
from napari_maskcal.restore.card import ModelCard, Normalisation
from napari_maskcal.restore.loaders import description, trust
from napari_maskcal.restore.loaders.base import content_sha256
from napari_maskcal.restore.loaders.registry import loader_of
from napari_maskcal.review.request import Problem, restorer_card

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

YES, NO = QMessageBox.StandardButton.Yes, QMessageBox.StandardButton.No


@pytest.fixture(autouse=True)
def own_places(monkeypatch, tmp_path):
    """What the user has agreed to, and descriptions that stand in no model's folder."""
    monkeypatch.setattr(trust, "_place", lambda: tmp_path / "config" / "trusted.json")
    monkeypatch.setattr(description, "_own_place", lambda sha256: tmp_path / "data" / f"{sha256}.json")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("foreign")
    files = {
        "mine.pt": as_torchscript(small_unet(), folder / "mine.pt"),
        "mine.onnx": as_onnx(small_unet(), folder / "mine.onnx"),
        "half.pt": as_torchscript(nn.AvgPool2d(2).eval(), folder / "half.pt"),
        "seven.onnx": as_onnx(nn.Conv2d(7, 1, 3, padding=1).eval(), folder / "seven.onnx", 7),
    }
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.fixture
def file(written, tmp_path) -> Callable[[str], Path]:
    """A way to get a copy of one of the files that nobody has agreed to or tried."""

    def copy(name: str) -> Path:
        path = tmp_path / "models" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(written[name])
        return path

    return copy


class Bench:
    """The chooser in a window, what it has told, and the answers to its questions."""

    def __init__(self, qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.qtbot = qtbot
        self.chooser = RestorerChooser(given="restored by another tool")
        self.window = QWidget()
        qtbot.addWidget(self.window)
        QVBoxLayout(self.window).addWidget(self.chooser)
        self.window.show()
        self.told: list[str] = []
        self.chooser.valueChanged.connect(self.told.append)
        self.answers: list[Any] = []
        self.asked: list[tuple[str, Any]] = []
        monkeypatch.setattr(QMessageBox, "question", self._question)  # a real one would wait for a person

    def _question(self, parent: Any, title: str, words: str, buttons: Any, default: Any) -> Any:
        self.asked.append((words, default))
        assert buttons == YES | NO
        return self.answers.pop(0)

    def choose(self, path: Path) -> None:
        """Choose a file and wait until its trial, if there is one, is over."""
        self.chooser.choose(str(path))
        self.qtbot.waitUntil(lambda: not self.chooser.runner.running, timeout=PATIENCE_MS)

    @property
    def dialog(self) -> RestorerDialog:
        (dialog,) = self.chooser.findChildren(RestorerDialog)
        assert dialog.isVisible()
        return dialog

    @property
    def faults(self) -> list[str]:
        """What a form says of the choice."""
        fault = restorer_card(self.chooser.value())[2]
        problems = [Problem(field="restorer", message=fault)] if fault else []
        return [problem.message for problem in self.chooser.explained(problems)]


@pytest.fixture
def bench(qtbot, monkeypatch) -> Bench:
    return Bench(qtbot, monkeypatch)


@pytest.fixture
def gate(monkeypatch) -> Iterator[threading.Event]:
    """Return what lets trials go on; until it is set they stand still."""
    opened, trial = threading.Event(), restorer_chooser._trial

    def wait_and_try(path: Path) -> Iterator[Any]:
        opened.wait(PATIENCE_MS / 1000)
        yield from trial(path)

    monkeypatch.setattr(restorer_chooser, "_trial", wait_and_try)
    yield opened
    opened.set()


def kept(path: Path) -> ModelCard:
    """The card that a file's description holds by now."""
    card = description.read_description(path, content_sha256(path), kind=loader_of(path).kind)
    assert card is not None
    return card


# ---- a file that says all, and one that nobody can read


def test_a_restorer_of_this_package_is_taken_at_once(bench, trained):
    bench.chooser.choose(str(trained.restorer_path))
    assert bench.told == [bench.chooser.value()] == [str(trained.restorer_path)]
    assert not bench.asked
    assert not bench.chooser.runner.running
    bench.chooser.choose("given")
    bench.chooser.choose("demo")
    assert bench.told[1:] == ["given", "demo"]


def test_what_no_loader_takes_is_chosen_so_that_the_form_says_why(bench, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no network at all")
    bench.choose(path)
    assert bench.told == [str(path)]
    assert "no network that can be read here" in bench.faults[0]


def test_the_dialog_for_files_offers_networks_first_and_then_all(bench, file, monkeypatch):
    patterns = []

    def answer(parent: Any, title: str, folder: str, pattern: str) -> tuple[str, str]:
        patterns.append(pattern)
        return str(file("mine.onnx")), ""

    monkeypatch.setattr(QFileDialog, "getOpenFileName", answer)
    bench.chooser.activated.emit(bench.chooser.findText("choose a file…"))
    bench.qtbot.waitUntil(lambda: not bench.chooser.runner.running, timeout=PATIENCE_MS)
    bench.dialog.accept()
    (pattern,) = patterns
    first, last = pattern.split(";;")
    assert all(f"*.{suffix}" in first.split("(")[1].rstrip(")").split() for suffix in ("pt2", "ts", "onnx", "zip"))
    assert last == "All files (*)"
    assert bench.chooser.value() == str(file("mine.onnx"))


# ---- the question


def test_a_file_that_can_run_code_is_not_opened_without_a_yes(bench, file):
    path = file("mine.pt")
    bench.answers = [NO]
    bench.choose(path)
    assert not bench.told
    assert (bench.chooser.value(), bench.chooser.currentText()) == ("demo", "bundled demo")
    assert not trust.is_trusted(content_sha256(path))
    ((words, default),) = bench.asked
    assert default == NO
    for part in ("mine.pt", "TorchScript", f"SHA-256: {content_sha256(path)[:16]}…", "only if you know who made it"):
        assert part in words


def test_after_a_yes_it_is_tried_and_never_asked_about_again(bench, file):
    path = file("mine.pt")
    bench.answers = [YES]
    bench.choose(path)
    assert trust.is_trusted(content_sha256(path))
    assert not bench.told  # not before the dialog is answered
    bench.dialog.accept()
    assert bench.told == [str(path)]
    assert not bench.faults
    bench.choose(path)
    assert bench.told == [str(path)] * 2  # there may be another file of that name by now
    assert len(bench.asked) == 1


def test_a_file_name_is_shown_as_it_is_written(bench, file):
    path = file("mine.pt").rename(file("mine.pt").with_name("a <b> & c.pt"))
    bench.answers = [NO]
    bench.choose(path)
    assert "a &lt;b&gt; &amp; c.pt" in bench.asked[0][0]


def test_what_is_agreed_to_is_what_the_question_was_about(bench, file, written, monkeypatch):
    path = file("mine.pt")
    first = content_sha256(path)

    def replaced(*_: Any) -> Any:
        path.write_bytes(written["half.pt"])
        return YES

    monkeypatch.setattr(QMessageBox, "question", replaced)
    bench.choose(path)
    assert trust.is_trusted(first)
    assert not trust.is_trusted(content_sha256(path))
    assert "can run code" in bench.faults[0]


def test_an_agreement_that_cannot_be_kept_is_said(bench, file, monkeypatch, tmp_path):
    (tmp_path / "config").write_text("a file where the folder should be")
    bench.answers = [YES]
    bench.choose(file("mine.pt"))
    assert bench.told == [str(file("mine.pt"))]
    assert "config" in bench.faults[0]
    assert "maskcal info" not in bench.faults[0]


# ---- the trial


def test_while_a_file_is_tried_the_earlier_choice_stays_and_the_window_lives(bench, file, gate, trained):
    bench.chooser.setValue(trained.restorer_path)
    bench.told.clear()
    path = file("mine.onnx")
    bench.chooser.choose(str(path))
    assert bench.chooser.currentText() == "trying mine.onnx …"
    assert not bench.chooser.isEnabled()
    assert bench.chooser.value() == str(trained.restorer_path)
    bench.chooser.choose("demo")  # a file dropped meanwhile
    assert not bench.told
    gate.set()
    bench.qtbot.waitUntil(lambda: not bench.chooser.runner.running, timeout=PATIENCE_MS)
    assert bench.chooser.isEnabled()
    assert bench.chooser.findText("trying mine.onnx …") < 0
    bench.dialog.accept()
    assert (bench.chooser.value(), bench.chooser.currentText()) == (str(path), "mine.onnx")
    assert bench.told == [str(path)]


def test_the_answer_is_kept_and_is_what_the_restorer_is_used_with(bench, file):
    path = file("mine.onnx")
    bench.choose(path)
    bench.dialog.preparation.setCurrentText("less the mean, over the standard deviation")
    bench.dialog.pixels.setValue(0.1)
    bench.dialog.ok_button.click()
    assert kept(path).takes == load_restorer(path).card.takes == Normalisation(kind="mean_std")
    assert kept(path).pixel_size == PixelSize(y=0.1, x=0.1, unit="micrometer")
    card, digest, fault = restorer_card(str(path))
    assert (card, digest, fault) == (kept(path), load_restorer(path).sha256, None)
    assert not bench.chooser.findChildren(RestorerDialog) or not bench.dialog.isVisible()


def test_to_leave_the_dialog_is_to_keep_the_proposal(bench, file):
    path = file("mine.onnx")
    bench.choose(path)
    proposal = kept(path)
    bench.dialog.preparation.setCurrentText("fixed numbers")
    bench.dialog.cancel_button.click()
    assert kept(path) == proposal
    assert proposal.takes is None
    assert bench.told == [str(path)]


def about(bench: Bench) -> int:
    return bench.chooser.findText("how mine.onnx is used…")


def test_how_a_file_is_used_can_be_looked_at_again_and_changed(bench, file):
    path = file("mine.onnx")
    bench.choose(path)
    assert about(bench) < 0  # not before it is chosen
    bench.dialog.accept()
    bench.chooser.activated.emit(about(bench))
    assert bench.chooser.currentText() == "mine.onnx"
    assert bench.dialog.cancel_button.text() == "Leave it as it is"
    assert bench.dialog.findChildren(QLabel)[0].text() == "How mine.onnx is used"
    before = load_restorer(path)
    bench.dialog.reject()
    assert bench.told == [str(path)]
    assert load_restorer(path).sha256 == before.sha256
    bench.chooser.activated.emit(about(bench))
    bench.dialog.preparation.setCurrentText("from the smallest to the largest value")
    bench.dialog.accept()
    assert bench.told == [str(path)] * 2  # the form looks again: to it, this is another restorer
    assert load_restorer(path).card.takes == Normalisation(kind="range")
    assert load_restorer(path).sha256 != before.sha256
    bench.chooser.activated.emit(about(bench))
    assert bench.dialog.preparation.currentText() == "from the smallest to the largest value"
    bench.dialog.reject()


def test_only_files_that_were_described_offer_to_say_how_they_are_used(bench, file, trained):
    path = file("mine.onnx")
    bench.choose(path)
    bench.dialog.accept()
    assert about(bench) == bench.chooser.count() - 2
    for other in ("demo", "given", str(trained.restorer_path), str(path.with_name("missing.onnx"))):
        bench.chooser.setValue(other)
        assert not any("is used" in bench.chooser.itemText(i) for i in range(bench.chooser.count())), other
    bench.chooser.setValue(path)
    assert about(bench) == bench.chooser.count() - 2


def test_a_file_that_was_replaced_is_tried_anew_rather_than_shown_as_it_was(bench, file, written):
    path = file("mine.onnx")
    bench.choose(path)
    bench.dialog.accept()
    path.write_bytes(written["seven.onnx"])
    bench.chooser.activated.emit(about(bench))
    bench.qtbot.waitUntil(lambda: not bench.chooser.runner.running, timeout=PATIENCE_MS)
    assert "7 channels" in bench.faults[0]


def test_what_is_said_of_a_file_set_from_elsewhere_names_no_command(bench, file):
    bench.chooser.setValue(file("mine.pt"))
    (fault,) = bench.faults
    assert fault.endswith(
        "mine.pt can run code, and nobody agreed to open it yet; choose it once more, and you are asked"
    )
    bench.chooser.setValue(file("mine.onnx"))
    (fault,) = bench.faults
    assert fault.endswith("choose it once more, and it is tried")


@pytest.mark.parametrize(
    ("name", "message"), [("half.pt", "only networks that keep the size, or enlarge it"), ("seven.onnx", "7 channels")]
)
def test_why_a_trial_failed_is_said_by_the_form(bench, file, name, message):
    path = file(name)
    bench.answers = [YES]
    bench.choose(path)
    assert bench.told == [str(path)]
    (fault,) = bench.faults
    assert message in fault
    assert "a trial run finds that out" in restorer_card(str(path))[2]  # without the trial
    assert bench.chooser.isEnabled()
    bench.chooser.setValue("demo")
    assert not bench.faults


def test_a_fault_is_forgotten_when_the_file_is_another(bench, file, written):
    path = file("half.pt")
    bench.answers = [YES]
    bench.choose(path)
    assert "keep the size" in bench.faults[0]
    path.write_bytes(written["mine.pt"])
    assert "can run code" in bench.faults[0]
    bench.answers = [YES]
    bench.choose(path)
    bench.dialog.accept()
    assert not bench.faults


def test_an_answer_that_cannot_be_kept_is_said(bench, file, monkeypatch):
    path = file("mine.onnx")
    bench.choose(path)

    def refuse(*_: Any) -> None:
        raise ValueError("there is no room left")

    monkeypatch.setattr(restorer_chooser, "write_description", refuse)
    bench.dialog.accept()
    assert bench.told == [str(path)]
    assert bench.faults == ["there is no room left"]


@pytest.mark.parametrize("how", ["stop", "setValue", "deleteLater"])
def test_a_trial_under_way_is_given_up_without_a_word(bench, file, gate, how):
    path = file("mine.onnx")
    bench.chooser.choose(str(path))
    runner = bench.chooser.runner
    if how == "setValue":
        bench.chooser.setValue("given")
        assert bench.chooser.currentText() == "restored by another tool"
    else:
        getattr(bench.chooser, how)()
    bench.qtbot.wait(20)
    assert not runner.running
    gate.set()
    beside = path.with_name("mine.onnx.maskcal.json")
    bench.qtbot.waitUntil(beside.exists, timeout=PATIENCE_MS)  # the thread has come to its end
    bench.qtbot.wait(50)
    assert bench.told == (["given"] if how == "setValue" else [])
    assert not any(isinstance(widget, RestorerDialog) for widget in QApplication.topLevelWidgets())


def test_a_dialog_that_is_open_goes_away_with_the_chooser(bench, file):
    path = file("mine.onnx")
    bench.choose(path)
    dialog = bench.dialog
    gone: list[int] = []
    dialog.destroyed.connect(lambda: gone.append(1))
    bench.chooser.stop()
    bench.qtbot.waitUntil(lambda: bool(gone), timeout=PATIENCE_MS)
    assert not bench.told


# ---- dropped files


def test_a_dropped_file_is_chosen(bench, trained):
    assert drop(bench.chooser, files(trained.restorer_path))
    bench.qtbot.waitUntil(lambda: bool(bench.told), timeout=PATIENCE_MS)
    assert bench.chooser.value() == str(trained.restorer_path)


def test_text_and_addresses_of_the_web_are_not_taken(bench):
    text, web = QMimeData(), QMimeData()
    text.setText("/models/mine.pt")
    web.setUrls([QUrl("https://example.org/mine.pt")])
    assert not drop(bench.chooser, text)
    assert not drop(bench.chooser, web)


# ---- the dialog


def card(**said: Any) -> ModelCard:
    known = {"network": {"kind": "onnx", "channels": 1}, "stride_px": 4, "halo_px": 24, "min_size_px": 16} | said
    return ModelCard(name="it", role="restorer", **known)


@pytest.fixture
def shown(qtbot) -> Callable[..., RestorerDialog]:
    def show(**said: Any) -> RestorerDialog:
        dialog = RestorerDialog("mine.onnx", card(**said))
        qtbot.addWidget(dialog)
        dialog.show()
        return dialog

    return show


def words(dialog: RestorerDialog) -> str:
    return "\n".join(label.text() for label in dialog.findChildren(QLabel) if label.isVisibleTo(dialog))


def test_the_dialog_shows_what_was_found_and_asks_for_what_was_not(shown):
    dialog = shown(scale_factor=2)
    told = words(dialog)
    for part in ("mine.onnx can be used", "2 times as many pixels", "24 pixels to each side", "The file does not say"):
        assert part in told
    assert [dialog.preparation.itemText(i) for i in range(dialog.preparation.count())] == [
        "as shares of the plane's range (percentiles 1 to 99.8)", "less the mean, over the standard deviation",
        "from the smallest to the largest value", "fixed numbers",
    ]  # fmt: skip
    assert dialog.takes() is None
    assert "What the file says" in words(shown(takes=Normalisation(kind="range")))


@pytest.mark.parametrize(
    "takes",
    [
        Normalisation(kind="mean_std"), Normalisation(kind="range"), Normalisation(low_percentile=3),
        Normalisation(kind="fixed", offset=0.123456789, span=1 / 255), Normalisation(),
        Normalisation(kind="fixed", offset=-4e12, span=1e-9),
    ],
)  # fmt: skip
def test_what_the_file_says_is_proposed_and_not_rounded(shown, takes):
    assert shown(takes=takes).takes() == takes


def test_percentiles_of_the_file_are_one_more_choice(shown):
    dialog = shown(takes=Normalisation(low_percentile=3, high_percentile=99))
    assert dialog.preparation.currentText() == "as shares of the plane's range (percentiles 3 to 99)"
    assert "darkest 3 % " in dialog.hint.text()
    assert "brightest 1 % " in dialog.hint.text()
    dialog.preparation.setCurrentIndex(0)
    assert dialog.takes() is None


def test_fixed_numbers_are_asked_for_where_they_are_chosen(shown):
    dialog = shown()
    assert not dialog.numbers.isVisible()
    dialog.preparation.setCurrentText("fixed numbers")
    assert dialog.numbers.isVisible()
    assert (dialog.offset.text(), dialog.span.text()) == ("0", "1")
    assert dialog.takes() == Normalisation(kind="fixed")
    dialog.offset.setValue(100.5)
    dialog.span.setValue(65535)
    assert dialog.takes() == Normalisation(kind="fixed", offset=100.5, span=65535)
    dialog.span.setValue(0)
    assert dialog.takes().span > 0


def test_the_pixel_size_is_asked_for_and_may_stay_unknown(shown):
    dialog = shown()
    assert dialog.pixels.text() == "not known"
    assert dialog.pixel_size() is None
    dialog.pixels.setValue(0.065)
    assert dialog.pixels.text() == "0.065 µm"
    assert dialog.pixel_size() == PixelSize(y=0.065, x=0.065, unit="micrometer")
    said = shown(pixel_size=dialog.pixel_size())
    assert said.pixels.text() == "0.065 µm"
    said.pixels.setValue(0)
    assert said.pixel_size() is None


@pytest.mark.parametrize("unit", ["nanometer", "micrometer"])
def test_a_pixel_size_that_the_box_cannot_show_stays_as_it_is(shown, unit):
    size = PixelSize(y=0.123456789, x=0.2 if unit == "micrometer" else 0.123456789, unit=unit)
    dialog = shown(pixel_size=size)
    assert dialog.pixels.text() == str(size)
    assert dialog.pixel_size() == size
    dialog.pixels.setValue(0.1)
    assert dialog.pixel_size() == PixelSize(y=0.1, x=0.1, unit="micrometer")
    fine = PixelSize(y=0.123456789, x=0.123456789, unit="micrometer")
    assert shown(pixel_size=fine).pixel_size() == fine


# ---- in the docks


@pytest.fixture(params=["Review", "Calibrate", "Train a mask model"])
def docked(request, desk) -> tuple[Any, Any]:
    """A dock, and the form in it."""
    if request.param == "Review":
        return desk.dock, desk.dock
    _, dock = desk.viewer.window.add_plugin_dock_widget("napari-maskcal", request.param)
    return dock, dock.form


def test_a_dock_says_why_a_trial_failed_until_another_file_is_chosen(desk, docked, file):
    _, form = docked
    form.restorer.choose(str(file("seven.onnx")))
    desk.wait(lambda: not form.restorer.runner.running)
    form.show_problems()
    assert "takes images of 7 channels" in form.fields["restorer"].fault
    form.restorer.choose(str(file("mine.onnx")))
    desk.wait(lambda: not form.restorer.runner.running)
    form.restorer.findChild(RestorerDialog).accept()
    form.show_problems()
    assert not form.fields["restorer"].fault


def test_a_dock_may_be_closed_while_a_file_is_tried(desk, docked, file, gate):
    dock, form = docked
    path = file("mine.onnx")
    form.restorer.choose(str(path))
    assert form.restorer.runner.running
    desk.viewer.window.remove_dock_widget(dock)
    assert not form.restorer.runner.running
    gate.set()
    desk.wait(path.with_name("mine.onnx.maskcal.json").exists)  # the thread has come to its end
    desk.qtbot.wait(50)
    assert not form.restorer.findChildren(RestorerDialog)
    assert form.restorer.value() != str(path)


def test_a_dock_may_be_closed_while_its_dialog_is_open(desk, docked, file):
    dock, form = docked
    form.restorer.choose(str(file("mine.onnx")))
    desk.wait(lambda: not form.restorer.runner.running)
    dialog = form.restorer.findChild(RestorerDialog)
    assert dialog.isVisible()
    desk.viewer.window.remove_dock_widget(dock)
    desk.wait(lambda: not form.restorer.findChildren(RestorerDialog))
