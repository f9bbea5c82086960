"""The banner in the promise's place: what differs where the promise does not stand, in a real window."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QEnterEvent, QImage
from qtpy.QtWidgets import QApplication

from foreign_models import as_onnx, small_unet
from napari_maskcal.models import load_restorer
from napari_maskcal.restore.events import Done
from small_models import calibrated_bundle, noisy_planes, random_restorer

if TYPE_CHECKING:
    from collections.abc import Callable

    from desk import Desk

PLANE = (64, 72)
CALIBRATED = "No promise: random mask 0 was calibrated with something else. Choose that, or calibrate again."


class Pair:
    """Copies of the small networks that a test may spoil, chosen in the dock."""

    def __init__(self, desk: Desk, trained: Any, folder: Path) -> None:
        self.desk, self.folder = desk, folder
        self.restorer = Path(shutil.copy(trained.restorer_path, folder / "mine.safetensors"))
        self.mask_model = Path(shutil.copy(trained.mask_path, folder / "mine.maskcal"))
        desk.dock.restorer.setValue(self.restorer)
        desk.dock.mask_model.setValue(self.mask_model)

    def assert_stands(self) -> None:
        """There is a promise and no banner, and what is drawn is marked as nothing."""
        self.mouse_comes()
        assert self.desk.dock.banner.isHidden()
        assert self.desk.dock.promise.text().startswith("In at least 90 % of new specimens")
        assert self.desk.dock.limits.text()
        assert not any("outdated" in name for name in self.desk.names)

    def assert_withdrawn(self, *said: str) -> None:
        """There is a banner, which says all this, and no promise; what is drawn is kept and marked."""
        self.mouse_comes()
        assert not self.desk.dock.banner.isHidden()
        text = self.desk.dock.banner.text()
        assert text.startswith("No promise: ")
        for part in said:
            assert part in text
        assert (self.desk.dock.promise.text(), self.desk.dock.limits.text()) == ("", "")
        assert not self.desk.dock.run_button.isEnabled()
        for layer in self.desk.dock.results.layers if self.desk.dock.results else ():
            assert layer in self.desk.viewer.layers
            assert layer.name.endswith(" (outdated)")

    def mouse_comes(self) -> None:
        """Let the dock look at the files again, as when a user comes back to it."""
        QApplication.sendEvent(self.desk.dock, QEnterEvent(*[QPointF(5, 5)] * 3))


@pytest.fixture
def pair(desk, trained, tmp_path) -> Pair:
    return Pair(desk, trained, tmp_path)


def replace_restorer(pair: Pair) -> None:
    pair.restorer.write_bytes(random_restorer(pair.folder, seed=5).read_bytes())


def rewrite(pair: Pair, part: str, change: Callable[[bytes], bytes]) -> None:
    """Change one part of the bundle, whatever the hashes say."""
    with zipfile.ZipFile(pair.mask_model) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(pair.mask_model, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, change(content) if name == part else content)


def spoil_weights(pair: Pair) -> None:
    rewrite(pair, "mask.safetensors", lambda weights: weights[:-4] + np.float32(7).tobytes())


def raise_threshold(pair: Pair) -> None:
    def raised(text: bytes) -> bytes:
        content = json.loads(text)
        content["certificate"]["threshold"] *= 10
        return json.dumps(content).encode()

    rewrite(pair, "maskcal.json", raised)


def put_back(pair: Pair, name: str, content: bytes) -> None:
    (pair.folder / name).write_bytes(content)


PLANTED: dict[str, tuple[str, Callable[[Pair], None], str]] = {
    "another restorer": (
        "mine.safetensors", replace_restorer, "• Restorer: random restorer 0 ({hash}…). Now: random restorer 5 ("
    ),
    "other weights of the mask": (
        "mine.maskcal", spoil_weights, "the hash of mask.safetensors is not the one it was saved with"
    ),
    "a higher threshold": ("mine.maskcal", raise_threshold, "its certificate is not the one it was saved with"),
}  # fmt: skip


@pytest.mark.parametrize("when", ["before a run", "after it"])
def test_files_that_are_spoilt_withdraw_the_promise_until_they_are_put_back(pair, trained, when):
    pair.desk.open(noisy_planes(*PLANE))
    if when == "after it":
        pair.desk.run()
    for name, spoil, said in PLANTED.values():
        pair.assert_stands()
        whole = (pair.folder / name).read_bytes()
        spoil(pair)
        pair.assert_withdrawn(said.format(hash=trained.restorer.sha256[:8]))
        put_back(pair, name, whole)
    pair.assert_stands()


def test_another_restorer_that_is_chosen_withdraws_the_promise_with_and_without_an_image(pair, trained):
    other = random_restorer(pair.folder, seed=5)
    pair.desk.dock.restorer.setValue(other)
    hashes = [one.sha256[:8] for one in (trained.restorer, load_restorer(other))]
    said = f"• Restorer: random restorer 0 ({hashes[0]}…). Now: random restorer 5 ({hashes[1]}…)."
    pair.assert_withdrawn(CALIBRATED, said)
    pair.desk.open(noisy_planes(*PLANE))
    pair.assert_withdrawn(CALIBRATED, said)
    pair.desk.dock.restorer.setValue(pair.restorer)
    pair.assert_stands()
    pair.desk.run()
    pair.desk.dock.restorer.setValue(other)
    pair.assert_withdrawn(CALIBRATED, said)


def test_a_description_that_was_edited_withdraws_the_promise_and_says_how_intensities_differ(pair):
    path = as_onnx(small_unet(), pair.folder / "mine.onnx")
    bundle, _ = calibrated_bundle(pair.folder, load_restorer(path))
    pair.desk.dock.restorer.setValue(path)
    pair.desk.dock.mask_model.setValue(bundle)
    pair.desk.open(noisy_planes(*PLANE))
    pair.desk.run()
    pair.assert_stands()
    beside = path.with_name("mine.onnx.maskcal.json")
    whole = beside.read_bytes()
    content = json.loads(whole)
    content["card"]["takes"] = {"kind": "mean_std"}
    beside.write_text(json.dumps(content))
    pair.assert_withdrawn(
        "• Restorer: the file of mine is the same, but it is used otherwise.",
        "• Intensities: from the percentile 1 of the plane to 99.8. Now: less the mean of the plane, over its standard",
    )
    beside.write_bytes(whole)
    pair.assert_stands()


def test_a_bundle_of_another_pair_in_the_place_of_the_chosen_one_is_told(pair):
    pair.desk.open(noisy_planes(*PLANE))
    pair.desk.run()
    other, _ = calibrated_bundle(pair.folder, load_restorer(random_restorer(pair.folder, seed=5)), seed=5)
    shutil.copy(other, pair.mask_model)
    pair.assert_withdrawn("random mask 5 was calibrated with something else", "Now: random restorer 0 (")


def test_coming_back_to_the_window_is_enough_to_notice(pair, monkeypatch):
    pair.desk.open(noisy_planes(*PLANE))
    replace_restorer(pair)
    assert pair.desk.dock.banner.isHidden()  # nobody has looked
    monkeypatch.setattr(type(pair.desk.dock), "isActiveWindow", lambda _: True)
    QApplication.sendEvent(pair.desk.dock, QEvent(QEvent.Type.ActivationChange))
    assert "Now: random restorer 5 (" in pair.desk.dock.banner.text()


def test_a_restorer_replaced_during_a_run_withdraws_the_promise_and_the_run_ends_as_it_began(pair, gate):
    pair.desk.open(noisy_planes(2, *PLANE))
    pair.desk.start()
    pair.desk.wait(lambda: pair.desk.dock.results is not None)
    pair.desk.dock.restorer.setValue(random_restorer(pair.folder, seed=5))
    pair.assert_withdrawn(CALIBRATED, "Now: random restorer 5 (")
    gate.set()
    pair.desk.wait(lambda: not pair.desk.dock.runner.running)
    assert pair.desk.dock.results.review.complete
    pair.assert_withdrawn(CALIBRATED)
    pair.desk.dock.restorer.setValue(pair.restorer)
    pair.assert_stands()


def test_names_that_others_gave_are_shown_as_they_are(pair):
    assert pair.desk.dock.banner.textFormat() == Qt.TextFormat.PlainText
    path = as_onnx(small_unet(), pair.folder / "<b>bold<b>.onnx")
    load_restorer(path)
    pair.desk.dock.restorer.setValue(path)
    pair.assert_withdrawn("Now: <b>bold<b> (")


# ---- what a person sees


def share_of_colour(dock: Any, colour: tuple[int, int, int]) -> float:
    """Return how much of a dock, as it is drawn, has a colour."""
    picture = dock.grab().toImage().convertToFormat(QImage.Format.Format_RGB32)
    bits = picture.constBits()
    bits.setsize(picture.sizeInBytes())
    shown = np.frombuffer(bits, np.uint8).reshape(picture.height(), picture.bytesPerLine() // 4, 4)[..., 2::-1]
    return float((shown == colour).all(-1).mean())


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_banner_is_seen_in_both_themes_and_only_where_something_differs(make_napari_viewer, qtbot, trained, theme):
    viewer = make_napari_viewer(show=True)
    viewer.theme = theme
    viewer.window.resize(1200, 800)
    _, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Review")
    dock.mask_model.setValue(trained.mask_path)
    dock.restorer.setValue(trained.restorer_path)
    viewer.add_image(noisy_planes(*PLANE))
    qtbot.wait(100)
    ground = (0xA0, 0x40, 0x00)
    assert share_of_colour(dock, ground) == 0
    dock.restorer.setValue("demo")
    qtbot.wait(100)
    assert share_of_colour(dock, ground) > 0.03
    assert _contrast(ground, (255, 255, 255)) > 4.5  # what WCAG asks for


def _contrast(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Return the contrast ratio of WCAG 2."""

    def luminance(colour: tuple[int, ...]) -> float:
        share = np.array(colour) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_with_the_right_pair_the_run_that_follows_a_banner_is_like_any_other(pair):
    pair.desk.open(noisy_planes(*PLANE))
    pair.desk.dock.restorer.setValue("demo")
    pair.assert_withdrawn(CALIBRATED)
    pair.desk.dock.restorer.setValue(pair.restorer)
    assert isinstance(pair.desk.run(), Done)
    pair.assert_stands()
