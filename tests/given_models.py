"""Mask models for maps that come with the image, with made-up certificates."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_maskcal.bundle import write_bundle
from napari_maskcal.calibrate.certificate import Fingerprint
from napari_maskcal.calibrate.certify import CalibrationField, certify
from napari_maskcal.mask.untrained import given_mask

if TYPE_CHECKING:
    from pathlib import Path

    from napari_maskcal.models import MaskModel, Restorer


def certified(restorer: Restorer, mask: MaskModel) -> MaskModel:
    """Return the mask model with a certificate for the pair, with a threshold near 10."""
    rng = np.random.default_rng(0)
    fields = [
        CalibrationField(
            name=f"field {i}", group=f"specimen {i}", restored=np.zeros((64, 64), np.float32),
            uncertainty=rng.gamma(2, 5, (64, 64)).astype(np.float32),
            truth=rng.normal(0, 0.05, (64, 64)).astype(np.float32),
        )
        for i in range(10)
    ]  # fmt: skip
    fingerprint = Fingerprint.of(restorer, mask.card, mask.sha256)
    certificate = certify(fields, distance="l1", tolerance=0.02, confidence=0.9, fingerprint=fingerprint)
    return replace(mask, certificate=certificate)


def given_bundle(folder: Path, restorer: Restorer) -> Path:
    """Write a bundle for uncertainty maps that are given with what `restorer` restored."""
    mask = certified(restorer, given_mask("posterior"))
    path = folder / "given.maskcal"
    write_bundle(path, mask.network, mask.card, mask.certificate)
    return path
