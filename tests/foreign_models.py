"""The same small network in foreign formats."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

from napari_maskcal.restore.unet import UNet
from small_models import WIDTHS, lively

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def small_unet() -> UNet:
    torch.manual_seed(0)
    return lively(UNet(WIDTHS, residual=True)).eval()


def as_torchscript(network: nn.Module, path: Path, channels: int = 1) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, torch.rand(1, channels, 64, 64)).save(str(path))
    return path


def as_export(network: nn.Module, path: Path, channels: int = 1) -> Path:
    free = torch.export.Dim.AUTO
    program = torch.export.export(
        network, (torch.rand(2, channels, 64, 64),), dynamic_shapes=({0: free, 2: free, 3: free},)
    )  # fmt: skip
    torch.export.save(program, path)
    return path


def as_onnx(network: nn.Module, path: Path, channels: int = 1) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.rand(2, channels, 64, 64),), path, dynamic_shapes=({0: "n", 2: "y", 3: "x"},),
            external_data=False, verbose=False,
        )  # fmt: skip
    return path


FORMATS: dict[str, Callable[..., Path]] = {
    "torchscript": as_torchscript,
    "torch-export": as_export,
    "onnx": as_onnx,
}
