from __future__ import annotations

import numpy as np
import pytest

from napari_maskcal.review.overlay import COLOURS, OPACITY, UNCERTAIN
from napari_maskcal.review.training_preview import pictures
from napari_maskcal.training_validation import Preview


def preview(shape: tuple[int, int] = (20, 30), *, factor: int = 1) -> Preview:
    truth = np.tile(np.linspace(0, 1, shape[1], dtype=np.float32), (shape[0], 1))
    restored = truth.copy()
    restored[5:9, 10:20] += 0.3
    uncertain = np.zeros(shape, bool)
    uncertain[4:10, 8:22] = True
    return Preview(
        name="cell 3", degraded=truth[::factor, ::factor], restored=restored, truth=truth, uncertain=uncertain
    )  # fmt: skip


def test_the_mask_has_the_overlays_colour_and_the_rest_is_grey():
    shown = preview()
    seen = pictures(shown)
    colour = np.array([int(COLOURS[UNCERTAIN][i : i + 2], 16) for i in (1, 3, 5)])
    bare = pictures(Preview(
        name="", degraded=shown.degraded, restored=shown.restored, truth=shown.truth,
        uncertain=np.zeros_like(shown.uncertain),
    )).marked  # fmt: skip
    mixed = OPACITY * colour + (1 - OPACITY) * bare
    np.testing.assert_allclose(seen.marked[shown.uncertain], mixed[shown.uncertain], atol=0.5)
    np.testing.assert_array_equal(seen.marked[~shown.uncertain], bare[~shown.uncertain])
    assert (np.ptp(bare, axis=-1) == 0).all()
    assert seen.masked_share == pytest.approx(6 * 14 / 600)


def test_the_error_is_bright_where_it_is_and_black_elsewhere():
    seen = pictures(preview())
    error = seen.error
    assert seen.white_error == pytest.approx(0.3)
    assert (error[5:9, 10:20] == 255).all()
    error[5:9, 10:20] = 0
    assert not error.any()


def test_the_degraded_picture_may_be_coarser_and_has_the_brightness_of_the_others():
    seen = pictures(preview(factor=2))
    assert seen.degraded.shape == (10, 15, 3)
    np.testing.assert_array_equal(seen.degraded[0], seen.marked[0, ::2])
    assert np.ptp(seen.degraded) > 150


def test_a_constant_field_without_an_error_is_shown_all_the_same():
    flat = np.full((8, 8), 0.4, np.float32)
    seen = pictures(Preview(name="", degraded=flat, restored=flat, truth=flat, uncertain=np.zeros((8, 8), bool)))
    assert not seen.error.any()
    assert seen.marked.shape == (8, 8, 3)
