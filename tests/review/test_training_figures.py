from __future__ import annotations

import numpy as np
import pytest

from napari_maskcal.review.training_figures import draw_losses, draw_validations, neighbours


@pytest.fixture
def axes():
    from matplotlib.figure import Figure

    return Figure().subplots()


def test_a_long_training_is_drawn_as_means_of_neighbours_and_a_short_one_as_it_is():
    rng = np.random.default_rng(0)
    losses = np.linspace(3, 1, 5000) + rng.normal(0, 0.5, 5000)
    steps, means = neighbours(101 + np.arange(5000), losses)
    assert len(steps) == len(means) == 50
    assert (steps[0], steps[-1]) == (101 + 49.5, 101 + 4999 - 49.5)
    np.testing.assert_allclose(means, np.linspace(2.98, 1.02, 50), atol=0.2)
    steps, short = neighbours([1, 2, 3], [3.0, 2.0, 1.5])
    assert (list(steps), list(short)) == ([1, 2, 3], [3.0, 2.0, 1.5])


def test_a_loss_that_is_not_finite_leaves_the_others_in_their_places():
    steps, means = neighbours([1, 2, 3, 4], [3.0, np.nan, np.inf, 1.0])
    assert (list(steps), list(means)) == ([1, 4], [3.0, 1.0])


def test_a_spike_at_the_start_does_not_squeeze_the_rest(axes):
    draw_losses(axes, range(151), [1e6, *np.linspace(2, 1, 150)], steps=500)
    low, high = axes.get_ylim()
    assert low < 1
    assert 1.8 < high < 3
    assert axes.get_xlim() == (0, 500)
    draw_losses(axes, [], [], steps=500)
    assert axes.get_xlabel() == "step"


def test_the_network_that_is_kept_is_marked(axes):
    draw_validations(axes, [(200, 0.5), (400, 0.3), (600, 0.4)], steps=2000, best_step=400)
    curve, best = axes.get_lines()
    np.testing.assert_allclose(curve.get_xydata(), [(200, 50), (400, 30), (600, 40)])
    np.testing.assert_allclose(best.get_xydata(), [(400, 30)])
    assert axes.get_ylim()[1] > 50
    draw_validations(axes, [(200, 0.5)], steps=2000, best_step=0)
    assert len(axes.get_lines()) == 1
    assert axes.get_legend() is None
