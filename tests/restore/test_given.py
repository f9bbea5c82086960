from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from given_models import certified
from napari_maskcal.bundle import write_bundle
from napari_maskcal.mask.untrained import given_mask
from napari_maskcal.models import GIVEN_RESTORER, MaskModel, Restorer, load_mask_model, matched
from napari_maskcal.pipeline import Review, run
from napari_maskcal.read.image import from_array
from napari_maskcal.restore.given import never_less_uncertain, read_uncertainty
from small_models import noisy_planes

SHAPE = (3, 70, 97)


@pytest.fixture(scope="module")
def stack() -> np.ndarray:
    return noisy_planes(*SHAPE)


@pytest.fixture(scope="module")
def another(stack) -> np.ndarray:
    """Another tool's restored images, in the stack's intensities."""
    return np.random.default_rng(3).normal(stack, 2)


@pytest.fixture(scope="module")
def spread() -> np.ndarray:
    """An uncertainty map of no unit that anybody knows."""
    return np.random.default_rng(4).gamma(2, 5, SHAPE)


def reviewed(stack: np.ndarray, restorer: Restorer, mask: MaskModel, **options) -> Review:
    image = from_array(stack, axes="ZYX", name="cells")
    return run(image, restorer, certified(restorer, mask), device="cpu", **options)


@pytest.fixture
def no_networks(monkeypatch):
    """Make every convolution an error."""

    def refuse(*_):
        raise AssertionError("a network ran")

    monkeypatch.setattr(nn.Conv2d, "forward", refuse)


def test_with_both_given_no_network_runs_and_both_come_out_as_they_went_in(no_networks, stack, another, spread):
    review = reviewed(stack, GIVEN_RESTORER, given_mask(), restored=another, uncertainty=spread)
    np.testing.assert_array_equal(review.restored, another.astype(np.float32))
    np.testing.assert_array_equal(review.uncertainty, never_less_uncertain(spread))
    np.testing.assert_array_equal(review.uncertain, review.uncertainty > review.certificate.threshold)
    assert 0 < review.masked_share < 1


def test_a_network_would_be_noticed(no_networks, trained, stack, spread):
    with pytest.raises(AssertionError, match="a network ran"):
        reviewed(stack, trained.restorer, given_mask(), uncertainty=spread)


def test_a_given_uncertainty_goes_with_what_the_restorer_makes(trained, stack, spread, set_effort):
    set_effort(max_tile_px=80, batch=3)
    review = reviewed(stack, trained.restorer, given_mask(), uncertainty=spread)
    for plane, restored in zip(stack, review.restored, strict=True):
        np.testing.assert_allclose(restored, trained.restorer(plane), rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(review.uncertainty, never_less_uncertain(spread))


@pytest.mark.parametrize("words", ["mask network", "residual"])
def test_a_given_restored_image_is_masked_by_a_network_tile_by_tile_as_in_whole(
    trained, stack, another, set_effort, words
):
    mask = trained.mask_model if words == "mask network" else load_mask_model(words, trained.restorer)
    set_effort(max_tile_px=4096, batch=1)
    whole = reviewed(stack, GIVEN_RESTORER, mask, restored=another)
    set_effort(max_tile_px=64, batch=4)
    tiled = reviewed(stack, GIVEN_RESTORER, mask, restored=another)
    np.testing.assert_allclose(tiled.uncertainty, whole.uncertainty, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(whole.restored, another.astype(np.float32))
    low, high = np.percentile(stack[0].astype(float), (1, 99.8), method="nearest")
    normalised = [(plane - low) / (high - low) for plane in (stack[0], another[0])]
    padded = [np.pad(plane, [(0, 2), (0, 3)], mode="reflect") for plane in normalised]
    with torch.inference_mode():
        direct = mask.network(*(torch.from_numpy(plane.astype(np.float32))[None, None] for plane in padded))
    np.testing.assert_allclose(whole.uncertainty[0], direct[0, 0, :70, :97].numpy(), rtol=1e-4, atol=1e-6)
    other = reviewed(stack, GIVEN_RESTORER, mask, restored=another[::-1])
    assert np.abs(other.uncertainty - whole.uncertainty).max() > 1e-3


def test_given_images_are_normalised_as_the_mask_network_was_trained_to(trained, stack, another):
    percentiles = trained.mask_model.card.normalisation.model_copy(update={"high_percentile": 60.0})
    card = trained.mask_model.card.model_copy(update={"normalisation": percentiles})
    other = replace(trained.mask_model, card=card)
    mask = certified(matched(GIVEN_RESTORER, other), other)
    image = from_array(stack, axes="ZYX", name="cells")
    found = run(image, GIVEN_RESTORER, mask, restored=another, device="cpu")
    usual = reviewed(stack, GIVEN_RESTORER, trained.mask_model, restored=another)
    np.testing.assert_array_equal(found.restored, usual.restored)
    assert np.abs(found.uncertainty - usual.uncertainty).max() > 1e-3
    with pytest.raises(ValueError, match="random mask 0 normalises intensities otherwise than random restorer 0"):
        run(image, trained.restorer, certified(trained.restorer, other), device="cpu")


def test_a_finer_restored_grid_takes_a_map_of_its_own_size(trained, stack):
    class Nearest(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")

    card = trained.restorer.card.model_copy(update={"scale_factor": 2, "stride_px": 1, "halo_px": 0})
    doubling = Restorer(card=card, network=Nearest(), sha256="nearest")
    fine = np.random.default_rng(0).gamma(2, 5, (3, 140, 194)).astype(np.float32)
    np.testing.assert_array_equal(reviewed(stack, doubling, given_mask(), uncertainty=fine).uncertainty, fine)
    with pytest.raises(ValueError, match=r"\(3, 70, 97\), not \(3, 140, 194\): an uncertainty map has to lie on"):
        reviewed(stack, doubling, given_mask(), uncertainty=fine[:, ::2, ::2])


def test_only_the_planes_and_the_channel_asked_for_are_taken(another, stack, spread):
    image = from_array(stack[:, None].repeat(2, 1), axes="TCYX", name="cells")
    maps = {"restored": another, "uncertainty": spread}
    given = {name: np.stack([np.full(SHAPE, 7.0), planes], axis=1) for name, planes in maps.items()}
    mask = certified(GIVEN_RESTORER, given_mask())
    review = run(image, GIVEN_RESTORER, mask, channel=1, planes=[(2, 1)], device="cpu", **given)
    np.testing.assert_array_equal(review.restored[0, 0], another[2].astype(np.float32))
    np.testing.assert_array_equal(review.uncertainty[0, 0], never_less_uncertain(spread[2]))


def test_images_of_their_own_may_be_lazy_and_are_read_plane_by_plane(stack, another, spread):
    class Lazy:
        def __init__(self, data):
            self.data, self.reads, self.shape, self.dtype = data, [], data.shape, data.dtype

        def __getitem__(self, index):
            self.reads.append(index)
            return self.data[index]

    lazy = [Lazy(another), Lazy(spread)]
    images = [from_array(data, axes="ZYX", name="lazy") for data in lazy]
    mask = certified(GIVEN_RESTORER, given_mask())
    run(stack, GIVEN_RESTORER, mask, axes="ZYX", planes=[(1,)], restored=images[0], uncertainty=images[1], device="cpu")
    assert [data.reads for data in lazy] == [[(1,)], [(1,)]]


# ---- what is missing, not wanted, or does not fit


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", r"given restored image makes no restored image itself: give one, restored=..., with cells"),
        ("r", r"posterior makes no uncertainty map itself: give one, uncertainty=..., with cells"),
        ("u", r"given restored image makes no restored image itself"),
    ],
)
def test_what_is_missing_is_named(stack, another, spread, given, message):
    options = {"restored": another} if given == "r" else {"uncertainty": spread} if given == "u" else {}
    with pytest.raises(ValueError, match=message):
        reviewed(stack, GIVEN_RESTORER, given_mask("posterior"), **options)


def test_what_a_network_makes_must_not_be_given_as_well(trained, stack, another, spread):
    with pytest.raises(ValueError, match="the restored image was given, but random restorer 0 makes its own"):
        reviewed(stack, trained.restorer, given_mask(), restored=another, uncertainty=spread)
    with pytest.raises(ValueError, match="map was given, but random mask 0 makes its own uncertainty map; leave out"):
        reviewed(stack, trained.restorer, trained.mask_model, uncertainty=spread)


@pytest.mark.parametrize(
    ("part", "window", "message"),
    [
        (
            "restored",
            np.s_[:2],
            r"has shape \(2, 70, 97\), not \(3, 70, 97\): a restored image that is",
        ),
        ("restored", np.s_[:, ::2, ::2], r"\(3, 35, 49\), not \(3, 70, 97\): a restored image that is given"),
        (
            "uncertainty",
            np.s_[:, 1:],
            r"has shape \(3, 69, 97\), not \(3, 70, 97\): an uncertainty map has",
        ),
    ],
)
def test_another_grid_is_refused_with_both_shapes(stack, another, spread, part, window, message):
    given = {"restored": another, "uncertainty": spread}
    given[part] = given[part][window]
    with pytest.raises(ValueError, match=message):
        reviewed(stack, GIVEN_RESTORER, given_mask(), **given)
    with pytest.raises(ValueError, match="axes 'ZYX' name 3 axes, but the restored image has 2"):
        reviewed(stack, GIVEN_RESTORER, given_mask(), restored=another[0], uncertainty=spread)
    other = from_array(another, axes="TYX", name="other")
    with pytest.raises(ValueError, match="other has axes TYX, but cells has ZYX; name them alike"):
        reviewed(stack, GIVEN_RESTORER, given_mask(), restored=other, uncertainty=spread)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, "the uncertainty map, plane Z=1: the uncertainty has 2 values that are 0 or less; .* add a small number"),
        (-3.0, "has 2 values that are 0 or less"),
        (np.nan, "the uncertainty map, plane Z=1 has 2 NaN or infinite values, the first at .* = \\(5, 6\\)"),
        (np.inf, "plane Z=1 has 2 NaN or infinite values"),
        (1e39, "plane Z=1: the uncertainty has 2 values too large for float32"),
    ],
)
def test_an_uncertainty_that_is_none_is_refused_by_name(stack, another, spread, value, message):
    wrong = spread.copy()
    wrong[1, 5, 6:8] = value
    with pytest.raises(ValueError, match=message):
        reviewed(stack, GIVEN_RESTORER, given_mask(), restored=another, uncertainty=wrong)


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "plane Z=2 has 1 NaN"), (1e300, "the restored image has 1 val")]
)
def test_a_restored_image_that_is_not_finite_is_refused_by_name(stack, another, spread, value, message):
    wrong = another.copy()
    wrong[2, 5, 6] = value
    with pytest.raises(ValueError, match=message):
        reviewed(stack, GIVEN_RESTORER, given_mask(), restored=wrong, uncertainty=spread)


def test_what_comes_with_the_image_cannot_be_asked_for_directly(stack):
    with pytest.raises(ValueError, match=r"makes no image itself; take pipeline.run, with restored=..."):
        GIVEN_RESTORER(stack[0])
    with pytest.raises(ValueError, match=r"makes no map itself; take pipeline.run, with uncertainty=..."):
        given_mask().uncertainty(stack[0], stack[0])


# ---- numbers


def test_float32_is_rounded_up_so_that_no_pixel_looks_more_certain():
    exact = np.random.default_rng(0).lognormal(0, 20, 20_000)
    rounded = never_less_uncertain(exact)
    assert rounded.dtype == np.float32
    assert (rounded >= exact).all()
    assert (np.nextafter(rounded, np.float32(0)) < exact).all()
    assert (exact.astype(np.float32) < exact).mean() > 0.4  # what the nearest would have done


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32", "float16", "float32", ">f8"])
def test_every_number_type_is_taken(dtype):
    values = np.array([[1, 100, 120]]).astype(dtype)
    np.testing.assert_array_equal(read_uncertainty(from_array(values, axes="YX"), ()), [[1, 100, 120]])


def test_large_integers_and_tiny_numbers_are_rounded_up_too():
    assert never_less_uncertain(np.array([2**24 + 1], np.uint32))[0] == 2**24 + 2
    smallest_normal = np.finfo(np.float32).tiny
    assert (never_less_uncertain(np.array([1e-300, 1e-45, 5e-39])) == smallest_normal).all()


# ---- the certificate


def test_a_given_map_is_calibrated_saved_and_read_by_its_card_alone(tmp_path):
    mask = certified(GIVEN_RESTORER, given_mask("posterior of another tool"))
    path = tmp_path / "given.maskcal"
    write_bundle(path, mask.network, mask.card, mask.certificate)
    again = load_mask_model(path)
    assert (again.network, again.card, again.sha256) == (None, mask.card, mask.sha256)
    assert again.certificate.fingerprint.restorer_sha256 == "given"
    assert given_mask("a").sha256 != given_mask("b").sha256


def test_a_promise_for_given_images_does_not_hold_for_a_networks(trained, stack, spread):
    mask = certified(GIVEN_RESTORER, given_mask())
    with pytest.raises(ValueError, match="does not hold here: the restorer differ"):
        run(stack, trained.restorer, mask, axes="ZYX", uncertainty=spread, device="cpu")
