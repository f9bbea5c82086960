"""From measured fields to a certificate."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal import __version__
from napari_maskcal.calibrate.certificate import (
    Certificate,
    FieldRecord,
    Fingerprint,
    Intensity,
    MaskedShare,
    Pin,
    leave_one_out,
)
from napari_maskcal.calibrate.ladder import rung_above, rungs
from napari_maskcal.calibrate.measure import CalibrationField, MeasuredField, measure_fields, together
from napari_maskcal.calibrate.promise import Promise
from napari_maskcal.distance.registry import Distance, name_of, parse_distance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_maskcal.calibrate.curves import AnyCurves
    from napari_maskcal.calibrate.sums import MaskKind
    from napari_maskcal.read.pixel_size import PixelSize
    from napari_maskcal.restore.card import ModelCard

__all__ = ["CalibrationField", "Measured", "certify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All calibration fields, measured: any promise can be made from them without their pixels.

    Attributes
    ----------
    fields
        Of one shape.
    curves
        Of all fields, in their order.
    distance, mask, intensity
        How they were measured; see `Certificate`.
    fingerprint, uncertainty
        Of what made the uncertainty, and its name for the reader.
    restorer
        Its card, where it is known.
    grouped
        Whether the user named the groups.
    stack_planes
        See `Certificate`.
    pixel_size
        Of the degraded images, where it is known.
    """

    fields: tuple[MeasuredField, ...]
    curves: AnyCurves
    distance: Distance
    mask: MaskKind
    intensity: Intensity
    fingerprint: Fingerprint
    restorer: ModelCard | None = None
    uncertainty: str = ""
    grouped: bool = True
    stack_planes: int | None = None
    pixel_size: PixelSize | None = None

    @classmethod
    def of(cls, fields: Sequence[MeasuredField], **description: Any) -> Measured:
        """Return the set of these fields.

        Raises
        ------
        ValueError
            If there are none, or they are of several shapes.
        """
        if not fields:
            raise ValueError("there are no calibration fields")
        for field in fields:
            if field.shape != fields[0].shape:
                raise ValueError(
                    f"{field.name} has shape {field.shape}, {fields[0].name} {fields[0].shape}; "
                    "the promise is about fields of one size"
                )
        return cls(fields=tuple(fields), curves=together(fields), **description)

    @property
    def owners(self) -> list[str]:
        """The group of each field."""
        return [field.group for field in self.fields]

    @property
    def distances(self) -> NDArray[np.float64]:
        """Distance of each whole restored field from its truth."""
        return np.array([field.distance for field in self.fields])

    def masked_shares(self, threshold: float) -> NDArray[np.float64]:
        """Return the share of each field that a threshold marks."""
        return np.array([field.masked_share(threshold, self.mask) for field in self.fields])

    def suggested_tolerances(self) -> dict[int, float]:
        """Return, for the 30th, 60th and 80th percentile of the distances, the tolerance of two digits above it.

        They are to be looked at before one is chosen for good, on fields that calibration does not use: a tolerance
        that was chosen because its mask looked nice is no longer fixed beforehand.
        """
        positive = self.distances[self.distances > 0]
        if not len(positive):
            return {}
        return {share: float(rungs(rung_above(float(np.percentile(positive, share))), 1)[0]) for share in (30, 60, 80)}

    def certify(self, promise: Promise, *, note: str = "", history: Sequence[Pin] = ()) -> Certificate:
        """Return the certificate for a promise.

        Raises
        ------
        ValueError
            If there are too few groups for it.
        """
        threshold = promise.threshold(self.curves, self.owners)
        shares = self.masked_shares(threshold).tolist()
        return Certificate(
            **{name: getattr(promise, name) for name in Promise.__dataclass_fields__},
            distance=name_of(self.distance),
            distance_identity=self.distance.identity,
            distance_words=self.distance.sentence_name,
            intensity=self.intensity,
            mask=self.mask,
            threshold=threshold,
            n_fields=len(self.fields),
            groups=dict(Counter(self.owners)),
            grouped=self.grouped,
            field_shape=self.fields[0].shape,
            plane_shape=self.fields[0].plane_shape,
            stack_planes=self.stack_planes,
            pixel_size=self.pixel_size,
            fingerprint=self.fingerprint,
            restorer=_use_of(self.restorer),
            uncertainty=self.uncertainty,
            leave_one_out=leave_one_out(promise, self.curves, self.owners),
            masked=MaskedShare.of(shares),
            fields=self._records(promise, shares),
            note=note,
            created=datetime.now(UTC).date().isoformat(),
            versions=software_versions(),
            history=tuple(history),
            curves=self.curves,
        )

    def _records(self, promise: Promise, shares: Sequence[float]) -> tuple[FieldRecord, ...]:
        thresholds = self.curves.at(promise.tolerance).tolist()
        return tuple(
            FieldRecord(
                name=field.name, group=field.group, distance=field.distance, threshold=own, masked_share=share,
                sha256=field.sha256,
            )
            for field, own, share in zip(self.fields, thresholds, shares, strict=True)
        )  # fmt: skip


def certify(
    fields: Sequence[CalibrationField],
    *,
    distance: str | Distance,
    tolerance: float,
    confidence: float,
    fingerprint: Fingerprint,
    restorer: ModelCard | None = None,
    mask: MaskKind = "binary",
    note: str = "",
    **promise: Any,
) -> Certificate:
    """Return the certificate that `fields` in memory support.

    Parameters
    ----------
    fields
        All of one shape; each group is one specimen. With one field per group the promise is about fields.
    distance, tolerance, confidence, mask
        See `image_threshold` and `conformal_threshold`.
    fingerprint
        Of the networks that made the uncertainty.
    restorer
        The restorer's card.
    note
        Where the fields come from, for the reader.
    promise
        More of `Promise`: guarantee, delta, bound, grouping, seed.

    Raises
    ------
    ValueError
        If shapes differ, two fields are the same, or there are too few groups.
    """
    _refuse_twins(fields)
    rule = parse_distance(distance)
    measured = Measured.of(
        list(measure_fields(fields, rule, mask=mask)),
        distance=rule, mask=mask, intensity="share" if rule.in_intensity_units else "none", fingerprint=fingerprint,
        restorer=restorer,
    )  # fmt: skip
    return measured.certify(Promise(tolerance=tolerance, confidence=confidence, **promise), note=note)


def _use_of(card: ModelCard | None) -> ModelCard | None:
    """Return how a restorer is used, without what it was trained on: that may be thousands of hashes."""
    return card and card.model_copy(update={"trained_on": (), "trained_on_sha256": ()})


def software_versions() -> dict[str, str]:
    """Return the versions of what took part in a calibration."""
    found = {"napari-maskcal": __version__, "python": platform.python_version()}
    for name in ("numpy", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _refuse_twins(fields: Sequence[CalibrationField]) -> None:
    seen: dict[str, str] = {}
    for field in fields:
        digest = hashlib.sha256(field.restored.tobytes() + field.truth.tobytes()).hexdigest()
        if digest in seen:
            raise ValueError(f"{field.name} and {seen[digest]} are the same field; leave one of them out")
        seen[digest] = field.name
