"""Running: what is drawn, where it lies, what is said of it, and what stays of it when something changes or fails."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import torch
from desk import PATIENCE_MS, Desk, open_bars
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from qtpy.QtCore import QPointF
from qtpy.QtGui import QEnterEvent
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_maskcal import run
from napari_maskcal._widgets.layers import METADATA_KEY
from napari_maskcal.bundle import write_bundle
from napari_maskcal.models import load_restorer
from napari_maskcal.restore.engine import Pair
from napari_maskcal.restore.events import Cancelled, Done, Failed, PlaneReviewed
from napari_maskcal.review.certificate_words import percent
from napari_maskcal.review.request import describe_bundle
from small_models import calibrated_bundle, noisy_planes, random_restorer

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_maskcal.calibrate.certificate import Certificate
    from napari_maskcal.models import MaskModel

PLANE = (64, 72)


def noted(layer: Any) -> dict[str, Any]:
    return layer.metadata[METADATA_KEY]


# ---- what is drawn, and where


PLACED = {
    "plain": {},
    "scaled": {"scale": (2, 0.5, 0.25)},
    "translated": {"translate": (5, -7, 100)},
    "with units": {"units": ("micrometer",) * 3, "scale": (0.3, 0.1, 0.1), "axis_labels": ("z", "y", "x")},
    "rotated": {"rotate": 30, "scale": (2, 0.5, 0.5)},
    "sheared": {"shear": (0.1, 0, 0.2)},
    "affine": {"affine": np.array([[1, 0, 0, 3], [0, 0.9, 0.2, 4], [0, -0.2, 0.9, 5], [0, 0, 0, 1]])},
}


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing:UserWarning")  # napari draws a sheared stack nearly right
def test_a_run_draws_three_layers_where_the_input_lies(desk):
    for how, placed in PLACED.items():
        desk.viewer.layers.clear()
        layer = desk.open(noisy_planes(2, *PLANE), **placed)
        assert desk.names == ["cells"], how
        units = desk.viewer.layers.extent.units
        assert isinstance(desk.run(), Done), how
        assert desk.names == ["cells", "restored", "uncertainty", "uncertain"], how
        assert [isinstance(new, LabelsLayer) for new in desk.dock.results.layers] == [False, False, True], how
        assert [new.visible for new in desk.dock.results.layers] == [True, False, True], how
        for new in desk.dock.results.layers:
            assert_same_place(new, layer, how)
        assert desk.viewer.layers.extent.units == units, how
        assert desk.uncertain.data.dtype == np.uint8, how
        assert desk.viewer.layers.selection.active is layer, how
        desk.assert_nothing_goes_on()


def assert_same_place(new: Any, layer: Any, how: str) -> None:
    assert new.data.shape == layer.data.shape, how
    for name in ("scale", "translate", "rotate", "shear"):
        np.testing.assert_allclose(getattr(new, name), getattr(layer, name), err_msg=f"{how}: {name}")
    np.testing.assert_array_equal(new.affine.affine_matrix, layer.affine.affine_matrix, err_msg=how)
    assert (new.units, new.axis_labels) == (layer.units, layer.axis_labels), how
    for corner in np.ndindex(2, 2, 2):
        pixel = np.array(corner) * (np.array(layer.data.shape) - 1)
        np.testing.assert_allclose(new.data_to_world(pixel), layer.data_to_world(pixel), err_msg=how)


def test_each_plane_is_restored_and_a_chosen_channel_lies_at_its_own_place(desk, trained):
    cases = [
        (PLANE, "YX", None, PLANE, ()),
        ((3, *PLANE), "ZYX", None, (3, *PLANE), (0,)),
        ((2, 2, *PLANE), "TZYX", None, (2, 2, *PLANE), (0, 0)),
        ((2, 3, 2, *PLANE), "TCZYX", 1, (2, 1, 2, *PLANE), (0, 1, 0)),
        ((2, 3, *PLANE), "TCYX", 2, (2, 1, *PLANE), (0, 2)),
    ]
    for shape, axes, channel, out, first in cases:
        desk.viewer.layers.clear()
        data = noisy_planes(*shape)
        layer = desk.open(data, scale=np.linspace(3, 0.5, len(shape)), translate=np.arange(len(shape)))
        desk.dock.axes.value = axes
        if channel is not None:
            desk.dock.channel.setValue(channel)
        desk.run()
        assert desk.restored.data.shape == out, axes
        whole = run(data, trained.restorer, trained.mask_model, axes=axes, channel=channel, device="cpu")
        np.testing.assert_array_equal(desk.restored.data, whole.restored, err_msg=axes)
        np.testing.assert_array_equal(desk.uncertain.data, whole.uncertain, err_msg=axes)
        assert not np.array_equal(desk.restored.data[..., 0, :], desk.restored.data[..., 1, :]), axes
        for new in desk.dock.results.layers:
            for y, x in ((0, 0), (63, 71)):
                place = new.data_to_world((*[0] * len(first), y, x))
                np.testing.assert_allclose(place, layer.data_to_world((*first, y, x)), err_msg=axes)


def test_the_current_plane_alone_is_restored_and_drawn_where_it_is_in_view(desk, trained):
    data = noisy_planes(3, 4, *PLANE)
    layer = desk.open(data, scale=(10, 2, 0.5, 0.5), translate=(0, -3, 0, 0))
    desk.viewer.dims.set_current_step((0, 1), (1, 3))
    desk.dock.region.value = "current plane"
    desk.run()
    assert desk.restored.data.shape == (1, 1, *PLANE)
    np.testing.assert_array_equal(desk.restored.data[0, 0], trained.restorer(data[1, 3]))
    np.testing.assert_allclose(desk.restored.data_to_world((0, 0, 5, 6)), layer.data_to_world((1, 3, 5, 6)))
    assert "Marked uncertain" in desk.dock.share.text()
    desk.viewer.dims.set_current_step(1, 2)
    assert desk.dock.share.text() == "This plane is not computed."


def test_the_current_plane_of_a_chosen_channel_is_restored(desk, trained):
    data = noisy_planes(2, 3, *PLANE)
    desk.open(data)
    desk.dock.axes.value, desk.dock.region.value = "TCYX", "current plane"
    desk.dock.channel.setValue(2)
    desk.viewer.dims.set_current_step((0, 1), (1, 0))  # another channel is in view
    desk.run()
    np.testing.assert_array_equal(desk.restored.data[0, 0], trained.restorer(data[1, 2]))


def test_the_plane_in_view_is_done_first(desk, slow_passes):
    desk.open(noisy_planes(5, *PLANE))
    desk.viewer.dims.set_current_step(0, 3)
    desk.start()
    desk.wait(lambda: desk.dock.results is not None and (desk.uncertain.data != 2).any())
    computed = {int(z) for z in np.unique(np.nonzero(desk.uncertain.data != 2)[0])}
    assert 3 in computed
    assert 4 not in computed
    desk.cancel()


def test_the_restored_plane_appears_on_screen_while_the_run_goes_on(desk, slow_passes):
    desk.open(noisy_planes(6, *PLANE))
    desk.start()
    desk.wait(lambda: "Marked uncertain" in desk.dock.share.text())
    assert desk.dock.runner.running
    assert not desk.dock.progress.isHidden()
    assert desk.dock.progress.text.startswith("tile ")
    assert len(open_bars()) == 1
    assert not noted(desk.uncertain)["complete"]
    desk.cancel()


# ---- the promise


def test_each_result_carries_its_certificate(desk, trained):
    layer = desk.open(noisy_planes(2, *PLANE))
    desk.run()
    certificate = trained.mask_model.certificate
    assert METADATA_KEY not in layer.metadata
    for new in desk.dock.results.layers:
        note = noted(new)
        assert note["threshold"] == certificate.threshold
        assert (note["distance"], note["guarantee"], note["mask"]) == ("l1", "marginal", "binary")
        assert (note["tolerance"], note["confidence"]) == (0.02, 0.9)
        assert (note["n_fields"], note["field_shape"]) == (12, [64, 64])
        assert (note["input"], note["promise"]) == ("cells", certificate.sentence)
        assert note["masked_share"] == pytest.approx(float((desk.uncertain.data == 1).mean()))
        assert (note["complete"], note["outdated"], note["exploration"]) == (True, False, False)
        assert (note["planes_done"], note["planes"]) == (2, 2)


def test_the_mask_marks_what_is_above_the_certified_threshold_and_nothing_else(desk, trained):
    desk.open(noisy_planes(2, *PLANE))
    desk.run()
    above = desk.uncertainty.data.astype(np.float64) > trained.mask_model.certificate.threshold
    assert 0 < above.mean() < 1
    np.testing.assert_array_equal(desk.uncertain.data == 1, above)


def test_the_promise_is_a_sentence_in_the_dock_before_and_after_the_run(desk, trained):
    assert desk.dock.promise.text() == ""
    desk.open(noisy_planes(*PLANE))
    sentence = trained.mask_model.certificate.sentence
    assert "at least 90 %" in sentence
    assert "at most 2 %" in sentence
    assert desk.dock.promise.text() == sentence
    assert desk.dock.limits.text() == trained.mask_model.certificate.limits
    desk.run()
    assert desk.dock.promise.text() == sentence


def test_another_tolerance_is_exploration_and_said_to_be(desk):
    desk.open(noisy_planes(*PLANE))
    assert "Exploration" not in desk.dock.promise.text()
    desk.dock.tolerance.value = 0.05
    assert desk.dock.promise.text().startswith("Exploration, not a promise to quote: ")
    assert "at most 5 %" in desk.dock.promise.text()
    desk.run()
    assert desk.dock.promise.text().startswith("Exploration, not a promise to quote: ")
    assert noted(desk.uncertain)["exploration"]
    desk.dock.tolerance.value = 0.02
    desk.run()
    assert "Exploration" not in desk.dock.promise.text()
    assert not noted(desk.uncertain)["exploration"]


def test_the_share_is_that_of_the_plane_in_view_and_follows_the_slider(desk):
    data = noisy_planes(3, *PLANE)
    data[1] = noisy_planes(*PLANE, seed=7) // 4
    desk.open(data)
    assert desk.dock.share.text() == ""
    desk.run()
    said = []
    for z in range(3):
        desk.viewer.dims.set_current_step(0, z)
        share = float((desk.uncertain.data[z] == 1).mean())
        assert desk.dock.share.text() == f"Marked uncertain: {percent(share)} of this plane."
        said.append(desk.dock.share.text())
    assert len(set(said)) > 1
    marked = desk.uncertain.data.copy()
    marked[2] = 1
    marked[2, 0, 0] = 0
    desk.uncertain.data = marked
    desk.dock._show_share()
    assert desk.dock.share.text() == "Marked uncertain: 99.98 % of this plane."  # not 100
    desk.viewer.layers.remove(desk.uncertain)
    desk.viewer.dims.set_current_step(0, 0)
    assert desk.dock.share.text() == ""


# ---- outdated


def other_pair(desk: Desk, folder: Any) -> None:
    path = random_restorer(folder, seed=3)
    bundle, _ = calibrated_bundle(folder, load_restorer(path), seed=3)
    desk.dock.restorer.setValue(str(path))
    desk.dock.mask_model.setValue(str(bundle))


def copied_mask_model(desk: Desk, folder: Any) -> None:
    desk.dock.mask_model.setValue(shutil.copy(desk.dock.mask_model.value(), folder / "copy.maskcal"))


CHANGES: dict[str, tuple[Callable[[Desk, Any], Any], str]] = {
    "tolerance": (lambda desk, _: setattr(desk.dock.tolerance, "value", 0.05), "• Tolerance: 0.02. Now: 0.05."),
    "confidence": (lambda desk, _: setattr(desk.dock.confidence, "value", 0.8), "• Confidence: 0.9. Now: 0.8."),
    "region": (
        lambda desk, _: setattr(desk.dock.region, "value", "current plane"), "• Region: all planes. Now: current plane."
    ),
    "axes": (lambda desk, _: setattr(desk.dock.axes, "value", "TYX"), "• Axes: ZYX. Now: TYX."),
    "channel": (lambda desk, _: setattr(desk.dock.axes, "value", "CYX"), "• Axes: ZYX. Now: CYX."),
    "restorer": (
        lambda desk, folder: desk.dock.restorer.setValue(str(folder / "none.safetensors")),
        "No promise: the restorer cannot be used",
    ),
    "mask model": (copied_mask_model, "• Mask model: mask-0.maskcal. Now: copy.maskcal."),
    "both models": (other_pair, "• Restorer: restorer-0.safetensors. Now: restorer-3.safetensors."),
    "another image": (
        lambda desk, _: desk.open(noisy_planes(2, *PLANE, seed=4), name="other"), "• Image: cells. Now: other."
    ),
    "the image's pixels": (
        lambda desk, _: setattr(desk.viewer.layers["cells"], "data", noisy_planes(2, *PLANE, seed=9)),
        "• Image: its pixels were replaced.",
    ),
}  # fmt: skip


def assert_marked(desk: Desk, change: str, said: str) -> None:
    """`said` is what the banner says of the change; empty if there should be none."""
    names = [f"{name} (outdated)" if said else name for name in ("restored", "uncertainty", "uncertain")]
    assert [layer.name for layer in desk.dock.results.layers] == names, change
    assert [noted(layer)["outdated"] for layer in desk.dock.results.layers] == [bool(said)] * 3, change
    assert desk.dock.banner.isHidden() is not bool(said), change
    assert said in desk.dock.banner.text(), change
    assert bool(desk.dock.promise.text()) is not bool(said), change  # the sentence or the banner, never both


def test_a_change_marks_the_results_as_outdated_and_taken_back_it_takes_the_mark_off(desk, tmp_path):
    layer = desk.open(noisy_planes(2, *PLANE))
    desk.run()
    before = desk.dock.value()
    for name, (change, said) in CHANGES.items():
        assert_marked(desk, name, "")
        change(desk, tmp_path)
        assert_marked(desk, name, said)
        desk.viewer.layers.selection.active = layer
        desk.dock.axes.value, desk.dock.region.value = before.axes, before.region
        desk.dock.restorer.setValue(before.restorer)
        desk.dock.mask_model.setValue(before.mask_model)
        desk.dock.tolerance.value, desk.dock.confidence.value = before.tolerance, before.confidence
    assert name == "the image's pixels"  # the only change that can't be taken back
    assert_marked(desk, name, said)


def replace_bundle(path: Path, mask_model: MaskModel, tolerance: float) -> Certificate:
    """Write the same mask network with another pin over a bundle, as the Calibration dock does."""
    moved = mask_model.certificate.at(tolerance=tolerance).model_copy(update={"exploration": False})
    own = mask_model.certificate.curves.at(tolerance).tolist()
    records = [r.model_copy(update={"threshold": t}) for r, t in zip(moved.fields, own, strict=True)]
    pinned = moved.model_copy(update={"fields": tuple(records)})
    write_bundle(path, mask_model.network, mask_model.card, pinned)
    return pinned


def test_a_bundle_that_is_replaced_on_disk_makes_the_results_outdated_and_its_new_pin_is_taken(desk, trained, tmp_path):
    path = Path(shutil.copy(trained.mask_path, tmp_path / "mine.maskcal"))
    desk.dock.mask_model.setValue(path)
    desk.open(noisy_planes(*PLANE))
    desk.run()
    before = desk.dock.tolerance.value
    desk.dock.look_again()  # nothing has happened
    assert not desk.dock.results.outdated
    replace_bundle(path, trained.mask_model, 0.03)
    QApplication.sendEvent(desk.dock, QEnterEvent(*[QPointF(5, 5)] * 3))  # the mouse comes back from the other dock
    assert desk.names == ["cells", "restored (outdated)", "uncertainty (outdated)", "uncertain (outdated)"]
    assert desk.dock.promise.text() == ""
    assert desk.dock.banner.text().splitlines() == [
        "Outdated: what is drawn was made for something else. Press Run.",
        "• Mask model: mine.maskcal was replaced, its network is the same, its certificate another.",
        "• Tolerance: 0.02. Now: 0.03.",
    ]
    assert (before, desk.dock.tolerance.value) == (0.02, 0.03)
    desk.run()
    assert not desk.dock.results.outdated
    assert desk.dock.promise.text() == describe_bundle(str(path)).certificate.sentence  # no exploration
    replace_bundle(path, trained.mask_model, 0.025)
    desk.run()  # without looking first
    assert not desk.dock.results.outdated
    assert "Exploration" not in desk.dock.promise.text()
    assert desk.dock.tolerance.value == 0.025


def test_a_tolerance_that_was_moved_stays_when_the_bundle_is_replaced_until_it_is_chosen_again(
    desk, trained, tmp_path, monkeypatch
):
    path = Path(shutil.copy(trained.mask_path, tmp_path / "mine.maskcal"))
    desk.dock.mask_model.setValue(path)
    desk.dock.tolerance.value = 0.05
    replace_bundle(path, trained.mask_model, 0.03)
    desk.dock.look_again()
    assert desk.dock.tolerance.value == 0.05
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    desk.dock.mask_model.activated.emit(desk.dock.mask_model.findText("choose a file…"))
    assert desk.dock.tolerance.value == 0.03


def test_going_back_to_the_image_takes_the_mark_off(desk):
    layer = desk.open(noisy_planes(2, *PLANE))
    desk.run()
    desk.open(noisy_planes(2, *PLANE), name="other")
    assert desk.dock.results.outdated
    desk.viewer.layers.selection.active = layer
    assert not desk.dock.results.outdated
    assert desk.names == ["cells", "restored", "uncertainty", "uncertain", "other"]


def test_looking_at_a_result_or_renaming_the_image_does_not_outdate_anything(desk):
    layer = desk.open(noisy_planes(2, *PLANE))
    desk.run()
    desk.viewer.layers.selection.active = desk.uncertain
    layer.name, layer.contrast_limits, layer.visible = "renamed", (0, 50), False
    desk.viewer.dims.set_current_step(0, 0)
    assert not desk.dock.results.outdated


def test_a_name_given_by_the_user_is_kept_and_marked(desk):
    desk.open(noisy_planes(2, *PLANE))
    desk.run()
    desk.uncertain.name = "for the paper"
    desk.dock.tolerance.value = 0.05
    assert desk.uncertain.name == "for the paper (outdated)"
    assert noted(desk.uncertain)["outdated"]
    assert desk.restored.name == "restored (outdated)"


def test_a_change_during_the_run_marks_its_results_as_outdated(desk, gate):
    desk.open(noisy_planes(2, *PLANE))
    desk.start()
    desk.wait(lambda: desk.dock.results is not None)
    assert desk.dock.banner.isHidden()
    desk.dock.tolerance.value = 0.05
    assert desk.dock.runner.running
    assert "• Tolerance: 0.02. Now: 0.05." in desk.dock.banner.text()
    assert desk.names == ["cells", "restored (outdated)", "uncertainty (outdated)", "uncertain (outdated)"]
    gate.set()
    desk.wait(lambda: not desk.dock.runner.running)
    assert desk.names == ["cells", "restored (outdated)", "uncertainty (outdated)", "uncertain (outdated)"]
    assert noted(desk.uncertain)["tolerance"] == 0.02


def test_a_second_run_keeps_the_old_results_hidden_and_marked(desk):
    desk.open(noisy_planes(2, *PLANE))
    desk.run()
    old = desk.dock.results.layers
    desk.dock.region.value = "current plane"
    desk.run()
    assert desk.names[1:4] == ["restored (outdated)", "uncertainty (outdated)", "uncertain (outdated)"]
    assert desk.names[4:] == ["restored", "uncertainty", "uncertain"]
    assert not any(layer.visible for layer in old)
    assert all(noted(layer)["outdated"] for layer in old)
    assert not any(noted(layer)["outdated"] for layer in desk.dock.results.layers)
    assert [layer.visible for layer in desk.dock.results.layers] == [True, False, True]
    desk.dock.region.value = "all planes"  # what the old ones were made for: they stay old
    assert all(noted(layer)["outdated"] for layer in old)


def test_pixels_replaced_before_the_first_result_make_it_outdated_for_good(desk, passes):
    layer = desk.open(noisy_planes(2, *PLANE))
    desk.start()
    layer.data = noisy_planes(2, *PLANE, seed=9)  # while the networks are loaded
    desk.wait(lambda: not desk.dock.runner.running)
    assert desk.names == ["cells", "restored (outdated)", "uncertainty (outdated)", "uncertain (outdated)"]
    desk.dock.tolerance.value = 0.025
    count = len(passes)
    desk.run()
    assert len(passes) == count + 2
    assert desk.names[-3:] == ["restored", "uncertainty", "uncertain"]


def test_results_follow_an_image_whose_pixel_size_is_mended(desk):
    layer = desk.open(noisy_planes(2, *PLANE), scale=(1, 1, 1))
    desk.run()
    layer.scale, layer.translate = (2, 0.5, 0.25), (1, 2, 3)
    for result in desk.dock.results.layers:
        np.testing.assert_array_equal(result.scale, layer.scale)
        np.testing.assert_array_equal(result.translate, layer.translate)


def test_a_deleted_result_layer_is_made_again_by_the_next_run(desk, passes):
    desk.open(noisy_planes(2, *PLANE))
    desk.run()
    desk.viewer.layers.selection = {desk.restored}
    desk.viewer.layers.remove_selected()
    desk.dock.tolerance.value = 0.025
    desk.run()
    assert len(passes) == 4
    assert desk.names[-3:] == ["restored", "uncertainty", "uncertain"]


# ---- only the threshold moves


def test_another_tolerance_needs_no_network_and_gives_what_a_fresh_run_gives(desk, passes, trained):
    data = noisy_planes(3, *PLANE)
    desk.open(data)
    desk.run()
    layers, before = desk.dock.results.layers, desk.uncertain.data.copy()
    assert len(passes) == 3
    desk.dock.tolerance.value = 0.025
    desk.dock.confidence.value = 0.8
    assert desk.dock.results.outdated
    desk.run()
    assert len(passes) == 3
    assert desk.dock.results.layers == layers
    assert desk.names == ["cells", "restored", "uncertainty", "uncertain"]
    assert not np.array_equal(desk.uncertain.data, before)
    moved = trained.mask_model.certificate.at(tolerance=0.025, confidence=0.8)
    fresh = run(data, trained.restorer, trained.mask_model, moved, axes="ZYX", device="cpu")
    np.testing.assert_array_equal(desk.uncertain.data, fresh.uncertain)
    assert noted(desk.uncertain)["threshold"] == moved.threshold
    assert noted(desk.uncertain)["masked_share"] == pytest.approx(fresh.masked_share)
    share = float(fresh.uncertain[1].mean())
    desk.viewer.dims.set_current_step(0, 1)
    assert desk.dock.share.text() == f"Marked uncertain: {percent(share)} of this plane."
    assert not desk.uncertain.editable
    desk.assert_nothing_goes_on()


def test_another_plane_or_image_needs_the_networks(desk, passes):
    desk.open(noisy_planes(3, *PLANE))
    desk.run()
    assert len(passes) == 3
    desk.run()  # the same again: asked for, so done
    assert len(passes) == 6
    desk.dock.region.value = "current plane"
    desk.run()
    assert len(passes) == 7


def test_the_plane_now_in_view_is_restored_although_only_the_tolerance_changed(desk, trained):
    data = noisy_planes(3, *PLANE)
    desk.open(data)
    desk.dock.region.value = "current plane"
    desk.viewer.dims.set_current_step(0, 0)
    desk.run()
    desk.viewer.dims.set_current_step(0, 2)
    desk.dock.tolerance.value = 0.025
    desk.run()
    np.testing.assert_allclose(desk.restored.data[0], trained.restorer(data[2]), rtol=1e-3)
    assert "Marked uncertain" in desk.dock.share.text()


def test_a_mask_model_that_was_replaced_on_disk_does_not_redraw_the_old_uncertainty(desk, trained, tmp_path, passes):
    path, _ = calibrated_bundle(tmp_path, trained.restorer, seed=0)
    desk.open(noisy_planes(*PLANE))
    desk.dock.mask_model.setValue(str(path))
    desk.run()
    (tmp_path / "new").mkdir()
    new, mask = calibrated_bundle(tmp_path / "new", trained.restorer, seed=1)
    new.replace(path)
    desk.dock.tolerance.value = 0.025
    desk.run()
    fresh = trained.restorer(noisy_planes(*PLANE))
    np.testing.assert_allclose(desk.uncertainty.data, mask.uncertainty(noisy_planes(*PLANE), fresh), rtol=1e-5)
    assert len(passes) > 1


# ---- cancelling


def test_a_cancelled_run_stops_within_a_tile_and_its_planes_are_marked_as_partial(desk, slow_passes):
    desk.open(noisy_planes(12, *PLANE))
    desk.viewer.dims.set_current_step(0, 0)
    desk.start()
    desk.wait(lambda: len(slow_passes) > 2)
    at = time.monotonic()
    end = desk.cancel()
    assert isinstance(end, Cancelled)
    assert sum(began > at for began in slow_passes) <= 1
    done = noted(desk.uncertain)["planes_done"]
    assert 0 < done <= len(slow_passes) < 12
    assert (desk.uncertain.data[:done] != 2).all()
    assert (desk.uncertain.data[done:] == 2).all()
    assert (desk.uncertainty.data[done:] == 0).all()
    for layer, name in zip(desk.dock.results.layers, ("restored", "uncertainty", "uncertain"), strict=True):
        assert layer.name == f"{name} (partial: {done} of 12 planes)"
        assert (noted(layer)["complete"], noted(layer)["planes"]) == (False, 12)
        assert noted(layer)["masked_share"] == pytest.approx(float((desk.uncertain.data[:done] == 1).mean()))
    assert desk.dock.message.text() == f"stopped: {done} of 12 planes are done, the others are grey"
    desk.viewer.dims.set_current_step(0, 11)
    assert desk.dock.share.text() == "This plane is not computed."
    desk.assert_nothing_goes_on()


def test_within_one_plane_cancel_stops_after_the_tile_under_way(desk, slow_passes, set_effort):
    set_effort(max_tile_px=192)
    desk.open(noisy_planes(64, 960))
    desk.start()
    desk.wait(lambda: len(slow_passes) == 2)
    at = time.monotonic()
    end = desk.cancel()
    assert sum(began > at for began in slow_passes) <= 1
    assert len(slow_passes) <= 4 < end.result.restored.shape[1] // 192
    desk.assert_nothing_goes_on()


def test_cancelled_before_the_first_plane_nothing_is_drawn(desk, slow_passes, set_effort):
    set_effort(max_tile_px=192)
    desk.open(noisy_planes(2, 64, 960))
    desk.start()
    desk.wait(lambda: len(slow_passes) == 1)
    desk.cancel()
    assert desk.names == ["cells"]
    assert desk.dock.results is None
    assert desk.dock.message.text() == "stopped before the first plane was done: nothing was drawn"
    assert desk.dock.share.text() == ""
    desk.assert_nothing_goes_on()


def test_cancelled_before_the_first_plane_old_results_stay_as_they_were(desk, slow_passes):
    desk.open(noisy_planes(2, *PLANE))
    desk.run()
    old = desk.dock.results.layers
    desk.start()
    desk.cancel()
    assert desk.names == ["cells", "restored", "uncertainty", "uncertain"]
    assert [layer.visible for layer in old] == [True, False, True]
    assert desk.dock.results.layers == old


def test_cancelled_while_the_last_tile_is_computed_the_result_is_whole_and_no_message_is_left(desk, slow_passes):
    desk.open(noisy_planes(*PLANE))
    desk.start()
    desk.wait(lambda: len(slow_passes) == 1)
    assert isinstance(desk.cancel(), Done)
    assert desk.names == ["cells", "restored", "uncertainty", "uncertain"]
    assert desk.dock.message.text() == ""


def test_after_a_cancelled_run_a_whole_one_can_be_done(desk, gate):
    desk.open(noisy_planes(3, *PLANE))
    desk.viewer.dims.set_current_step(0, 0)
    desk.start()
    desk.wait(lambda: desk.dock.results is not None)
    desk.dock.cancel_button.click()
    gate.set()
    desk.wait(lambda: not desk.dock.runner.running)
    assert "uncertain (partial: 2 of 3 planes)" in desk.names  # the plane under way when Cancel was pressed is kept
    desk.dock.tolerance.value = 0.025
    assert isinstance(desk.run(), Done)
    assert (desk.uncertain.data != 2).all()
    assert desk.names[-3:] == ["restored", "uncertainty", "uncertain"]
    assert desk.dock.message.text() == ""


# ---- faults in the pixels


def spoilt(kind: str, plane: int) -> np.ndarray:
    data = noisy_planes(4, *PLANE).astype(np.float32)
    if kind == "constant":
        data[plane] = 7
    else:
        data[plane, 5, 6] = data[plane, 5, 9] = {"NaN": np.nan, "inf": np.inf}[kind]
    return data


@pytest.mark.parametrize("kind", ["NaN", "inf"])
def test_values_that_are_not_finite_are_counted_and_located_before_anything_is_drawn(desk, kind):
    desk.open(noisy_planes(4, *PLANE), name="good")
    desk.run()
    good = desk.names
    desk.open(spoilt(kind, 2), contrast_limits=(0, 200))
    assert desk.faults == {}
    assert isinstance(desk.run(), Failed)
    message = desk.dock.message.text()
    assert "cells, plane Z=2 has 2 NaN or infinite values, the first at (y, x) = (5, 6)" in message
    assert [name.removesuffix(" (outdated)") for name in desk.names] == [*good, "cells"]
    assert desk.uncertain.visible
    assert (desk.uncertain.data != 2).all()
    desk.assert_nothing_goes_on()
    desk.viewer.layers.selection.active = desk.viewer.layers["good"]
    assert not desk.dock.results.outdated


@pytest.mark.parametrize(
    ("kind", "said"), [("NaN", "has 2 NaN or infinite values"), ("constant", "is constant"), ("inf", "has 2 NaN or")]
)
def test_a_fault_found_on_the_way_keeps_the_planes_that_are_done_and_says_which_is_wrong(desk, kind, said):
    lazy = da.from_array(spoilt(kind, 2), chunks=(1, *PLANE))
    desk.open(lazy, contrast_limits=(0, 200))
    desk.viewer.dims.set_current_step(0, 0)
    assert isinstance(desk.run(), Failed)
    assert said in desk.dock.message.text()
    assert "cells, plane Z=2" in desk.dock.message.text()
    assert desk.uncertain.name == "uncertain (partial: 2 of 4 planes)"
    assert (desk.uncertain.data[:2] != 2).all()
    assert (desk.uncertain.data[2:] == 2).all()
    desk.assert_nothing_goes_on()


def test_a_constant_plane_that_comes_first_leaves_no_empty_layers(desk):
    desk.open(spoilt("constant", 1))
    desk.viewer.dims.set_current_step(0, 1)
    assert isinstance(desk.run(), Failed)
    assert "cells, plane Z=1 is constant" in desk.dock.message.text()
    assert desk.names == ["cells"]
    desk.assert_nothing_goes_on()
    desk.viewer.layers["cells"].data = noisy_planes(4, *PLANE)
    assert isinstance(desk.run(), Done)
    assert desk.dock.message.text() == ""


def test_a_constant_plane_that_comes_first_leaves_old_results_visible(desk):
    layer = desk.open(noisy_planes(4, *PLANE), name="good")
    desk.run()
    good = desk.dock.results.layers
    desk.open(spoilt("constant", 1))
    desk.viewer.dims.set_current_step(0, 1)
    assert isinstance(desk.run(), Failed)
    assert [old.visible for old in good] == [True, False, True]
    desk.viewer.layers.selection.active = layer
    assert not noted(good[2])["outdated"]


# ---- faults of the machine


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, *, when: Callable[[Any], bool]) -> list[int]:
    forward, widths = Pair.forward, []

    def forward_or_fail(self: Pair, degraded: Any, **units: Any) -> Any:
        widths.append(degraded.shape[-1])
        if when(degraded):
            raise error
        return forward(self, degraded, **units)

    monkeypatch.setattr(Pair, "forward", forward_or_fail)
    return widths


def test_out_of_memory_leaves_no_spinner_and_a_readable_message(desk, monkeypatch, qtbot):
    failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), when=lambda _: True)
    desk.open(noisy_planes(2, *PLANE))
    with qtbot.captureExceptions() as raised:
        end = desk.run()
    assert not raised
    assert isinstance(end, Failed)
    assert "cpu has too little memory even for one tile of 64 × 72 pixels" in desk.dock.message.text()
    assert "close other programs or choose another device" in desk.dock.message.text()
    assert desk.names == ["cells"]
    desk.assert_nothing_goes_on()
    monkeypatch.undo()
    assert isinstance(desk.run(), Done)
    assert desk.dock.message.text() == ""


def test_out_of_memory_with_large_tiles_goes_on_with_smaller_ones(desk, monkeypatch, trained):
    data = noisy_planes(64, 500)
    said: list[str] = []
    widths = failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), when=lambda x: x.shape[-1] > 300)
    desk.open(data)
    set_text = desk.dock.message.setText
    monkeypatch.setattr(desk.dock.message, "setText", lambda text: (said.append(text), set_text(text)))
    assert isinstance(desk.run(), Done)
    assert widths[0] == 500
    assert max(widths[1:]) <= 300
    assert any("cpu ran out of memory; going on with 1 tile(s) of at most 250 pixels" in text for text in said)
    np.testing.assert_allclose(desk.restored.data, trained.restorer(data), rtol=1e-4)
    desk.assert_nothing_goes_on()


def test_a_warning_is_still_there_when_the_run_has_ended(desk, monkeypatch):
    failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), when=lambda x: x.shape[-1] > 300)
    desk.open(noisy_planes(64, 500))
    desk.run()
    assert "ran out of memory" in desk.dock.message.text()


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch:\n  4 and 5"), ZeroDivisionError(), KeyError("up.0")])
def test_an_error_in_the_network_is_told_and_the_next_run_works(desk, monkeypatch, error, qtbot):
    failing(monkeypatch, error, when=lambda _: True)
    desk.open(noisy_planes(2, *PLANE))
    with qtbot.captureExceptions() as raised:
        end = desk.run()
    assert not raised
    assert isinstance(end, Failed)
    assert desk.dock.message.text() == (" ".join(str(error).split()) or "ZeroDivisionError")
    desk.assert_nothing_goes_on()
    monkeypatch.undo()
    assert isinstance(desk.run(), Done)
    assert desk.names == ["cells", "restored", "uncertainty", "uncertain"]


def test_a_model_file_that_vanishes_before_the_run_is_told(desk, trained, tmp_path):
    copy = tmp_path / "restorer.safetensors"
    shutil.copy(trained.restorer_path, copy)
    desk.open(noisy_planes(*PLANE))
    desk.dock.restorer.setValue(str(copy))
    assert desk.faults == {}
    copy.unlink()
    desk.dock.run_button.click()
    desk.wait(lambda: not desk.dock.runner.running)
    assert "does not exist" in desk.faults.get("restorer", "") + desk.dock.message.text()
    assert desk.names == ["cells"]


# ---- layers and windows that go away


def test_the_image_may_be_removed_while_the_networks_run(desk, slow_passes, qtbot):
    layer = desk.open(noisy_planes(3, *PLANE))
    with qtbot.captureExceptions() as raised:
        desk.start()
        desk.wait(lambda: desk.dock.results is not None)
        desk.viewer.layers.remove(layer)
        desk.wait(lambda: not desk.dock.runner.running)
    assert not raised
    assert desk.names == ["restored (outdated)", "uncertainty (outdated)", "uncertain (outdated)"]
    assert (desk.uncertain.data != 2).all()
    assert not open_bars()


def test_the_image_may_be_removed_while_the_networks_are_loaded(desk, qtbot):
    layer = desk.open(noisy_planes(3, *PLANE))
    with qtbot.captureExceptions() as raised:
        desk.start()
        desk.viewer.layers.remove(layer)
        desk.wait(lambda: not desk.dock.runner.running)
    assert not raised
    assert desk.names == ["restored (outdated)", "uncertainty (outdated)", "uncertain (outdated)"]
    assert not open_bars()


def test_results_lie_on_the_image_that_was_run_although_another_is_selected_meanwhile(desk):
    layer = desk.open(noisy_planes(2, *PLANE), scale=(2, 0.5, 0.5))
    other = desk.open(noisy_planes(2, *PLANE, seed=3), name="other", scale=(9, 9, 9))
    desk.viewer.layers.selection.active = layer
    desk.start()
    desk.viewer.layers.selection.active = other  # before the networks are loaded
    desk.wait(lambda: not desk.dock.runner.running)
    assert noted(desk.restored)["input"] == "cells"
    np.testing.assert_array_equal(desk.restored.scale, layer.scale)


def test_result_layers_may_be_removed_during_the_run(desk, slow_passes, qtbot):
    desk.open(noisy_planes(3, *PLANE))
    with qtbot.captureExceptions() as raised:
        desk.start()
        desk.wait(lambda: desk.dock.results is not None)
        for layer in desk.dock.results.layers:
            desk.viewer.layers.remove(layer)
        desk.wait(lambda: not desk.dock.runner.running)
    assert not raised
    assert desk.names == ["cells"]
    desk.assert_nothing_goes_on()
    assert isinstance(desk.run(), Done)
    assert desk.names == ["cells", "restored", "uncertainty", "uncertain"]


def test_when_the_results_are_removed_the_promise_is_that_of_the_next_run(desk):
    desk.open(noisy_planes(*PLANE))
    desk.run()
    for layer in desk.dock.results.layers:
        desk.viewer.layers.remove(layer)
    desk.dock.tolerance.value = 0.05
    assert desk.dock.banner.isHidden()
    assert "at most 5 %" in desk.dock.promise.text()


def test_the_mask_cannot_be_painted_on_after_the_view_was_turned(desk):
    desk.open(noisy_planes(2, *PLANE))
    desk.run()
    assert not desk.uncertain.editable
    desk.viewer.dims.ndisplay = 3
    desk.viewer.dims.ndisplay = 2
    assert not desk.uncertain.editable


def thread_is_idle() -> bool:
    from qtpy.QtCore import QThreadPool

    return QThreadPool.globalInstance().activeThreadCount() == 0


@pytest.mark.parametrize("how", ["close", "remove"])
def test_closing_the_dock_ends_the_run_and_leaves_no_progress_bar(desk, slow_passes, qtbot, how):
    desk.open(noisy_planes(30, *PLANE))
    desk.start()
    desk.wait(lambda: len(slow_passes) > 1)
    docked = desk.dock.parent()
    with qtbot.captureExceptions() as raised:
        if how == "close":
            docked.destroyOnClose()  # what the cross in the title bar is connected to
        else:
            desk.viewer.window.remove_dock_widget(desk.dock)
        desk.wait(thread_is_idle)
        qtbot.wait(50)
        assert len(slow_passes) < 15
        assert not open_bars()
        desk.viewer.layers.selection.active = desk.viewer.layers[0]  # the dock listens no more, or still can
        desk.viewer.add_image(noisy_planes(*PLANE))
        desk.viewer.dims.set_current_step(0, 1)
        desk.viewer.layers.clear()
    assert not raised


def test_closing_the_window_during_a_run_ends_the_run(make_napari_viewer, slow_passes, qtbot, trained):
    viewer = make_napari_viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Review")
    dock.restorer.setValue(str(trained.restorer_path))
    dock.mask_model.setValue(str(trained.mask_path))
    viewer.add_image(noisy_planes(30, *PLANE))
    dock.run()
    qtbot.waitUntil(lambda: len(slow_passes) > 1)
    with qtbot.captureExceptions() as raised:
        viewer.close()
        qtbot.waitUntil(thread_is_idle, timeout=PATIENCE_MS)
        qtbot.wait(50)
    assert not raised
    assert len(slow_passes) < 15
    assert not open_bars()
    del dock


def test_a_hidden_dock_goes_on_with_its_run(desk, slow_passes):
    desk.open(noisy_planes(3, *PLANE))
    desk.start()
    desk.wait(lambda: len(slow_passes) > 0)
    desk.dock.parent().hide()
    desk.wait(lambda: not desk.dock.runner.running)
    assert (desk.uncertain.data != 2).all()


# ---- super-resolution


def test_results_of_a_super_resolving_network_cover_the_image(viewer, trained):
    from napari_maskcal._widgets.results import Results
    from napari_maskcal.review.request import Choices

    layer = viewer.add_image(noisy_planes(2, *PLANE), scale=(2, 0.5, 0.5), translate=(1, 2, 3))
    small = run(layer.data, trained.restorer, trained.mask_model, axes="ZYX", device="cpu")
    fine = replace(
        small,
        scale_factor=2,
        restored=small.restored.repeat(2, 1).repeat(2, 2),
        uncertainty=small.uncertainty.repeat(2, 1).repeat(2, 2),
        uncertain=small.uncertain.repeat(2, 1).repeat(2, 2),
    )
    choices = Choices(
        source=None, axes="ZYX", channel=None, region="all planes",
        restorer="", mask_model="", tolerance=0.02, confidence=0.9,
    )  # fmt: skip
    results = Results(viewer, layer, PlaneReviewed(index=(0,), result=fine), choices)
    for new in results.layers:
        assert isinstance(new, ImageLayer | LabelsLayer)
        assert new.data.shape == (2, 128, 144)
        np.testing.assert_allclose(
            new.extent.augmented if hasattr(new.extent, "augmented") else new.extent.world[0][0], 1
        )
        for corner in np.ndindex(2, 2, 2):
            coarse = layer.data_to_world(np.where(corner, layer.data.shape, 0) - 0.5)
            np.testing.assert_allclose(new.data_to_world(np.where(corner, new.data.shape, 0) - 0.5), coarse)
