"""Small random networks, and noisy planes for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from napari_maskcal.bundle import mask_sha256, mask_weights, write_bundle
from napari_maskcal.calibrate.certificate import Fingerprint
from napari_maskcal.calibrate.certify import CalibrationField, certify
from napari_maskcal.mask.network import MaskNetwork
from napari_maskcal.models import MaskModel, Restorer
from napari_maskcal.restore.card import ModelCard
from napari_maskcal.restore.loaders.native import write_restorer
from napari_maskcal.restore.unet import UNet

if TYPE_CHECKING:
    from pathlib import Path

WIDTHS = (4, 8, 8)


@dataclass(frozen=True)
class Trained:
    """A small pair of networks with a certificate, and the files it was saved in."""

    restorer: Restorer
    mask_model: MaskModel
    restorer_path: Path
    mask_path: Path


def noisy_planes(*shape: int, seed: int = 0) -> np.ndarray:
    """Smooth blobs with photon noise, as uint16 counts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    clean = 40 + 30 * np.sin(x / 9) * np.cos(y / 7)
    return rng.poisson(np.broadcast_to(clean, shape)).astype(np.uint16)


def lively(network: nn.Module) -> nn.Module:
    """Double the weights: fresh from torch, a network hardly looks at its image, and no seam would show."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1 and "head" not in name:
                weight *= 2
    return network


def random_restorer(folder: Path, *, seed: int = 0, min_size_px: int = 16) -> Path:
    torch.manual_seed(seed)
    network = lively(UNet(WIDTHS, residual=True))
    card = ModelCard(
        name=f"random restorer {seed}", role="restorer",
        network={"kind": "unet", "widths": list(WIDTHS), "residual": True},
        stride_px=network.stride_px, halo_px=network.halo_px, min_size_px=min_size_px,
    )  # fmt: skip
    path = folder / f"restorer-{seed}.safetensors"
    write_restorer(path, network, card)
    return path


def calibrated_bundle(folder: Path, restorer: Restorer, *, seed: int = 0, groups: int = 12) -> tuple[Path, MaskModel]:
    torch.manual_seed(100 + seed)
    network = lively(MaskNetwork(WIDTHS, head="exponential")).eval()
    card = ModelCard(
        name=f"random mask {seed}", role="mask",
        network={"kind": "mask-unet", "widths": list(WIDTHS), "head": "exponential"},
        stride_px=network.stride_px, halo_px=network.halo_px, min_size_px=16,
    )  # fmt: skip
    sha = mask_sha256(card, mask_weights(network))
    mask_model = MaskModel(card=card, network=network, sha256=sha)
    rng = np.random.default_rng(seed)
    fields = []
    for i in range(groups):
        degraded = noisy_planes(64, 64, seed=i + 1)
        restored = restorer(degraded)
        uncertainty = mask_model.uncertainty(degraded, restored)
        error = rng.normal(0, 0.3, restored.shape).astype(np.float32) * uncertainty
        fields.append(CalibrationField(
            name=f"field {i}", group=f"specimen {i}", uncertainty=uncertainty, restored=restored, truth=restored + error
        ))  # fmt: skip
    certificate = certify(
        fields, distance="l1", tolerance=0.02, confidence=0.9, fingerprint=Fingerprint.of(restorer, card, sha),
        restorer=restorer.card,
    )  # fmt: skip
    path = folder / f"mask-{seed}.maskcal"
    write_bundle(path, network, card, certificate)
    return path, replace(mask_model, certificate=certificate)
