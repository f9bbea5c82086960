"""From the thresholds of many fields to the one that keeps the promise: rank arithmetic."""

from __future__ import annotations

from math import ceil, floor, log
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from napari_maskcal.settings import check_confidence

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import ArrayLike, NDArray

Guarantee = Literal["marginal", "pac", "expected"]
Grouping = Literal["worst", "one"]


def conformal_threshold(
    thresholds: ArrayLike,
    confidence: float = 0.9,
    guarantee: str = "marginal",
    delta: float | None = None,
    groups: Sequence[Hashable] | None = None,
    *,
    grouping: Grouping = "worst",
    seed: int = 0,
) -> float:
    """Return the threshold that keeps the promise for a new field, or for the fields of a new group.

    Parameters
    ----------
    thresholds
        Image thresholds of the n calibration fields, at least 0, infinity allowed.
    confidence
        Share of new fields (groups, if given) for which the promise has to hold, between 0 and 1.
    guarantee
        ``"marginal"``: P(distance <= tolerance) >= confidence, over calibration sets and new fields.
        ``"pac"``: with probability 1 - delta over calibration sets, the share of new fields that are within
        tolerance is at least `confidence`. (``"expected"`` needs distances, not thresholds: `risk_threshold`.)
    delta
        For ``"pac"``: how often a calibration set may fail, between 0 and 1. None for the marginal guarantee.
    groups
        The specimen of each field. Fields of one specimen are not exchangeable with each other, so each
        specimen counts once.
    grouping
        ``"worst"``: with its smallest threshold; the promise is then for a new specimen, all of its fields together
        (as many as the calibrated specimens have). ``"one"``: with one field, drawn with `seed`; the promise is
        then for one field, drawn at random, of a new specimen.
    seed
        Of that draw, which looks at the groups alone.

    Returns
    -------
    float
        The k-th smallest threshold, with k = floor((n + 1)(1 - confidence)) for the marginal guarantee, and the
        largest k with P(Binomial(n, 1 - confidence) <= k - 1) <= delta for the other.

    Raises
    ------
    ValueError
        If there are too few fields or groups (the message says how many it takes), or a value is not valid.

    References
    ----------
    Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; Papadopoulos et al., ECML 2002
    (split conformal prediction). Wilks, Annals of Mathematical Statistics 12, 1941 (tolerance limits); Vovk,
    "Conditional validity of inductive conformal predictors", ACML 2012 (the pac guarantee).
    """
    confidence = check_confidence(confidence)
    check_guarantee(guarantee, delta)
    values = np.asarray(thresholds, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"thresholds has shape {values.shape}; give one number for each field")
    if np.isnan(values).any() or (values < 0).any():
        raise ValueError("each threshold has to be a number of at least 0; some are NaN or negative")
    if groups is not None:
        check_groups(groups, len(values))
        worst = grouping == "worst"
        values = worst_of_each_group(values, groups) if worst else values[one_of_each_group(groups, seed)]
    rank = rank_of(len(values), confidence, guarantee, delta)
    if rank == 0:
        raise too_few(len(values), minimal_n(confidence, guarantee, delta), groups is not None, confidence)
    return float(np.partition(values, rank - 1)[rank - 1])


def rank_of(n: int, confidence: float, guarantee: str = "marginal", delta: float | None = None) -> int:
    """Return which of n thresholds, counted from the smallest, keeps the promise; 0 means that n is too small."""
    return marginal_rank(n, confidence) if guarantee == "marginal" else pac_rank(n, confidence, delta or 0.0)


def marginal_rank(n: int, confidence: float) -> int:
    """Return k = floor((n + 1)(1 - confidence)); 0 means that n is too small."""
    # 1 - 0.9 is 0.0999..98: without the nudge, n = 9 at 0.90 would lose its only rank.
    return min(n, floor((n + 1) * (1 - confidence) + 1e-9))


def pac_rank(n: int, confidence: float, delta: float) -> int:
    """Return the largest k with P(Binomial(n, 1 - confidence) <= k - 1) <= delta; 0 means that n is too small."""
    return int(np.count_nonzero(is_rejected(np.arange(n), n, confidence, delta)))


def is_rejected(failures: NDArray[Any], n: int, confidence: float, delta: float) -> NDArray[np.bool_]:
    """Whether so few failures among `n` rule out, at level `delta`, that more than 1 - confidence of all fail."""
    # Where both are equal in exact arithmetic, rounding is not to decide.
    return np.asarray(_at_most(failures, n, confidence) <= delta * (1 + 1e-9))


def minimal_n(confidence: float, guarantee: str = "marginal", delta: float | None = None) -> int:
    """Return the smallest n for which there is a rank."""
    if guarantee == "marginal":
        n = max(1, floor(1 / (1 - confidence)) - 2)
    else:
        n = max(1, floor(log(delta or 0.5) / log(confidence)) - 1)
    while not _has_rank(n, confidence, guarantee, delta):
        n += 1
    return n


def _has_rank(n: int, confidence: float, guarantee: str, delta: float | None) -> bool:
    if guarantee == "marginal":
        return marginal_rank(n, confidence) > 0
    return bool(is_rejected(np.array(0), n, confidence, delta or 0.0))


def fixed_sequence_threshold(
    distances: NDArray[Any], grid: NDArray[np.float64], *, tolerance: float, confidence: float, delta: float
) -> float:
    """Return the largest threshold of a fixed grid that keeps the pac promise, for a distance that is not monotone.

    The grid is walked from its smallest threshold up. At each, the hypothesis "more than 1 - confidence of new
    fields are outside of tolerance" is tested at level `delta`, and the walk stops at the first that cannot be
    rejected: the order is fixed beforehand, so no correction for the number of tests is due.

    Parameters
    ----------
    distances
        (fields, thresholds); NaN counts as outside of tolerance.
    grid
        The thresholds, ascending.

    Returns
    -------
    float
        A threshold of the grid; 0 if not even the first is kept.

    Raises
    ------
    ValueError
        If there are too few fields for this confidence and delta, whatever their distances.

    References
    ----------
    Angelopoulos, Bates, Candès, Jordan, Lei, "Learn then Test", arXiv 2110.01052 (2021).
    """
    n = len(distances)
    if pac_rank(n, confidence, delta) == 0:
        raise too_few(n, minimal_n(confidence, "pac", delta), True, confidence)
    failures = n - np.count_nonzero(distances <= np.float64(tolerance), axis=0)
    rejected = np.logical_and.accumulate(is_rejected(failures, n, confidence, delta))
    return float(np.append(0.0, grid)[np.count_nonzero(rejected)])


def risk_threshold(
    distances_at: Callable[[float], NDArray[np.float64]],
    candidates: NDArray[np.float64],
    *,
    n: int,
    tolerance: float,
    bound: float,
) -> float:
    """Return the largest threshold at which the expected distance, counted as at most `bound`, is within tolerance.

    Parameters
    ----------
    distances_at
        Threshold -> (n,) distances of the fields (or groups), which never fall when the threshold grows.
    candidates
        Thresholds, ascending, between which these distances do not change.
    tolerance, bound
        In the units of the distance.

    Returns
    -------
    float
        The largest t with (sum of min(distance at t, bound) + bound) / (n + 1) <= tolerance; 0 if there is none.

    Raises
    ------
    ValueError
        If n is too small for this tolerance and bound, whatever the distances.

    References
    ----------
    Angelopoulos, Bates, Fisch, Lei, Schuster, "Conformal Risk Control", arXiv 2208.02814 (2022).
    """
    if bound > tolerance * (n + 1) * (1 + 1e-9):
        needed = ceil(bound / tolerance - 1 - 1e-9)
        raise ValueError(
            f"at least {needed} fields or specimens are needed for a mean of at most {tolerance:g} when one may be as "
            f"large as {bound:g}, got {n}; add some, raise the tolerance, or lower the bound"
        )
    low, high = 0, len(candidates)  # candidates[:low] are within tolerance, candidates[high:] are not
    while low < high:
        middle = (low + high) // 2
        total = np.minimum(distances_at(float(candidates[middle])), bound).sum() + bound
        low, high = (middle + 1, high) if total / (n + 1) <= tolerance else (low, middle)
    return float(candidates[low - 1]) if low else 0.0


def check_guarantee(guarantee: str, delta: float | None) -> None:
    """Raise ValueError unless it is a guarantee on ranks, with a delta where it needs one."""
    if guarantee not in get_args(Guarantee):
        raise ValueError(f"there is no guarantee {guarantee!r}; there are {', '.join(get_args(Guarantee))}")
    if guarantee == "expected":
        raise ValueError("the expected guarantee is made from distances, not from thresholds; see risk_threshold")
    if guarantee == "marginal" and delta is not None:
        raise ValueError(f"delta is {delta:g}, but the marginal guarantee has none; leave it out")
    if guarantee == "pac" and (delta is None or not 0 < delta < 1):
        raise ValueError(f"delta is {delta}; the pac guarantee takes a number between 0 and 1, such as 0.1")


def check_groups(groups: Sequence[Hashable], n: int) -> None:
    """Raise ValueError unless there is one group for each of `n` fields."""
    if len(groups) != n:
        raise ValueError(f"there are {n} thresholds but {len(groups)} groups; give each field its group")


def too_few(n: int, needed: int, grouped: bool, confidence: float) -> ValueError:
    """Return the error that says how many it takes."""
    unit = "groups" if grouped else "fields"
    return ValueError(
        f"at least {needed} {unit} are needed for a confidence of {confidence:g}, "
        f"got {n}; add {unit} or lower the confidence"
    )


def worst_of_each_group(values: NDArray[Any], groups: Sequence[Hashable]) -> NDArray[Any]:
    """Return the smallest value of each group, in order of first appearance.

    `values` has the fields along its first axis.

    Raises
    ------
    ValueError
        If there is not one group for each field.
    """
    check_groups(groups, len(values))
    if not len(values):
        return values
    return np.stack([values[indices].min(axis=0) for indices in _members(groups).values()])


def one_of_each_group(groups: Sequence[Hashable], seed: int) -> list[int]:
    """Return the index of one field of each group, drawn at random, in order of first appearance of the groups."""
    rng = np.random.default_rng(seed)
    return [indices[int(rng.integers(len(indices)))] for indices in _members(groups).values()]


def _members(groups: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return members


def _at_most(count: NDArray[Any], n: int, confidence: float) -> NDArray[np.float64]:
    """P(Binomial(n, 1 - confidence) <= count)."""
    from scipy.special import bdtr  # a part of scipy that imports fast

    return np.asarray(bdtr(np.asarray(count, dtype=np.float64), n, 1 - confidence))
