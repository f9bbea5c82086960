from __future__ import annotations

import hashlib
import io
import json
import pickle
import resource
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load, save

from napari_maskcal.bundle import (
    _json_sha256,
    mask_sha256,
    mask_weights,
    read_bundle,
    read_content,
    read_description,
    write_bundle,
)
from napari_maskcal.models import load_mask_model
from napari_maskcal.pipeline import run
from napari_maskcal.restore.card import ModelCard
from small_models import calibrated_bundle, noisy_planes

if TYPE_CHECKING:
    from pathlib import Path

DESCRIPTION, WEIGHTS, CURVES = "maskcal.json", "mask.safetensors", "curves.safetensors"


@pytest.fixture
def parts(trained) -> dict[str, bytes]:
    with zipfile.ZipFile(trained.mask_path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "mask.maskcal"


def pack(path: Path, parts: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def forged(parts: dict[str, bytes], *, of: str = "", **change: Any) -> dict[str, bytes]:
    """Change the description (or the part `of` it) and make all hashes fit again, as an attacker or a bug would."""
    content = json.loads(parts[DESCRIPTION])
    (content[of] if of else content).update(change)
    content["sha256"] = {name: hashlib.sha256(parts[name]).hexdigest() for name in (WEIGHTS, CURVES)}
    try:
        card = ModelCard.model_validate(content["card"])
        content["certificate"]["fingerprint"]["mask_sha256"] = mask_sha256(card, parts[WEIGHTS])
    except ValueError:
        pass  # a card that is no card has no hash
    content["sha256"]["certificate"] = _json_sha256(content["certificate"])
    return parts | {DESCRIPTION: json.dumps(content).encode()}


def refused(path: Path, *, match: str) -> None:
    """Reading fails in one line that names the file."""
    with pytest.raises(ValueError, match=match) as caught:
        load_mask_model(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


def test_a_bundle_comes_back_as_it_was_written(trained):
    again, original = load_mask_model(trained.mask_path), trained.mask_model
    assert (again.card, again.sha256) == (original.card, original.sha256)
    assert again.certificate.model_dump() == original.certificate.model_dump()
    np.testing.assert_array_equal(again.certificate.curves.thresholds, original.certificate.curves.thresholds)
    np.testing.assert_array_equal(again.certificate.curves.tolerances, original.certificate.curves.tolerances)
    for tolerance in (0.01, 0.02, 0.033):
        there, here = (c.at(tolerance=tolerance).model_dump() for c in (again.certificate, original.certificate))
        assert there == here
    degraded = noisy_planes(64, 80)
    restored = trained.restorer(degraded)
    found, expected = (model.uncertainty(degraded, restored) for model in (again, original))
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # a run leaves the weights in another memory layout


def test_the_description_alone_says_the_same(trained):
    description = read_description(trained.mask_path)
    assert description.card == trained.mask_model.card
    assert description.certificate.sentence == trained.mask_model.certificate.sentence
    assert description.certificate.curves is not None


def test_the_same_content_gives_the_same_bytes(trained, file):
    write_bundle(file, trained.mask_model.network, trained.mask_model.card, trained.mask_model.certificate)
    assert file.read_bytes() == trained.mask_path.read_bytes()
    other = trained.mask_model.certificate.model_copy(update={"note": "another"})
    write_bundle(file, trained.mask_model.network, trained.mask_model.card, other)
    assert file.read_bytes() != trained.mask_path.read_bytes()


def test_a_certificate_of_another_network_or_without_curves_is_not_written(trained, tmp_path, file):
    _, other = calibrated_bundle(tmp_path, trained.restorer, seed=1)
    model = trained.mask_model
    with pytest.raises(ValueError, match="made for another mask network"):
        write_bundle(file, model.network, model.card, other.certificate)
    with pytest.raises(ValueError, match="made for another mask network"):
        write_bundle(file, model.network, model.card.model_copy(update={"halo_px": 0}), model.certificate)
    with pytest.raises(ValueError, match="has no curves"):
        write_bundle(file, model.network, model.card, model.certificate.model_copy(update={"curves": None}))
    assert not file.exists()


def test_packing_the_parts_again_gives_a_bundle(parts, file, trained):
    """What the forgeries below start from is good."""
    assert load_mask_model(pack(file, parts)).sha256 == trained.mask_model.sha256
    assert load_mask_model(pack(file, forged(parts))).sha256 == trained.mask_model.sha256
    assert load_mask_model(pack(file, parts, zipfile.ZIP_STORED)).sha256 == trained.mask_model.sha256


def test_a_missing_file_is_refused(file):
    refused(file, match=r"does not exist; choose a .maskcal file")


def test_a_bundle_cut_off_anywhere_is_refused(trained, file):
    content = trained.mask_path.read_bytes()
    for length in [0, 1, 4, 30, *range(100, len(content), len(content) // 23), len(content) - 22, len(content) - 1]:
        file.write_bytes(content[:length])
        refused(file, match="not a .maskcal bundle, or is truncated")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_byte_flipped_anywhere_never_gives_other_weights_and_never_a_traceback(parts, file, trained, method):
    content = pack(file, parts, method).read_bytes()
    outcomes, messages = set(), []
    for at in np.random.default_rng(0).integers(len(content), size=150):
        file.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        try:
            outcomes.add(load_mask_model(file).sha256)
        except ValueError as error:
            outcomes.add("refused")
            messages.append(str(error))
    assert outcomes <= {"refused", trained.mask_model.sha256}
    assert messages
    assert all(str(file) in message and "\n" not in message for message in messages)


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_refused(file, seed):
    file.write_bytes(b"\x00" + np.random.default_rng(seed).bytes(10_000))
    refused(file, match="not a .maskcal bundle")


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (str(self.path),)


def test_a_pickle_is_refused_and_its_code_not_run(tmp_path, file):
    trap = tmp_path / "sprung"
    file.write_bytes(pickle.dumps(Trap(trap)))
    refused(file, match="is a pickle or a PyTorch archive, which can run code")
    assert not trap.exists()


def test_pickles_inside_the_zip_are_refused_and_not_run(tmp_path, parts, file):
    trap = tmp_path / "sprung"
    poison = pickle.dumps(Trap(trap))
    refused(pack(file, forged(parts | {WEIGHTS: poison})), match=r"mask\.safetensors")
    refused(pack(file, forged(parts | {CURVES: poison})), match=r"curves\.safetensors cannot be read")
    assert not trap.exists()


def test_a_torch_checkpoint_is_no_bundle(trained, tmp_path):
    path = tmp_path / "mask.pth"
    torch.save(trained.mask_model.network.state_dict(), path)
    refused(path, match=r"is not a .maskcal bundle: it should hold maskcal\.json, .*; it holds 'mask/")


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "extra.txt", "MASKCAL.JSON"])
def test_a_name_too_many_is_refused_and_nothing_unpacked(parts, file, name):
    before = sorted(file.parent.parent.rglob("*"))
    refused(pack(file, parts | {name: b"x"}), match="it should hold maskcal.json, mask.safetensors, with a")
    assert sorted(file.parent.parent.rglob("*")) == sorted([*before, file])


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS, CURVES])
def test_a_missing_part_and_a_part_held_twice_are_refused(parts, file, name):
    refused(pack(file, {other: parts[other] for other in parts if other != name}), match="it should hold")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(pack(file, parts), "a") as archive:
            archive.writestr(name, parts[name])
    refused(file, match="it should hold")


def test_an_empty_zip_is_refused(file):
    refused(pack(file, {}), match="holds nothing")


@pytest.mark.parametrize("name", [WEIGHTS, CURVES])
def test_a_part_that_is_not_the_one_that_was_saved_is_refused(parts, file, name):
    content = bytearray(parts[name])
    content[-3] ^= 1
    refused(pack(file, parts | {name: bytes(content)}), match=f"damaged or was changed: the hash of {name}")


def test_a_bomb_is_refused_before_it_is_unpacked(parts, file):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(DESCRIPTION, "w") as part:
            for _ in range(65):
                part.write(bytes(2**20))
        archive.writestr(WEIGHTS, parts[WEIGHTS])
        archive.writestr(CURVES, parts[CURVES])
    file.write_bytes(bomb.getvalue())
    refused(file, match=r"maskcal\.json claims 68157440 bytes, more than is allowed")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"[1, 2]", "not valid JSON"),
        (b"{", "not valid JSON"),
        ('{"schema_version": "1", "é": 1}'.encode("latin-1"), "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"{}", r"maskcal\.json is not valid: card: Field required"),
        (b'{"schema_version": 2}', "written by a newer napari-maskcal .version 2 of the format.; upgrade"),
        (b'{"schema_version": 0}', r"maskcal\.json is not valid: schema_version"),
    ],
)
def test_a_description_that_cannot_be_understood_is_refused(parts, file, content, message):
    refused(pack(file, parts | {DESCRIPTION: content}), match=message)


@pytest.mark.parametrize(
    ("of", "change", "message"),
    [
        ("card", {"network": {"kind": "vit"}}, "network of kind 'vit'"),
        ("card", {"network": {"kind": "mask-unet", "widths": [4, 8], "head": "exponential"}}, "do not fit the model"),
        ("card", {"network": {"kind": "mask-unet", "widths": [4, 8, 8], "head": "relu"}}, "head is 'relu'"),
        ("card", {"network": {"kind": "mask-unet", "widths": [65536] * 20}}, "do not fit the model card"),
        ("card", {"role": "restorer"}, "not a mask"),
        ("card", {"stride_px": "four"}, "is not valid: card.stride_px"),
        ("card", {"trained_on": ["specimen 4"]}, "random mask 0 was trained on specimen 4"),
        ("certificate", {"threshold": -1}, "is not valid: certificate.threshold"),
        ("certificate", {"threshold": 0.5}, "threshold is 0.5, but its fields give"),
        ("certificate", {"n_fields": 99}, "does not list the fields"),
        ("certificate", {"distance": "mse"}, "no distance 'mse'"),
        ("certificate", {"mask": "fuzzy"}, "is not valid: certificate.mask"),
    ],
)
def test_a_forged_description_is_refused_with_what_is_wrong(parts, file, of, change, message):
    refused(pack(file, forged(parts, of=of, **change)), match=message)


def test_a_card_may_claim_a_huge_network_without_taking_its_memory(parts, file):
    network = {"kind": "mask-unet", "widths": [65536] * 20}
    path = pack(file, forged(parts, of="card", network=network))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, match="do not fit the model card")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB; the weights would be TiB


def test_the_certificate_of_another_mask_network_is_refused(parts, file):
    weights = load(parts[WEIGHTS])
    weights["trunk.head.bias"] = weights["trunk.head.bias"] + 1
    changed = parts | {WEIGHTS: save(weights)}
    description = json.loads(forged(changed)[DESCRIPTION])
    description["certificate"] = json.loads(parts[DESCRIPTION])["certificate"]
    description["sha256"]["certificate"] = _json_sha256(description["certificate"])
    refused(
        pack(file, changed | {DESCRIPTION: json.dumps(description).encode()}),
        match="certificate was made for another mask network, so its promise is void",
    )


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_refused(parts, file, value):
    weights = load(parts[WEIGHTS])
    weights["trunk.head.bias"] = torch.tensor([value])
    refused(
        pack(file, forged(parts | {WEIGHTS: save(weights)})), match=r"weight trunk\.head\.bias has values that are NaN"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: {"tolerances": c["tolerances"]}, "cannot be read: 'thresholds'"),
        (lambda c: c | {"tolerances": c["tolerances"][::-1].copy()}, "out of order"),
        (lambda c: c | {"thresholds": c["thresholds"] * np.float32(np.nan)}, "out of order"),
        (lambda c: c | {"thresholds": c["thresholds"][:, :1].copy()}, "out of order"),
        (lambda c: {"tolerances": np.array(0.1), "thresholds": np.array(0.1, np.float32)}, "out of order"),
        (lambda c: c | {"thresholds": c["thresholds"][:, ::-1].copy()}, "fall where the tolerance grows"),
        (lambda c: c | {"thresholds": c["thresholds"][:5].copy()}, "do not belong to its fields"),
        (lambda c: c | {"thresholds": np.full_like(c["thresholds"], np.inf)}, "do not belong to its fields"),
    ],
)
def test_curves_that_do_not_fit_the_certificate_are_refused(parts, file, damage, message):
    curves = load_arrays(parts[CURVES])
    assert read_bundle(pack(file, forged(parts | {CURVES: save_arrays(curves)})))
    refused(pack(file, forged(parts | {CURVES: save_arrays(damage(curves))})), match=message)


@pytest.mark.parametrize(
    "change",
    [{"tolerance": 0.001}, {"distance": "linf"}, {"field_shape": [16, 16]}, {"exploration": True, "threshold": 9.0}],
)
def test_an_edited_certificate_is_refused(parts, file, change):
    content = json.loads(parts[DESCRIPTION])
    content["certificate"].update(change)
    edited = parts | {DESCRIPTION: json.dumps(content).encode()}
    refused(pack(file, edited), match="its certificate is not the one it was saved with")


def test_a_certificate_moved_to_another_tolerance_with_its_hash_is_refused(parts, file):
    content = json.loads(parts[DESCRIPTION])
    moved = content["certificate"] | {"tolerance": 0.001}
    refused(pack(file, forged(parts, certificate=moved)), match="curves .* fields at a tolerance of 0.001")
    explored = content["certificate"] | {"exploration": True, "threshold": 9.0}
    refused(pack(file, forged(parts, certificate=explored)), match="is an exploration")


# ---- a network that is trained, but not calibrated


@pytest.fixture
def uncalibrated(trained, tmp_path) -> Path:
    model, path = trained.mask_model, tmp_path / "trained.maskcal"
    card = model.card.model_copy(update={"trained_on": ("mouse 1",), "trained_on_sha256": ("0" * 64,)})
    write_bundle(path, model.network, card, None)
    return path


def test_a_bundle_without_certificate_comes_back_as_it_was_written(uncalibrated, trained):
    model = load_mask_model(uncalibrated)
    assert model.certificate is None
    assert trained.mask_model.certificate is not None
    assert model.card == read_content(uncalibrated).card
    assert (model.card.trained_on, model.card.trained_on_sha256) == (("mouse 1",), ("0" * 64,))
    assert model.sha256 == mask_sha256(model.card, mask_weights(model.network))
    assert read_content(trained.mask_path).certificate is not None


def test_the_same_uncalibrated_network_gives_the_same_bytes(uncalibrated, file):
    model = load_mask_model(uncalibrated)
    write_bundle(file, model.network, model.card, None)
    assert file.read_bytes() == uncalibrated.read_bytes()


def test_what_needs_a_promise_says_that_there_is_none_yet(uncalibrated, trained):
    with pytest.raises(
        ValueError, match=r"trained\.maskcal holds a mask network that is not calibrated yet.*--mask-model"
    ):
        read_description(uncalibrated)
    with pytest.raises(ValueError, match="random mask 0 has no certificate: calibrate it"):
        run(noisy_planes(1, 64, 64), trained.restorer, load_mask_model(uncalibrated), axes="ZYX", device="cpu")


@pytest.mark.parametrize("change", [{"trained_on": []}, {"trained_on_sha256": []}, {"halo_px": 999}, {"name": "other"}])
def test_an_edited_card_of_an_uncalibrated_bundle_is_refused(uncalibrated, file, change):
    with zipfile.ZipFile(uncalibrated) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert sorted(parts) == [WEIGHTS, DESCRIPTION]
    assert load_mask_model(pack(file, parts))
    content = json.loads(parts[DESCRIPTION])
    content["card"].update(change)
    refused(pack(file, parts | {DESCRIPTION: json.dumps(content).encode()}), match="its model card is not the one")


def test_a_certificate_that_was_cut_out_leaves_no_bundle(parts, file):
    content = json.loads(parts[DESCRIPTION])
    del content["certificate"]
    without = {name: part for name, part in parts.items() if name != CURVES}
    refused(pack(file, without), match="it should hold")
    cut = json.dumps(content).encode()
    refused(pack(file, without | {DESCRIPTION: cut}), match="its model card is not the one")
    refused(pack(file, parts | {DESCRIPTION: cut}), match="it should hold")


@pytest.mark.parametrize(("name", "value"), [("dims", 3), ("channels", 3), ("degraded_channels", 3)])
def test_networks_for_volumes_or_colours_are_refused_however_deep_they_are(trained, tmp_path, name, value):
    model = trained.mask_model
    network = {"kind": "mask-unet", "head": "quantile", "widths": [4, 8], name: value}
    inside = {"kind": "budget", "power": 2.0, "of": {"kind": "mask-ensemble", "members": [network]}}
    for spec in (network, inside):
        card = model.card.model_copy(update={"network": spec})
        with pytest.raises(
            ValueError, match="is a network for volumes or colours, and a bundle holds those for planes"
        ):
            write_bundle(tmp_path / "m.maskcal", model.network, card, None)
    assert not (tmp_path / "m.maskcal").exists()


# ---- what a newer version of the same format adds


def test_fields_that_only_a_newer_version_knows_are_read_and_kept(trained, parts, file):
    content = json.loads(parts[DESCRIPTION])
    for where in (content, content["card"], content["certificate"]):
        where["aaa_newer"] = {"of": ["version", 1.5]}  # before all others, wherever a newer version has it
    newer = {
        **content,
        "card": dict(sorted(content["card"].items())),
        "certificate": dict(sorted(content["certificate"].items())),
    }
    file = pack(file, forged(parts | {DESCRIPTION: json.dumps(newer).encode()}))
    read, model = read_content(file), load_mask_model(file)
    assert "aaa_newer" not in read_content(trained.mask_path).card.model_dump()
    again = file.with_name("again.maskcal")
    write_bundle(again, model.network, model.card, model.certificate)
    for found in (read.model_dump(), read.card.model_dump(), read_content(again).card.model_dump(),
                  read_description(again).certificate.model_dump()):  # fmt: skip
        assert found["aaa_newer"] == {"of": ["version", 1.5]}
    assert load_mask_model(again).sha256 == model.sha256 != trained.mask_model.sha256


def test_a_mask_network_is_another_one_with_whatever_field_of_its_card_changed(trained, parts):
    card = trained.mask_model.card
    newer = ModelCard.model_validate(card.model_dump() | {"newer": 1})
    other = ModelCard.model_validate(card.model_dump() | {"newer": 2})
    turned = ModelCard.model_validate(dict(reversed(list((card.model_dump() | {"newer": 1}).items()))))
    hashes = [mask_sha256(one, parts[WEIGHTS]) for one in (card, newer, other, turned)]
    assert len(set(hashes)) == 3
    assert hashes[1] == hashes[3]


@pytest.mark.parametrize("part", ["thumbnail.png", "restorer"])
def test_a_part_that_the_description_does_not_tell_of_is_refused(parts, file, part):
    refused(
        pack(file, parts | {part: b"x"}, zipfile.ZIP_STORED), match=f"and restorer if it says so; it holds .*'{part}'"
    )
