"""What measured fields answer at once, for each tolerance and confidence that a slider passes: no GUI, no pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.curves import AnyCurves, Curves
from napari_maskcal.calibrate.guarantee import minimal_n
from napari_maskcal.calibrate.ladder import rung_above, rung_below, rungs
from napari_maskcal.review.certificate_words import percent
from napari_maskcal.review.remarks import remarks
from napari_maskcal.review.suggestions import in_units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_maskcal.calibrate.certificate import Certificate, Pin
    from napari_maskcal.calibrate.certify import Measured
    from napari_maskcal.calibrate.promise import Promise

_CURVE_POINTS, _FEW_POINTS = 48, 12
_CONFIDENCES = (*np.arange(0.5, 0.99, 0.02).round(2), 0.99)
_MANY_GROUPS = 2_000  # above this less of the curves is looked at, so that a slider still answers
_LOWEST_SHARE = 1 / 50  # of the smallest error of a whole field: below it next to everything is masked


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a promise costs on the calibration fields.

    Attributes
    ----------
    certificate
        The pinned one, or one that is marked as exploration.
    verdict
        What is particular about it, such as that everything is masked; empty if nothing is.
    thresholds, shares
        Of each field: its own image threshold, and its share that is masked at the certificate's.
    """

    certificate: Certificate
    verdict: str
    thresholds: NDArray[Any]
    shares: NDArray[np.float64]


class Exploration:
    """Answers for any promise from fields that are measured once.

    Parameters
    ----------
    measured
        The fields.
    """

    def __init__(self, measured: Measured) -> None:
        self.measured = measured
        self._quantiles = np.stack([field.quantiles for field in measured.fields])
        self._ordered = np.sort(self._quantiles, axis=None).astype(np.float64)
        self._inverse_above = np.append(np.cumsum(1 / self._ordered[::-1])[::-1], 0.0)
        self._highest = min(field.reach for field in measured.fields)  # where a walk stopped, nothing more is known
        self._rows = lru_cache(maxsize=4)(self._grouped)

    @property
    def group_count(self) -> int:
        """How many specimens or images there are."""
        return len(set(self.measured.owners))

    @property
    def ladder(self) -> NDArray[np.float64]:
        """The tolerances that are worth a look, ascending, from nearly everything masked to nothing."""
        positive = self.measured.distances[self.measured.distances > 0]
        low, high = (float(positive.min()) * _LOWEST_SHARE, float(positive.max())) if len(positive) else (0.01, 1.0)
        if isinstance(self.measured.curves, Curves):
            low = max(low, float(self.measured.curves.tolerances[0]))
        first, last = rung_below(low * (1 + 1e-9)), rung_above(min(high * 1.1, max(self._highest, low)))
        return rungs(first, last - first + 1)

    def answer(self, promise: Promise, pinned: Certificate | None = None) -> Answer:
        """Return what `promise` costs; of `pinned`, if it is that promise.

        Raises
        ------
        ValueError
            If there are too few groups for it.
        """
        same = pinned is not None and pinned.promise == promise
        certificate = pinned if same and pinned is not None else self._explored(promise)
        shares = self._shares(certificate.threshold)
        return Answer(
            certificate=certificate, verdict=_verdict(certificate), shares=shares,
            thresholds=np.asarray(self.measured.curves.at(promise.tolerance)),
        )  # fmt: skip

    def pin(self, promise: Promise, *, history: Sequence[Pin], note: str = "") -> Certificate:
        """Return the certificate that is to be quoted, dated today."""
        return self.measured.certify(promise, history=history, note=note)

    def masked_over_tolerance(self, promise: Promise) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return tolerances, and the mean share that is masked at each.

        Raises
        ------
        ValueError
            If there are too few groups.
        """
        rows, ladder = self._rows(promise.grouping, promise.seed), self.ladder
        points = _CURVE_POINTS if self.group_count <= _MANY_GROUPS else _FEW_POINTS
        steps = np.unique(np.linspace(0, len(ladder) - 1, points).astype(int))
        asked = [t for t in ladder[steps] if promise.bound is None or promise.bound >= t]
        thresholds = [promise.moved(tolerance=t).threshold_of_rows(rows, self.group_count) for t in asked]
        return np.array(asked), np.array([self.mean_share(t) for t in thresholds])

    def coverage_over_confidence(self, promise: Promise) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return confidences, and the leave-one-out coverage at each; those it can be told for."""
        n = self.group_count
        rows = self._rows(promise.grouping, promise.seed)
        if isinstance(rows, Curves):  # only the one column matters, and copying all takes long
            rows = Curves(np.array([promise.tolerance]), rows.at(promise.tolerance)[:, None])
        slow = n > _MANY_GROUPS or not isinstance(rows, Curves)
        owners = [str(i) for i in range(n)]
        asked = [float(c) for c in _CONFIDENCES[:: 3 if slow else 1]]
        if promise.guarantee == "expected":
            return np.array([]), np.array([])
        found = [
            (c, promise.moved(confidence=c).kept_left_out(rows, owners)) for c in asked if self._enough(promise, c)
        ]
        told = [(c, kept[0] / kept[1]) for c, kept in found if kept is not None]
        return np.array([c for c, _ in told]), np.array([share for _, share in told])

    def mean_share(self, threshold: float) -> float:
        """Return the share of all fields together that a threshold masks."""
        first = int(np.searchsorted(self._ordered, threshold, side="right"))
        count = len(self._ordered)
        if self.measured.mask == "binary":
            return (count - first) / count
        weighted = threshold * self._inverse_above[first] if first < count else 0.0
        return float(count - first - weighted) / count

    def suggestions(self) -> dict[int, tuple[float, str]]:
        """Return, for shares of fields in percent, the tolerance at which they would need no mask, and its words."""
        found = self.measured.suggested_tolerances()
        return {share: (tolerance, self.in_image_units(tolerance)) for share, tolerance in found.items()}

    def in_image_units(self, tolerance: float) -> str:
        """Return a tolerance in the images' own intensities if it is a share of their range, and the other way round.

        Fields have ranges of their own: their middle one is taken, and said to be about.
        """
        if not (units := in_units(tolerance, self.measured)):
            return ""
        spans = np.array([field.span for field in self.measured.fields])
        about = "=" if np.ptp(spans) < 0.01 * spans.min() else "≈"
        share, counts = f"{percent(units['share'])} of the range", f"{units['counts']:.3g} counts"
        return f"{about} {counts if self.measured.intensity == 'share' else share}"

    def _enough(self, promise: Promise, confidence: float) -> bool:
        return self.group_count - 1 >= minimal_n(confidence, promise.guarantee, promise.delta)

    def _explored(self, promise: Promise) -> Certificate:
        return self.measured.certify(promise).model_copy(update={"exploration": True})

    def _grouped(self, grouping: str, seed: int) -> AnyCurves:
        return self.measured.curves.of_groups(self.measured.owners, seed=seed if grouping == "one" else None)

    def _shares(self, threshold: float) -> NDArray[np.float64]:
        if self.measured.mask == "binary":
            return np.asarray(np.mean(self._quantiles > threshold, axis=1))
        return np.asarray(np.mean(1 - np.minimum(threshold / self._quantiles, 1), axis=1), dtype=np.float64)


def _verdict(certificate: Certificate) -> str:
    found = [line[:1].upper() + line[1:] + "." for line in remarks(certificate)]
    return " ".join(found)
