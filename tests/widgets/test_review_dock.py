"""Choosing: what is taken as input, and what is said beside a field that is wrong."""

from __future__ import annotations

import pickle
import shutil
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import torch
from desk import Desk
from qtpy.QtWidgets import QLabel, QScrollArea, QWidget
from superqt import QElidingLabel

from napari_maskcal.bundle import write_bundle
from napari_maskcal.calibrate.curves import Curves
from napari_maskcal.models import load_restorer
from napari_maskcal.restore.events import Done
from small_models import calibrated_bundle, noisy_planes, random_restorer

if TYPE_CHECKING:
    from pathlib import Path

    from small_models import Trained

PLANE = (64, 72)


# ---- the input


def test_without_an_image_the_dock_says_where_to_get_one_and_run_is_disabled(desk):
    assert set(desk.faults) == {"source"}
    assert "there is no image" in desk.faults["source"]
    assert not desk.dock.run_button.isEnabled()
    desk.open(noisy_planes(*PLANE))
    assert desk.faults == {}
    assert desk.dock.run_button.isEnabled()


def test_an_image_that_is_already_selected_is_the_input_when_the_dock_opens(viewer):
    viewer.add_image(noisy_planes(*PLANE), name="first")
    viewer.add_image(noisy_planes(*PLANE), name="second")
    _, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Review")
    assert dock.input_name.text() == "second"


def test_the_input_is_the_selected_layer(desk):
    first, second = desk.open(noisy_planes(*PLANE), name="first"), desk.open(noisy_planes(*PLANE), name="second")
    assert desk.dock.input_name.text() == "second"
    assert desk.dock.value().source.name == "second"
    desk.viewer.layers.selection.active = first
    assert desk.dock.input_name.text() == "first"
    assert desk.dock.value().source.name == "first"
    desk.viewer.layers.selection = {first, second}  # none of them is active
    assert desk.dock.value().source.name == "first"


def test_a_pinned_input_stays_when_another_layer_is_selected(desk):
    first, second = desk.open(noisy_planes(*PLANE), name="first"), desk.open(noisy_planes(*PLANE), name="second")
    desk.viewer.layers.selection.active = first
    desk.dock.pin.click()
    desk.viewer.layers.selection.active = second
    assert desk.dock.value().source.name == "first"
    desk.dock.pin.click()
    assert desk.dock.value().source.name == "second"


def test_a_pinned_input_that_is_removed_makes_room_for_the_selected_layer(desk):
    first, second = desk.open(noisy_planes(*PLANE), name="first"), desk.open(noisy_planes(*PLANE), name="second")
    desk.viewer.layers.selection.active = first
    desk.dock.pin.click()
    desk.viewer.layers.selection.active = second
    desk.viewer.layers.remove(first)
    assert desk.dock.value().source.name == "second"
    assert not desk.dock.pin.isChecked()
    desk.viewer.layers.remove(second)
    assert desk.dock.value().source is None
    assert desk.dock.input_name.text() == "none"


def test_results_do_not_become_the_input(desk):
    layer = desk.open(noisy_planes(*PLANE), name="first")
    desk.run()
    for result in desk.dock.results.layers:
        desk.viewer.layers.selection.active = result
        assert desk.dock.value().source.name == "first"
    copy = desk.open(desk.restored.data.copy(), name="restored")  # another tool's image of that name does
    assert desk.dock.value().source.name == copy.name
    desk.viewer.layers.remove(copy)
    desk.viewer.layers.remove(layer)
    desk.viewer.layers.selection.active = desk.restored
    assert desk.dock.value().source is None


def test_a_renamed_input_is_shown_by_its_new_name(desk):
    layer = desk.open(noisy_planes(*PLANE), name="first")
    layer.name = "nuclei"
    assert desk.dock.input_name.text() == "nuclei"


# ---- what is wrong, beside the field that is wrong


def wrong_layers(viewer: Any, kind: str) -> None:
    match kind:
        case "labels":
            viewer.add_labels(np.zeros(PLANE, np.uint8), name="cells")
        case "points":
            viewer.add_points(np.zeros((3, 2)), name="cells")
        case "shapes":
            viewer.add_shapes([np.array([[0, 0], [9, 9]])], shape_type="line", name="cells")
        case "rgb":
            viewer.add_image(np.zeros((*PLANE, 3), np.uint8), rgb=True, name="cells")
        case "small":
            viewer.add_image(noisy_planes(15, 72), name="cells")
        case "smaller than a field":
            viewer.add_image(noisy_planes(48, 72), name="cells")
        case "small multiscale":
            data = noisy_planes(3, 32, 32)
            viewer.add_image([data, data[:, ::2, ::2]], multiscale=True, name="cells")


# One window for all cases of a kind: making one takes longer than all that is tested in it.


def test_a_layer_that_cannot_be_restored_is_told_beside_the_image(desk):
    cases = {
        "labels": "cells is a Labels layer; select the Image layer",
        "points": "cells is a Points layer; select the Image layer",
        "shapes": "cells is a Shapes layer; select the Image layer",
        "rgb": "cells is an RGB image and the network takes one channel",
        "small": "cells has planes of 15 × 72 pixels; random restorer 0 needs at least 16",
        "smaller than a field": "48 × 72",
        "small multiscale": "32 × 32",
    }
    good = desk.open(noisy_planes(*PLANE), name="good")
    for kind, said in cases.items():
        assert desk.dock.run_button.isEnabled(), kind
        wrong_layers(desk.viewer, kind)
        assert set(desk.faults) == {"source"}, kind
        assert said in desk.faults["source"]
        assert not desk.dock.run_button.isEnabled(), kind
        assert said in desk.dock.run_button.toolTip()
        desk.dock.run()  # by a shortcut or a script, say
        assert desk.dock.results is None, kind
        desk.viewer.layers.remove("cells")
        desk.viewer.layers.selection.active = good
        assert desk.faults == {}, kind
        assert desk.dock.run_button.toolTip() == "", kind


def test_a_wrong_value_is_told_beside_its_field_and_nowhere_else(desk):
    cases = [
        ("tolerance", 0.0, "tolerance is 0; give a number above 0"),
        ("confidence", 0.0, "confidence is 0; give a number between 0 and 1"),
        ("confidence", 1.0, "confidence is 1; give a number between 0 and 1"),
        ("confidence", 0.99, "at least 99 specimens are needed for a confidence of 0.99, got 12"),
        ("axes", "ZY", "name 2 axes, but cells has 3"),
        ("axes", "ZXY", "have to end in YX"),
        ("axes", "QYX", "have Q; known are T, C, Z, Y and X"),
        ("axes", "", "name 0 axes"),
    ]
    desk.open(noisy_planes(2, *PLANE))
    for field, wrong, said in cases:
        widget = getattr(desk.dock, field)
        right = widget.value
        assert desk.faults == {}, said
        assert desk.dock.run_button.isEnabled(), said
        widget.value = wrong
        assert set(desk.faults) == {field}, said
        assert said in desk.faults[field]
        assert not desk.dock.run_button.isEnabled(), said
        widget.value = right
    assert desk.faults == {}


def test_a_device_that_is_none_is_told_before_and_one_that_is_not_here_after_run(desk):
    desk.open(noisy_planes(*PLANE))
    desk.dock.device.setValue("gpu7")
    assert set(desk.faults) == {"device"}
    assert "'gpu7' is no device; take auto, cpu, cuda:0" in desk.faults["device"]
    assert not desk.dock.run_button.isEnabled()
    desk.dock.device.setValue("cuda:77")
    assert desk.faults == {}
    failed = desk.run()
    assert "cuda:77" in str(failed.error)
    assert desk.dock.message.text() == str(failed.error)
    assert desk.names == ["cells"]
    desk.assert_nothing_goes_on()


def test_with_a_channel_axis_a_channel_has_to_be_chosen_and_without_one_it_is_not_asked_for(desk):
    layer = desk.open(noisy_planes(3, *PLANE))
    content = desk.dock.fields["channel"].content
    assert content.isHidden()
    desk.dock.axes.value = "CYX"
    assert not content.isHidden()
    assert set(desk.faults) == {"channel"}
    assert "the image has 3 channels; choose one" in desk.faults["channel"]
    assert desk.dock.channel.text() == "choose"
    desk.dock.channel.setValue(3)
    assert "channels 0 to 2; channel 3" in desk.faults["channel"]
    desk.dock.channel.setValue(2)
    assert desk.faults == {}
    desk.run()
    assert desk.restored.data.shape == (1, *PLANE)
    np.testing.assert_allclose(desk.restored.data_to_world((0, 5, 6)), layer.data_to_world((2, 5, 6)))
    desk.dock.axes.value = "ZYX"
    assert content.isHidden()
    assert desk.dock.value().channel is None


def broken_restorer(folder: Path, good: Path, kind: str) -> Path:
    path = folder / f"{kind}.safetensors"
    match kind:
        case "pickle":
            path.write_bytes(pickle.dumps({"weights": [1, 2]}))
        case "torch archive":
            torch.save({"weights": torch.zeros(2)}, path)
        case "truncated":
            path.write_bytes(good.read_bytes()[:100])
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
    return path


def test_a_restorer_file_that_cannot_be_read_is_told_beside_the_restorer(desk, trained, tmp_path):
    cases = [
        ("missing", "does not exist; choose a file with a network"),
        ("pickle", "does not say how its network is to be used"),  # weights, for all that is known before a trial
        ("torch archive", "does not say how its network is to be used"),
        ("truncated", "is not a safetensors file, or is truncated"),
        ("empty", "is not a safetensors file, or is truncated"),
        ("folder", "is a folder; choose a .safetensors file"),
    ]
    desk.open(noisy_planes(*PLANE))
    for kind, said in cases:
        assert desk.faults == {}, kind
        path = broken_restorer(tmp_path, trained.restorer_path, kind)
        desk.dock.restorer.setValue(str(path))
        assert set(desk.faults) == {"restorer"}, kind
        assert said in desk.faults["restorer"]
        assert str(path) in desk.faults["restorer"]
        assert not desk.dock.run_button.isEnabled(), kind
        desk.dock.restorer.setValue(str(trained.restorer_path))
    assert desk.faults == {}


def test_a_mask_model_that_cannot_be_read_is_told_beside_the_mask_model(desk, trained, tmp_path):
    cases = [
        (None, "does not exist; choose a .maskcal file"),
        (b"\x80\x04.", "is a pickle"),
        (b"PK", "or is truncated"),
    ]
    desk.open(noisy_planes(*PLANE))
    tolerance = desk.dock.tolerance.value
    for number, (content, said) in enumerate(cases):
        assert desk.faults == {}, said
        assert desk.dock.promise.text() != "", said
        path = tmp_path / f"{number}.maskcal"
        if content is not None:
            path.write_bytes(content)
        desk.dock.mask_model.setValue(str(path))
        assert set(desk.faults) == {"mask_model"}, said
        assert said in desk.faults["mask_model"]
        assert desk.dock.tolerance.value == tolerance, said
        assert desk.dock.promise.text() == "", said
        desk.dock.mask_model.setValue(str(trained.mask_path))
    assert desk.faults == {}


def test_a_mask_model_of_another_restorer_is_refused_because_its_promise_would_not_hold(desk, tmp_path):
    desk.open(noisy_planes(*PLANE))
    assert desk.faults == {}
    other = random_restorer(tmp_path, seed=5)
    desk.dock.restorer.setValue(str(other))
    assert set(desk.faults) == {"mask_model"}
    assert "random mask 0 was calibrated for another restorer than random restorer 5" in desk.faults["mask_model"]
    assert "its promise would not hold" in desk.faults["mask_model"]
    assert not desk.dock.run_button.isEnabled()
    path, _ = calibrated_bundle(tmp_path, load_restorer(other), seed=5)
    desk.dock.mask_model.setValue(str(path))
    assert desk.faults == {}


def test_several_faults_are_told_at_once(desk):
    desk.dock.tolerance.value, desk.dock.confidence.value = 0, 1
    desk.dock.device.setValue("gpu7")
    assert set(desk.faults) == {"source", "tolerance", "confidence", "device"}


def test_tolerance_and_confidence_start_at_what_the_mask_model_is_pinned_to(desk, trained, tmp_path):
    pinned = trained.mask_model.certificate
    assert (desk.dock.tolerance.value, desk.dock.confidence.value) == (pinned.tolerance, pinned.confidence)
    desk.dock.tolerance.value = 0.5
    copy = tmp_path / "copy.maskcal"
    shutil.copy(trained.mask_path, copy)
    desk.dock.mask_model.setValue(str(copy))
    assert desk.dock.tolerance.value == pinned.tolerance


def test_a_pinned_value_with_many_digits_is_kept_and_not_shown_as_exploration(desk, trained, tmp_path):
    mask = trained.mask_model
    curves = mask.certificate.curves
    own = curves.at(0.0137).tolist()
    records = [r.model_copy(update={"threshold": t}) for r, t in zip(mask.certificate.fields, own, strict=True)]
    pinned = mask.certificate.at(tolerance=0.0137, confidence=0.875)
    pinned = pinned.model_copy(update={"exploration": False, "fields": tuple(records)})
    write_bundle(tmp_path / "odd.maskcal", mask.network, mask.card, pinned)
    desk.open(noisy_planes(*PLANE))
    desk.dock.mask_model.setValue(str(tmp_path / "odd.maskcal"))
    assert desk.faults == {}
    assert desk.dock.tolerance.value == 0.0137
    assert desk.dock.confidence.value == 0.875
    assert "Exploration" not in desk.dock.promise.text()


def raw_bundle(folder: Path, trained: Trained, tolerance: float) -> Path:
    """The small mask model with a certificate in raw intensities: the same curves, 1000 counts for a share of 1."""
    pinned = trained.mask_model.certificate
    curves = Curves(pinned.curves.tolerances * 1000, pinned.curves.thresholds)
    scaled = pinned.model_copy(update={"intensity": "raw", "curves": curves, "tolerance": 1000 * pinned.tolerance})
    moved = scaled.at(tolerance=tolerance)
    own = curves.at(tolerance).tolist()
    records = [r.model_copy(update={"threshold": t}) for r, t in zip(moved.fields, own, strict=True)]
    path = folder / "raw.maskcal"
    exact = moved.model_copy(update={"exploration": False, "fields": tuple(records)})
    write_bundle(path, trained.mask_model.network, trained.mask_model.card, exact)
    return path


def test_a_tolerance_in_raw_intensities_has_their_unit_range_and_step(desk, trained, tmp_path):
    box = desk.dock.tolerance.native
    assert (box.text(), box.singleStep()) == ("0.020 of the range", 0.005)
    assert "share of the plane's intensity range" in box.toolTip()
    desk.open(noisy_planes(*PLANE))
    desk.dock.mask_model.setValue(raw_bundle(tmp_path, trained, 70))
    assert box.suffix() == " intensity units"
    assert "raw intensities" in box.toolTip()
    assert "share" not in box.toolTip()
    assert (box.value(), box.singleStep(), box.text()) == (70, 1, "70.00 intensity units")
    box.stepUp()
    assert desk.dock.tolerance.value == 71
    desk.dock.tolerance.value = 95
    assert desk.faults == {}
    assert "is at most 95 intensity units" in desk.dock.promise.text()
    assert isinstance(desk.run(), Done)
    desk.dock.mask_model.setValue(trained.mask_path)
    assert (box.suffix(), box.value(), box.singleStep()) == (" of the range", 0.02, 0.005)


# ---- kinds of pixels


def test_images_of_each_number_type_are_restored_in_their_own_intensities(desk, trained):
    data = noisy_planes(*PLANE).clip(0, 255)
    expected = trained.restorer(data)
    assert not np.allclose(expected, data, rtol=1e-3)
    for dtype in ("uint8", "int16", "uint16", "int32", "uint32", "float16", "float32", "float64", ">u2"):
        desk.viewer.layers.clear()
        desk.open(data.astype(dtype))
        assert desk.faults == {}, dtype
        assert isinstance(desk.run(), Done), dtype
        assert desk.restored.data.dtype == np.float32, dtype
        np.testing.assert_allclose(desk.restored.data, expected, rtol=1e-5, atol=1e-3, err_msg=dtype)
        assert set(np.unique(desk.uncertain.data)) == {0, 1}, dtype


def test_uint32_keeps_small_differences_on_a_large_offset(desk, passes):
    data = noisy_planes(*PLANE)
    desk.open(data)
    desk.run()
    small = desk.restored.data - data.min()
    desk.open(data.astype(np.uint32) + np.uint32(2**31), name="offset")
    desk.run()
    np.testing.assert_array_equal(desk.uncertainty.data.shape, small.shape)
    first, second = desk.viewer.layers["uncertainty (outdated)"], desk.uncertainty
    np.testing.assert_allclose(second.data, first.data, rtol=1e-5)
    assert len(passes) == 2


def test_a_number_type_that_cannot_be_restored_is_told_beside_the_image(desk):
    for dtype in ("int64", "uint64", "bool"):
        desk.open(noisy_planes(*PLANE).astype("uint32"))
        assert desk.faults == {}, dtype
        desk.open(noisy_planes(*PLANE).astype(dtype))
        assert set(desk.faults) == {"source"}, dtype
        assert dtype in desk.faults["source"]
        desk.dock.run()  # by a shortcut or a script, say
        assert not desk.dock.runner.running, dtype
        assert desk.dock.progress.isHidden(), dtype


def test_a_lazy_image_is_read_plane_by_plane(desk):
    read: list[int] = []

    def load(block_id: tuple[int, ...]) -> np.ndarray:
        read.append(block_id[0])
        return noisy_planes(1, *PLANE, seed=block_id[0])

    lazy = da.map_blocks(load, chunks=((1,) * 4, *((n,) for n in PLANE)), dtype=np.uint16)
    desk.open(lazy, contrast_limits=(0, 200), cache=False)
    desk.viewer.dims.set_current_step(0, 1)
    desk.dock.region.value = "current plane"
    read.clear()
    desk.run()
    assert set(read) == {1}
    assert desk.restored.data.shape == (1, *PLANE)
    desk.dock.region.value = "all planes"
    read.clear()
    desk.run()
    assert set(read) == {0, 1, 2, 3}
    assert (desk.uncertain.data != 2).all()


def test_of_a_pyramid_the_finest_level_is_restored(desk):
    fine = noisy_planes(128, 144)
    desk.open([fine, fine[::2, ::2]], multiscale=True)
    desk.run()
    assert desk.restored.data.shape == (128, 144)
    pyramid = desk.restored.data.copy()
    desk.open(fine, name="plain")
    desk.run()
    np.testing.assert_array_equal(desk.restored.data, pyramid)


# ---- what a person sees


def cut_labels(dock: QWidget) -> list[str]:
    """Labels that show less than their text, or reach beyond the visible width."""
    view = dock.findChild(QScrollArea).viewport()
    found = []
    for label in dock.findChildren(QLabel):
        if not label.isVisible() or not label.text() or isinstance(label, QElidingLabel):
            continue
        needed = label.heightForWidth(label.width()) if label.wordWrap() else label.sizeHint().height()
        right = label.mapTo(view, label.rect().topRight()).x()
        if label.height() < needed or right > view.width():
            found.append(label.text())
    return found


def beyond_the_edge(dock: QWidget) -> list[str]:
    view = dock.findChild(QScrollArea).viewport()
    contents = [field.content for field in dock.fields.values()]
    shown = [w for w in (*contents, dock.run_button, dock.cancel_button, dock.pin) if w.isVisible()]
    return [type(w).__name__ for w in shown if w.mapTo(view, w.rect().topRight()).x() > view.width()]


@pytest.fixture
def window(make_napari_viewer: Any, qtbot: Any) -> Desk:
    """A window that is really shown, with the bundled networks chosen."""
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1200, 800)
    _, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Review")
    return Desk(viewer, dock, qtbot)


def test_no_text_is_cut_and_nothing_reaches_beyond_the_dock(window):
    window.qtbot.wait(100)
    assert "there is no image" in window.faults["source"]
    assert (cut_labels(window.dock), beyond_the_edge(window.dock)) == ([], [])
    window.open(noisy_planes(2, 128, 128), name="cells")
    window.dock.tolerance.value, window.dock.confidence.value, window.dock.axes.value = 0, 1, "CYX"
    window.qtbot.wait(100)
    assert set(window.faults) == {"channel", "tolerance", "confidence"}
    assert (cut_labels(window.dock), beyond_the_edge(window.dock)) == ([], [])
    window.dock.fields["source"].content.setMinimumWidth(900)  # the test sees it when something is too wide
    window.qtbot.wait(100)
    assert beyond_the_edge(window.dock)


@pytest.mark.parametrize("what", ["name", "path"])
def test_a_long_name_or_path_is_not_cut_and_does_not_widen_the_dock(window, what):
    window.open(noisy_planes(2, 128, 128), name="a stack with a very long name " * 3 if what == "name" else "cells")
    if what == "path":
        window.dock.restorer.setValue("/" + "a-very-long-folder/" * 6 + "net.safetensors")
    window.qtbot.wait(100)
    assert beyond_the_edge(window.dock) == []
    assert cut_labels(window.dock) == []
