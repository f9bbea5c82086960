"""A small network for volumes in foreign formats, as other packages leave them."""

from __future__ import annotations

import io
import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bioimage_packages import npy, rdf, sha256, zipped
from napari_maskcal.models import Restorer
from napari_maskcal.restore.card import ModelCard
from napari_maskcal.restore.unet import UNet
from small_models import lively

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

EXAMPLE = (1, 1, 8, 16, 16)
STRIDE, REACH = 2, 8  # of the network, along each axis


def small_unet3d() -> UNet:
    torch.manual_seed(0)
    return lively(UNet((3, 4), residual=True, dims=3)).eval().requires_grad_(False)


def volume_restorer(network: nn.Module | None = None, **said: Any) -> Restorer:
    """The network with all that there is to know of it."""
    known: dict[str, Any] = {
        "axes": "ZYX", "stride_px": STRIDE, "halo_px": REACH, "min_size_px": STRIDE, "stride_z": STRIDE,
        "halo_z": REACH, "min_size_z": STRIDE,
    }  # fmt: skip
    card = ModelCard(name="deep", role="restorer", network={"kind": "test"}, **known | said)
    return Restorer(card=card, network=network or small_unet3d(), sha256="deep")


def blobs(*shape: int, seed: int = 0) -> np.ndarray:
    """Noisy counts that change along every axis, brighter from plane to plane."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.arange(n).reshape([-1 if i == j else 1 for j in range(3)]) for i, n in enumerate(shape[-3:]))
    clean = 60 + 3 * z + 30 * np.sin(x / 5) * np.cos(y / 4 + z / 3)
    return rng.poisson(np.broadcast_to(clean, shape)).astype(np.uint16)


def as_torchscript(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, torch.rand(EXAMPLE)).save(str(path))
    return path


def as_export(network: nn.Module, path: Path) -> Path:
    free = torch.export.Dim.AUTO
    sizes = ({0: free, 2: free, 3: free, 4: free},)
    program = torch.export.export(network, (torch.rand(2, *EXAMPLE[1:]),), dynamic_shapes=sizes)
    torch.export.save(program, path)
    return path


def as_onnx(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.rand(2, *EXAMPLE[1:]),), path, dynamic_shapes=({0: "n", 2: "z", 3: "y", 4: "x"},),
            external_data=False, verbose=False,
        )  # fmt: skip
    return path


def package(weights: bytes, kind: str, *, pre: list[dict[str, Any]] | None = None) -> dict[str, bytes]:
    """The files of a bioimage.io package with axes bczyx."""
    entry: dict[str, Any] = {"source": "weights.bin", "sha256": sha256(weights)}
    entry |= {"opset_version": 18} if kind == "onnx" else {"pytorch_version": "2.6"}
    content = rdf({kind: entry})
    for side in ("inputs", "outputs"):
        axes = content[side][0]["axes"]
        z = json.loads(json.dumps(axes[2])) | {"id": "z"}
        if side == "outputs":
            z["size"]["axis_id"] = "z"
        axes.insert(2, z)
    content["inputs"][0]["preprocessing"] = pre or []
    tensor = npy(np.zeros(EXAMPLE, np.float32))
    return {"rdf.yaml": json.dumps(content).encode(), "weights.bin": weights, "in.npy": tensor, "out.npy": tensor}


def as_package(write: Callable[..., Path], kind: str, pre: list[dict[str, Any]] | None = None) -> Callable[..., Path]:
    def made(network: nn.Module, path: Path) -> Path:
        weights = write(network, path.with_suffix(".weights")).read_bytes()
        return zipped(path, package(weights, kind, pre=pre))

    return made


def as_careamics(network: nn.Module, path: Path, *, depth: int = 1) -> Path:
    """A checkpoint that says it is for volumes; its weights are none of CAREamics."""
    model = {"architecture": "UNet", "conv_dims": 3, "num_classes": 1, "in_channels": 1, "depth": depth}
    buffer = io.BytesIO()
    torch.save(
        {
            "state_dict": {f"model.{name}": weight for name, weight in network.state_dict().items()},
            "hyper_parameters": {
                "algorithm_config": {"algorithm": "n2v", "model": model},
                "data_config": {"image_means": [10.0], "image_stds": [4.0]},
            },
        },
        buffer,
    )
    path.write_bytes(buffer.getvalue())
    return path


FORMATS: dict[str, Callable[..., Path]] = {
    "TorchScript": as_torchscript,
    "torch.export": as_export,
    "ONNX": as_onnx,
    "bioimage.io, TorchScript": as_package(as_torchscript, "torchscript"),
    "bioimage.io, ONNX": as_package(as_onnx, "onnx"),
}
