"""From fields with a known truth to a certificate."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from napari_maskcal.calibrate.certificate import (
    Certificate,
    Curves,
    FieldRecord,
    Fingerprint,
    leave_one_out,
    rounded_down,
)
from napari_maskcal.calibrate.guarantee import conformal_threshold
from napari_maskcal.calibrate.threshold import MaskKind, image_threshold, threshold_curve, trust_mask
from napari_maskcal.distance.lp import error_magnitude
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.settings import check_confidence, check_tolerance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_CURVE_TOLERANCES = np.geomspace(1e-3, 1, 241)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationField:
    """One field whose truth is known.

    All three arrays are (Y, X), on the restored grid; the images are in normalised intensities, that is in
    shares of the intensity range of the plane the field was cut from.
    """

    name: str
    group: str
    uncertainty: NDArray[np.float32]
    restored: NDArray[np.float32]
    truth: NDArray[np.float32]


def certify(
    fields: Sequence[CalibrationField],
    *,
    distance: str,
    tolerance: float,
    confidence: float,
    fingerprint: Fingerprint,
    mask: MaskKind = "binary",
    note: str = "",
) -> Certificate:
    """Return the certificate that `fields` support: marginal, with the worst field of each group counting.

    Parameters
    ----------
    fields
        All of one shape; each group is one specimen. With one field per group the promise is about fields.
    distance, tolerance, confidence, mask
        See `image_threshold` and `conformal_threshold`.
    fingerprint
        Of the networks that made the uncertainty.
    note
        Where the fields come from, for the reader.

    Raises
    ------
    ValueError
        If shapes differ, two fields are the same, or there are too few groups.
    """
    _check_fields(fields)
    confidence = check_confidence(confidence)
    rule = parse_distance(distance)
    owners = [field.group for field in fields]
    grid = np.union1d(_CURVE_TOLERANCES[~np.isclose(_CURVE_TOLERANCES, tolerance)], [tolerance])
    exact = np.array([
        image_threshold(f.uncertainty, f.restored, f.truth, rule, tolerance, mask) for f in fields
    ])  # fmt: skip
    thresholds = np.stack([_curve_of(f, rule.name, grid, mask) for f in fields])
    thresholds[:, np.searchsorted(grid, tolerance)] = rounded_down(exact)
    curves = Curves(grid, np.maximum.accumulate(thresholds, axis=1))
    threshold = conformal_threshold(exact, confidence=confidence, groups=owners)
    records = tuple(
        FieldRecord(
            name=field.name,
            group=field.group,
            distance=rule(np.ones(field.truth.shape), error_magnitude(field.restored, field.truth, field.truth.shape)),
            threshold=own,
            masked_share=float(1 - trust_mask(field.uncertainty, threshold, mask).mean()),
        )
        for field, own in zip(fields, exact.tolist(), strict=True)
    )
    return Certificate(
        distance=rule.name,
        tolerance=check_tolerance(tolerance),
        confidence=confidence,
        mask=mask,
        threshold=threshold,
        n_fields=len(fields),
        groups=dict(Counter(owners)),
        field_shape=fields[0].truth.shape,
        fingerprint=fingerprint,
        leave_one_out=leave_one_out(exact, owners, confidence),
        fields=records,
        note=note,
        created=datetime.now(UTC).date().isoformat(),
        curves=curves,
    )


def _check_fields(fields: Sequence[CalibrationField]) -> None:
    if not fields:
        raise ValueError("there are no calibration fields")
    seen: dict[str, str] = {}
    for field in fields:
        if field.truth.shape != fields[0].truth.shape:
            raise ValueError(
                f"{field.name} has shape {field.truth.shape}, {fields[0].name} {fields[0].truth.shape}; "
                "the promise is about fields of one size"
            )
        digest = hashlib.sha256(field.restored.tobytes() + field.truth.tobytes()).hexdigest()
        if digest in seen:
            raise ValueError(f"{field.name} and {seen[digest]} are the same field; leave one of them out")
        seen[digest] = field.name


def _curve_of(field: CalibrationField, distance: str, grid: NDArray[np.float64], mask: MaskKind) -> NDArray[np.float32]:
    """Thresholds over the grid as float32, rounded towards 0 so that none is above the exact one."""
    exact = threshold_curve(
        field.uncertainty, field.restored, field.truth, distance=distance, tolerances=grid, mask=mask
    )
    return rounded_down(exact)
