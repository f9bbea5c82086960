"""The same weights in every format restore the same image, whole and tiled: a table in the tests' output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bioimage_packages import folder, npy, rdf, sha256, zipped
from foreign_models import as_export, as_onnx, as_torchscript
from napari_maskcal.mask.untrained import constant_mask
from napari_maskcal.models import load_restorer
from napari_maskcal.read.image import from_array
from napari_maskcal.restore.engine import process
from napari_maskcal.restore.events import PlaneDone
from napari_maskcal.restore.loaders import description, registry, trust
from napari_maskcal.restore.loaders.python_function import restorer_of
from small_models import noisy_planes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_maskcal.models import Restorer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # bioimageio.spec keeps its zips open
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]

# Real-ESRGAN's compact network, small, with the names that its weights have everywhere; twice as many pixels.
SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        inner = [layer for _ in range(3) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.PReLU(8))]
        self.body = nn.ModuleList([nn.Conv2d(1, 8, 3, padding=1), nn.PReLU(8), *inner, nn.Conv2d(8, 4, 3, padding=1)])

    def forward(self, image):
        made = image
        for layer in self.body:
            made = layer(made)
        return nn.functional.pixel_shuffle(made, 2) + nn.functional.interpolate(image, scale_factor=2, mode="nearest")
"""
FACTOR, REACH_PX = 2, 5
STEP_SAID = 4  # in the packages
SIZE = 48


@pytest.fixture(autouse=True)
def own_places(monkeypatch, tmp_path):
    monkeypatch.setattr(trust, "_place", lambda: tmp_path / "config" / "trusted.json")
    monkeypatch.setattr(description, "_own_place", lambda sha256: tmp_path / "data" / f"{sha256}.json")


def compact() -> Any:
    """The network with weights that change its image a good deal."""
    names: dict[str, Any] = {"__name__": "net"}
    exec(SOURCE, names)  # noqa: S102
    torch.manual_seed(0)
    network = names["Net"]().eval().requires_grad_(False)
    for layer in network.body[::2]:
        layer.weight *= 2
    return network


def as_weights(network: Any, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


def as_safetensors(network: Any, path: Path) -> Path:
    save_file({name: weight.contiguous() for name, weight in network.state_dict().items()}, path)
    return path


def package(network: Any, path: Path, kind: str, weights: bytes) -> dict[str, bytes]:
    """The files of a bioimage.io package around weights."""
    entry: dict[str, Any] = {"source": "weights.bin", "sha256": sha256(weights)}
    entry |= {"opset_version": 18} if kind == "onnx" else {"pytorch_version": "2.6"}
    files = {"weights.bin": weights}
    if kind == "pytorch_state_dict":
        files["net.py"] = SOURCE.encode()
        entry["architecture"] = {"source": "net.py", "sha256": sha256(SOURCE.encode()), "callable": "Net"}
    image = torch.rand(1, 1, SIZE, SIZE)
    files |= {"in.npy": npy(image.numpy()), "out.npy": npy(network(image).numpy())}
    return {"rdf.yaml": json.dumps(rdf({kind: entry}, factor=FACTOR)).encode(), **files}


def as_package(write: Callable[..., Path], kind: str, form: Callable[..., Path] = zipped) -> Callable[..., Path]:
    def made(network: Any, path: Path) -> Path:
        return form(path, package(network, path, kind, write(network, path.with_suffix(".weights")).read_bytes()))

    return made


FORMATS: dict[str, Callable[..., Path]] = {
    "TorchScript": as_torchscript,
    "torch.export": as_export,
    "ONNX": as_onnx,
    "weights (.pth)": as_weights,
    "weights (.safetensors)": as_safetensors,
    "bioimage.io, TorchScript": as_package(as_torchscript, "torchscript"),
    "bioimage.io, ONNX": as_package(as_onnx, "onnx"),
    "bioimage.io, state dict": as_package(as_weights, "pytorch_state_dict"),
    "bioimage.io, folder": as_package(as_torchscript, "torchscript", folder),
    "Python function": lambda network, path: path,
}


def opened(kind: str, path: Path) -> Restorer:
    network = compact()
    file = FORMATS[kind](network, path)
    if kind == "Python function":
        return restorer_of(lambda plane: network(torch.from_numpy(plane)[None, None])[0, 0].numpy(), name="mine")
    registry.agree(file)
    return load_restorer(file)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_weights_restore_the_same_image_in_every_format(kind, tmp_path, set_effort, capsys):
    restorer = opened(kind, tmp_path / "network.bin")
    card = restorer.card
    stride = STEP_SAID if kind.startswith("bioimage.io") else 1
    assert (card.scale_factor, card.stride_px, card.halo_px) == (FACTOR, stride, -(-REACH_PX // stride) * stride)
    (plane,) = noisy_planes(1, 212, 132)  # not padded by either stride
    offset, span = (card.takes or card.normalisation).measure(plane)  # a package says that it takes raw intensities
    image = torch.from_numpy(((plane - offset) / span).astype(np.float32))
    direct = compact()(image[None, None])[0, 0].numpy() * span + offset
    set_effort(max_tile_px=90, batch=2)
    stack = from_array(plane[None], axes="ZYX", name="cells")
    started, *events = process(stack, [(0,)], restorer, constant_mask(restorer), device="cpu")
    (tiled,) = (event.restored for event in events if isinstance(event, PlaneDone))
    apart = [float(np.abs(found - direct).max() / np.ptp(direct)) for found in (restorer(plane), tiled)]
    with capsys.disabled():
        print(f"\n{kind:>25}: whole {apart[0]:.1e}, {started.tiles} tiles {apart[1]:.1e} of the range", end="")
    assert started.tiles > 4
    assert max(apart) < 1e-5
    enlarged = plane.repeat(FACTOR, axis=0).repeat(FACTOR, axis=1)
    assert np.abs(direct - enlarged).mean() > 1e-2 * np.ptp(plane)  # it does something
