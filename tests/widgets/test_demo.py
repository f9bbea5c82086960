"""The bundled demo in a real window, from the menu and from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from napari_maskcal._widgets.demo import write_demo
from napari_maskcal.restore.events import Done
from napari_maskcal.review.overlay import COLOURS, OPACITY, UNCERTAIN


def test_the_sample_opens_and_run_works_with_no_file_at_hand(viewer, qtbot):
    (layer,) = viewer.open_sample("napari-maskcal", "noisy_stack")
    _, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Review")
    assert (dock.restorer.value(), dock.mask_model.value()) == ("demo", "demo")
    assert (dock.problems, dock.axes.value) == ([], "ZYX")
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 3
    dock.region.value = "current plane"
    with qtbot.waitSignal(dock.runFinished, timeout=60_000) as end:
        dock.run_button.click()
    assert isinstance(end.args[0], Done)
    assert [each.name for each in viewer.layers[1:]] == ["restored", "uncertainty", "uncertain"]
    assert 0.01 < end.args[0].result.masked_share < 0.9
    assert "1.5 %" in dock.promise.text()


@pytest.mark.slow
def test_the_demo_writes_its_four_files_and_closes_its_window(tmp_path, qapp):
    out = tmp_path / "demo"
    review = write_demo(out, tolerance=None, confidence=None, device="cpu")
    assert sorted(path.name for path in out.iterdir()) == [
        "certificate.json", "overlay.png", "restored.tif", "uncertain.tif",
    ]  # fmt: skip
    certificate = json.loads((out / "certificate.json").read_text())
    uncertain = tifffile.imread(out / "uncertain.tif")
    restored = tifffile.imread(out / "restored.tif")
    assert restored.shape == uncertain.shape == review.restored.shape
    assert len(restored) >= 30
    assert certificate["masked_share"] == pytest.approx(float((uncertain == 1).mean()))
    assert set(np.unique(uncertain)) == {0, 1}
    shot = np.asarray(Picture.open(out / "overlay.png"))[..., :3] / 255
    assert shot.shape[0] > 800
    assert shot.shape[1] > 1300
    colour = np.array([int(COLOURS[UNCERTAIN][i : i + 2], 16) / 255 for i in (1, 3, 5)])
    tinted = shot - OPACITY * colour  # what is left of the image below: grey where the overlay is
    over = (np.ptp(tinted, axis=-1) < 0.02) & (tinted.min(-1) > -0.01) & (np.ptp(shot, axis=-1) > 0.1)
    assert 0.02 < over.mean() < 0.5
    with pytest.raises(ValueError, match="exists; nothing was changed"):
        write_demo(out, tolerance=None, confidence=None, device="cpu")
    assert json.loads((out / "certificate.json").read_text()) == certificate


def test_a_wrong_value_leaves_no_folder_and_no_window(tmp_path, qapp):
    with pytest.raises(ValueError, match="at least 999 specimens"):
        write_demo(tmp_path / "demo", tolerance=None, confidence=0.999, device="cpu")
    assert list(tmp_path.iterdir()) == []
