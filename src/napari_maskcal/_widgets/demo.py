"""The main job in a real window: the bundled stack, the bundled networks, the Review dock."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import napari
from napari.qt import get_qapp
from qtpy.QtCore import QEventLoop

from napari_maskcal._widgets.fields import set_exactly
from napari_maskcal._widgets.review_dock import ReviewDock
from napari_maskcal.pipeline import Review
from napari_maskcal.read.atomic import new_folder
from napari_maskcal.restore.events import Failed
from napari_maskcal.review.report import write_review

_WINDOW_PX = (1500, 940)


def show_demo(*, tolerance: float | None, confidence: float | None, device: str) -> None:
    """Open napari with the sample, press Run, and leave the window to the user."""
    viewer, dock = _open(tolerance=tolerance, confidence=confidence, device=device)
    dock.run()
    napari.run()
    del viewer


def write_demo(out: Path, *, tolerance: float | None, confidence: float | None, device: str) -> Review:
    """Do the same and write images, certificate and a screenshot of the window into the new folder `out`.

    Raises
    ------
    ValueError
        If `out` exists or cannot be written, a value is wrong, or the run failed.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder(out))
        viewer, dock = _open(tolerance=tolerance, confidence=confidence, device=device)
        stack.callback(viewer.close)
        _run_to_end(dock)
        if dock.results is None:
            raise ValueError("the run drew nothing")
        _settle()
        viewer.screenshot(str(folder / "overlay.png"), canvas_only=False, flash=False)
        write_review(dock.results.review, folder)
        return dock.results.review


def _open(*, tolerance: float | None, confidence: float | None, device: str) -> tuple[Any, ReviewDock]:
    app = get_qapp()
    viewer = napari.Viewer(title="napari-maskcal demo")
    viewer.window.resize(*_WINDOW_PX)
    viewer.open_sample("napari-maskcal", "noisy_stack")
    _, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Review")
    if tolerance is not None:
        set_exactly(dock.tolerance, tolerance)
    if confidence is not None:
        set_exactly(dock.confidence, confidence)
    dock.device.setValue(device)
    app.processEvents()
    if problems := dock.problems:
        viewer.close()
        raise ValueError(problems[0].message)
    return viewer, dock


def _run_to_end(dock: ReviewDock) -> None:
    loop = QEventLoop()
    ends: list[Any] = []
    dock.runFinished.connect(ends.append)
    dock.runFinished.connect(loop.quit)
    dock.run()
    loop.exec()
    if isinstance(ends[-1], Failed):
        raise ends[-1].error


def _settle() -> None:
    """Let the window draw what has changed."""
    for _ in range(10):
        get_qapp().processEvents()
