"""Weights without a program: nothing in them runs, and the network is the one they were taken from."""

from __future__ import annotations

import importlib
import pickle
import resource
import struct
import sys
import zipfile
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foreign_models import as_torchscript, small_unet
from napari_maskcal.mask.untrained import constant_mask
from napari_maskcal.models import Restorer
from napari_maskcal.read.image import from_array
from napari_maskcal.restore.card import Normalisation
from napari_maskcal.restore.engine import process
from napari_maskcal.restore.events import PlaneDone
from napari_maskcal.restore.loaders import careamics_model, probe, registry, spandrel_model
from napari_maskcal.restore.loaders.adapted import Grey, adapted
from napari_maskcal.restore.loaders.checkpoint import mentions, read_checkpoint, state_of, weights_format
from napari_maskcal.restore.torchvision_import import import_torchvision
from small_models import noisy_planes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_maskcal.restore.loaders.base import Said

    Maker = Callable[[], nn.Module]

CAREAMICS, SPANDREL = careamics_model.LOADER, spandrel_model.LOADER

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")


# ---- files


def as_zip(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def as_legacy(state: Any, path: Path) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def as_wrapped(state: Any, path: Path) -> Path:
    return as_zip({"params_ema": {f"module.{name}": weight for name, weight in state.items()}, "iter": 5}, path)


def as_safetensors(state: Any, path: Path) -> Path:
    save_file({name: weight.contiguous() for name, weight in state.items()}, path)
    return path


FORMATS = {"torch": as_zip, "wrapped": as_wrapped, "legacy": as_legacy, "safetensors": as_safetensors}


def small_state() -> dict[str, torch.Tensor]:
    return {"0.weight": torch.arange(18, dtype=torch.float32).reshape(1, 2, 3, 3), "0.bias": torch.ones(1)}


def refused(path: Path, *, match: str, of: Callable[[Path], Any] | None = None) -> None:
    """Reading fails in one line that names the file, and does not tell to switch a check off."""
    with pytest.raises(ValueError, match=match) as caught:
        (of or (lambda file: state_of(read_checkpoint(file), file)))(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "weights_only" not in message


@pytest.mark.parametrize("kind", FORMATS)
def test_weights_are_recognised_and_come_back(kind, tmp_path):
    path = FORMATS[kind](small_state(), tmp_path / "any.name")
    assert weights_format(path) == ("torch" if kind == "wrapped" else kind)
    state = state_of(read_checkpoint(path), path)
    for name, weight in small_state().items():
        found = state.get(name, state.get(f"module.{name}"))
        assert torch.equal(found, weight)


def test_half_precision_becomes_float32_and_counters_stay(tmp_path):
    path = as_zip({"weight": torch.ones(3, dtype=torch.float16), "count": torch.tensor(4)}, tmp_path / "x.pth")
    state = state_of(read_checkpoint(path), path)
    assert [tensor.dtype for tensor in state.values()] == [torch.float32, torch.int64]


def test_files_of_other_kinds_are_not_taken(trained, tmp_path):
    program = as_torchscript(small_unet(), tmp_path / "program.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a/readme.txt", "hello")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    paths = [program, trained.restorer_path, trained.mask_path, tmp_path, tmp_path / "nowhere"]
    for path in [*paths, *(tmp_path / name for name in ("other.zip", "text.pth", "empty.pth"))]:
        assert weights_format(path) == ""
        assert SPANDREL.refusal(path)
        assert CAREAMICS.refusal(path)


def test_a_safetensors_file_whose_length_begins_as_a_pickle_does_is_none(tmp_path):
    path, padding = tmp_path / "x.safetensors", 0
    while not path.exists() or path.read_bytes()[0] != 0x80:
        save_file(small_state(), path, metadata={"padding": "-" * padding})
        padding += 1
    assert weights_format(path) == "safetensors"
    assert state_of(read_checkpoint(path), path)


# ---- what must not happen


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [as_zip, as_legacy])
def test_code_in_a_checkpoint_is_not_run(write, tmp_path):
    sprung = tmp_path / "sprung"
    path = write({"weight": torch.ones(3), "trap": Trap(sprung)}, tmp_path / "x.pth")
    refused(path, match=r"holds more than weights \(it names \w+.mkdir\), which could run code, and is not opened")
    assert not sprung.exists()
    torch.load(path, weights_only=False)
    assert sprung.exists()  # the trap works


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_is_refused_and_not_run(protocol, tmp_path):
    sprung, path = tmp_path / "sprung", tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(Trap(sprung), protocol=protocol) * 5)
    refused(path, match="is a pickle, but no checkpoint of torch, or it is truncated")
    assert not sprung.exists()


def test_a_whole_network_is_refused_with_what_to_save_instead(tmp_path):
    path = as_zip(nn.Conv2d(1, 1, 3), tmp_path / "x.pth")
    refused(path, match=r"it names torch.nn.modules.conv.Conv2d.*save the network's state dict alone")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_off_anywhere_is_refused(kind, tmp_path):
    path = FORMATS[kind](small_state(), tmp_path / "x.pth")
    content = path.read_bytes()
    for length in range(10, len(content) - 1, max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        refused(path, match="truncated|damaged|no file of weights|no plain list")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", FORMATS)
def test_weights_that_are_not_finite_are_refused(kind, value, tmp_path):
    state = small_state()
    path = FORMATS[kind](state, tmp_path / "x.pth")
    assert state_of(read_checkpoint(path), path)
    FORMATS[kind](state | {"0.bias": torch.tensor([value])}, path)
    refused(path, match=r"weight .*0.bias' has values that are NaN or infinite")


def test_a_double_that_does_not_fit_float32_is_refused(tmp_path):
    refused(
        as_zip({"w": torch.tensor([1e300], dtype=torch.float64)}, tmp_path / "x.pth"), match="weight 'w' has values"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": torch.ones(1).expand(10**10)}, r"claims 40000000000 bytes of weights, but the file has \d+"),
        ({"w": torch.ones(2, 2).to_sparse()}, "weight 'w' is sparse"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "weight 'w' is sparse, quantised or complex"),
        ({"w": torch.ones(2), "epoch": 3}, "'epoch' among its weights is a int, not a tensor"),
        ({"w": torch.ones(2), 5: torch.ones(2)}, "'5' among its weights"),
        ([torch.ones(2)], "holds no weights by name"),
        ({}, "holds no weights by name"),
        ({"state_dict": {}}, "holds no weights by name"),
        ({"w": bytearray(3)}, "it makes a bytearray"),
    ],
)
@pytest.mark.parametrize("write", [as_zip, as_legacy])
def test_what_is_no_plain_set_of_weights_is_refused(write, content, message, tmp_path):
    refused(write(content, tmp_path / "x.pth"), match=message)


def test_a_legacy_file_may_claim_much_without_taking_its_memory(tmp_path):
    path = as_legacy({"w": torch.ones(1000)}, tmp_path / "x.pth")
    replaced(path, b"M\xe8\x03N", b"\x8a\x05" + (2**36).to_bytes(5, "little") + b"N")  # its size, and the None behind
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, match=r"claims 68719476736 weights, but the file has \d+ bytes")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize("kind", ["torch", "legacy"])
def test_a_shape_may_claim_much_without_taking_its_memory(kind, tmp_path):
    path = FORMATS[kind]({"w": torch.ones(1000)}, tmp_path / "x.pth")
    shape, huge = b"M\xe8\x03\x85", b"\x8a\x05" + (2**36).to_bytes(5, "little") + b"\x85"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    replaced(path, shape, huge)
    refused(path, match=r"claims 274877906944 bytes of weights|damaged: .*(resiz|alloc|storage)")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def replaced(path: Path, old: bytes, new: bytes) -> None:
    """Exchange what stands once in a file, or in the index of a zip."""
    if not zipfile.is_zipfile(path):
        content = path.read_bytes()
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))
        return
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (index,) = (name for name in parts if name.endswith("/data.pkl"))
    assert parts[index].count(old) == 1
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (parts | {index: parts[index].replace(old, new)}).items():
            archive.writestr(name, content)


def test_a_safetensors_file_that_claims_more_than_it_has_is_refused(tmp_path):
    header = b'{"w":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}'
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    refused(tmp_path / "x.safetensors", match="is not a safetensors file, or is truncated")


def test_packed_entries_and_harmful_zips_are_refused(tmp_path):
    path, packed = as_zip(small_state(), tmp_path / "x.pth"), tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    refused(packed, match=r"its entry '.*' is compressed, which torch does not do")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../outside", b"x")
    refused(path, match="would be written outside of the folder")


def test_the_numbers_of_a_zip_stay_in_the_file_until_they_are_used(tmp_path):
    path = as_zip({"w": torch.zeros(50_000_000), "v": torch.ones(3)}, tmp_path / "x.pth")
    assert path.stat().st_size > 150 * 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    content = read_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024
    assert content["v"].tolist() == [1, 1, 1]


def test_texts_in_a_checkpoint_are_found_without_unpickling(tmp_path):
    path = as_zip({"algorithm_config": Trap(tmp_path / "sprung")}, tmp_path / "x.ckpt")
    assert mentions(path, "algorithm_config")
    assert not mentions(path, "algorithm_config", "hyper_parameters")
    assert not (tmp_path / "sprung").exists()


# ---- spandrel


def _arch(module: str, name: str, **arguments: Any) -> nn.Module:
    import_torchvision()
    return getattr(importlib.import_module(f"spandrel.architectures.{module}"), name)(**arguments)


ARCHITECTURES: dict[str, Maker] = {
    "Compact": partial(_arch, "Compact.__arch.SRVGG", "SRVGGNetCompact", num_in_ch=1, num_out_ch=1, num_feat=8,
                       num_conv=3, upscale=2),
    "ESRGAN": partial(_arch, "ESRGAN.__arch.RRDB", "RRDBNet", in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=4),
    "shuffled": partial(_arch, "ESRGAN.__arch.RRDB", "RRDBNet", in_nc=12, out_nc=3, num_filters=8, num_blocks=1,
                        scale=4, shuffle_factor=2),
    "DnCNN": partial(_arch, "DnCNN", "DnCNN", in_nc=1, out_nc=1, nc=8, nb=5),
    "SPAN": partial(_arch, "SPAN", "SPAN", num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2),
    "SwinIR": partial(_arch, "SwinIR", "SwinIR", img_size=16, window_size=8, in_chans=1, embed_dim=12, depths=[2],
                      num_heads=[2], upscale=2, upsampler="pixelshuffledirect", mlp_ratio=2),
    "NAFNet": partial(_arch, "NAFNet", "NAFNet", img_channel=3, width=8, middle_blk_num=1, enc_blk_nums=[1, 1],
                      dec_blk_nums=[1, 1]),
}  # fmt: skip


def made(make: Maker) -> nn.Module:
    """A network of random weights; what begins as 0 and would hide a part of it does not."""
    torch.manual_seed(0)
    network = make().eval().requires_grad_(False)
    for name, weight in network.named_parameters():
        if name.endswith(("beta", "gamma")):
            weight.fill_(0.7)
    return network


def opened(path: Path, loader: Any = SPANDREL) -> Restorer:
    assert loader.refusal(path) == ""
    network = loader.load(path).eval()
    card = registry.describe(path, loader, network)
    return Restorer(card=card, network=adapted(network, card.network), sha256="0")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_in_each_format_give_what_the_architecture_gives(name, kind, tmp_path):
    network = made(ARCHITECTURES[name])
    path = FORMATS[kind](network.state_dict(), tmp_path / "net.pth")
    said = SPANDREL.said(path)
    loaded = SPANDREL.load(path)
    image = torch.rand(2, said.channels, 48, 64)
    with torch.inference_mode():
        expected, found = network(image), loaded(image)
    assert found.shape == (2, said.channels, 48 * said.scale_factor, 64 * said.scale_factor)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.std() > 1e-3
    assert not loaded.train().network.training
    assert not any(weight.requires_grad for weight in loaded.parameters())


SAID = {"Compact": (1, 2, 1), "ESRGAN": (3, 4, 1), "shuffled": (3, 2, 4), "DnCNN": (1, 1, 1), "SPAN": (3, 2, 1)}


@pytest.mark.parametrize("name", SAID)
def test_the_architecture_says_what_it_needs(name, tmp_path):
    said = SPANDREL.said(as_zip(made(ARCHITECTURES[name]).state_dict(), tmp_path / "cells.pth"))
    assert (said.channels, said.scale_factor, said.stride_px) == SAID[name]
    assert said.name.startswith("cells (")
    assert said.licence == ""


@pytest.mark.parametrize("name", ["Compact", "ESRGAN", "shuffled", "DnCNN", "SPAN"])
def test_tiled_it_gives_what_the_architecture_gives_for_the_whole_plane(name, tmp_path, set_effort):
    network = made(ARCHITECTURES[name])
    restorer = opened(as_safetensors(network.state_dict(), tmp_path / "net.safetensors"))
    stride, factor = restorer.card.stride_px, restorer.card.scale_factor
    (plane,) = noisy_planes(1, 210, 130)
    padded = np.pad(plane, [(0, -n % stride) for n in plane.shape], mode="reflect")
    offset, span = restorer.card.normalisation.measure(plane)
    image = torch.from_numpy(((padded - offset) / span).astype(np.float32))[None, None]
    channels = restorer.card.network["channels"]
    with torch.inference_mode():
        direct = network(image.expand(-1, channels, -1, -1)).mean(dim=1)[0].numpy()
    direct = direct[: factor * plane.shape[0], : factor * plane.shape[1]] * span + offset
    set_effort(max_tile_px=130, batch=2)
    stack = from_array(plane[None], axes="ZYX", name="cells")
    events = list(process(stack, [(0,)], restorer, constant_mask(restorer), device="cpu"))
    (tiled,) = (event.restored for event in events if isinstance(event, PlaneDone))
    assert restorer.card.halo_px is not None
    assert events[0].tiles > 1
    assert max(np.abs(found - direct).max() for found in (tiled, restorer(plane))) < 1e-5 * max(span, np.ptp(direct))


def test_a_network_that_looks_at_the_whole_plane_is_not_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "_LONGEST_PX", 256)
    assert opened(as_zip(made(ARCHITECTURES["NAFNet"]).state_dict(), tmp_path / "x.pth")).card.halo_px is None


def test_what_is_brighter_than_1_is_not_cut_off(tmp_path):
    network = made(ARCHITECTURES["Compact"])
    path = as_zip(network.state_dict(), tmp_path / "x.pth")
    image = 1.2 + torch.rand(1, 1, 16, 16)
    with torch.inference_mode():
        found = SPANDREL.load(path)(image)
    assert found.max() > 1.2
    assert spandrel_model._descriptor(path)(image).max() == 1  # as spandrel itself would


def test_a_network_that_is_called_with_a_map_of_noise_takes_several_images(tmp_path):
    network = made(partial(_arch, "DnCNN", "DnCNN", in_nc=2, out_nc=1, nc=8, nb=4, mode="FDnCNN"))
    path = as_zip(network.state_dict(), tmp_path / "x.pth")
    loaded, images = SPANDREL.load(path), torch.rand(3, 1, 32, 32)
    with torch.inference_mode():
        with pytest.raises(RuntimeError):
            loaded.call(loaded.network, images)
        alone = [network(torch.cat([one[None], torch.full((1, 1, 32, 32), 15 / 255)], dim=1)) for one in images]
        torch.testing.assert_close(loaded(images), torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_weights_of_an_unknown_architecture_are_refused_with_what_to_do(tmp_path):
    path = as_zip(small_state(), tmp_path / "x.pth")
    assert SPANDREL.refusal(path) == ""
    refused(
        path, match=r"has 2 weights \('0.weight', '0.bias', ...\) of an architecture.*TorchScript or ONNX", of=_load
    )


def _load(path: Path) -> nn.Module:
    return SPANDREL.load(path)


def _said(path: Path) -> Said:
    return CAREAMICS.said(path)


def test_weights_that_do_not_fit_their_architecture_are_refused(tmp_path):
    state = made(ARCHITECTURES["ESRGAN"]).state_dict()
    del state[list(state)[5]]
    refused(as_zip(state, tmp_path / "x.pth"), match="its weights fit no network that spandrel can build", of=_load)


def test_a_name_cannot_have_a_million_layers_made(tmp_path):
    state = made(ARCHITECTURES["Compact"]).state_dict() | {"body.1000000.weight": torch.ones(1)}
    refused(
        as_zip(state, tmp_path / "x.pth"), match="names a layer 'body.1000000.weight', but has 15 weights", of=_load
    )


def test_a_network_for_other_channels_is_refused(tmp_path):
    state = _arch("DnCNN", "DnCNN", in_nc=4, out_nc=4, nc=8, nb=5).state_dict()
    refused(as_zip(state, tmp_path / "x.pth"), match="takes 4 channels; only networks of 1 or 3", of=_load)


@pytest.mark.parametrize(("loader", "module"), [(SPANDREL, "spandrel"), (CAREAMICS, "careamics")])
def test_a_missing_library_is_named_with_how_to_install_it(loader, module, tmp_path, monkeypatch):
    path = as_zip(small_state() if loader is SPANDREL else checkpoint(), tmp_path / "x.pth")
    monkeypatch.setitem(sys.modules, module, None)
    assert loader.refusal(path) == ""
    with pytest.raises(ImportError, match=rf"need {module}, which is not installed: pip install .*\[{module}\]"):
        loader.load(path)


def test_a_library_that_is_there_and_does_not_do_is_named_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "careamics").mkdir()
    (tmp_path / "careamics" / "__init__.py").write_text("import not_installed_anywhere\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "careamics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = as_zip(checkpoint(), tmp_path / "x.ckpt")
    with pytest.raises(
        ValueError, match=r"needs UNetConfig of .*No module named 'not_installed_anywhere'; pip"
    ) as told:
        CAREAMICS.load(path)
    assert "\n" not in str(told.value)


# ---- CAREamics

MODEL = {"architecture": "UNet", "conv_dims": 2, "num_classes": 1, "in_channels": 1, "depth": 2,
         "num_channels_init": 8, "residual": False, "final_activation": "None", "n2v2": False,
         "independent_channels": True, "use_batch_norm": True}  # fmt: skip
MEAN_STD = {"name": "mean_std", "per_channel": True, "skip_target": False, "input_means": [500.0],
            "input_stds": [100.0], "target_means": None, "target_stds": None}  # fmt: skip


def checkpoint(
    algorithm: str = "n2v", model: dict[str, Any] | None = None, normalization: Any = None, **state: Any
) -> dict[str, Any]:
    """What CAREamics 0.3.5 saves, as far as it is read."""
    return {
        "epoch": 1,
        "state_dict": {f"model.{name}": weight for name, weight in (state or {"w": torch.ones(2)}).items()},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(2.0)}}, "param_groups": [{"lr": 1e-3}]}],
        "hyper_parameters": {"algorithm_config": {"algorithm": algorithm, "model": MODEL | (model or {})}},
        "datamodule_hyper_parameters": {
            "data_config": {"axes": "YX", "normalization": MEAN_STD | {} if normalization is None else normalization}
        },
        "careamics_info": {"version": "0.3.5", "experiment_name": "mitochondria"},
    }


def test_a_checkpoint_of_careamics_is_found_by_content_and_says_how_intensities_were_normalised(tmp_path):
    path = as_zip(checkpoint(), tmp_path / "any.pth")
    assert CAREAMICS.refusal(path) == ""
    assert SPANDREL.refusal(path) == "a checkpoint of CAREamics"
    assert CAREAMICS.refusal(as_zip(small_state(), tmp_path / "other.ckpt")) == "no checkpoint with an algorithm_config"
    said = CAREAMICS.said(path)
    assert said.normalisation == Normalisation(kind="fixed", offset=500, span=100 + 1e-6)
    assert (said.name, said.channels, said.scale_factor, said.stride_px) == ("mitochondria (Noise2Void)", 1, 1, 4)


NONE = {"name": "none"}
MIN_MAX = {"name": "min_max", "input_mins": [10.0], "input_maxes": [30.0], "target_mins": [0.0], "target_maxes": [5.0]}
QUANTILE = {"name": "quantile", "input_lower_quantile_values": [3.0], "input_upper_quantile_values": [4.0]}


@pytest.mark.parametrize(
    ("normalization", "ranges"),
    [
        (MEAN_STD, [(500, 100), (500, 100)]),
        (MEAN_STD | {"target_means": [7.0], "target_stds": 2.0}, [(500, 100), (7, 2)]),
        (MEAN_STD | {"target_means": [7.0], "target_stds": [2.0], "skip_target": True}, [(500, 100), (0, 1)]),
        (NONE, [(0, 1), (0, 1)]),
        (MIN_MAX, [(10, 20), (0, 5)]),
        (QUANTILE, [(3, 1), (3, 1)]),
    ],
)
def test_both_ranges_are_those_of_the_training(normalization, ranges, tmp_path):
    content = careamics_model._content(as_zip(checkpoint(normalization=normalization), tmp_path / "x.ckpt"))
    np.testing.assert_allclose([content.input_range, content.target_range], ranges, atol=1e-5)


def test_an_older_checkpoint_keeps_all_of_it_with_the_network(tmp_path):
    old = checkpoint()
    del old["datamodule_hyper_parameters"], old["careamics_info"]
    old["hyper_parameters"] |= {
        "data_config": {"image_means": [20.0], "image_stds": [4.0]},
        "experiment_name": "old",
    }
    said = CAREAMICS.said(as_zip(old, tmp_path / "x.ckpt"))
    assert (said.normalisation.offset, said.name) == (20, "old (Noise2Void)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (checkpoint("hdn"), "is of the algorithm hdn; only n2v, care, n2n"),
        (checkpoint(["n2v"]), "is of the algorithm"),
        (checkpoint(model={"conv_dims": 1}), "is a network for 1 dimensions; only those for planes or volumes"),
        (checkpoint(model={"in_channels": 3}), "makes 1 channels of 3; only networks of one channel"),
        (checkpoint(model={"architecture": "LVAE"}), "is a LVAE, not a UNet; only a UNet gives one"),
        (checkpoint(normalization=MEAN_STD | {"input_means": [1.0, 2.0]}), "does not say how intensities were norm"),
        (checkpoint(normalization=MEAN_STD | {"input_stds": None}), "does not say how intensities were norm"),
        (checkpoint(normalization={"name": "log"}), "does not say how intensities were normalised"),
        (checkpoint(normalization=MEAN_STD | {"input_stds": [float("nan")]}), "were divided by nan"),
        (checkpoint(normalization=MIN_MAX | {"input_maxes": [10.0 - 1e-3]}), "were divided by -0.00"),
        (checkpoint() | {"state_dict": [1]}, "lacks a part of a CAREamics checkpoint"),
        (checkpoint() | {"datamodule_hyper_parameters": {}}, "lacks a part .*'data_config'"),
        (checkpoint(w=torch.tensor([float("inf")])), "weight 'w' has values that are NaN or infinite"),
    ],
)
def test_checkpoints_that_cannot_be_used_are_refused_with_the_reason(content, message, tmp_path):
    refused(as_zip(content, tmp_path / "x.ckpt"), match=message, of=_said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Studied:
    """A checkpoint and a package that the library wrote after training, an image, and its own prediction for it."""

    checkpoint: Path
    package: Path | None
    why_no_package: str
    degraded: np.ndarray
    predicted: np.ndarray


@pytest.fixture(scope="module", params=["n2v", "n2v2", "care", "volumes"])
def studied(request, tmp_path_factory) -> Studied:
    """What the library itself trained and predicted."""
    import_torchvision()  # first, for lightning imports it too
    pytest.importorskip("lightning")
    config = pytest.importorskip("careamics.config")
    from careamics import CAREamist

    folder = tmp_path_factory.mktemp(request.param)
    of_volumes = request.param == "volumes"
    axes, patch, shape = ("ZYX", [8, 32, 32], (16, 64, 64)) if of_volumes else ("YX", [32, 32], (64, 96))
    basic = {"data_type": "array", "axes": axes, "patch_size": patch, "batch_size": 8, "num_epochs": 1}
    degraded = noisy_planes(1, *shape)[0].astype(np.float32)
    if request.param == "care":
        plan, target = config.create_care_config(experiment_name="cells", **basic), 3 * degraded + 70
    else:
        plan = config.create_n2v_config(experiment_name="cells", use_n2v2=request.param == "n2v2", **basic)
        target = None
    plan.algorithm_config.model.num_channels_init = 8
    library = CAREamist(plan, work_dir=folder, enable_progress_bar=False)
    library.train(train_data=degraded, val_data=degraded, train_data_target=target, val_data_target=target)
    predicted = library.predict(pred_data=degraded)
    while isinstance(predicted, tuple | list):
        predicted = predicted[0]
    path = next(path for path in sorted(folder.rglob("*.ckpt")) if request.param != "care" or "step" in path.name)
    package, why = exported(library, degraded, folder / "package.zip")
    return Studied(
        checkpoint=path,
        package=package,
        why_no_package=why,
        degraded=degraded,
        predicted=np.asarray(predicted).squeeze(),
    )


def exported(library: Any, degraded: np.ndarray, path: Path) -> tuple[Path | None, str]:
    """The package that the library writes, or why it cannot: not all of its own libraries fit each other."""
    from pydantic_core import PydanticSerializationError, ValidationError

    try:
        library.export_to_bmz(
            path_to_archive=path, friendly_model_name="cells-of-a-test", input_array=degraded,
            authors=[{"name": "A. Author"}], general_description="a test", data_description="random numbers",
        )  # fmt: skip
    except (PydanticSerializationError, ValidationError) as error:
        return None, str(error)[:300]
    return path, ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_trained_network_predicts_what_careamics_itself_predicts(studied):
    restorer = opened(studied.checkpoint, CAREAMICS)
    takes, degraded = restorer.card.takes, studied.degraded
    scaled = torch.from_numpy((degraded - takes.offset) / takes.span)[None, None].float()
    with torch.inference_mode():
        found = restorer.network(scaled)[0, 0].numpy() * takes.span + takes.offset
    span = np.ptp(degraded)
    np.testing.assert_allclose(found, studied.predicted, rtol=1e-5, atol=1e-5 * span)
    assert restorer.card.stride_px == 4
    np.testing.assert_allclose(restorer(degraded), studied.predicted, rtol=1e-5, atol=1e-4 * span)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_exported_package_predicts_what_careamics_itself_predicts(studied):
    from napari_maskcal.restore.loaders.bioimage import LOADER as BIOIMAGE

    if studied.package is None:
        pytest.skip(f"CAREamics cannot export: {studied.why_no_package}")
    restorer = opened(studied.package, BIOIMAGE)
    found, span = restorer(studied.degraded), np.ptp(studied.degraded)
    assert restorer.card.stride_px == 4
    np.testing.assert_allclose(found, studied.predicted, rtol=1e-5, atol=1e-4 * span)
    trained = CAREAMICS.said(studied.checkpoint).normalisation
    assert (restorer.card.takes.offset, restorer.card.takes.span) == pytest.approx((trained.offset, trained.span))


def test_colour_networks_are_shown_grey_images(tmp_path):
    restorer = opened(as_zip(made(ARCHITECTURES["SPAN"]).state_dict(), tmp_path / "x.pth"))
    assert isinstance(restorer.network, Grey)
    assert restorer.card.network == {"kind": "spandrel", "channels": 3}
