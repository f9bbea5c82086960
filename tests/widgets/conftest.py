"""A real napari window with the real dock in it, and the small networks of the `trained` fixture."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from desk import PATIENCE_MS, Desk, open_bars
from napari.layers import Labels as LabelsLayer
from napari.utils.colormaps import DirectLabelColormap

from napari_maskcal.restore.unet import UNet
from small_models import noisy_planes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from small_models import Trained


@pytest.fixture(scope="session", autouse=True)
def fewer_objects_to_look_at(trained: Trained) -> Iterator[None]:
    """Make the tests faster: after each of them napari's fixture searches all objects for leaked windows."""
    colours = DirectLabelColormap(color_dict={None: "transparent", 1: "red"})
    LabelsLayer(np.ones((8, 8), np.uint8), colormap=colours)  # numba compiles once
    trained.restorer(noisy_planes(64, 64))
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep what bundles bring out of the user's cache."""
    monkeypatch.setenv("MASKCAL_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Any]) -> Any:
    return make_napari_viewer()


@pytest.fixture
def desk(viewer: Any, trained: Trained, qtbot: Any) -> Iterator[Desk]:
    """The dock in a window, with the small networks chosen and no image yet."""
    _, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Review")
    dock.restorer.setValue(str(trained.restorer_path))
    dock.mask_model.setValue(str(trained.mask_path))
    dock.device.setValue("cpu")
    assert not open_bars()
    yield Desk(viewer, dock, qtbot)
    if dock.runner.running:
        dock.cancel()
        qtbot.waitUntil(lambda: not dock.runner.running, timeout=PATIENCE_MS)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that gets the time at which each pass of a restorer begins."""
    began: list[float] = []
    forward = UNet.forward

    def noted(self: UNet, x: Any) -> Any:
        if self.residual:
            began.append(time.monotonic())
        return forward(self, x)

    monkeypatch.setattr(UNet, "forward", noted)
    return began


@pytest.fixture
def slow_passes(passes: list[float], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The same, and each pass takes a while."""
    forward = UNet.forward

    def slowly(self: UNet, x: Any) -> Any:
        time.sleep(0.2)
        return forward(self, x)

    monkeypatch.setattr(UNet, "forward", slowly)
    return passes


@pytest.fixture
def gate(passes: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Return what lets the networks go on: until it is set they stand still after the first plane."""
    opened, forward = threading.Event(), UNet.forward

    def wait_and_go(self: UNet, x: Any) -> Any:
        if self.residual and passes:
            opened.wait(PATIENCE_MS / 1000)
        return forward(self, x)

    monkeypatch.setattr(UNet, "forward", wait_and_go)
    yield opened
    opened.set()
