"""Fields in memory whose errors are as large as their uncertainty says, and certificates made from them."""

from __future__ import annotations

import numpy as np

from napari_maskcal.calibrate.certificate import Certificate, Fingerprint
from napari_maskcal.calibrate.certify import CalibrationField, certify
from napari_maskcal.restore.card import Normalisation

FINGERPRINT = Fingerprint(restorer_sha256="r", mask_sha256="m", normalisation=Normalisation())


def random_fields(groups: int = 12, *, each: int = 1, shape: tuple[int, int] = (12, 15)) -> list[CalibrationField]:
    rng = np.random.default_rng(groups)
    fields = []
    for i in range(groups * each):
        u = rng.gamma(2, 0.2, shape).astype(np.float32) + np.float32(0.01)
        truth = rng.normal(size=shape).astype(np.float32)
        restored = truth + (0.2 * u * rng.normal(size=shape)).astype(np.float32) * np.float32(rng.lognormal(0, 0.3))
        fields.append(
            CalibrationField(
                name=f"field {i}", group=f"specimen {i // each}", uncertainty=u, restored=restored, truth=truth
            )
        )
    return fields


def certified(fields: list[CalibrationField] | None = None, **changes) -> Certificate:
    options = {"distance": "l1", "tolerance": 0.05, "confidence": 0.9, "fingerprint": FINGERPRINT}
    return certify(fields or random_fields(), **options | changes)
