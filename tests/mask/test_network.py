from __future__ import annotations

import pytest
import torch

from napari_maskcal.mask.network import MaskNetwork


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
    with pytest.raises(ValueError, match="head is 'relu'; it is 'sigmoid' or 'exponential'"):
        network(head="relu")
