"""What a certificate's promise came to on fields that it had not seen: the numbers of an evaluation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from napari_maskcal.calibrate.certificate import Coverage, MaskedShare, clopper_pearson
from napari_maskcal.calibrate.curves import Curves
from napari_maskcal.calibrate.guarantee import one_of_each_group, rank_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_maskcal.calibrate.certificate import Certificate
    from napari_maskcal.calibrate.measure import MeasuredField
    from napari_maskcal.review.comparison_table import Beside

_CONFIDENCES = np.round(np.arange(0.5, 0.995, 0.01), 2)
_TOLERANCES = 41
_SPAN_OF_TOLERANCES = 10.0  # the plot goes from a tenth of the tolerance to ten times it


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutField:
    """One field whose truth is known and that calibration did not use.

    Attributes
    ----------
    name, group, sha256, span
        As of the `CalibrationField`.
    distance
        Of the whole restored image from the truth.
    trusted_distance
        The same outside the marks (weighted by the soft mask) at the certificate's threshold.
    kept
        Whether that is within tolerance.
    threshold
        The field's own: up to there it would have stayed within tolerance.
    masked_share
        Share of its pixels that the certificate's threshold marks; of a soft mask, the mean of 1 - trust.
    measured
        What any other threshold can be asked of.
    """

    name: str
    group: str
    sha256: str
    span: float
    distance: float
    trusted_distance: float
    kept: bool
    threshold: float
    masked_share: float
    measured: MeasuredField = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A certificate and how it did.

    Attributes
    ----------
    certificate
        The promise.
    fields
        All that were held out, in their order.
    grouped
        Whether the user named the groups.
    restorer, mask_model
        Names, for the reader.
    warnings
        What a reader has to know of how the numbers came about.
    beside
        How other uncertainties did on these fields; None if none was asked for.
    """

    certificate: Certificate
    fields: tuple[HeldOutField, ...]
    grouped: bool
    restorer: str = ""
    mask_model: str = ""
    warnings: tuple[str, ...] = ()
    beside: Beside | None = None

    @property
    def groups(self) -> dict[str, int]:
        """How many fields each group has."""
        return dict(Counter(one.group for one in self.fields))

    @property
    def group_word(self) -> str:
        """What a group is: a specimen if the user named the groups, else an image."""
        return "specimens" if self.grouped else "images"

    @property
    def counted(self) -> list[bool]:
        """Whether each field counts for its group: all do, or the one that the certificate's seed draws."""
        if self.certificate.grouping == "worst":
            return [True] * len(self.fields)
        drawn = set(one_of_each_group([one.group for one in self.fields], self.certificate.seed))
        return [i in drawn for i in range(len(self.fields))]

    @property
    def losses(self) -> dict[str, float]:
        """The distance outside the marks of each group: the largest of those of its fields that count."""
        return {group: max(one.trusted_distance for one in fields) for group, fields in self._members().items()}

    @property
    def counted_losses(self) -> NDArray[np.float64]:
        """The losses as the expected guarantee counts them: at most its bound."""
        losses = np.array(list(self.losses.values()))
        return losses if self.certificate.bound is None else np.minimum(losses, self.certificate.bound)

    @property
    def coverage(self) -> Coverage:
        """How many groups kept within tolerance, of how many, with the exact binomial interval of 95 %."""
        kept = sum(loss <= self.certificate.tolerance for loss in self.losses.values())
        low, high = clopper_pearson(kept, len(self.losses))
        return Coverage(kept=kept, of=len(self.losses), low=low, high=high)

    @property
    def masked(self) -> MaskedShare:
        """How much of the fields is marked."""
        return MaskedShare.of([one.masked_share for one in self.fields])

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's, of masked share with true distance; None where it is not defined."""
        shares, distances = ([getattr(one, name) for one in self.fields] for name in ("masked_share", "distance"))
        if len(shares) < 3 or len(set(shares)) == 1 or len(set(distances)) == 1:
            return None
        from scipy.stats import spearmanr

        return float(spearmanr(shares, distances).statistic)

    def kept_at(self, threshold: float) -> float:
        """Return the share of groups that a threshold keeps within the certificate's tolerance."""
        own = [min(one.threshold for one in fields) for fields in self._members().values()]
        return float(np.mean(np.array(own) >= threshold))

    def _members(self) -> dict[str, list[HeldOutField]]:
        members: dict[str, list[HeldOutField]] = {}
        for one, counts in zip(self.fields, self.counted, strict=True):
            if counts:
                members.setdefault(one.group, []).append(one)
        return members


def chance_of_as_few(evaluation: Evaluation) -> float | None:
    """Return how often an evaluation like this one gives as few kept groups, or fewer, if the promise holds.

    Under the marginal guarantee, with n calibrated groups, rank k and m held-out ones, the number that is kept is at
    least as large as a beta-binomial variable with m, n + 1 - k and k, whatever the data: the certificate's own
    share varies from calibration to calibration as Beta(n + 1 - k, k). Under pac it is at least as large as a
    binomial one, unless the calibration is among the share delta that fails. Under the expected guarantee it is
    that of Student's t for a mean as large as the one found, with the spread of both sets of groups, which is
    approximate.

    References
    ----------
    Vovk, "Conditional validity of inductive conformal predictors", ACML 2012.
    """
    from scipy.stats import betabinom, binom, t

    certificate, n = evaluation.certificate, len(evaluation.certificate.groups)
    if certificate.guarantee == "expected":
        losses = evaluation.counted_losses
        error = sqrt(1 / len(losses) + 1 / n) * float(losses.std(ddof=1)) if len(losses) > 1 else 0.0
        return float(t.sf((losses.mean() - certificate.tolerance) / error, len(losses) - 1)) if error else None
    coverage = evaluation.coverage
    if certificate.guarantee == "pac":
        return float(binom.cdf(coverage.kept, coverage.of, certificate.confidence))
    rank = rank_of(n, certificate.confidence)
    return float(betabinom.cdf(coverage.kept, coverage.of, n + 1 - rank, rank))


def kept_over_confidence(evaluation: Evaluation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return confidences, and the share of held-out groups kept at each; NaN where calibration is too small for it."""
    return _CONFIDENCES, np.array([
        np.nan if threshold is None else evaluation.kept_at(threshold)
        for threshold in (threshold_for(evaluation.certificate, confidence=float(c)) for c in _CONFIDENCES)
    ])  # fmt: skip


def masked_over_tolerance(evaluation: Evaluation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return tolerances, and the mean masked share of the held-out fields at each; NaN where there is no answer."""
    certificate = evaluation.certificate
    tolerances = certificate.tolerance * np.geomspace(1 / _SPAN_OF_TOLERANCES, _SPAN_OF_TOLERANCES, _TOLERANCES)
    if not isinstance(certificate.curves, Curves):
        tolerances = tolerances[tolerances <= 2 * certificate.tolerance]  # a walk went no further than this
    thresholds = [threshold_for(certificate, tolerance=float(tolerance)) for tolerance in tolerances]
    return tolerances, np.array([
        np.nan if threshold is None else
        np.mean([one.measured.masked_share(threshold, certificate.mask) for one in evaluation.fields])
        for threshold in thresholds
    ])  # fmt: skip


def threshold_for(
    certificate: Certificate, *, tolerance: float | None = None, confidence: float | None = None
) -> float | None:
    """Return the threshold at another tolerance or confidence; None where the certificate has none."""
    if certificate.curves is None:
        return None
    try:
        promise = certificate.promise.moved(tolerance=tolerance, confidence=confidence)
        return promise.threshold(certificate.curves, certificate.owners)
    except ValueError:
        return None
