from __future__ import annotations

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
import torch

from napari_maskcal.mask.network import MaskNetwork
from napari_maskcal.mask.train import Triplet, paper_loss, score_loss, train_mask_network

ONE = torch.ones(1, 1, 1, 1)


def triplets(count: int = 4, *, size: int = 48, factor: int = 1) -> list[Triplet]:
    """Fields whose right half is restored badly, and brighter: the network can see where."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        truth = rng.random((size, size)).astype(np.float32) * 0.2
        truth[:, size // 2 :] += 0.8
        error = rng.normal(0, 0.01, truth.shape)
        error[:, size // 2 :] *= 30
        restored = (truth + error).astype(np.float32)
        found.append(Triplet(degraded=restored[::factor, ::factor].copy(), restored=restored, truth=truth))
    return found


def small(head: str, seed: int = 0) -> MaskNetwork:
    torch.manual_seed(seed)
    return MaskNetwork((4, 8), head=head)


QUICK = {"steps": 30, "batch": 4, "crop_px": 32, "learning_rate": 1e-2}


@pytest.mark.parametrize(
    ("logit", "error", "weight", "p", "expected"),
    [
        (0.0, 0.0, 5.0, 1.0, 0.25),
        (0.0, 0.4, 5.0, 1.0, 0.25 + 5 * 0.5 * 0.4),
        (0.0, 0.4, 5.0, 2.0, 0.25 + 5 * 0.25 * 0.16),
        (log(3), 0.4, 2.0, 1.0, 0.0625 + 2 * 0.75 * 0.4),
    ],
)
def test_the_papers_loss_of_one_pixel_is_that_worked_out_by_hand(logit, error, weight, p, expected):
    assert paper_loss(logit * ONE, error * ONE, 0 * ONE, weight=weight, p=p).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("logit", "error", "p", "expected"),
    [(log(0.401), 0.4, 1, 0.0), (log(0.401) + 2, 0.4, 1, 4.0), (0.0, 0.0, 1, log(1e-3) ** 2), (0.0, 1.0, 2, 0.0)],
)
def test_the_score_of_one_pixel_is_that_worked_out_by_hand(logit, error, p, expected):
    found = score_loss(logit * ONE, error * ONE, 0 * ONE, p=p).item()
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("loss", "head", "weight"), [("score", "exponential", 0.0), ("paper", "sigmoid", 8.0)])
def test_training_makes_the_network_less_sure_where_the_restoration_errs(loss, head, weight):
    network = small(head)
    bright, dark = torch.full((1, 1, 32, 32), 0.9), torch.full((1, 1, 32, 32), 0.1)

    def ratio() -> float:
        with torch.inference_mode():
            middle = (slice(None), slice(None), slice(12, 20), slice(12, 20))
            return float(network(bright, bright)[middle].mean() / network(dark, dark)[middle].mean())

    assert 0.5 < ratio() < 2
    history = train_mask_network(network, triplets(), loss=loss, weight=weight, **QUICK)
    assert np.mean(history[-10:]) < np.mean(history[:10])
    assert ratio() > 2
    assert not network.training


def test_the_same_seed_gives_the_same_weights_and_another_gives_others():
    def weights(seed: int) -> torch.Tensor:
        network = small("exponential")
        train_mask_network(network, triplets(), loss="score", seed=seed, **QUICK | {"steps": 5})
        return torch.cat([w.flatten() for w in network.state_dict().values()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_each_step_is_reported_with_its_loss():
    seen = []
    history = train_mask_network(
        small("exponential"), triplets(), loss="score", report=lambda *step: seen.append(step), **QUICK | {"steps": 7}
    )
    assert seen == list(enumerate(history))


def test_crops_of_a_coarser_degraded_image_show_the_same_place():
    fields = triplets(factor=2)
    marked = [replace(t, truth=t.restored) for t in fields]  # no error at all: log u goes to the floor
    network = small("exponential")
    history = train_mask_network(network, marked, loss="score", **QUICK)
    assert history[-1] < history[0]
    assert fields[0].degraded.shape == (24, 24)


@pytest.mark.parametrize(
    ("loss", "head", "options", "message"),
    [
        ("paper", "exponential", {}, "the paper loss does not fit a mask network with a exponential head"),
        ("score", "sigmoid", {}, "the score loss does not fit a mask network with a sigmoid head"),
        ("score", "exponential", {"crop_px": 64}, "none of the 4 triplets is 64 pixels large along both axes"),
    ],
)
def test_what_cannot_be_trained_is_refused(loss, head, options, message):
    with pytest.raises(ValueError, match=message):
        train_mask_network(small(head), triplets(), loss=loss, **QUICK | options)


def test_a_loss_that_is_no_longer_finite_is_told_with_its_step():
    spoiled = [replace(t, truth=t.truth * np.float32(np.nan)) for t in triplets()]
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0; lower the learning rate"):
        train_mask_network(small("exponential"), spoiled, loss="score", **QUICK)


@pytest.mark.parametrize(("weight", "bias", "end"), [(0.0, 20.0, "low"), (1e4, -20.0, "high")])
def test_a_collapse_of_the_papers_loss_is_told_with_the_weight_and_its_direction(weight, bias, end):
    network = small("sigmoid")
    with torch.no_grad():
        network.trunk.head.weight.zero_()
        network.trunk.head.bias.fill_(bias)
    mean = f"{1 / (1 + exp(-bias)):.3f}"
    with pytest.raises(RuntimeError, match=rf"it is {mean} everywhere; the loss weight {weight:g} is too {end}"):
        train_mask_network(network, triplets(), loss="paper", weight=weight, **QUICK | {"steps": 3})
