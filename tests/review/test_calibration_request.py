from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from given_models import given_bundle
from napari_maskcal.bundle import write_bundle
from napari_maskcal.mask.untrained import augmentation_mask
from napari_maskcal.models import GIVEN_RESTORER, load_restorer
from napari_maskcal.review.calibration_request import (
    CalibrationChoices,
    CalibrationRequest,
    make_plan,
    parts_needed,
    preview_groups,
    resolve_calibration,
)
from napari_maskcal.review.request import Source, describe_bundle, in_own_words
from napari_maskcal.review.specimens import groups_of_text
from triplet_files import pairs

if TYPE_CHECKING:
    from pathlib import Path

    from small_models import Trained


def layer(name: str, *shape: int, rgb: bool = False) -> Source:
    return Source(key=name, name=name, kind="image", rgb=rgb, shape=shape, dtype="uint16")


@pytest.fixture
def choices(tmp_path: Path, trained: Trained) -> CalibrationChoices:
    low, high = pairs(tmp_path, ("S1_a", "S1_b", "S2_a"), 64, 64)
    return CalibrationChoices(
        kind="folders", degraded=str(low), truth=str(high), restorer=str(trained.restorer_path),
        mask_model="residual", tolerance=0.05,
    )  # fmt: skip


def problems(choices: CalibrationChoices, **changes: Any) -> dict[str, str]:
    found = resolve_calibration(replace(choices, **changes))
    assert isinstance(found, list), "it can be measured"
    return {problem.field: problem.message for problem in found}


def requested(choices: CalibrationChoices, **changes: Any) -> CalibrationRequest:
    found = resolve_calibration(replace(choices, **changes))
    assert not isinstance(found, list), found
    return found


def test_good_choices_become_a_plan_with_the_groups_that_the_promise_takes(choices):
    plan = make_plan(requested(choices, group=r"(S\d)"), {}, None)
    assert {triplet.group for triplet in plan.triplets} == {"S1", "S2"}
    assert (plan.minimal_groups, plan.stop_above, plan.intensity, plan.mask) == (9, 0.1, "share", "binary")
    assert plan.mask_model.card.name == "residual, mean over 9 × 9 pixels"
    assert requested(choices, confidence=0.5).minimal_groups == 1
    assert requested(choices, guarantee="pac", delta=0.1).minimal_groups == 22
    expected = {"guarantee": "expected", "bound": 1.0}
    assert requested(choices, **expected).minimal_groups == 19
    assert requested(choices, **expected, tolerance=None).minimal_groups == 1
    assert requested(choices, tolerance=None).promise is None
    assert make_plan(requested(choices, tolerance=None), {}, None).stop_above == np.inf


def test_a_distance_without_unit_leaves_the_unit_of_intensities_alone(choices):
    assert requested(choices, intensity="raw").choices.intensity == "raw"
    assert requested(choices, intensity="raw", distance="ssim").choices.intensity == "share"


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"degraded": ""}, "degraded", "choose the degraded images"),
        ({"truth": "/nowhere/high"}, "truth", "/nowhere/high does not exist; choose a folder, or a pattern"),
        ({"group": "("}, "group", r"'\(' is not a regular expression: .*; write one such as"),
        ({"restorer": "/nowhere/x.safetensors"}, "restorer", "/nowhere/x.safetensors does not exist"),
        ({"mask_model": "/nowhere/x.maskcal"}, "mask_model", "/nowhere/x.maskcal does not exist"),
        ({"restorer": "given"}, "restored", "choose the restored images"),
        ({"mask_model": "given"}, "uncertainty", "choose the uncertainty maps"),
        ({"distance": "l0"}, "distance", "l0"),
        ({"field_px": 0}, "field_px", "field size is 0; give at least 1 pixel"),
        ({"tolerance": -1.0}, "tolerance", "tolerance is -1; give a number above 0"),
        ({"confidence": 1.0}, "confidence", "confidence is 1; give a number between 0 and 1"),
        ({"guarantee": "pac"}, "delta", "risk is None; give a number between 0 and 1"),
        ({"guarantee": "expected", "bound": 0.01}, "bound", "is 0.01; give a number that is at least the tolerance"),
        ({"kind": "table", "manifest": ""}, "manifest", "choose the table"),
        ({"kind": "table", "manifest": "/no.csv"}, "manifest", "/no.csv does not exist; choose a CSV or TSV file"),
    ],
)
def test_one_wrong_choice_is_one_problem_at_its_field(choices, changes, field, message):
    found = problems(choices, **changes)
    assert set(found) == {field}
    with pytest.raises(ValueError, match=message):
        raise ValueError(found[field])
    assert resolve_calibration(choices)


def test_layers_have_to_be_there_plain_and_of_as_many_fields(choices):
    layers = {"degraded": layer("low", 5, 64, 64), "truth": layer("high", 5, 64, 64)}
    good = replace(choices, kind="layers", layers=layers)
    assert requested(good).choices.layers == layers
    assert "choose the layer with the clean images" in problems(good, layers=layers | {"truth": None})["truth"]
    assert "Split RGB" in problems(good, layers=layers | {"truth": layer("high", 5, 64, 64, rgb=True)})["truth"]
    assert "shape (2, 5, 64, 64)" in problems(good, layers=layers | {"truth": layer("high", 2, 5, 64, 64)})["truth"]
    fewer = problems(good, layers=layers | {"truth": layer("high", 4, 64, 64)})
    assert fewer == {"truth": "high has 4 fields, the degraded layer 5; take as many"}
    assert "2 specimens are named for 5 fields" in problems(good, group="A, B")["group"]


def test_turning_what_is_already_restored_is_refused(choices, tmp_path):
    given = replace(choices, restorer="given", restored=choices.degraded)
    assert requested(given).choices.restorer == "given"
    assert "cannot be turned and restored again" in problems(given, mask_model="augmentation")["mask_model"]
    asking = augmentation_mask(load_restorer("demo"))
    write_bundle(tmp_path / "asking.maskcal", asking.network, asking.card, None)
    told = problems(given, mask_model=str(tmp_path / "asking.maskcal"))["mask_model"]
    assert "cannot be turned and restored again" in told


def test_parts_are_needed_where_no_network_makes_them(choices, tmp_path):
    assert parts_needed(choices) == ("degraded", "truth")
    assert parts_needed(replace(choices, restorer="given")) == ("degraded", "truth", "restored")
    assert parts_needed(replace(choices, mask_model="given:posterior")) == ("degraded", "truth", "uncertainty")
    bundle = str(given_bundle(tmp_path, GIVEN_RESTORER))
    assert parts_needed(replace(choices, mask_model=bundle)) == ("degraded", "truth", "uncertainty")


def test_a_network_that_is_trained_and_not_calibrated_can_be_calibrated_but_not_reviewed_with(
    choices, trained, tmp_path
):
    model, path = trained.mask_model, tmp_path / "trained.maskcal"
    write_bundle(path, model.network, model.card, None)
    plan = make_plan(requested(choices, mask_model=str(path)), {}, None)
    assert (plan.mask_model.card.name, plan.mask_model.certificate) == ("random mask 0", None)
    with pytest.raises(ValueError, match=r"trained\.maskcal holds a mask network that is not calibrated yet"):
        describe_bundle(str(path))
    assert describe_bundle(str(trained.mask_path)).certificate.sentence == model.certificate.sentence


def test_the_preview_counts_specimens_by_the_names_of_the_files(choices, tmp_path):
    assert preview_groups(choices) == "3 files, each taken as a specimen of its own"
    assert preview_groups(replace(choices, group=r"(S\d)")) == "2 specimens: S1 (2), S2 (1)"
    assert preview_groups(replace(choices, group="T")) == "no specimen is found in 3 of 3 files"
    (tmp_path / "high" / "S1_b.tif").unlink()
    assert preview_groups(replace(choices, group=r"(S\d)")) == "2 specimens: S1 (1), S2 (1); 1 without a partner"
    with pytest.raises(ValueError, match="is not a regular expression"):
        preview_groups(replace(choices, group="("))


@pytest.mark.parametrize(
    ("text", "owners"),
    [
        (" ", None),
        ("A, A,B", ("A", "A", "B")),
        ("A: 2, B: 1", ("A", "A", "B")),
        ("d 1:2, C", ("d 1", "d 1", "C")),
    ],
)
def test_a_text_names_the_specimen_of_each_field(text, owners):
    assert groups_of_text(text, 3) == owners


def test_a_text_that_names_more_or_fewer_is_refused():
    with pytest.raises(ValueError, match="4 specimens are named for 3 fields; name one for each"):
        groups_of_text("A: 3, B", 3)


def test_only_what_is_measured_outdates_a_measurement(choices):
    for change in ({"tolerance": 0.1}, {"confidence": 0.8}, {"guarantee": "pac"}, {"grouping": "one"}, {"seed": 3}):
        assert replace(choices, **change).measures_like(choices), change
    for change in ({"distance": "l2"}, {"mask": "soft"}, {"field_px": 32}, {"group": "x"}, {"mask_model": "demo"}):
        assert not replace(choices, **change).measures_like(choices), change


def test_messages_speak_of_specimens_or_images():
    told = "at least 9 groups are needed, got 1 group; add groups"
    assert in_own_words(told, grouped=True) == "at least 9 specimens are needed, got 1 specimen; add specimens"
    assert in_own_words(told, grouped=False) == "at least 9 images are needed, got 1 image; add images"
    assert in_own_words("at least 9 fields or specimens", grouped=False) == "at least 9 images"
