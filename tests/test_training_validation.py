"""What networks are judged by while they train."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.mask.network import MaskNetwork
from napari_maskcal.mask.recipe import TrainingField
from napari_maskcal.mask.scores import Constant, Residual
from napari_maskcal.models import GIVEN_RESTORER
from napari_maskcal.training_plan import plan_training
from napari_maskcal.training_validation import (
    Judge,
    as_used,
    judged_tolerances,
    masked_shares,
    thinned,
    uncertainty_map,
    validation_thresholds,
)
from training_fields import training_fields
from training_triplets import TINY, triplets

L1 = parse_distance("l1")


def figure(uncertainties: list[list[float]], errors: list[list[float]], tolerances: list[float], confidence=0.9):
    u, truths = (np.array(values)[:, None] for values in (uncertainties, errors))
    thresholds = validation_thresholds(u, np.zeros_like(truths), truths, L1, tolerances, confidence=confidence)
    return masked_shares(u, thresholds).mean()


def test_the_threshold_is_the_smallest_of_few_fields():
    # By hand: of four pixels with these errors, a mean of 0.1 lets the first two in (0.2 / 4), the third makes 0.15.
    assert figure([[1, 2, 3, 4]], [[0.1, 0.1, 0.4, 0.4]], [0.1]) == 0.5
    # The second field may be trusted whole: its threshold is infinite, and that of the first counts for both.
    assert figure([[1, 2, 3, 4], [1, 1, 1, 9]], [[0.1, 0.1, 0.4, 0.4], [0, 0, 0, 0]], [0.1]) == (0.5 + 0.25) / 2


def test_of_many_fields_as_many_may_fail_as_the_confidence_says():
    good, bad = [[1, 2]] * 19, [[0.0, 0.0]] * 19
    one_bad = figure([*good, [1, 2]], [*bad, [0, 1]], [0.1], confidence=0.9)  # of 20, the second smallest threshold
    two_bad = figure([*good[:18], [1, 2], [1, 2]], [*bad[:18], [0, 1], [0, 1]], [0.1], confidence=0.9)
    assert (one_bad, two_bad) == (0, 0.5)


def test_it_is_the_mean_over_the_tolerances():
    errors = [[0.1, 0.1, 0.4, 0.4]]
    shares = [figure([[1, 2, 3, 4]], errors, [t]) for t in (0.03, 0.1, 0.2)]
    assert shares == [0.75, 0.5, 0.25]
    assert figure([[1, 2, 3, 4]], errors, [0.03, 0.1, 0.2]) == pytest.approx(0.5)


def test_a_better_order_masks_less():
    errors = np.random.default_rng(0).random((3, 50)).tolist()
    backwards = (1.01 - np.array(errors)).tolist()
    right, wrong = (figure(u, errors, [0.2]) for u in ((0.01 + np.array(errors)).tolist(), backwards))
    assert right < wrong


def test_a_distance_that_is_walked_gives_nearly_the_same_as_a_sort():
    rng = np.random.default_rng(1)
    u = 2.0 ** rng.integers(-8, 2, (3, 16, 16))  # on the grid of thresholds, so that both see the same masks
    truths, restored = rng.random((2, 3, 16, 16))

    class Walked:
        """L1 that does not say what it is."""

        name, monotone, differentiable, in_intensity_units, identity = "mine", True, False, True, ""
        between = staticmethod(L1.between)

    exact, walked = (
        masked_shares(u, validation_thresholds(u, restored, truths, d, [0.1, 0.2], confidence=0.9))
        for d in (L1, Walked())
    )
    assert 0 < exact.mean() < 1
    np.testing.assert_allclose(walked, exact)


def test_without_a_tolerance_it_is_three_percentiles_of_the_distances():
    distances = np.arange(0, 11, dtype=float)  # the field without an error says nothing
    assert judged_tolerances(distances, tolerance=None, confidence=0.9) == (
        tuple(np.percentile(np.arange(1, 11), (30, 60, 80))), ""
    )  # fmt: skip


def test_a_tolerance_at_which_nothing_need_be_masked_could_not_tell_networks_apart():
    distances = np.linspace(0.01, 0.1, 10)
    assert judged_tolerances(distances, tolerance=0.05, confidence=0.9) == ((0.05,), "")
    instead, told = judged_tolerances(distances, tolerance=0.2, confidence=0.9)
    assert instead == tuple(np.percentile(distances, (30, 60, 80)))
    assert told.startswith("at the tolerance 0.2 nothing need be masked in 90 % of the validation fields; networks are")


def test_fields_without_any_error_are_refused():
    with pytest.raises(ValueError, match="the restored validation images are their truths"):
        judged_tolerances(np.zeros(3), tolerance=0.1, confidence=0.9)


def test_of_too_many_fields_each_group_keeps_some():
    image = np.zeros((1, 4, 4), np.float32)
    fields = [
        TrainingField(degraded=image, restored=image, truth=image, name=str(i), group="large" if i < 8 else "small")
        for i in range(10)
    ]
    assert [field.name for field in thinned(fields, 4 * 16)] == ["0", "1", "8", "9"]
    assert thinned(fields, 10 * 16) == fields
    assert len(thinned(fields, 1)) == 1


@pytest.mark.parametrize("factor", [1, 2])
def test_a_map_of_any_size_in_tiles_is_that_of_the_whole(monkeypatch, factor):
    torch.manual_seed(0)
    module = as_used(MaskNetwork((4, 8), head="exponential"), power=2.0).network()
    (field,) = training_fields(1, shape=(440, 60 * factor), factor=factor)
    whole = uncertainty_map(module, field.degraded[0], field.restored[0], GIVEN_RESTORER)
    monkeypatch.setattr("napari_maskcal.training_validation._LARGEST_TILE_PX", 256)
    tiled = uncertainty_map(module, field.degraded[0], field.restored[0], GIVEN_RESTORER)
    assert whole.shape == tiled.shape == field.truth.shape[1:]
    np.testing.assert_allclose(tiled, whole, rtol=1e-4, atol=1e-6)


def test_a_network_is_judged_as_it_will_be_used():
    plan = plan_training(triplets(12), recipe=TINY, distance="l2", tolerance=0.1)
    judge = Judge(plan, training_fields(2, shape=(48, 400)))  # wider than the window of an error budget
    torch.manual_seed(0)
    network = MaskNetwork((4, 8), head="exponential").requires_grad_(False).eval()
    found = judge(network)
    assert found.masked_share == judge.shares(as_used(network, power=4.0).network())[0]
    assert found.masked_share != judge.shares(network)[0]
    assert 0 < found.masked_share < 1


def test_what_knows_where_the_error_is_masks_less_than_what_does_not():
    judge = Judge(plan_training(triplets(4), recipe=TINY), training_fields(3))

    class Right(Constant):
        def forward(self, degraded, restored):
            return 1 + restored  # the brighter half is the bad one

    (right, _), (constant, untouched) = judge.shares(Right()), judge.shares(Constant())
    assert right < constant == 1
    assert untouched == 0
    assert judge.shares(Residual())[0] <= 1


def test_the_preview_is_a_field_with_the_mask_of_the_moment():
    fields = training_fields(3)
    judge = Judge(plan_training(triplets(4), recipe=TINY), fields)
    preview = judge(MaskNetwork((4, 8), head="exponential").requires_grad_(False).eval()).preview
    shown = next(field for field in fields if field.name == preview.name)
    np.testing.assert_array_equal(preview.truth, shown.truth[0])
    assert preview.uncertain.shape == preview.restored.shape == preview.degraded.shape == (48, 48)
    assert preview.uncertain.dtype == bool
    assert 0 < preview.uncertain.mean() < 1
