from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import napari_maskcal
from napari_maskcal.models import load_restorer
from napari_maskcal.pipeline import Review, agreed_certificate, check_channel, rethreshold, run
from napari_maskcal.read.image import from_array
from napari_maskcal.read.pixel_size import PixelSize
from napari_maskcal.restore.events import Cancelled, CancelToken, Done, PlaneReviewed, Started, TileDone, Warned
from small_models import noisy_planes, random_restorer


@pytest.fixture
def pair(trained):
    return trained.restorer, trained.mask_model


def stack(*shape: int, axes: str = "ZYX"):
    return from_array(noisy_planes(*shape), axes=axes, name="cells")


def assert_same(found: Review, expected: Review) -> None:
    for name in ("restored", "uncertainty", "uncertain"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.certificate == expected.certificate


def test_a_stack_becomes_a_review(pair):
    review = run(stack(3, 64, 70), *pair, device="cpu")
    assert review.restored.shape == review.uncertainty.shape == review.uncertain.shape == (3, 64, 70)
    assert (review.planes_done, review.planes, review.complete, review.scale_factor) == (3, 3, True, 1)
    assert (review.first, review.last) == ((0,), (2,))
    np.testing.assert_array_equal(review.uncertain, review.uncertainty > pair[1].certificate.threshold)
    assert review.masked_share == (review.uncertain == 1).mean()
    assert 0.05 < review.masked_share < 0.95


def test_restored_intensities_are_those_of_the_image(pair):
    image = stack(1, 64, 70)
    review = run(image, *pair, device="cpu")
    low, high = np.percentile(image.data, (1, 99))
    assert np.abs(np.median(review.restored) - np.median(image.data)) < 0.3 * (high - low)


def test_a_plane_does_not_depend_on_its_neighbours_or_their_brightness(pair):
    planes = noisy_planes(3, 64, 70)
    alone = run(planes[1], *pair, axes="YX", device="cpu")
    planes[0] *= 50
    together = run(planes, *pair, axes="ZYX", device="cpu")
    np.testing.assert_array_equal(together.uncertain[1], alone.uncertain)
    np.testing.assert_allclose(together.restored[1], alone.restored, rtol=1e-6)


@pytest.mark.parametrize(("shape", "axes"), [((64, 70), "YX"), ((2, 64, 70), "tyx"), ((2, 1, 2, 64, 70), "TCZYX")])
def test_arrays_are_taken_with_their_axes_named(pair, shape, axes):
    review = run(noisy_planes(*shape), *pair, axes=axes, channel=0 if "C" in axes else None, device="cpu")
    assert review.restored.shape == shape
    assert review.image.axes == axes.upper()


def test_axes_of_a_bare_array_are_never_guessed(pair):
    with pytest.raises(ValueError, match="does not say what its axes are; give axes, such as axes='ZYX'"):
        run(noisy_planes(2, 64, 70), *pair)


@pytest.mark.parametrize(
    ("axes", "channel", "message"),
    [
        ("CYX", None, "cells has 3 channels; choose one, counted from 0"),
        ("CYX", 3, "cells has channels 0 to 2; channel 3 is not one of them"),
        ("CYX", -1, "channel -1 is not one of them"),
        ("ZYX", 0, "cells has no channel axis, yet channel 0 was chosen; leave it out"),
    ],
)
def test_the_channel_is_chosen_and_never_guessed(pair, axes, channel, message):
    with pytest.raises(ValueError, match=message):
        run(stack(3, 64, 70, axes=axes), *pair, channel=channel, device="cpu")


def test_the_channel_that_was_chosen_is_the_one_that_is_restored(pair):
    image = stack(2, 3, 64, 70, axes="TCYX")
    review = run(image, *pair, channel=2, device="cpu")
    assert review.restored.shape == (2, 1, 64, 70)
    assert (review.first, review.last, review.planes) == ((0, 2), (1, 2), 2)
    assert_same(replace(review, restored=review.restored[1, 0], uncertainty=review.uncertainty[1, 0],
                        uncertain=review.uncertain[1, 0]),
                run(image.data[1, 2], *pair, axes="YX", device="cpu"))  # fmt: skip
    assert check_channel(image, 0) is image


def test_planes_asked_for_fill_their_box_and_nothing_else(pair):
    image = stack(4, 5, 64, 64, axes="TZYX")
    whole = run(image, *pair, device="cpu")
    part = run(image, *pair, planes=[(3, 1), (1, 2)], device="cpu")
    assert (part.first, part.last) == ((1, 1), (3, 2))
    assert part.uncertain.shape == (3, 2, 64, 64)
    assert (part.planes_done, part.planes, part.complete) == (2, 2, True)
    np.testing.assert_array_equal(part.uncertain[2, 0], whole.uncertain[3, 1])
    np.testing.assert_array_equal(part.uncertain[0, 1], whole.uncertain[1, 2])
    not_asked = np.ones((3, 2), bool)
    not_asked[2, 0] = not_asked[0, 1] = False
    assert (part.uncertain[not_asked] == 2).all()
    assert (part.uncertainty[not_asked] == 0).all()
    assert part.masked_share == (part.uncertain == 1).sum() / (2 * 64 * 64)


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        ([], "cells has no planes"),
        ([(1,), (4,)], r"has no plane \(4,\): .* \(4, 64, 64\)"),
        ([(0, 0)], r"no plane \(0, 0\)"),
    ],
)
def test_planes_that_are_not_there_are_refused_readably(pair, planes, message):
    with pytest.raises(ValueError, match=message):
        run(stack(4, 64, 64), *pair, planes=planes, device="cpu")


def test_a_stack_without_planes_is_refused_with_its_shape(pair):
    with pytest.raises(ValueError, match=r"cells has no planes: its shape is \(0, 64, 64\)"):
        run(from_array(np.zeros((0, 64, 64)), axes="ZYX", name="cells"), *pair, device="cpu")


def test_planes_smaller_than_the_calibrated_fields_are_refused(pair):
    with pytest.raises(ValueError, match="63 × 64 pixels, smaller than the calibrated fields of 64 × 64"):
        run(stack(1, 63, 64), *pair, device="cpu")


def test_the_promise_holds_only_for_the_pair_that_was_calibrated(pair, tmp_path):
    restorer, mask = pair
    other = load_restorer(random_restorer(tmp_path, seed=9))
    assert agreed_certificate(restorer, mask) is mask.certificate
    with pytest.raises(ValueError, match="does not hold here: the restorer differ"):
        run(stack(1, 64, 64), other, mask, device="cpu")
    with pytest.raises(ValueError, match="does not hold here: the mask network differ"):
        run(stack(1, 64, 64), restorer, replace(mask, sha256="0"), device="cpu")
    with pytest.raises(ValueError, match="random mask 0 has no certificate: calibrate it"):
        run(stack(1, 64, 64), restorer, replace(mask, certificate=None), device="cpu")
    card = restorer.card.model_copy(update={"trained_on": ("specimen 2",)})
    with pytest.raises(ValueError, match="random restorer 0 was trained on specimen 2"):
        run(stack(1, 64, 64), replace(restorer, card=card), mask, device="cpu")
    soft = mask.certificate.model_copy(update={"mask": "soft"})
    with pytest.raises(ValueError, match="certificate is for soft masks, but regions are drawn as binary"):
        run(stack(1, 64, 64), restorer, mask, soft, device="cpu")


def test_a_certificate_that_is_given_goes_before_the_bundles_own(pair):
    other = pair[1].certificate.at(tolerance=0.03)
    review = run(stack(1, 64, 64), *pair, other, device="cpu")
    assert review.certificate is other
    assert review.masked_share < run(stack(1, 64, 64), *pair, device="cpu").masked_share


def test_another_promise_drawn_on_a_finished_run_is_what_a_fresh_run_draws(pair):
    image = stack(2, 64, 64)
    done = run(image, *pair, device="cpu")
    for promise in [{"tolerance": 0.01}, {"tolerance": 0.03}, {"confidence": 0.7}]:
        certificate = pair[1].certificate.at(**promise)
        assert certificate.threshold != done.certificate.threshold
        assert_same(rethreshold(done, certificate), run(image, *pair, certificate, device="cpu"))
    assert_same(rethreshold(rethreshold(done, certificate), done.certificate), done)


@pytest.mark.parametrize(("threshold", "share"), [(np.inf, 0), (0.0, 1)])
def test_an_infinite_threshold_marks_nothing_and_zero_everything(pair, threshold, share):
    certificate = pair[1].certificate.model_copy(update={"threshold": threshold})
    assert run(stack(1, 64, 64), *pair, certificate, device="cpu").masked_share == share


def test_a_cancelled_run_keeps_the_planes_that_were_done_and_says_so(pair):
    image, cancel, events = stack(4, 64, 64), CancelToken(), []

    def stop(event):
        events.append(event)
        if isinstance(event, PlaneReviewed) and event.index == (1,):
            cancel.cancel()

    review = run(image, *pair, device="cpu", on_event=stop, cancel=cancel)
    assert isinstance(events[-1], Cancelled)
    assert (review.planes_done, review.planes, review.complete) == (2, 4, False)
    assert [(plane == 2).all() for plane in review.uncertain] == [False, False, True, True]
    whole = run(image, *pair, device="cpu")
    np.testing.assert_array_equal(review.uncertain[:2], whole.uncertain[:2])
    assert review.masked_share == whole.uncertain[:2].mean()
    narrower = rethreshold(review, pair[1].certificate.at(tolerance=0.01))
    assert [(plane == 2).any() for plane in narrower.uncertain] == [False, False, True, True]


def test_events_tell_of_the_run_from_its_start_to_its_end(pair):
    events = []
    review = run(stack(2, 64, 64), *pair, device="cpu", on_event=events.append)
    assert [type(event) for event in events] == [Started, TileDone, PlaneReviewed, TileDone, PlaneReviewed, Done]
    assert events[0].result.restored is review.restored  # the arrays that the run fills, to be shown at once
    assert events[-1].result is review


def test_a_finer_grid_is_reviewed_at_its_own_size(pair):
    class Nearest(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")

    restorer, mask = pair
    card = restorer.card.model_copy(update={"scale_factor": 2, "stride_px": 1, "halo_px": 0})
    image = stack(2, 64, 70)
    review = run(image, replace(restorer, card=card, network=Nearest()), mask, device="cpu")
    assert review.uncertain.shape == (2, 128, 140)
    assert review.scale_factor == 2
    np.testing.assert_allclose(review.restored[:, ::2, 1::2], image.data, rtol=1e-5)


def test_results_larger_than_memory_go_to_disk_with_the_same_values(pair, monkeypatch):
    image = stack(2, 64, 64)
    expected = run(image, *pair, device="cpu")
    monkeypatch.setattr("napari_maskcal.read.scratch._IN_MEMORY_BYTES", 1000)
    on_disk = run(image, *pair, device="cpu")
    assert isinstance(on_disk.restored, np.memmap)
    assert_same(on_disk, expected)


def test_the_public_run_is_this_one():
    assert napari_maskcal.run is run


@pytest.mark.parametrize(("trained_at", "warned"), [(None, 0), (0.105, 0), (0.2, 1)])
def test_an_image_of_another_magnification_than_the_restorers_is_reviewed_with_a_warning(pair, trained_at, warned):
    restorer, mask_model = pair
    size = None if trained_at is None else PixelSize(y=trained_at, x=trained_at, unit="micrometer")
    other = replace(restorer, card=restorer.card.model_copy(update={"pixel_size": size}))
    image = from_array(
        noisy_planes(1, 64, 64), axes="ZYX", name="cells", scale=(1, 0.1, 0.1), units=("micrometer",) * 3
    )  # fmt: skip
    events: list[Any] = []
    review = run(image, other, mask_model, device="cpu", on_event=events.append)
    assert_same(review, run(image, *pair, device="cpu"))
    told = [event.message for event in events if isinstance(event, Warned)]
    assert told == warned * [
        "cells has pixels of 0.1 × 0.1 micrometer, but random restorer 0 was trained at 0.2 × 0.2 micrometer: it may "
        "restore badly, and much may be marked"
    ]
