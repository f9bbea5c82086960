"""What differs from the calibrated models, or from what is drawn, in words."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from foreign_models import as_onnx, small_unet
from given_models import given_bundle
from napari_maskcal.bundle import write_bundle
from napari_maskcal.models import GIVEN_RESTORER, load_restorer
from napari_maskcal.restore.loaders.native import write_restorer
from napari_maskcal.review.request import Choices, describe_bundle, resolve
from napari_maskcal.review.standing import outdated, withdrawn
from small_models import calibrated_bundle, lively, random_restorer

if TYPE_CHECKING:
    from pathlib import Path

    from napari_maskcal.restore.card import ModelCard


def choose(restorer: Path | str, mask_model: Path | str) -> Choices:
    return Choices(
        source=None, axes="YX", channel=None, region="all planes", restorer=str(restorer), mask_model=str(mask_model),
        tolerance=0.02, confidence=0.9,
    )  # fmt: skip


@pytest.fixture
def pair(trained) -> Choices:
    return choose(trained.restorer_path, trained.mask_path)


LEAD = "No promise: random mask 0 was calibrated with something else. Choose that, or calibrate again."


def differences(choices: Choices) -> list[str]:
    """Return the lines below the lead."""
    lead, *lines = withdrawn(choices).splitlines()
    assert lead == LEAD
    return lines


def test_the_pair_that_was_calibrated_is_not_withdrawn(pair):
    assert withdrawn(pair) == ""
    assert withdrawn(choose("demo", "demo")) == ""


def test_another_restorer_is_told_by_both_names_and_hashes(pair, trained, tmp_path):
    other = random_restorer(tmp_path, seed=5)
    hashes = [one.sha256[:8] for one in (trained.restorer, load_restorer(other))]
    assert differences(replace(pair, restorer=str(other))) == [
        f"• Restorer: random restorer 0 ({hashes[0]}…). Now: random restorer 5 ({hashes[1]}…)."
    ]


def test_a_restorer_of_the_same_name_with_other_weights_or_another_halo_is_told_by_its_file(pair, trained, tmp_path):
    path, was = tmp_path / "mine.safetensors", trained.restorer.sha256[:8]
    card: ModelCard = trained.restorer.card
    write_restorer(path, load_restorer(random_restorer(tmp_path, seed=5)).network, card)
    (line,) = differences(replace(pair, restorer=str(path)))
    assert line.startswith(f"• Restorer's file: random restorer 0 ({was}…). Now: random restorer 0 (")
    wider = card.model_copy(update={"halo_px": card.halo_px + card.stride_px})
    write_restorer(path, trained.restorer.network, wider)
    file, reach = differences(replace(pair, restorer=str(path)))
    assert file.startswith("• Restorer's file: ")
    assert reach.startswith(f"• Looks at: {card.halo_px} pixels to each side; ")
    assert f"Now: {wider.halo_px} pixels to each side; " in reach


def test_what_only_one_of_two_restorers_says_is_told_too(pair, trained, tmp_path):
    path = tmp_path / "mine.safetensors"
    said = {"pixel_size": {"y": 0.1, "x": 0.1, "unit": "micrometer"}}
    card = type(trained.restorer.card).model_validate(trained.restorer.card.model_dump() | said)
    write_restorer(path, trained.restorer.network, card)
    _, size = differences(replace(pair, restorer=str(path)))
    assert size == "• Trained at: not said. Now: pixels of 0.1 × 0.1 micrometer."


def test_a_certificate_of_before_that_does_not_know_its_restorer_tells_the_hash(pair, trained, tmp_path):
    old = trained.mask_model.certificate.model_copy(update={"restorer": None})
    write_bundle(tmp_path / "old.maskcal", trained.mask_model.network, trained.mask_model.card, old)
    other = random_restorer(tmp_path, seed=5)
    (line,) = differences(choose(other, tmp_path / "old.maskcal"))
    assert line.startswith(f"• Restorer: one with the hash {trained.restorer.sha256[:8]}…. Now: random restorer 5 (")
    assert withdrawn(choose(pair.restorer, tmp_path / "old.maskcal")) == ""


def test_a_description_that_was_edited_is_told_from_a_file_that_was_replaced(tmp_path):
    path = as_onnx(small_unet(), tmp_path / "mine.onnx")
    bundle, _ = calibrated_bundle(tmp_path, load_restorer(path))
    assert withdrawn(choose(path, bundle)) == ""
    beside = path.with_name("mine.onnx.maskcal.json")
    whole = beside.read_text()
    content = json.loads(whole)
    content["card"]["takes"] = {"kind": "range"}
    beside.write_text(json.dumps(content))
    assert differences(choose(path, bundle)) == [
        "• Restorer: the file of mine is the same, but it is used otherwise.",
        "• Intensities: from the percentile 1 of the plane to 99.8. Now: from the smallest value of the plane to the "
        "largest.",
    ]
    content["card"]["name"] = "renamed"  # what nothing is computed with is no difference
    content["card"].pop("takes")
    beside.write_text(json.dumps(content))
    assert withdrawn(choose(path, bundle)) == ""
    beside.unlink()
    as_onnx(lively(small_unet()), path)  # other weights
    load_restorer(path)
    (line,) = differences(choose(path, bundle))
    assert line.startswith("• Restorer's file: mine (")


def test_images_of_another_tool_and_a_network_are_told_apart(pair, trained, tmp_path):
    (line,) = differences(replace(pair, restorer="given"))
    was = trained.restorer.sha256[:8]
    assert line == f"• Restorer: random restorer 0 ({was}…). Now: images that another tool restored."
    given = given_bundle(tmp_path, GIVEN_RESTORER)
    assert withdrawn(choose("given", given)) == ""
    assert "• Restorer: images that another tool restored. Now: " in withdrawn(choose(pair.restorer, given))


@pytest.mark.parametrize(
    ("part", "other", "said"),
    [
        ("dtype", "float16", "• The number type: float16. Now: float32."),
        ("tiles", "never cut", "• How planes are cut into tiles: never cut. Now: exact."),
        ("context_px", 24, "• The window of the error budget: 24. Now: 0."),
    ],
)
def test_every_part_of_the_fingerprint_is_told(pair, trained, tmp_path, part, other, said):
    certificate = trained.mask_model.certificate
    print_ = certificate.fingerprint.model_copy(update={part: other})
    path = tmp_path / "odd.maskcal"
    changed = certificate.model_copy(update={"fingerprint": print_})
    write_bundle(path, trained.mask_model.network, trained.mask_model.card, changed)
    assert differences(replace(pair, mask_model=str(path))) == [said]


def test_what_cannot_be_read_promises_nothing(pair, tmp_path):
    missing = tmp_path / "none.maskcal"
    assert withdrawn(replace(pair, mask_model=str(missing))).startswith(f"No promise: {missing} does not exist")
    gone = withdrawn(replace(pair, restorer=str(tmp_path / "none.safetensors")))
    assert gone == "No promise: the restorer cannot be used; why is said beside it."


def test_what_would_be_refused_when_it_is_run_is_promised_by_no_one(pair, trained, tmp_path):
    """Soft masks, and a restorer that was trained on a calibrated specimen."""
    certificate, model = trained.mask_model.certificate, trained.mask_model
    soft = tmp_path / "soft.maskcal"
    write_bundle(soft, model.network, model.card, certificate.model_copy(update={"mask": "soft"}))
    told = "the certificate is for soft masks, but regions are drawn as binary ones; calibrate for these"
    assert withdrawn(replace(pair, mask_model=str(soft))) == f"No promise: {told}"
    assert told in [problem.message for problem in resolve(replace(pair, mask_model=str(soft)))]
    path = tmp_path / "seen.safetensors"
    write_restorer(
        path, trained.restorer.network, trained.restorer.card.model_copy(update={"trained_on": ("specimen 3",)})
    )
    fingerprint = certificate.fingerprint.model_copy(update={"restorer_sha256": load_restorer(path).sha256})
    seen = tmp_path / "seen.maskcal"
    write_bundle(seen, model.network, model.card, certificate.model_copy(update={"fingerprint": fingerprint}))
    reason = withdrawn(choose(path, seen))
    assert reason.startswith("No promise: random restorer 0 was trained on specimen 3, which the certificate was")
    assert reason.removeprefix("No promise: ") in [one.message for one in resolve(choose(path, seen))]


# ---- what is drawn


def changes(then: Choices, now: Choices, **known: object) -> list[str]:
    certificate = describe_bundle(then.mask_model).certificate
    options = {"drawn": certificate, "pinned": certificate, "edited": False} | known
    lead, *lines = outdated(then, now, **options).splitlines()
    assert lead == "Outdated: what is drawn was made for something else. Press Run."
    return lines


def test_all_that_was_changed_since_is_told(pair, tmp_path):
    assert changes(pair, pair) == []
    now = replace(pair, tolerance=0.05, region="current plane", restorer="given")
    assert changes(pair, now, edited=True) == [
        "• Image: its pixels were replaced.",
        "• Region: all planes. Now: current plane.",
        "• Restorer: restorer-0.safetensors. Now: another tool's.",
        "• Tolerance: 0.02. Now: 0.05.",
    ]
    copy = shutil.copy(pair.mask_model, tmp_path)
    assert changes(pair, replace(pair, mask_model=str(copy))) == ["• Mask model: another of that name."]


def test_a_replaced_bundle_is_told_by_what_is_new_in_it(pair, trained, tmp_path):
    certificate = trained.mask_model.certificate
    explored = certificate.at(tolerance=0.05)
    assert changes(pair, pair, drawn=explored) == []  # the same pin
    assert changes(pair, pair, pinned=certificate.model_copy(update={"created": "1999-01-01"})) == [
        "• Mask model: mask-0.maskcal was replaced, its network is the same, its certificate another."
    ]
    _, other = calibrated_bundle(tmp_path, trained.restorer, seed=6)
    assert changes(pair, pair, pinned=other.certificate) == [
        f"• Mask model: mask-0.maskcal was replaced, its network: {trained.mask_model.sha256[:8]}…. "
        f"Now: {other.sha256[:8]}…."
    ]
