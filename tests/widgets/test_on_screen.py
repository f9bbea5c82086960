"""What a person sees: colours in the canvas of a real window."""

from __future__ import annotations

import numpy as np
import pytest
from napari.utils.colormaps import ensure_colormap
from skimage.color import rgb2lab

from napari_maskcal.review.overlay import COLOURS, OPACITY, UNCERTAIN
from small_models import noisy_planes

SIZE = 96


def canvas_at(viewer, pixels: np.ndarray) -> np.ndarray:
    """Return the colour, in 0..1, that the canvas shows at (y, x) pixels of the image, which fills its middle."""
    shot = viewer.screenshot(canvas_only=True, flash=False)[..., :3] / 255
    rows, columns = (np.flatnonzero((shot.max(-1) > 0.1).any(axis)) for axis in (1, 0))
    first, last = np.array([rows[0], columns[0]]), np.array([rows[-1], columns[-1]]) + 1
    y, x = (first + (pixels + 0.5) / SIZE * (last - first)).astype(int).T
    return shot[y, x]


def painted(viewer, restored) -> tuple[np.ndarray, np.ndarray]:
    """Return a grid of pixels, and which of them are nearer to the blended overlay than to the bare image."""
    grid = np.stack(np.meshgrid(np.arange(6, SIZE - 6, 4), np.arange(6, SIZE - 6, 4), indexing="ij"), -1).reshape(-1, 2)
    low, high = restored.contrast_limits
    grey = np.clip((restored.data[tuple(grid.T)] - low) / (high - low), 0, 1)
    bare = ensure_colormap("gray").map(grey)[:, :3]
    colour = np.array([int(COLOURS[UNCERTAIN][i : i + 2], 16) / 255 for i in (1, 3, 5)])
    over = OPACITY * colour + (1 - OPACITY) * bare
    seen = canvas_at(viewer, grid)
    return grid, np.abs(seen - over).sum(1) < np.abs(seen - bare).sum(1)


@pytest.fixture
def viewer(make_napari_viewer):
    """A window that is shown, since a hidden one draws nothing."""
    return make_napari_viewer(show=True)


@pytest.fixture
def reviewed(desk):
    """A flat restored image over which the left half and a square on the right are marked."""
    desk.open(noisy_planes(SIZE, SIZE), colormap="gray")
    desk.run()
    marks = np.zeros((SIZE, SIZE), np.uint8)
    marks[:, : SIZE // 2] = 1
    marks[20:44, 64:88] = 1
    desk.uncertain.data = marks
    desk.restored.data = np.tile(np.linspace(0.2, 0.6, SIZE, dtype=np.float32), (SIZE, 1))
    desk.restored.contrast_limits = (0, 1)
    desk.viewer.layers["cells"].visible = False
    desk.viewer.reset_view()
    desk.viewer.window.resize(1100, 800)
    desk.qtbot.wait(200)
    desk.viewer.reset_view()
    desk.qtbot.wait(100)
    return desk, marks


def test_the_overlay_has_its_colour_where_the_mask_is_and_nowhere_else(reviewed):
    desk, marks = reviewed
    grid, marked = painted(desk.viewer, desk.restored)
    np.testing.assert_array_equal(marked, marks[tuple(grid.T)] == 1)
    assert 0.3 < marked.mean() < 0.8
    desk.uncertain.visible = False
    desk.qtbot.wait(50)
    _, still = painted(desk.viewer, desk.restored)
    assert not still.any()


def test_the_image_can_be_read_through_the_overlay(reviewed):
    desk, marks = reviewed
    inside = np.array([(60, x) for x in range(6, SIZE // 2 - 6)])
    assert (marks[tuple(inside.T)] == 1).all()
    lightness = rgb2lab(canvas_at(desk.viewer, inside)[None])[0, :, 0]
    grey = desk.restored.data[tuple(inside.T)]
    assert np.corrcoef(lightness, grey)[0, 1] > 0.98
    assert np.ptp(lightness) > 0.4 * 100 * np.ptp(grey)


def test_uncertain_and_not_computed_are_told_apart_with_any_colour_vision():
    """Vermilion and grey differ in lightness and along the blue-yellow axis, which red-green blindness keeps."""
    colours = np.array([[int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)] for code in COLOURS.values()])
    (uncertain, not_computed) = rgb2lab(colours[None])[0]
    assert abs(uncertain[0] - not_computed[0]) > 5
    assert abs(uncertain[2] - not_computed[2]) > 40
