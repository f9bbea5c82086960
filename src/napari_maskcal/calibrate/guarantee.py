"""From the thresholds of many fields to the one that keeps the promise: rank arithmetic."""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING

import numpy as np

from napari_maskcal.settings import check_confidence

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import ArrayLike, NDArray


def conformal_threshold(
    thresholds: ArrayLike,
    confidence: float = 0.9,
    guarantee: str = "marginal",
    delta: float | None = None,
    groups: Sequence[Hashable] | None = None,
) -> float:
    """Return the threshold that keeps the promise for a new field, or for all fields of a new group.

    Parameters
    ----------
    thresholds
        Image thresholds of the n calibration fields, at least 0, infinity allowed.
    confidence
        Share of new fields (groups, if given) for which the promise has to hold, between 0 and 1.
    guarantee
        ``"marginal"``: P(distance <= tolerance) >= confidence, over calibration sets and new fields.
    delta
        Belongs to other guarantees; None for the marginal one.
    groups
        The specimen of each field. Fields of one specimen are not exchangeable with each other, so each
        specimen counts once, with its smallest threshold, and the promise is then about a new specimen: all
        of its fields together (as many as the calibrated specimens have).

    Returns
    -------
    float
        The k-th smallest threshold, k = floor((n + 1)(1 - confidence)).

    Raises
    ------
    ValueError
        If there are too few fields or groups (the message says how many it takes), or a value is not valid.

    References
    ----------
    Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; Papadopoulos et al., ECML 2002
    (split conformal prediction).
    """
    confidence = check_confidence(confidence)
    if guarantee != "marginal":
        raise ValueError(f"the guarantee {guarantee!r} is not available; this version has 'marginal'")
    if delta is not None:
        raise ValueError(f"delta is {delta:g}, but the marginal guarantee has none; leave it out")
    values = np.asarray(thresholds, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"thresholds has shape {values.shape}; give one number for each field")
    if np.isnan(values).any() or (values < 0).any():
        raise ValueError("each threshold has to be a number of at least 0; some are NaN or negative")
    if groups is not None:
        values = worst_of_each_group(values, groups)
    rank = marginal_rank(len(values), confidence)
    if rank == 0:
        unit = "fields" if groups is None else "groups"
        raise ValueError(
            f"at least {minimal_n(confidence)} {unit} are needed for a confidence of {confidence:g}, "
            f"got {len(values)}; add {unit} or lower the confidence"
        )
    return float(np.sort(values)[rank - 1])


def marginal_rank(n: int, confidence: float) -> int:
    """Return k = floor((n + 1)(1 - confidence)); 0 means that n is too small."""
    # 1 - 0.9 is 0.0999..98: without the nudge, n = 9 at 0.90 would lose its only rank.
    return min(n, floor((n + 1) * (1 - confidence) + 1e-9))


def minimal_n(confidence: float) -> int:
    """Return the smallest n for which the marginal rank is 1."""
    n = max(1, floor(1 / (1 - confidence)) - 2)
    while marginal_rank(n, confidence) == 0:
        n += 1
    return n


def worst_of_each_group(values: NDArray[np.float64], groups: Sequence[Hashable]) -> NDArray[np.float64]:
    """Return the smallest value of each group, in order of first appearance.

    `values` has the fields along its first axis.

    Raises
    ------
    ValueError
        If there is not one group for each field.
    """
    if len(groups) != len(values):
        raise ValueError(f"there are {len(values)} thresholds but {len(groups)} groups; give each field its group")
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    if not members:
        return values
    return np.stack([values[indices].min(axis=0) for indices in members.values()])
