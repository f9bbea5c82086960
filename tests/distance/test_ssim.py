from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.distance.ssim import Ssim

SSIM = Ssim()


def fields(n: int = 3, shape: tuple[int, ...] = (32, 40)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    truth = rng.random((n, *shape))
    return rng.random((n, *shape[-2:])), truth + 0.2 * rng.standard_normal(truth.shape), truth


def test_constant_images_have_the_distance_worked_out_by_hand():
    a, b = 0.2, 0.6
    expected = 1 - (2 * a * b + 0.01**2) / (a**2 + b**2 + 0.01**2)
    images = np.full((1, 16, 16), a), np.full((1, 16, 16), b)
    found = SSIM.between(np.ones((2, 16, 16)), *images)
    assert found == pytest.approx([expected] * 2, rel=1e-9)
    a, b = a / 2, b / 2  # half trust halves both
    expected = 1 - (2 * a * b + 0.01**2) / (a**2 + b**2 + 0.01**2)
    assert SSIM.between(np.full((1, 16, 16), 0.5), *images) == pytest.approx([expected], rel=1e-9)


def test_two_pixels_far_apart_have_the_distance_worked_out_by_hand():
    # One window, whose Gaussian weights are those of a normal distribution cut off at five pixels.
    restored, truth = np.zeros((1, 11, 11)), np.zeros((1, 11, 11))
    restored[0, 5, 5] = 1
    weight = 1 / np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2)).sum() ** 2
    variance = weight - weight**2
    similarity = 0.01**2 * 0.03**2 / ((weight**2 + 0.01**2) * (variance + 0.03**2))
    assert SSIM.between(np.ones((1, 11, 11)), restored, truth) == pytest.approx([1 - similarity])


def test_it_is_scikit_images_for_the_masked_images():
    trust, restored, truth = fields()
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = [
        1 - structural_similarity(t * a, t * b, **options) for t, a, b in zip(trust, restored, truth, strict=True)
    ]
    assert SSIM.between(trust, restored, truth) == pytest.approx(expected, rel=1e-12)
    other_window = options | {"sigma": 2.0}
    assert 1 - structural_similarity(trust[0] * restored[0], trust[0] * truth[0], **other_window) != pytest.approx(
        expected[0], rel=1e-3
    )


@pytest.mark.parametrize("channels", [1, 2])
def test_its_loss_is_the_mean_distance_by_the_other_library_and_has_a_gradient(channels):
    trust, restored, truth = fields(shape=(channels, 32, 40))
    tensors = [torch.from_numpy(trust[:, None]).requires_grad_(), *map(torch.from_numpy, (restored, truth))]
    loss = SSIM.loss(*tensors)
    loss.backward()
    assert loss.item() == pytest.approx(SSIM.between(trust, restored, truth).mean(), rel=1e-9)
    assert tensors[0].grad.isfinite().all()
    assert tensors[0].grad.abs().max() > 0


def test_equal_images_are_at_0_exactly_bright_flat_regions_included():
    rng = np.random.default_rng(0)
    image = rng.random((4, 32, 32))
    image[:, :16] = 1 + 0.001 * image[:, :16]
    assert SSIM.between(np.ones(image.shape), image, image).tolist() == [0, 0, 0, 0]
    assert SSIM.between(np.ones(image.shape), image.astype(np.float32), image.astype(np.float32)).max() == 0
    assert SSIM.between(np.ones(image.shape), image + 0.01, image).min() > 0
    assert SSIM.between(np.zeros(image.shape, dtype=bool), image + 0.01, image).tolist() == [0, 0, 0, 0]


def test_a_batch_is_a_loop_and_one_image_stands_for_all():
    trust, restored, truth = fields(5)
    together = SSIM.between(trust, restored, truth)
    alone = [SSIM.between(trust[[i]], restored[[i]], truth[[i]])[0] for i in range(5)]
    assert together.tolist() == alone
    shared = SSIM.between(trust, restored[:1], truth[:1])
    assert shared.tolist() == SSIM.between(trust, *(np.repeat(i[:1], 5, axis=0) for i in (restored, truth))).tolist()


def test_trusting_more_may_lower_it():
    restored, truth = np.full((1, 32, 32), 0.6), np.full((1, 32, 32), 0.5)
    every_other = np.indices((32, 32)).sum(axis=0) // 4 % 2 == 0
    some, all_ = SSIM.between(np.stack([every_other, np.ones_like(every_other)]), restored, truth)
    assert some > all_
    assert not SSIM.monotone


def test_fields_smaller_than_the_window_are_refused():
    assert SSIM.between(*fields(1, (11, 11))).shape == (1,)
    with pytest.raises(ValueError, match=r"SSIM needs fields of at least 11 × 11 pixels, got 10 × 11; take larger"):
        SSIM.between(*fields(1, (10, 11)))


def test_it_is_found_by_its_name_and_says_what_computes_it():
    assert parse_distance("SSIM") == SSIM == parse_distance(SSIM.name)
    assert SSIM.sentence_name == "structural dissimilarity (1 - SSIM)"
    assert SSIM.identity.startswith("scikit-image 0.")
