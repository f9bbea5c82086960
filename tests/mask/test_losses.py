from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch

from napari_maskcal.distance.custom import from_callable
from napari_maskcal.distance.lp import Lp
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.distance.ssim import Ssim
from napari_maskcal.mask import losses
from napari_maskcal.mask.losses import likelihood_loss, loss_for, paper_loss, quantile_loss, score_loss
from napari_maskcal.mask.recipe import Recipe

ONE = torch.ones(1, 1, 1, 1)
TWO_CHANNELS = torch.tensor([0.3, 0.4]).reshape(1, 2, 1, 1)  # an error whose norm is 0.5


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
    found = paper_loss(logit * ONE, error * ONE, 0 * ONE, weight=weight, distance=Lp(p))
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("logit", "error", "p", "expected"),
    [(log(0.401), 0.4, 1, 0.0), (log(0.401) + 2, 0.4, 1, 4.0), (0.0, 0.0, 1, log(1e-3) ** 2), (0.0, 1.0, 2, 0.0)],
)
def test_the_score_of_one_pixel_is_that_worked_out_by_hand(logit, error, p, expected):
    found = score_loss(logit * ONE, error * ONE, 0 * ONE, p=p).item()
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("logit", "error", "p", "expected"),
    [
        (0.0, 0.4, 1, 0.401),
        (log(0.5), 0.4, 1, 0.802 + log(0.5)),
        (log(0.5), 0.4, 2, 0.320002 + log(0.5)),
        (log(1e-3), 0.0, 1, 1 + log(1e-3)),
    ],
)
def test_the_likelihood_of_one_pixel_is_that_worked_out_by_hand(logit, error, p, expected):
    assert likelihood_loss(logit * ONE, error * ONE, 0 * ONE, p=p).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("lower", "upper", "error", "expected"),
    [  # of truth - restored
        (-0.1, 0.1, 0.0, 0.05 * 0.1 + 0.05 * 0.1),
        (-0.1, 0.1, 0.3, 0.05 * 0.4 + 0.95 * 0.2),
        (-0.1, 0.1, -0.3, 0.95 * 0.2 + 0.05 * 0.4),
        (0.2, 0.2, 0.2, 0.0),
    ],
)
def test_the_pinball_loss_of_one_pixel_is_that_worked_out_by_hand(lower, upper, error, expected):
    offsets = torch.tensor([lower, upper]).reshape(1, 2, 1, 1)
    assert quantile_loss(offsets, 0.5 * ONE, (0.5 + error) * ONE).item() == pytest.approx(expected, abs=1e-7)


def minimised(loss, errors: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """One raw output for all pixels that makes a loss least."""
    raw = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([raw], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss(raw.expand(len(errors), -1, 1, 1), errors, torch.zeros_like(errors))
        value.backward()
        return value

    optimiser.step(closure)
    return raw.detach().flatten()


@pytest.mark.parametrize(
    ("loss", "mean"),
    [(score_loss, lambda e: e.log().mean().exp()), (likelihood_loss, torch.mean)],
)
def test_each_score_is_least_where_the_uncertainty_is_its_mean_of_the_errors(loss, mean):
    errors = torch.rand(200, 1, 1, 1) + 0.05
    found = minimised(loss, errors, torch.zeros(1, 1, 1, 1)).exp()
    torch.testing.assert_close(found.squeeze(), mean(errors + 1e-3), rtol=1e-3, atol=0)
    assert abs(errors.log().mean().exp() - errors.mean()) > 0.02


def test_the_pinball_loss_is_least_at_the_quantiles():
    errors = torch.linspace(-1, 1, 1001).reshape(-1, 1, 1, 1)
    grid = torch.linspace(-1, 1, 201)
    for end, share in ((0, 0.05), (1, 0.95)):
        ends = torch.zeros(2)
        values = []
        for guess in grid:
            ends[end] = guess
            values.append(quantile_loss(ends.reshape(1, 2, 1, 1), 0 * errors, errors))
        assert grid[torch.stack(values).argmin()] == pytest.approx(2 * share - 1, abs=0.011)


@pytest.mark.parametrize("loss", [score_loss, likelihood_loss])
def test_the_error_of_several_channels_is_their_norm(loss):
    one, zero = torch.zeros(1, 1, 1, 1), torch.zeros_like(TWO_CHANNELS)
    expected = loss(one, 0.5 * ONE, 0 * ONE)
    torch.testing.assert_close(loss(one, TWO_CHANNELS, zero), expected)
    assert loss(one, TWO_CHANNELS[:, :1], zero[:, :1]) != expected


def test_the_papers_distance_of_several_channels_is_that_of_their_norm():
    found = paper_loss(0 * ONE, TWO_CHANNELS, 0 * TWO_CHANNELS, weight=2.0)
    assert found.item() == pytest.approx(0.25 + 2 * 0.5 * 0.5)


def test_the_quantiles_of_several_channels_are_told_apart():
    offsets = torch.tensor([0.3, 0.4, 0.3, 0.4]).reshape(1, 4, 1, 1)
    assert quantile_loss(offsets, 0 * TWO_CHANNELS, TWO_CHANNELS) == 0
    assert quantile_loss(offsets.flip(1), 0 * TWO_CHANNELS, TWO_CHANNELS) > 0


def test_the_papers_loss_takes_any_distance_with_a_gradient():
    images = torch.rand(2, 2, 1, 24, 24)
    logits = torch.zeros(2, 1, 24, 24, requires_grad=True)
    found = loss_for(Recipe(loss="paper", distance="ssim", weight=4.0))(logits, *images)
    expected = 0.25 + 4 * Ssim().loss(torch.full((2, 1, 24, 24), 0.5), *images)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0


class HalfOfTheTrust:
    """A distance of another package."""

    name = sentence_name = "half"
    monotone = in_intensity_units = False
    differentiable = True
    identity = ""

    def loss(self, trust, restored, truth):
        return trust.mean() / 2

    def between(self, trust, restored, truth):
        raise NotImplementedError


def test_a_distance_of_another_package_is_trained_with_as_it_is(monkeypatch):
    monkeypatch.setattr(losses, "parse_distance", lambda name: HalfOfTheTrust())
    loss = loss_for(Recipe(loss="paper", distance="half", weight=8.0), dims=3)
    assert loss(torch.zeros(1, 1, 4, 4, 4), *torch.rand(2, 1, 1, 4, 4, 4)).item() == pytest.approx(0.25 + 8 * 0.25)


@pytest.mark.parametrize(("loss", "reference"), [("score", score_loss), ("likelihood", likelihood_loss)])
@pytest.mark.parametrize(("distance", "p"), [("l1", 1), ("l2", 2), ("l3", 3), ("ssim", 1), ("linf", 1)])
def test_the_other_losses_take_the_power_of_the_distance_and_else_one(loss, reference, distance, p):
    raw, restored, truth = torch.rand(3, 2, 1, 8, 8)
    found = loss_for(Recipe(loss=loss, distance=distance))(raw, restored, truth)
    assert found == reference(raw, restored, truth, p=p)
    assert found != reference(raw, restored, truth, p=p + 0.5)


@pytest.mark.parametrize(
    ("distance", "crops", "message"),
    [
        (
            "linf",
            {},
            "the distance linf has no gradient to train with; train with l1, or with the loss quantile: its mas",
        ),
        ("ssim", {"dims": 3}, "the distance ssim is one of planes, and these are volumes; train with l1 or l2"),
        ("ssim", {"size_px": 8}, "the distance ssim needs crops of at least 11 pixels, and these have 8; take larger"),
        ("lpips-vgg", {"size_px": 12}, "the distance lpips-vgg needs crops of at least 16 pixels, and these have 12"),
        ("l99", {}, "there is no distance 'l99'"),
    ],
)
def test_a_distance_that_cannot_be_trained_with_is_refused(distance, crops, message):
    with pytest.raises(ValueError, match=message):
        loss_for(Recipe(loss="paper", distance=distance), **crops)
    assert callable(loss_for(Recipe(loss="paper", distance="l2"), **crops))


def test_a_function_of_numpy_arrays_has_no_gradient(monkeypatch):
    own = from_callable(lambda a, b: abs(a - b).max(), name="largest of all")
    monkeypatch.setattr(losses, "parse_distance", lambda name: own)
    with pytest.raises(ValueError, match="the distance largest of all has no gradient to train with"):
        loss_for(Recipe(loss="paper"))


def test_the_other_losses_do_not_need_a_gradient_of_the_distance():
    assert not parse_distance("linf").differentiable
    for loss in ("score", "likelihood", "quantile"):
        assert callable(loss_for(replace(Recipe(distance="linf"), loss=loss), dims=3, size_px=4))


def test_an_error_of_zero_has_a_least_likelihood_loss_and_does_not_fall_for_ever():
    def values(floor: float) -> list[float]:
        return [likelihood_loss(z * ONE, 0 * ONE, 0 * ONE, floor=floor).item() for z in (-60.0, log(1e-3), 0.0)]

    assert min(values(1e-3)) == values(1e-3)[1]
    assert min(values(0.0)) == values(0.0)[0]
