"""Bundles that bring their restorer along."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from command_line import caller, failed
from foreign_models import as_onnx, as_torchscript, small_unet
from napari_maskcal.bundle import _json_sha256, read_content, restorer_in, write_bundle
from napari_maskcal.models import GIVEN_RESTORER, load_mask_model, load_restorer
from napari_maskcal.packed import PackedRestorer, packable
from napari_maskcal.pipeline import run
from napari_maskcal.restore.card import Normalisation
from napari_maskcal.restore.loaders import registry
from napari_maskcal.restore.loaders.base import NotTrustedError
from napari_maskcal.restore.loaders.description import description_path, write_description
from napari_maskcal.restore.loaders.native import read_card
from napari_maskcal.restore.loaders.registry import agree, restorer_sha256
from napari_maskcal.review.request import restorer_card
from small_models import calibrated_bundle, noisy_planes, random_restorer
from triplet_files import mice

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_maskcal.models import Restorer

RESTORER, DESCRIPTION = "restorer", "maskcal.json"


@pytest.fixture(autouse=True)
def own_places(monkeypatch, tmp_path) -> Path:
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "MASKCAL_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path / "MASKCAL_CACHE_DIR" / "restorers"


@lru_cache(maxsize=1)
def exported() -> tuple[bytes, bytes]:
    """Return a file of ONNX, and the description that a trial run gave it: both take their time."""
    with TemporaryDirectory() as folder:
        path = as_onnx(small_unet(), Path(folder) / "net.onnx")
        load_restorer(path)
        return path.read_bytes(), description_path(path).read_bytes()


def onnx(folder: Path, name: str = "denoise cells.onnx") -> Restorer:
    path = folder / name
    content, description = exported()
    path.write_bytes(content)
    description_path(path).write_bytes(description)
    return load_restorer(path)


def own(folder: Path) -> Restorer:
    return load_restorer(random_restorer(folder))


def bundle_with(restorer: Restorer, folder: Path) -> Path:
    """Calibrate a mask network for a restorer and write both into one bundle."""
    path, model = calibrated_bundle(folder, restorer)
    assert read_content(path).restorer is None
    write_bundle(path, model.network, model.card, model.certificate, restorer=restorer)
    return path


def written(path: Path, parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part, method if name == RESTORER else zipfile.ZIP_DEFLATED)
    return path


@pytest.mark.parametrize("make", [onnx, own])
def test_a_bundle_alone_restores_and_masks_as_its_two_networks_did(tmp_path, own_places, make):
    (tmp_path / "theirs").mkdir()
    restorer = make(tmp_path / "theirs")
    path = bundle_with(restorer, tmp_path)
    expected = run(noisy_planes(2, 64, 64), restorer, load_mask_model(path), axes="ZYX", device="cpu")
    for file in (tmp_path / "theirs").iterdir():
        file.unlink()
    assert not own_places.exists()
    again = load_restorer(path)
    assert (again.card, again.sha256) == (restorer.card, restorer.sha256)
    assert own_places in again.source.parents
    assert again.source.name == restorer.source.name
    found = run(noisy_planes(2, 64, 64), again, load_mask_model(path), axes="ZYX", device="cpu")
    np.testing.assert_array_equal(found.restored, expected.restored)
    np.testing.assert_array_equal(found.uncertain, expected.uncertain)


def test_the_same_bundle_has_the_same_bytes_and_another_restorer_is_not_put_into_it(tmp_path):
    restorer = onnx(tmp_path)
    path = bundle_with(restorer, tmp_path)
    content, model = path.read_bytes(), load_mask_model(path)
    write_bundle(path, model.network, model.card, model.certificate, restorer=restorer)
    assert path.read_bytes() == content
    with pytest.raises(ValueError, match="the certificate was made for another restorer than restorer-0"):
        write_bundle(path, model.network, model.card, model.certificate, restorer=own(tmp_path))
    assert path.read_bytes() == content


def test_how_intensities_are_prepared_comes_with_the_bundle_and_two_ways_are_kept_apart(tmp_path):
    paths = []
    for kind in ("mean_std", "range"):
        (folder := tmp_path / kind).mkdir()
        restorer = onnx(folder)
        sha256 = hashlib.sha256(restorer.source.read_bytes()).hexdigest()
        card = restorer.card.model_copy(update={"takes": Normalisation(kind=kind)})
        write_description(restorer.source, card, sha256)
        paths.append(bundle_with(load_restorer(restorer.source), folder))
    first, second = (load_restorer(path) for path in paths)
    assert (first.card.takes.kind, second.card.takes.kind) == ("mean_std", "range")
    assert first.sha256 != second.sha256
    assert load_restorer(paths[0]).card == first.card  # the second did not take its place


@pytest.mark.parametrize("said", [{"trained_on": ("specimen 3",)}, {"pixel_size": {"y": 1, "x": 1, "unit": "um"}}])
def test_what_one_bundle_says_of_a_file_is_not_said_by_another_that_has_the_same_file(tmp_path, said):
    """Its hash is the same: nothing of this is computed with. But it can refuse a promise, or warn."""
    paths = []
    for name, more in (("one", {}), ("other", said)):
        (folder := tmp_path / name).mkdir()
        restorer = onnx(folder)
        sha256 = hashlib.sha256(restorer.source.read_bytes()).hexdigest()
        card = type(restorer.card).model_validate(restorer.card.model_dump() | more)
        write_description(restorer.source, card, sha256)
        path, model = calibrated_bundle(folder, restorer)
        write_bundle(path, model.network, model.card, None, restorer=load_restorer(restorer.source))
        paths.append(path)
    one, other = (load_restorer(path) for path in paths)
    assert one.sha256 == other.sha256
    assert one.card != other.card
    assert [load_restorer(path).card for path in paths] == [one.card, other.card]


def test_a_description_that_was_changed_in_the_cache_is_that_of_the_bundle_again(tmp_path):
    path = bundle_with(onnx(tmp_path), tmp_path)
    place, card = restorer_in(path), load_restorer(path).card
    sha256 = hashlib.sha256(place.read_bytes()).hexdigest()
    changed = load_restorer(path).card.model_copy(update={"takes": Normalisation(kind="range")})
    write_description(place, changed, sha256)
    assert load_restorer(place).card.takes.kind == "range"
    assert load_restorer(path).card.takes is None
    description_path(place).write_text("{}")
    assert load_restorer(path).card.takes is None
    description_path(place).unlink()
    assert load_restorer(path).card == card


@pytest.mark.parametrize("change", ["emptied", "damaged"])
def test_a_cache_that_was_emptied_or_damaged_is_filled_again(tmp_path, own_places, change):
    path = bundle_with(onnx(tmp_path), tmp_path)
    place = restorer_in(path)
    content = place.read_bytes()
    if change == "emptied":
        for file in place.parent.iterdir():
            file.unlink()
    else:
        place.write_bytes(b"x")
    assert restorer_in(path).read_bytes() == content


def test_a_restorer_that_can_run_code_is_opened_only_after_the_user_has_agreed(tmp_path):
    net = as_torchscript(small_unet(), tmp_path / "net.pt")
    agree(net)
    path = bundle_with(load_restorer(net), tmp_path)
    (tmp_path / "XDG_CONFIG_HOME" / "napari-maskcal" / "trusted.json").unlink()
    with pytest.raises(NotTrustedError, match="is a TorchScript file, which can run code"):
        load_restorer(path)
    agree(restorer_in(path))
    assert load_restorer(path).card.halo_px == 24


def changed(path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> Path:
    """Change a bundle's description or parts, with hashes that fit again, as an attacker would."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    content = json.loads(parts[DESCRIPTION])
    change(content, parts)
    content["sha256"] |= {
        name: hashlib.sha256(part).hexdigest() for name, part in parts.items() if name in content["sha256"]
    }
    if content["certificate"] is not None:
        content["sha256"]["certificate"] = _json_sha256(content["certificate"])
    return written(path, parts | {DESCRIPTION: json.dumps(content).encode()})


def another_file(content: dict[str, Any], parts: dict[str, bytes]) -> None:
    parts[RESTORER] += b"x"


def another_use(content: dict[str, Any], parts: dict[str, bytes]) -> None:
    content["restorer"]["card"]["halo_px"] = 0


def another_hash(content: dict[str, Any], parts: dict[str, bytes]) -> None:
    parts[RESTORER] += b"x"
    card = PackedRestorer.model_validate(content["restorer"]).card
    content["restorer"]["sha256"] = restorer_sha256(card, hashlib.sha256(parts[RESTORER]).hexdigest())


def cut_out(content: dict[str, Any], parts: dict[str, bytes]) -> None:
    del parts[RESTORER]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (another_file, "its restorer is not the one it was saved with"),
        (another_use, "its restorer is not the one it was saved with"),
        (another_hash, "the certificate was made for another restorer than denoise cells.onnx"),
        (cut_out, "and restorer if it says so; it holds"),
    ],
)
def test_a_restorer_that_was_exchanged_is_refused_though_all_hashes_fit(tmp_path, own_places, change, words):
    path = bundle_with(onnx(tmp_path), tmp_path)
    assert load_mask_model(changed(path, lambda *_: None))
    changed(path, change)
    for load in (load_mask_model, load_restorer, read_content):
        with pytest.raises(ValueError, match=words) as caught:
            load(path)
        assert str(path) in str(caught.value)
    assert not own_places.exists()


def test_bytes_of_the_restorer_that_were_exchanged_alone_are_refused(tmp_path, own_places):
    path = bundle_with(onnx(tmp_path), tmp_path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    written(path, parts | {RESTORER: parts[RESTORER] + b"x"})
    with pytest.raises(ValueError, match="the hash of its restorer is not the one it was saved with"):
        load_restorer(path)
    assert not own_places.exists()


def test_a_byte_that_was_flipped_is_told_in_words_whatever_zipfile_says_of_it(tmp_path, own_places):
    path = bundle_with(onnx(tmp_path), tmp_path)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(RESTORER)
        content = bytearray(path.read_bytes())
        content[info.header_offset + 30 + len(RESTORER) + info.file_size // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"mask-0.maskcal is not a .maskcal bundle, or is truncated: Bad CRC"):
        load_restorer(path)
    assert "Bad CRC" in restorer_card(str(path))[2]  # so a dock says it too
    assert not own_places.exists()


def test_a_compressed_restorer_is_refused_since_it_may_be_larger_than_the_file(tmp_path, own_places):
    path = bundle_with(onnx(tmp_path), tmp_path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert load_mask_model(written(path, parts))
    with pytest.raises(ValueError, match="its restorer is compressed, so that it could be larger than the file"):
        load_mask_model(written(path, parts, zipfile.ZIP_DEFLATED))


def uncalibrated(restorer: Restorer, folder: Path) -> Path:
    path, model = calibrated_bundle(folder, restorer)
    write_bundle(path, model.network, model.card, None, restorer=restorer)
    return path


def test_a_restorer_that_looks_at_the_whole_image_is_packed_without_a_certificate_too(tmp_path):
    restorer = onnx(tmp_path)
    sha256 = hashlib.sha256(restorer.source.read_bytes()).hexdigest()
    write_description(restorer.source, restorer.card.model_copy(update={"halo_px": None}), sha256)
    path = uncalibrated(load_restorer(restorer.source), tmp_path)
    assert load_restorer(path).card.halo_px is None


def test_a_card_that_claims_a_shorter_reach_is_found_out_when_the_network_is_first_used(tmp_path):
    restorer = onnx(tmp_path)
    sha256 = hashlib.sha256(restorer.source.read_bytes()).hexdigest()
    write_description(restorer.source, restorer.card.model_copy(update={"halo_px": 0}), sha256)
    path = bundle_with(load_restorer(restorer.source), tmp_path)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"a trial run reached farther than its card says, .*; ask whoever made the bundle"
        ):
            load_restorer(path)


def test_a_card_that_holds_is_tried_once(tmp_path, monkeypatch):
    path = bundle_with(onnx(tmp_path), tmp_path)
    tried: list[Any] = []
    check = registry.check_agrees
    monkeypatch.setattr(registry, "check_agrees", lambda *of: (tried.append(of), check(*of)))
    for _ in range(3):
        load_restorer(path)
    assert len(tried) == 1


@pytest.mark.parametrize("make", [onnx, own])
def test_a_card_is_brought_by_files_that_say_nothing_of_themselves_and_by_no_others(tmp_path, make):
    path = uncalibrated(make(tmp_path), tmp_path)

    def turn(content: dict[str, Any], parts: dict[str, bytes]) -> None:
        inside, sha256 = content["restorer"], hashlib.sha256(parts[RESTORER]).hexdigest()
        if inside["card"] is None:
            card = read_card(tmp_path / "restorer-0.safetensors")
            inside |= {"card": json.loads(card.model_dump_json()), "sha256": restorer_sha256(card, sha256)}
        else:
            inside |= {"card": None, "sha256": sha256}

    assert load_restorer(path)
    with pytest.raises(
        ValueError, match="does not say how its restorer is used, or says it of one that says so itself"
    ):
        load_restorer(changed(path, turn))


def test_a_bundle_that_does_not_say_its_restorers_hash_is_refused(tmp_path):
    path = uncalibrated(onnx(tmp_path), tmp_path)

    def forget(content: dict[str, Any], parts: dict[str, bytes]) -> None:
        card = PackedRestorer.model_validate(content["restorer"]).card
        content["restorer"]["sha256"] = restorer_sha256(card, "")
        del content["sha256"][RESTORER]

    with pytest.raises(ValueError, match="it does not say the hash of its restorer"):
        load_mask_model(changed(path, forget))


def test_a_file_that_was_replaced_after_it_was_opened_is_not_packed(tmp_path):
    restorer = own(tmp_path)
    other = random_restorer(tmp_path, seed=1)
    other.replace(restorer.source)
    path, model = tmp_path / "m.maskcal", load_mask_model("demo")
    with pytest.raises(ValueError, match="has changed since it was opened; begin again"):
        write_bundle(path, model.network, model.card, None, restorer=restorer)
    assert not path.exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    path = bundle_with(own(tmp_path), tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MASKCAL_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot be made for the restorer: .*MASKCAL_CACHE_DIR"):
        load_restorer(path)


@pytest.mark.parametrize(
    "name",
    [
        "../net.onnx",
        "/net.onnx",
        "a/b.onnx",
        "a\\b.onnx",
        "c:net",
        "",
        ".net",
        "net.",
        "CON",
        "nul.onnx",
        "a.maskcal",
        "n\n",
        "n" * 200,
    ],
)
def test_a_name_that_would_lie_elsewhere_is_refused(tmp_path, own_places, name):
    path = bundle_with(onnx(tmp_path), tmp_path)
    changed(path, lambda content, _: content["restorer"].update(file_name=name))
    with pytest.raises(ValueError, match=r"maskcal.json is not valid: restorer.file_name"):
        load_restorer(path)
    assert not own_places.exists()


@pytest.mark.parametrize("name", ["Mäuse: 2 µm?.onnx", ".onnx", "…", "n" * 125 + ".onnx"])
def test_a_file_with_a_name_that_not_every_system_can_write_is_packed_under_another(tmp_path, name):
    restorer = onnx(tmp_path, name)
    path = bundle_with(restorer, tmp_path)
    assert load_restorer(path).sha256 == restorer.sha256
    assert restorer_in(path).name.isascii()


def test_what_is_no_file_is_not_packed(tmp_path):
    with pytest.raises(ValueError, match="given restored image comes from no file that could be put into a bundle"):
        packable(GIVEN_RESTORER)
    folder = replace(own(tmp_path), source=tmp_path)
    with pytest.raises(ValueError, match="zip that folder, and take it"):
        packable(folder)


def test_a_restorer_too_large_for_a_bundle_is_left_out_by_name(tmp_path, monkeypatch):
    restorer = own(tmp_path)
    assert packable(restorer) == restorer.source
    monkeypatch.setattr("napari_maskcal.packed.LARGEST", 2**10)
    with pytest.raises(ValueError, match=r"restorer-0.safetensors has \d+ MiB, more than the 0 that a bundle holds"):
        packable(restorer)


def test_a_bundle_without_a_restorer_says_so_where_one_is_wanted(trained):
    with pytest.raises(ValueError, match=r"mask-0.maskcal holds no restorer; choose the file of the one"):
        load_restorer(trained.mask_path)


# ---- commands


@pytest.fixture
def maskcal(monkeypatch, capsys) -> Callable[..., Any]:
    return caller(monkeypatch, capsys)


@pytest.fixture
def pairs(tmp_path) -> list[Any]:
    low, high = mice(tmp_path)
    return ["--degraded", low, "--truth", high, "--device", "cpu"]


def test_one_file_is_all_that_the_commands_need(maskcal, pairs, tmp_path):
    net, mine = onnx(tmp_path, "net.onnx").source, tmp_path / "mine.maskcal"
    options = [*pairs, "--restorer", net, "--mask-model", "residual", "--tolerance", 0.1, "--out", mine]
    assert maskcal("calibrate", *options).code == 0
    image = tmp_path / "low" / "mouse0.tif"
    told = maskcal("run", image, "--mask-model", mine, "--out", tmp_path / "without", "--device", "cpu")
    assert "was calibrated for another restorer" in told.err
    assert maskcal("calibrate", *options, "--with-restorer").code == 0
    net.unlink()
    ended = maskcal("run", image, "--mask-model", mine, "--out", tmp_path / "with", "--device", "cpu")
    assert (ended.code, ended.err) == (0, "")
    other = maskcal(
        "run", image, "--restorer", "demo", "--mask-model", mine, "--out", tmp_path / "o", "--device", "cpu"
    )
    assert "was calibrated for another restorer" in other.err
    told = maskcal("info", mine, "--verify")
    assert told.code == 0
    for words in ("With its restorer, net.onnx:", "Format: ONNX", "Looks at: 24 pixels", "a trial run agrees"):
        assert words in told.out
    with zipfile.ZipFile(mine) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    damaged = written(tmp_path / "damaged.maskcal", parts | {RESTORER: parts[RESTORER][::-1]})
    assert maskcal("info", damaged).code == 0  # it is in the cache, by its hash
    failed(maskcal("info", damaged, "--verify"), "the hash of its restorer is not the one it was saved with")
    assert json.loads(maskcal("info", mine, "--json").out)["restorer"]["file_name"] == "net.onnx"
    again = [*pairs, "--mask-model", mine, "--tolerance", 0.05, "--out", tmp_path / "again.maskcal"]
    assert maskcal("calibrate", *again).code == 0


def test_what_a_bundle_promises_is_told_also_where_nobody_agreed_to_its_restorer(maskcal, tmp_path):
    net = as_torchscript(small_unet(), tmp_path / "net.pt")
    agree(net)
    path = bundle_with(load_restorer(net), tmp_path)
    (tmp_path / "XDG_CONFIG_HOME" / "napari-maskcal" / "trusted.json").unlink()
    told = maskcal("info", path)
    assert told.code == 0
    assert "In at least 90 %" in told.out
    assert "is a TorchScript file, which can run code on this computer" in told.out
    assert "Format: TorchScript" in maskcal("info", "--trust", path).out


def test_a_restorer_that_cannot_be_packed_is_refused_before_the_work(maskcal, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_maskcal.calibration.measure", lambda *_, **__: pytest.fail("it was measured"))
    rest = ["--mask-model", "residual", "--tolerance", 0.1, "--out", tmp_path / "m.maskcal", "--with-restorer"]
    shutil.copytree(tmp_path / "low", tmp_path / "restored")
    ended = maskcal("calibrate", *pairs, "--restored", tmp_path / "restored", *rest)
    failed(ended, "given restored image comes from no file that could be put into a bundle")
    assert not (tmp_path / "m.maskcal").exists()
