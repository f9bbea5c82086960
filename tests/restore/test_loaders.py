from __future__ import annotations

import hashlib
import json
import pickle
import resource
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from napari_maskcal.models import DEMO, load_restorer, model_path
from napari_maskcal.restore.card import ModelCard, parse_card
from napari_maskcal.restore.loaders import native
from napari_maskcal.restore.loaders.native import CARD_KEY, read_card, read_restorer, write_restorer
from small_models import noisy_planes, random_restorer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def content(trained) -> bytes:
    return trained.restorer_path.read_bytes()


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "network.safetensors"


def refused(path: Path, *, match: str) -> None:
    """Reading fails in one line that names the file."""
    with pytest.raises(ValueError, match=match) as caught:
        load_restorer(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


def rewritten(content: bytes, *, tensors: dict[str, Any] | None = None, **card: Any) -> bytes:
    """The same file with some tensors or parts of the card replaced."""
    length = struct.unpack("<Q", content[:8])[0]
    metadata = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][CARD_KEY])
    return save(load(content) | (tensors or {}), metadata={CARD_KEY: json.dumps(metadata | card)})


def test_a_restorer_comes_back_as_it_was_written(trained, file):
    write_restorer(file, trained.restorer.network, trained.restorer.card)
    again = load_restorer(file)
    plane = noisy_planes(70, 90)
    assert again.card == trained.restorer.card
    assert again.sha256 == trained.restorer.sha256
    np.testing.assert_allclose(again(plane), trained.restorer(plane), rtol=1e-5, atol=1e-4)
    assert not any(weight.requires_grad for weight in again.network.parameters())
    assert not again.network.training


def test_another_network_or_card_has_another_hash(trained, tmp_path, file):
    hashes = {trained.restorer.sha256, load_restorer(random_restorer(tmp_path, seed=1)).sha256}
    write_restorer(file, trained.restorer.network, trained.restorer.card.model_copy(update={"licence": "CC0"}))
    assert len(hashes | {load_restorer(file).sha256}) == 3


def test_a_file_is_replaced_only_by_a_whole_one(trained, file):
    file.write_text("what was there")
    write_restorer(file, trained.restorer.network, trained.restorer.card)
    assert read_card(file) == trained.restorer.card
    assert list(file.parent.iterdir()) == [file]


def test_demo_stands_for_the_bundled_files_and_a_path_for_itself(tmp_path):
    assert model_path(DEMO, role="restorer").name == "restorer.safetensors"
    assert model_path(DEMO, role="mask").name == "demo.maskcal"
    assert model_path(tmp_path / "x.maskcal", role="mask") == tmp_path / "x.maskcal"


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere.safetensors", "does not exist; choose a file with a network"), ("", "folder")]
)
def test_a_missing_file_and_a_folder_are_refused(tmp_path, name, message):
    refused(tmp_path / name, match=message)


def test_a_file_cut_off_anywhere_is_refused(content, file):
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for length in [0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(content) // 2, len(content) - 1]:
        file.write_bytes(content[:length])
        refused(file, match="not a safetensors file, or is truncated")


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_refused(file, seed):
    file.write_bytes(b"\x00" + np.random.default_rng(seed).bytes(10_000))
    refused(file, match="not a safetensors file")


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_its_code_not_run(tmp_path, file, protocol):
    trap = tmp_path / "sprung"
    file.write_bytes(pickle.dumps(Trap(trap), protocol=protocol))
    refused(file, match="is a pickle, but no checkpoint of torch" if protocol >= 2 else "not a safetensors")
    assert not trap.exists()
    pickle.loads(file.read_bytes())  # noqa: S301 - to show that the trap works
    assert trap.exists()


def test_a_header_whose_length_begins_as_a_pickle_does_is_read_all_the_same(content, file):
    written = (rewritten(content, licence="x" * length) for length in range(300))
    file.write_bytes(next(one for one in written if one[:1] == b"\x80"))
    assert load_restorer(file).card.licence.startswith("x")
    assert read_card(file) == load_restorer(file).card


def test_card_weights_and_hash_are_of_one_file_also_where_it_is_replaced_meanwhile(content, file, monkeypatch):
    file.write_bytes(content)

    def replacing(*args: Any, **kwargs: Any) -> ModelCard:
        file.write_bytes(rewritten(content, name="another"))
        return parse_card(*args, **kwargs)

    monkeypatch.setattr(native, "parse_card", replacing)
    restorer = read_restorer(file)
    assert restorer.sha256 == hashlib.sha256(content).hexdigest()
    assert restorer.card.name != read_card(file).name == "another"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_an_unknown_architecture_is_refused_with_what_to_do(trained, tmp_path, zipped):
    path = tmp_path / "network.pth"
    torch.save(trained.restorer.network.state_dict(), path, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(path) == zipped
    refused(
        path,
        match=r"26 weights .* of an architecture that spandrel does not know; export the network",
    )


def test_weights_without_a_card_are_refused(content, file):
    file.write_bytes(save(load(content)))
    refused(file, match=r"26 weights .* of an architecture that spandrel does not know")


def test_a_mask_network_is_no_restorer(content, file):
    file.write_bytes(rewritten(content, role="mask"))
    refused(file, match="holds a mask network, not a restorer")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"stride_px": 0}, "no valid model card: stride_px: .*greater than or equal to 1"),
        ({"halo_px": -4}, "no valid model card: halo_px"),
        ({"scale_factor": 2.5}, "no valid model card: scale_factor"),
        ({"axes": "TYX"}, "no valid model card: axes: .*'YX' or 'ZYX'"),
        ({"axes": "ZYX"}, "the card's axes are ZYX, but the network has 2 dimensions"),
        ({"axes": "ZYX", "scale_factor": 2}, "no valid model card: .*only a restorer that keeps the size"),
        ({"name": ""}, "no valid model card: name"),
        ({"normalisation": {"low_percentile": 100}}, "no valid model card: normalisation.low_percentile"),
        ({"network": {"kind": "vit"}}, "network of kind 'vit'; known are unet, mask-unet"),
        ({"network": {"kind": ["unet"]}}, r"network of kind \['unet'\]"),
        ({"network": {}}, "network of kind None"),
        ({"network": {"kind": "unet", "depth": 3}}, "do not fit the model card: .*'depth'"),
        ({"network": {"kind": "unet", "widths": []}}, "do not fit the model card"),
        ({"network": {"kind": "unet", "widths": "4, 8"}}, "do not fit the model card"),
        ({"network": {"kind": "unet", "widths": 4}}, "do not fit the model card"),
        ({"network": {"kind": "unet", "widths": [4, -8, 8]}}, "do not fit the model card"),
        ({"network": {"kind": "unet", "widths": [4, 8, 16], "residual": True}}, "do not fit the model card: .*size"),
        ({"network": {"kind": "unet", "widths": [4, 8, 8, 8]}}, "do not fit the model card: .*Missing"),
        ({"network": {"kind": "unet", "widths": [4, 8]}}, "do not fit the model card: .*Unexpected"),
        ({"network": {"kind": "unet", "widths": [4, 8, 10**30]}}, "do not fit the model card"),
    ],
)  # fmt: skip
def test_a_card_that_does_not_hold_is_refused_with_what_is_wrong(content, file, card, message):
    file.write_bytes(rewritten(content))
    assert load_restorer(file)
    file.write_bytes(rewritten(content, **card))
    refused(file, match=message)


@pytest.mark.parametrize("card", [{"halo_px": 0}, {"stride_px": 1}, {"scale_factor": 2}])
def test_a_card_that_contradicts_its_network_is_refused(content, file, card):
    """A halo too small gives seams in silence, and the promise is void."""
    file.write_bytes(rewritten(content, **card))
    refused(file, match=next(iter(card)))


def test_a_card_may_claim_a_huge_network_without_taking_its_memory(content, file):
    file.write_bytes(rewritten(content, network={"kind": "unet", "widths": [65536] * 20}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(file, match="do not fit the model card")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB; the weights would be TiB


def test_weights_of_another_shape_are_refused(content, file):
    file.write_bytes(rewritten(content, tensors={"head.weight": torch.zeros(1, 5, 1, 1)}))
    refused(file, match=r"do not fit the model card: .*head\.weight")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(content, file, value):
    file.write_bytes(rewritten(content, tensors={"head.bias": torch.tensor([value])}))
    refused(file, match=r"weight head\.bias has values that are NaN or infinite")


def test_a_card_that_is_no_json_is_refused(content, file):
    file.write_bytes(save(load(content), metadata={CARD_KEY: "{'name': 1}"}))
    refused(file, match="no valid model card: Invalid JSON")


def test_unknown_parts_of_a_newer_card_are_kept(trained):
    content = json.loads(trained.restorer.card.model_dump_json()) | {"colour": "green"}
    found = parse_card(json.dumps(content), source="x")
    assert json.loads(found.model_dump_json()) == content
    assert found.model_copy(update={"name": "other"}).model_dump()["colour"] == "green"


def test_normalisation_takes_the_percentiles_of_the_plane():
    plane = np.random.default_rng(0).permutation(np.arange(1001)).reshape(77, 13)
    card = ModelCard(name="n", role="restorer", network={}, stride_px=1, halo_px=0, min_size_px=1)
    assert card.normalisation.measure(plane) == (10, 988)


def test_reading_the_restorer_reads_the_card_of_read_card(trained):
    assert read_card(trained.restorer_path) == read_restorer(trained.restorer_path).card
