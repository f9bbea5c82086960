from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from napari_maskcal.mask.network import MaskNetwork, network_for
from napari_maskcal.mask.scores import FLOOR
from napari_maskcal.models import load_mask_model
from napari_maskcal.restore.kinds import make_network
from training_fields import QUICK, training_fields, weights

MEAN = 0.87872040  # of the bundled network, when it was released


def network(**options) -> MaskNetwork:
    torch.manual_seed(0)
    return MaskNetwork((4, 8), **options).eval()


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("head", ["sigmoid", "exponential"])
@pytest.mark.parametrize("shift", [-1e4, -50.0, 0.0, 50.0, 1e4])
def test_the_uncertainty_is_positive_and_finite_however_sure_the_network_is(head, shift):
    mask = network(head=head)
    with torch.inference_mode():
        mask.trunk.head.bias += shift
        uncertainty = mask(images(1, 1, 8, 12), images(1, 1, 8, 12))
    assert (uncertainty > 0).all()
    assert torch.isfinite(uncertainty).all()
    assert (uncertainty > 1e-38).all()  # below, float32 loses digits, and some processors round to 0


@pytest.mark.parametrize("head", ["sigmoid", "exponential"])
def test_a_larger_logit_is_trusted_by_the_paper_and_distrusted_by_the_score(head):
    mask, image = network(head=head), images(1, 1, 8, 8)
    with torch.inference_mode():
        before = mask(image, image)
        mask.trunk.head.bias += 1
        assert ((mask(image, image) < before) == (head == "sigmoid")).all()


def test_the_papers_uncertainty_keeps_its_digits_where_the_mask_is_nearly_one():
    mask, image = network(head="sigmoid"), images(1, 1, 8, 8)
    with torch.inference_mode():
        mask.trunk.head.bias += 30 - mask.logits(image, image).mean()
        z = mask.logits(image, image)
        torch.testing.assert_close(mask(image, image), torch.exp(-z), rtol=1e-5, atol=0)
        assert (1 - torch.sigmoid(z)).max() == 0  # what the plain difference would give


def test_a_coarser_degraded_image_is_repeated_onto_the_restored_grid():
    mask, degraded, restored = network(), images(2, 1, 4, 6), images(2, 1, 8, 12)
    repeated = degraded.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    with torch.inference_mode():
        assert torch.equal(mask(degraded, restored), mask(repeated, restored))
        assert not torch.equal(mask(degraded, restored), mask(1 - degraded, restored))


def test_an_image_of_several_channels_has_one_uncertainty():
    mask, image = network(channels=3), images(2, 3, 8, 8)
    with torch.inference_mode():
        assert mask(image, image).shape == (2, 1, 8, 8)


def test_at_first_nearly_all_is_trusted():
    mask, image = network(head="sigmoid"), images(1, 1, 32, 32)
    with torch.inference_mode():
        assert (1 - mask(image, image)).mean() > 0.8


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="head is 'relu'; it is 'sigmoid', 'exponential' or 'quantile'"):
        network(head="relu")


def test_a_quantile_heads_uncertainty_is_the_width_between_its_ends_over_channels_the_norm():
    mask, image = network(head="quantile", channels=2), images(1, 2, 8, 8)
    with torch.inference_mode():
        z = mask.logits(image, image)
        assert z.shape == (1, 4, 8, 8)
        width = (z[:, 2:] - z[:, :2]).clamp(min=0)
        expected = width.square().sum(dim=1, keepdim=True).sqrt() + FLOOR
        assert mask(image, image).shape == (1, 1, 8, 8)
        torch.testing.assert_close(mask(image, image), expected)


def test_where_the_quantiles_cross_the_width_is_zero():
    mask, image = network(head="quantile"), images(1, 1, 8, 8)
    with torch.inference_mode():
        assert (mask(image, image) > 10 * FLOOR).all()
        mask.trunk.head.bias[0] += 10
        assert (mask(image, image) == torch.tensor(FLOOR)).all()


@pytest.mark.parametrize("head", ["sigmoid", "exponential", "quantile"])
def test_volumes_have_an_uncertainty_too(head):
    mask, restored = network(head=head, dims=3, channels=2, degraded_channels=1), images(1, 2, 4, 8, 12)
    coarse = images(1, 1, 2, 4, 6)
    with torch.inference_mode():
        found = mask(coarse, restored)
        assert found.shape == (1, 1, 4, 8, 12)
        assert (found > 0).all()
        repeated = coarse
        for axis in (2, 3, 4):
            repeated = repeated.repeat_interleave(2, dim=axis)
        assert torch.equal(found, mask(repeated, restored))
        assert not torch.equal(found, mask(repeated, restored.flip(2)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"head": "exponential"}, {}),
        ({"channels": 3}, {"channels": 3}),
        ({"channels": 3, "degraded_channels": 1}, {"channels": 3, "degraded_channels": 1}),
        ({"degraded_channels": 2, "dims": 3}, {"degraded_channels": 2, "dims": 3}),
    ],
)
def test_a_card_says_what_is_not_usual_and_makes_the_same_network_again(options, expected):
    mask = network(**options)
    assert mask.spec == {"kind": "mask-unet", "head": mask.head, "widths": [4, 8]} | expected
    again = make_network(json.loads(json.dumps(mask.spec)), role="mask")
    assert again.load_state_dict(mask.state_dict())
    assert again.spec == mask.spec


def test_the_bundled_mask_network_gives_what_it_always_gave():
    mask, image = load_mask_model("demo").network, torch.linspace(0, 1, 256).reshape(1, 1, 16, 16)
    found = mask(image, image)
    torch.testing.assert_close(found.mean(), torch.tensor(MEAN), rtol=1e-5, atol=0)
    with torch.inference_mode():
        mask.trunk.head.bias += 1e-3
        assert abs(mask(image, image).mean() - MEAN) > 1e-5 * MEAN


@pytest.mark.parametrize(
    ("loss", "head"),
    [("paper", "sigmoid"), ("score", "exponential"), ("likelihood", "exponential"), ("quantile", "quantile")],
)
def test_the_network_for_a_recipe_has_the_head_of_its_loss_and_the_seeds_weights(loss, head):
    fields, recipe = training_fields(channels=3, degraded_channels=1), replace(QUICK, loss=loss)
    made = network_for(recipe, fields)
    assert (made.head, made.channels, made.degraded_channels, made.dims) == (head, 3, 1, 2)
    assert torch.equal(weights(made), weights(network_for(recipe, fields)))
    assert not torch.equal(weights(made), weights(network_for(replace(recipe, seed=1), fields)))
