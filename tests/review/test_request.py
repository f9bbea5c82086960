from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest

from given_models import certified, given_bundle
from napari_maskcal.bundle import mask_sha256, mask_weights, write_bundle
from napari_maskcal.models import GIVEN_RESTORER, load_restorer, matched
from napari_maskcal.read.pixel_size import PixelSize
from napari_maskcal.restore.loaders import native
from napari_maskcal.review.request import (
    Choices,
    Request,
    Source,
    describe_bundle,
    device_fault,
    parts_wanted,
    resolve,
)
from small_models import calibrated_bundle, random_restorer

STACK = Source(key="a", name="cells", kind="image", rgb=False, shape=(4, 64, 80), dtype="uint16")


@pytest.fixture
def choices(trained) -> Choices:
    return Choices(
        source=STACK,
        axes="ZYX",
        channel=None,
        region="all planes",
        restorer=str(trained.restorer_path),
        mask_model=str(trained.mask_path),
        tolerance=0.02,
        confidence=0.9,
    )


def problems(choices: Choices, **changes: Any) -> dict[str, str]:
    found = resolve(replace(choices, **changes))
    assert isinstance(found, list), "it can be run"
    return {problem.field: problem.message for problem in found}


def test_an_image_of_another_magnification_is_refused_before_it_is_run(choices, trained, tmp_path):
    size = PixelSize(y=0.1, x=0.1, unit="micrometer")
    certificate = trained.mask_model.certificate.model_copy(update={"pixel_size": size})
    write_bundle(tmp_path / "sized.maskcal", trained.mask_model.network, trained.mask_model.card, certificate)
    changes = {"mask_model": str(tmp_path / "sized.maskcal")}
    for unit, fits in (("micrometer", True), ("nanometer", False)):
        source = replace(STACK, pixel_size=PixelSize(y=0.1, x=0.1, unit=unit))
        found = resolve(replace(choices, source=source, **changes))
        assert isinstance(found, Request) is fits, found
    assert "cells has pixels of 0.1 × 0.1 nanometer" in problems(choices, source=source, **changes)["source"]


def test_choices_that_fit_become_a_request_with_the_pinned_promise(choices, trained):
    request = resolve(choices)
    assert isinstance(request, Request)
    assert (request.axes, request.restorer, request.mask_model) == ("ZYX", trained.restorer_path, trained.mask_path)
    assert request.certificate.threshold == trained.mask_model.certificate.threshold
    assert not request.certificate.exploration


def test_another_tolerance_makes_the_promise_an_exploration(choices):
    request = resolve(replace(choices, tolerance=0.04, confidence=0.8))
    assert request.certificate.exploration
    assert (request.certificate.tolerance, request.certificate.confidence) == (0.04, 0.8)


def shaped(*shape: int, **changes: Any) -> Source:
    return replace(STACK, shape=shape, **changes)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"source": None}, "source", "there is no image; open one"),
        ({"source": replace(STACK, kind="labels")}, "source", "cells is a Labels layer"),
        ({"source": replace(STACK, rgb=True)}, "source", "cells is an RGB image .* Split RGB"),
        ({"source": shaped(80)}, "source", r"cells has shape \(80,\)"),
        ({"source": shaped(4, 64, 15)}, "source", "64 × 15 pixels; random restorer 0 needs at least 16"),
        ({"source": shaped(4, 64, 63)}, "source", "64 × 63 pixels, smaller than the calibrated fields of 64 × 64"),
        ({"axes": "YX"}, "axes", "axes 'YX' name 2 axes, but cells has 3"),
        ({"axes": ""}, "axes", "axes '' name 0 axes"),
        ({"axes": "CYX"}, "channel", "the image has 4 channels; choose one, counted from 0"),
        ({"axes": "CYX", "channel": 4}, "channel", "channels 0 to 3; channel 4 is not one of them"),
        ({"axes": "CYX", "channel": -1}, "channel", "channel -1 is not one of them"),
        ({"restorer": "/nowhere/x.safetensors"}, "restorer", "/nowhere/x.safetensors does not exist"),
        ({"mask_model": "/nowhere/x.maskcal"}, "mask_model", "/nowhere/x.maskcal does not exist"),
        ({"tolerance": 0.0}, "tolerance", "tolerance is 0; give a number above 0"),
        ({"confidence": 1.0}, "confidence", "confidence is 1;"),
        ({"confidence": 0.99}, "confidence", "at least 99 groups .*, got 12"),
    ],
)
def test_one_wrong_choice_is_one_problem_at_its_field(choices, changes, field, message):
    found = problems(choices, **changes)
    assert list(found) == [field]
    with pytest.raises(ValueError, match=message):
        raise ValueError(found[field])


def test_all_problems_are_told_at_once(choices):
    found = problems(choices, source=None, restorer="/x", tolerance=-1.0, confidence=2.0)
    assert list(found) == ["source", "restorer", "tolerance", "confidence"]


def test_a_channel_that_is_there_is_taken_and_one_that_is_not_needed_ignored(choices):
    assert isinstance(resolve(replace(choices, axes="CYX", channel=3)), Request)
    assert isinstance(resolve(replace(choices, channel=3)), Request)


def test_a_mask_model_of_another_restorer_is_refused_by_both_names(choices, tmp_path):
    other = random_restorer(tmp_path, seed=7)
    message = problems(choices, restorer=str(other))["mask_model"]
    assert "random mask 0 was calibrated for another restorer than random restorer 7" in message


def test_a_bundle_is_read_again_only_when_it_has_changed(choices, trained, tmp_path):
    path = tmp_path / "mask.maskcal"
    shutil.copy(trained.mask_path, path)
    first = describe_bundle(str(path))
    assert describe_bundle(str(path)) is first
    folder = tmp_path / "other"
    folder.mkdir()
    changed, _ = calibrated_bundle(folder, load_restorer(trained.restorer_path), seed=3)
    shutil.copy(changed, path)
    assert describe_bundle(str(path)).card.name == "random mask 3"
    path.unlink()
    assert "does not exist" in problems(choices, mask_model=str(path))["mask_model"]


@pytest.mark.parametrize("changes", [{"tolerance": 0.03}, {"confidence": 0.8}])
def test_another_promise_needs_no_new_run(choices, changes):
    assert replace(choices, **changes).differs_in_promise_only(choices)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"source": replace(STACK, key=("a", 1))},
        {"axes": "TYX"},
        {"channel": 1},
        {"region": "current plane"},
        {"restorer": "demo", "tolerance": 0.03},
        {"mask_model": "demo"},
        {"restored": STACK},
        {"uncertainty": STACK, "tolerance": 0.03},
    ],
)
def test_other_pixels_or_networks_need_one(choices, changes):
    assert not replace(choices, **changes).differs_in_promise_only(choices)


def test_a_layer_that_was_only_renamed_is_the_same_source(choices):
    assert replace(STACK, name="nuclei") == STACK


@pytest.mark.parametrize("name", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"])
def test_devices_are_accepted_by_the_form_of_their_name(name):
    assert device_fault(name) is None


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cpu0", " cpu"])
def test_other_names_are_no_devices(name):
    assert device_fault(name).startswith(f"'{name}' is no device; take auto, cpu")


def test_the_card_and_the_hash_that_are_checked_are_those_that_are_loaded(choices, trained):
    request = resolve(choices)
    restorer = native.read_restorer(request.restorer)
    assert restorer.sha256 == request.certificate.fingerprint.restorer_sha256


RESTORED, MAP = (replace(STACK, key=name, name=name, dtype="float64") for name in ("theirs", "map"))


@pytest.fixture
def given(choices, tmp_path) -> Choices:
    bundle = given_bundle(tmp_path, GIVEN_RESTORER)
    return replace(choices, restorer="given", mask_model=str(bundle), restored=RESTORED, uncertainty=MAP)


def test_what_another_tool_made_takes_the_place_of_networks(given):
    assert isinstance(resolve(given), Request)
    assert parts_wanted(given.restorer, given.mask_model) == ("restored", "uncertainty")


def test_networks_want_nothing_to_be_given_nor_do_models_that_cannot_be_read(choices):
    assert parts_wanted(choices.restorer, choices.mask_model) == ()
    assert parts_wanted("/nowhere", "/nowhere") == ()
    assert parts_wanted("given", choices.mask_model) == ("restored",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"restored": None}, "the restored image comes from another tool here; choose its layer, or its file with"),
        ({"uncertainty": None}, "the uncertainty map comes from another tool here; choose"),
        ({"restored": STACK}, "cells is the input itself; choose its restored image"),
        ({"restored": replace(RESTORED, shape=(4, 128, 160))}, r"theirs has shape \(4, 128, 160\), not \(4, 64, 80\)"),
        ({"uncertainty": replace(MAP, shape=(64, 80))}, r"map has shape \(64, 80\), not \(4, 64, 80\)"),
        ({"uncertainty": replace(MAP, kind="labels")}, "map is a Labels layer"),
        ({"uncertainty": replace(MAP, dtype="complex64")}, "map has dtype complex64"),
    ],
)
def test_a_given_image_that_does_not_fit_is_one_problem_at_its_field(given, changes, message):
    found = problems(given, **changes)
    assert list(found) == list(changes)
    with pytest.raises(ValueError, match=message):
        raise ValueError(found[next(iter(changes))])


def test_given_images_are_normalised_as_the_mask_network_was_trained_to(choices, trained, tmp_path):
    percentiles = trained.mask_model.card.normalisation.model_copy(update={"low_percentile": 5.0})
    card = trained.mask_model.card.model_copy(update={"normalisation": percentiles})
    model = replace(trained.mask_model, card=card, sha256=mask_sha256(card, mask_weights(trained.mask_model.network)))
    certificate = certified(matched(GIVEN_RESTORER, model), model).certificate
    path = tmp_path / "other.maskcal"
    write_bundle(path, model.network, card, certificate)
    other = replace(choices, mask_model=str(path))
    assert isinstance(resolve(replace(other, restorer="given", restored=RESTORED)), Request)
    assert any("normalises intensities otherwise" in problem.message for problem in resolve(other))


def test_what_a_network_makes_is_not_taken_from_elsewhere(choices):
    found = problems(choices, restored=RESTORED, uncertainty=MAP)
    assert found["restored"] == "theirs was given, but random restorer 0 makes its own restored image; leave out either"
    assert found["uncertainty"] == "map was given, but random mask 0 makes its own uncertainty map; leave out either"


@pytest.mark.parametrize("words", ["residual", "augmentation", "ensemble:a,b", "given"])
def test_a_mask_model_that_is_made_from_words_has_to_be_calibrated_first(choices, words):
    message = problems(choices, mask_model=words)["mask_model"]
    assert message == (
        f"mask model '{words}' has no certificate yet; calibrate it, and choose the .maskcal file that this writes"
    )
