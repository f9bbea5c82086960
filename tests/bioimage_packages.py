"""Small packages of bioimage.io, written by hand."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from napari_maskcal.restore.unet import UNet
from small_models import lively, noisy_planes

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 48
SOURCE = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = torch.nn.Conv2d(1, width, 3, padding=1)
        self.last = torch.nn.Conv2d(width, 1, 1)

    def forward(self, x):
        return x + self.last(torch.relu(self.first(x)))
"""


def network(channels: int = 1) -> nn.Module:
    return lively(UNet((4, 8), inputs=channels, outputs=channels, residual=True)).eval()


class Enlarging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def script_bytes(module: nn.Module, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, torch.rand(1, channels, SIZE, SIZE)), buffer)
    return buffer.getvalue()


def onnx_bytes(module: nn.Module) -> bytes:
    buffer, sizes = io.BytesIO(), {0: "n", 2: "y", 3: "x"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.rand(1, 1, SIZE, SIZE),), buffer, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": sizes, "y": sizes}, dynamo=False,
        )  # fmt: skip
    return buffer.getvalue()


def state_bytes(module: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    return buffer.getvalue()


def own_network(width: int = 4) -> nn.Module:
    names: dict[str, Any] = {"__name__": "own"}
    exec(SOURCE, names)  # noqa: S102
    return names["Net"](width).eval()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def rdf(weights: dict[str, Any], *, channels: int = 1, factor: int = 1, **changes: Any) -> dict[str, Any]:
    """A description of a package, in version 0.5."""
    names = [f"c{i}" for i in range(channels)]

    def along(axis: str) -> dict[str, Any]:
        size = {"tensor_id": "raw", "axis_id": axis}
        return {"type": "space", "id": axis, "size": size, "scale": 1 / factor}

    steps = {"min": 16, "step": 4}
    return {
        "format_version": "0.5.4",
        "type": "model",
        "name": "Small denoiser",
        "description": "made of random numbers",
        "authors": [{"name": "A. Author"}],
        "cite": [{"text": "Author, A small network", "doi": "10.1234/abc"}],
        "license": "CC-BY-4.0",
        "inputs": [
            {
                "id": "raw",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": names},
                    {"type": "space", "id": "y", "size": steps},
                    {"type": "space", "id": "x", "size": steps},
                ],
                "data": {"type": "float32"},
                "test_tensor": {"source": "in.npy"},
                "preprocessing": [],
            }
        ],
        "outputs": [
            {
                "id": "clean",
                "axes": [{"type": "batch"}, {"type": "channel", "channel_names": names}, along("y"), along("x")],
                "data": {"type": "float32"},
                "test_tensor": {"source": "out.npy"},
                "postprocessing": [],
            }
        ],
        "weights": weights,
    } | changes


def files_of(
    module: nn.Module,
    kind: str = "torchscript",
    *,
    pre: list[dict[str, Any]] | None = None,
    post: list[dict[str, Any]] | None = None,
    channels: int = 1,
    factor: int = 1,
) -> dict[str, bytes]:
    """All files of a package, with test tensors that are not checked."""
    made = {
        "torchscript": lambda: script_bytes(module, channels),
        "onnx": lambda: onnx_bytes(module),
        "pytorch_state_dict": lambda: state_bytes(module),
    }[kind]()
    entry: dict[str, Any] = {"source": "weights.bin", "sha256": sha256(made)}
    entry |= {"opset_version": 17} if kind == "onnx" else {"pytorch_version": "2.6"}
    files = {"weights.bin": made}
    if kind == "pytorch_state_dict":
        files["net.py"] = SOURCE.encode()
        own = {"source": "net.py", "sha256": sha256(SOURCE.encode()), "callable": "Net", "kwargs": {"width": 4}}
        entry["architecture"] = own
    described = rdf({kind: entry}, channels=channels, factor=factor)
    described["inputs"][0]["preprocessing"] = pre or []
    described["outputs"][0]["postprocessing"] = post or []
    plane = np.repeat(noisy_planes(1, 1, SIZE, SIZE).astype(np.float32), channels, axis=1)
    files |= {"in.npy": npy(plane), "out.npy": npy(np.ones((1, channels, factor * SIZE, factor * SIZE), np.float32))}
    return {"rdf.yaml": json.dumps(described).encode(), **files}


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path
