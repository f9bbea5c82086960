from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_maskcal.mask.crops import Batch, plan_crops
from napari_maskcal.mask.learner import Learner, Precision, one_cycle, precision_for
from napari_maskcal.mask.losses import loss_for
from napari_maskcal.mask.network import network_for
from training_fields import QUICK, training_fields, weights


def learner_and_batch(**options) -> tuple[Learner, Batch]:
    recipe, fields = replace(QUICK, **options), training_fields()
    crops = plan_crops(fields, crop_px=recipe.crop_px, stride_px=2)
    learner = Learner(network_for(recipe, fields), loss_for(recipe), recipe, torch.device("cpu"))
    return learner, crops.draw(recipe.batch, 0, 0)


@pytest.mark.parametrize("steps", [2, 3, 7, 30, 101])
def test_rates_and_momenta_are_those_of_torchs_one_cycle_schedule(steps):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.Adam([weight], lr=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.02, total_steps=steps)
    for step in range(steps):
        (group,) = optimiser.param_groups
        found = one_cycle(step, steps=steps, learning_rate=0.02)
        assert found == pytest.approx((group["lr"], group["betas"][0]), rel=1e-9, abs=1e-12)
        optimiser.step()
        if step + 1 < steps:
            schedule.step()


@pytest.mark.parametrize(
    ("kind", "bf16", "expected"),
    [
        ("cpu", True, Precision()),
        ("mps", True, Precision()),
        ("cuda", True, Precision(autocast=torch.bfloat16)),
        ("cuda", False, Precision(autocast=torch.float16, scaled=True)),
    ],
)
def test_only_cuda_computes_in_half_precision_and_scales_only_what_would_leave_its_range(kind, bf16, expected):
    assert precision_for(kind, bf16=bf16) == expected


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(micro):
    whole, batch = learner_and_batch()
    parts, _ = learner_and_batch()
    parts.micro = micro
    assert parts.step(batch, 0) == pytest.approx(whole.step(batch, 0), rel=1e-6)
    pairs = [(a.grad, b.grad) for a, b in zip(parts.network.parameters(), whole.network.parameters(), strict=True)]
    for own, expected in pairs:
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-5)
    assert max(float(expected.abs().max()) for _, expected in pairs) > 1e-2


def test_memory_that_runs_out_halves_the_parts_until_there_is_one_crop():
    learner, _ = learner_and_batch(batch=7)
    seen = []
    for _ in range(2):
        learner.lower()
        seen.append(learner.micro)
    assert seen == [3, 1]
    with pytest.raises(MemoryError, match="cpu has too little memory to train on even one crop; take smaller crops or"):
        learner.lower()


def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_are_and_says_whose_it_is():
    learner, batch = learner_and_batch()
    before = weights(learner.network).clone()
    batch.truth[2] = np.nan
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        learner.step(batch, 0)
    assert torch.equal(weights(learner.network), before)
    labels = Batch(degraded=batch.degraded, restored=batch.restored, truth=batch.truth, labels=("a", "b", "c", "d"))
    assert learner.faulty(labels) == ["c"]


def test_a_gradient_that_is_not_finite_leaves_the_weights_as_they_are():
    learner, batch = learner_and_batch()
    before = weights(learner.network).clone()
    handle = learner.network.trunk.head.weight.register_hook(lambda gradient: gradient * np.inf)
    with pytest.raises(FloatingPointError, match="the gradient is not finite"):
        learner.step(batch, 0)
    assert torch.equal(weights(learner.network), before)
    handle.remove()
    learner.step(batch, 0)
    assert not torch.equal(weights(learner.network), before)


def test_a_snapshot_stays_as_it_is_while_the_network_learns_on():
    learner, batch = learner_and_batch()
    snapshot = learner.snapshot()
    before = weights(snapshot).clone()
    learner.step(batch, 0)
    assert torch.equal(weights(snapshot), before)
    assert not torch.equal(weights(learner.network), before)
    assert not snapshot.training
    assert learner.network.training
