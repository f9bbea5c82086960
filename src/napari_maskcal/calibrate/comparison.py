"""How uncertainties compare at the same promise: many random splits into groups to calibrate on and groups to test on.

It is no promise. What is certified is certified once, on fields that nothing else is done with; here the same fields
calibrate in one split and test in the next, so that differences between methods stand out from chance.

Over many splits of the same groups the mean coverage comes to 1 - k / (n + 1) for rank k of n, whatever the
uncertainty, and to more only where thresholds are equal: it tells that the arithmetic is right, and that methods are
compared at one promise. Which of them is better, only the masked share tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.candidate import Candidate, candidates
from napari_maskcal.calibrate.guarantee import Grouping, check_groups, marginal_rank, minimal_n, too_few
from napari_maskcal.calibrate.oracle import OPT, opt_share, opt_shares
from napari_maskcal.settings import check_confidence

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

__all__ = ["SPLITS", "Candidate", "Comparison", "candidates", "compare", "compare_opt", "compare_oracle",
           "n_to_calibrate", "opt_share", "opt_shares"]  # fmt: skip

SPLITS = 200
_LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How one method did, averaged over the splits.

    Attributes
    ----------
    method, tolerance, confidence
        What was asked for.
    n_calibration, n_test
        Groups in each split.
    coverage
        Share of test groups within tolerance, each counted once: a group of several fields with the share of them.
    coverage_low, coverage_high
        Between which the coverage of one such split lies with a probability of at least 0.95, whatever the data, if one
        field of each group is looked at and no two thresholds are equal; equal ones only raise it.
    masked_share, untouched_share
        Mean share of pixels that are masked, and share of fields in which none is; each test group counts once.
    correlation
        Spearman's, of masked share with true distance over the test fields; None where it is not defined.

    References
    ----------
    Vovk, "Conditional validity of inductive conformal predictors", ACML 2012.
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


def compare(
    candidate: Candidate,
    *,
    groups: Sequence[Hashable],
    distances: NDArray[np.floating[Any]],
    confidence: float,
    n_calibration: int,
    splits: int = SPLITS,
    seed: int = 0,
    grouping: Grouping = "one",
) -> Comparison:
    """Return how a method does under the marginal promise, over random splits of the groups.

    Parameters
    ----------
    candidate
        Its fields.
    groups
        The specimen of each field.
    distances
        (fields,): of the whole restored fields from their truth.
    confidence
        Of the promise.
    n_calibration
        Groups that calibrate in each split; all others test. See `n_to_calibrate`.
    splits, seed
        How many, and of their draw, which looks at the groups alone: methods with the same seed meet the same splits.
    grouping
        ``"one"``: one field of each group calibrates, drawn anew in each split. ``"worst"``: the smallest threshold of
        each does, and a test group is kept if all of its fields are.

    Raises
    ------
    ValueError
        If there are too few groups for this confidence, no group is left to test on, or there is not one group and one
        distance for each field.
    """
    drawn = _Splits.of(groups, n_calibration, splits=splits, seed=seed, fields=len(candidate.thresholds))
    rank = marginal_rank(n_calibration, check_confidence(confidence))
    if rank == 0:
        raise too_few(n_calibration, minimal_n(confidence), True, confidence)
    chosen = np.partition(drawn.calibrating(candidate.thresholds, grouping), rank - 1, axis=1)[:, rank - 1]
    levels, at = np.unique(chosen, return_inverse=True)  # few: thresholds of the fields, near the rank
    kept, masked = candidate.kept(levels)[at], candidate.masked_shares(levels)[at]
    low, high = _interval(drawn.n_test, n_calibration, rank)
    return Comparison(
        method=candidate.method, tolerance=candidate.tolerance, confidence=confidence,
        n_calibration=n_calibration, n_test=drawn.n_test,
        coverage=drawn.mean(kept, all_of_group=grouping == "worst"), coverage_low=low, coverage_high=high,
        **drawn.of_masks(masked, distances),
    )  # fmt: skip


def compare_opt(
    shares: NDArray[np.float64],
    *,
    groups: Sequence[Hashable],
    distances: NDArray[np.floating[Any]],
    tolerance: float,
    confidence: float,
) -> Comparison:
    """Return the same for the smallest masks that there are, (fields,): see `opt_shares`.

    They need no calibration, so that all groups are tested on, and every field is within tolerance.
    """
    everything = _Splits.of(groups, 0, splits=1, seed=0, fields=len(shares))
    return Comparison(
        method=OPT, tolerance=tolerance, confidence=confidence, n_calibration=0, n_test=everything.n_test,
        coverage=1.0, coverage_low=1.0, coverage_high=1.0, **everything.of_masks(shares[None], distances),
    )  # fmt: skip


def compare_oracle(
    candidate: Candidate, *, groups: Sequence[Hashable], distances: NDArray[np.floating[Any]], confidence: float
) -> Comparison:
    """Return the same for a candidate each field of which is masked at its own threshold, known from its truth."""
    return compare_opt(
        candidate.own_shares, groups=groups, distances=distances, tolerance=candidate.tolerance, confidence=confidence
    )


def n_to_calibrate(groups: int, confidence: float) -> int:
    """Return how many of so many groups are to calibrate: no more than half, unless the confidence takes more.

    Of the numbers that have the same rank it is the smallest: a larger one would keep more than was asked for.

    Raises
    ------
    ValueError
        If none would be left to test on.
    """
    needed = minimal_n(check_confidence(confidence))
    if groups <= needed:
        raise ValueError(
            f"{groups} held-out groups are too few to compare at a confidence of {confidence:g}: {needed} have to "
            f"calibrate and at least 1 to be tested on; add groups, {needed + 1} at least, or lower the confidence"
        )
    half = max(needed, groups // 2)
    rank = marginal_rank(half, confidence)
    return next(n for n in range(needed, half + 1) if marginal_rank(n, confidence) == rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Splits:
    """Which groups calibrate, and by which of their fields.

    Attributes
    ----------
    owners
        (fields,): number of each field's group.
    calibration
        (splits, n): numbers of the groups that calibrate.
    drawn
        (splits, n): the field that was drawn of each.
    """

    owners: NDArray[np.intp]
    calibration: NDArray[np.intp]
    drawn: NDArray[np.intp]

    @classmethod
    def of(cls, groups: Sequence[Hashable], n_calibration: int, *, splits: int, seed: int, fields: int) -> _Splits:
        """Return random splits of the groups."""
        check_groups(groups, fields)
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        owners = np.array([numbers[group] for group in groups], dtype=np.intp)
        if not 0 <= n_calibration < len(numbers):
            raise ValueError(
                f"{n_calibration} groups to calibrate on leave none to test on of {len(numbers)}; add groups, or take "
                "fewer to calibrate on"
            )
        rng = np.random.default_rng(seed)
        calibration = rng.permuted(np.tile(np.arange(len(numbers)), (splits, 1)), axis=1)[:, :n_calibration]
        counts = np.bincount(owners)
        first = np.cumsum(counts) - counts  # of each group's fields, where they are sorted by group
        place = np.floor(rng.random(calibration.shape) * counts[calibration]).astype(np.intp)
        drawn = np.argsort(owners, kind="stable")[first[calibration] + place]
        return cls(owners=owners, calibration=calibration, drawn=drawn)

    @property
    def n_test(self) -> int:
        """How many groups test in each split."""
        return int(self.owners.max() + 1 - self.calibration.shape[1])

    @property
    def tested(self) -> NDArray[np.bool_]:
        """(splits, groups): whether each does."""
        tested = np.ones((len(self.calibration), int(self.owners.max()) + 1), bool)
        np.put_along_axis(tested, self.calibration, False, axis=1)
        return tested

    def calibrating(self, thresholds: NDArray[np.float64], grouping: Grouping) -> NDArray[np.float64]:
        """Return (splits, n): the threshold that stands for each group."""
        if grouping == "one":
            return np.asarray(thresholds[self.drawn])
        worst = np.full(int(self.owners.max()) + 1, np.inf)
        np.minimum.at(worst, self.owners, thresholds)
        return np.asarray(worst[self.calibration])

    def mean(self, values: NDArray[Any], *, all_of_group: bool = False) -> float:
        """Return the mean of (splits, fields) over test groups, each counted once; or the share where all are true."""
        counts = np.bincount(self.owners)
        member = np.eye(len(counts))[self.owners]  # (fields, groups)
        of_group = ((values @ member) / counts)[self.tested]
        if not all_of_group:
            return float(np.mean(of_group))
        return float(np.mean(of_group > 1 - 0.5 / np.broadcast_to(counts, self.tested.shape)[self.tested]))

    def of_masks(self, masked: NDArray[np.float64], distances: NDArray[np.floating[Any]]) -> dict[str, Any]:
        """Return what a `Comparison` says of masks, from the masked share of each field in each split."""
        if len(distances) != len(self.owners):
            raise ValueError(f"there are {len(distances)} distances for {len(self.owners)} fields; give one for each")
        tested = self.tested[:, self.owners]
        found = [_spearman(shares[on], distances[on]) for shares, on in zip(masked, tested, strict=True)]
        defined = [value for value in found if value is not None]
        return {
            "masked_share": self.mean(masked),
            "untouched_share": self.mean(masked == 0),
            "correlation": float(np.mean(defined)) if defined else None,
        }


def _interval(n_test: int, n: int, rank: int) -> tuple[float, float]:
    """Return the interval of the share of new fields that one calibration keeps: it is beta-binomial."""
    from scipy.stats import betabinom  # 0.3 s to import

    tail = (1 - _LEVEL) / 2
    low, high = (float(betabinom.ppf(share, n_test, n + 1 - rank, rank)) / n_test for share in (tail, 1 - tail))
    return low, high


def _spearman(shares: NDArray[Any], distances: NDArray[Any]) -> float | None:
    from scipy.stats import rankdata

    if len(shares) < 3 or np.ptp(shares) == 0 or np.ptp(distances) == 0:
        return None
    return float(np.corrcoef(rankdata(shares), rankdata(distances))[0, 1])
