"""How uncertainties compare at the same promise: masked share, coverage, and what is left alone.

Any positive map keeps the promise once it is calibrated; what makes one better is how little it masks. Groups whose
truth is known are split at random, many times, into those that calibrate and those that are tested on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.grid import THRESHOLD_GRID, prefix_threshold, walk
from napari_maskcal.calibrate.guarantee import minimal_n, rank_of, too_few
from napari_maskcal.calibrate.threshold import checked_field, curve_of_error, is_exact
from napari_maskcal.settings import check_confidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_maskcal.distance.base import Distance

_INTERVAL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """What one uncertainty has to say of each field, at one tolerance.

    Attributes
    ----------
    method
        What a table calls it.
    tolerance
        See `image_threshold`.
    thresholds
        (fields,) float64: the image thresholds; infinity where nothing need be masked.
    sorted_uncertainty
        The uncertainties of each field, ascending: the masked share at any threshold.
    walked
        (fields, steps): distances on `THRESHOLD_GRID` where the distance is not monotone, so that a field may keep
        within tolerance above its threshold too; None for a monotone one.
    """

    method: str
    tolerance: float
    thresholds: NDArray[np.float64]
    sorted_uncertainty: tuple[NDArray[np.floating[Any]], ...]
    walked: NDArray[np.float64] | None = None

    def masked(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the masked share of each field at each threshold, (fields, thresholds)."""
        return np.stack([
            1 - np.searchsorted(ordered, thresholds, side="right") / ordered.size
            for ordered in self.sorted_uncertainty
        ])  # fmt: skip

    def kept(self, thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether each field is within tolerance at each threshold, (fields, thresholds)."""
        if self.walked is None:
            return np.asarray(thresholds[None] <= self.thresholds[:, None])
        # A conformal threshold is one of the grid, or 0, below it: all is masked, and the distance is 0.
        steps = np.searchsorted(THRESHOLD_GRID, thresholds)
        within = np.where(np.isnan(self.walked), False, self.walked <= self.tolerance)
        return np.asarray(within[:, steps] | (thresholds < THRESHOLD_GRID[0])[None])


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How one uncertainty did, as means over the splits; each group of the test counts once.

    Attributes
    ----------
    method, tolerance, confidence
        What was asked of it.
    n_calibration, n_test
        Groups on either side of a split.
    coverage
        Share of new fields, one drawn at random from each group, that are within tolerance.
    coverage_low, coverage_high
        Between these lies the coverage of a single split with a chance of 95 %, if the promise holds exactly.
    masked_share
        Of the pixels.
    untouched_share
        Of the fields: nothing is masked in them.
    correlation
        Spearman's, of masked share with true distance over the fields; None where either is always the same.
    """

    method: str
    tolerance: float
    confidence: float
    n_calibration: int
    n_test: int
    coverage: float
    coverage_low: float
    coverage_high: float
    masked_share: float
    untouched_share: float
    correlation: float | None


def candidates(
    method: str,
    uncertainties: Sequence[NDArray[Any]],
    restored: Sequence[NDArray[Any]],
    truths: Sequence[NDArray[Any]],
    distance: Distance,
    tolerances: Sequence[float],
) -> list[Candidate]:
    """Return what an uncertainty says of fields at each tolerance, by one sort or one walk of each field.

    Parameters
    ----------
    method
        What a table calls it.
    uncertainties
        (Y, X) of each field, above 0.
    restored, truths
        (Y, X), or (C, Y, X), of each field, in the unit of the tolerances.
    distance, tolerances
        See `image_threshold`; the masks are binary.

    Raises
    ------
    ValueError
        If a field is not valid, or the numbers of fields differ.
    """
    pixels = [checked_field(*images) for images in zip(uncertainties, restored, truths, strict=True)]
    ordered = tuple(np.sort(u, axis=None) for u, _, _ in pixels)
    asked = np.asarray(tolerances, dtype=np.float64)
    if is_exact(distance):
        rising = np.sort(asked)
        curves = np.array([_curve(distance, *images, rising) for images in pixels])
        places = np.searchsorted(rising, asked)
        return [
            Candidate(method=method, tolerance=float(t), thresholds=curves[:, place], sorted_uncertainty=ordered)
            for t, place in zip(asked, places, strict=True)
        ]
    named = [(f"field {i}", *images) for i, images in enumerate(pixels)]
    walked = np.stack(list(walk(named, distance, mask="binary", stop_above=2 * float(asked.max()), whole=True)))
    return [
        Candidate(
            method=method, tolerance=float(t), thresholds=prefix_threshold(walked, THRESHOLD_GRID, float(t)),
            sorted_uncertainty=ordered, walked=walked,
        )
        for t in asked
    ]  # fmt: skip


def compare(
    candidate: Candidate,
    *,
    groups: Sequence[str],
    distances: NDArray[Any],
    confidence: float,
    n_calibration: int,
    splits: int = 200,
    seed: int = 0,
) -> Comparison:
    """Return how an uncertainty does at the marginal promise, over random splits of the groups.

    Of each calibration group one field is drawn: the promise is for a field drawn at random of a new specimen. With
    the same seed all uncertainties get the same splits.

    Parameters
    ----------
    candidate
        From `candidates`.
    groups, distances
        (fields,): the specimen of each field, and its distance with nothing masked.
    confidence
        Between 0 and 1.
    n_calibration
        How many groups calibrate; the rest is tested on.
    splits, seed
        How many splits, and which.

    Raises
    ------
    ValueError
        If there are too few groups for the confidence, or none is left to test on.

    References
    ----------
    The interval is that of a beta-binomial variable: Vovk, "Conditional validity of inductive conformal predictors",
    ACML 2012.
    """
    from scipy.stats import betabinom

    names, owners = np.unique(np.asarray(groups), return_inverse=True)
    check_sizes(len(names), n_calibration, confidence)
    rank, n_test = rank_of(n_calibration, confidence), len(names) - n_calibration
    drawn = [_draw(owners, len(names), np.random.default_rng([seed, split])) for split in range(splits)]
    thresholds = np.array([np.sort(candidate.thresholds[one[:n_calibration]])[rank - 1] for one in drawn])
    tested = np.stack([np.isin(owners, owners[one[n_calibration:]]) for one in drawn], axis=1)
    share, kept = candidate.masked(thresholds), candidate.kept(thresholds)
    weights = tested / np.bincount(owners)[owners][:, None] / n_test / splits
    chance = (1 - _INTERVAL) / 2
    low, high = betabinom.ppf([chance, 1 - chance], n_test, n_calibration + 1 - rank, rank) / n_test
    return Comparison(
        method=candidate.method, tolerance=candidate.tolerance, confidence=confidence, n_calibration=n_calibration,
        n_test=n_test, coverage=float((weights * kept).sum()), coverage_low=float(low), coverage_high=float(high),
        masked_share=float((weights * share).sum()), untouched_share=float((weights * (share == 0)).sum()),
        correlation=_mean_correlation(share, np.asarray(distances), tested),
    )  # fmt: skip


def compare_oracle(
    candidate: Candidate, *, groups: Sequence[str], distances: NDArray[Any], confidence: float
) -> Comparison:
    """Return how the oracle does: each field is masked at its own threshold, known from its truth.

    No calibration is needed and none is done; as the uncertainty of `candidate` take the true error itself.
    """
    names, owners = np.unique(np.asarray(groups), return_inverse=True)
    share = np.array([
        1 - np.searchsorted(ordered, own, side="right") / ordered.size
        for ordered, own in zip(candidate.sorted_uncertainty, candidate.thresholds, strict=True)
    ])  # fmt: skip
    weights = 1 / np.bincount(owners)[owners] / len(names)
    everything = np.ones((len(share), 1), bool)
    return Comparison(
        method=candidate.method, tolerance=candidate.tolerance, confidence=confidence, n_calibration=0,
        n_test=len(names), coverage=1.0, coverage_low=1.0, coverage_high=1.0,
        masked_share=float((weights * share).sum()), untouched_share=float((weights * (share == 0)).sum()),
        correlation=_mean_correlation(share[:, None], np.asarray(distances), everything),
    )  # fmt: skip


def check_sizes(groups: int, n_calibration: int, confidence: float) -> None:
    """Raise ValueError unless so many groups can be split into enough to calibrate and some to test on."""
    needed = minimal_n(check_confidence(confidence))
    if n_calibration < needed:
        raise too_few(n_calibration, needed, True, confidence)
    if groups <= n_calibration:
        raise ValueError(
            f"there are {groups} groups, and {n_calibration} of them are to calibrate, so none is left to test on; "
            "give more specimens"
        )


def _curve(
    distance: Any, u: NDArray[Any], restored: NDArray[Any], truth: NDArray[Any], tolerances: NDArray[np.float64]
) -> NDArray[np.float64]:
    error = distance.error(restored, truth, u.shape)
    return np.asarray(curve_of_error(u.ravel(), error.ravel(), distance, tolerances, "binary"))


def _draw(owners: NDArray[np.intp], groups: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return one field of each group, the groups in random order."""
    fields = rng.permutation(len(owners))
    _, first = np.unique(owners[fields], return_index=True)
    return np.asarray(fields[first][rng.permutation(groups)])


def _mean_correlation(share: NDArray[np.float64], distances: NDArray[Any], tested: NDArray[np.bool_]) -> float | None:
    """Return the mean over splits of Spearman's correlation among the fields tested on, where it is defined."""
    from scipy.stats import rankdata

    found = []
    for own, chosen in zip(share.T, tested.T, strict=True):
        a, b = rankdata(own[chosen]), rankdata(distances[chosen])
        if a.std() > 0 and b.std() > 0:
            found.append(float(np.corrcoef(a, b)[0, 1]))
    return float(np.mean(found)) if found else None
