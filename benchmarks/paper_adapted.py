"""A threshold for each field: regressed on features of its map, and shifted by the calibration as any map is.

A map divided by its predicted threshold is a map again, so coverage is exact however bad the prediction. It was tried
and is not kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import linprog

from napari_maskcal.calibrate.threshold import image_threshold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from paper_fields import PaperField

    Map = NDArray[np.float32]
    Vector = NDArray[np.float64]

PERCENTILES = (5, 25, 50, 75, 95, 99)
CONFIDENCE = 0.9


def adapted(
    maps: Sequence[Map], fields: Sequence[PaperField], learned_on: tuple[Sequence[Map], Sequence[PaperField]],
    distance: Any, tolerance: float,
) -> list[Map]:  # fmt: skip
    """Return maps divided by the threshold that is predicted for each field.

    Parameters
    ----------
    maps, fields
        To be adapted, and what they are of.
    learned_on
        Maps and fields that neither calibrate nor test.
    distance, tolerance
        Of the promise; the distance is an exact one.

    References
    ----------
    Koenker, Bassett, "Regression Quantiles", Econometrica 46 (1978). Romano, Patterson, Candès, "Conformalized Quantile
    Regression", NeurIPS 2019.
    """
    known = [_features(u, one) for u, one in zip(*learned_on, strict=True)]
    aims = [_log_threshold(u, one, distance, tolerance) for u, one in zip(*learned_on, strict=True)]
    center, spread = np.mean(known, axis=0), np.std(known, axis=0) + 1e-9
    weights = quantile_regression((np.array(known) - center) / spread, np.array(aims), share=1 - CONFIDENCE)
    own = [(_features(u, one) - center) / spread for u, one in zip(maps, fields, strict=True)]
    predicted = [weights[0] + weights[1:] @ features for features in own]
    return [(u / np.exp(p)).astype(np.float32) for u, p in zip(maps, predicted, strict=True)]


def quantile_regression(features: NDArray[np.float64], aims: Vector, *, share: float) -> Vector:
    """Return intercept and weights of the linear function that `share` of the aims lie below.

    It minimises the pinball loss, as a linear programme: an aim is the prediction plus what it is above or below it.
    """
    n, count = features.shape
    line = np.hstack([np.ones((n, 1)), features])
    costs = np.r_[np.zeros(count + 1), np.full(n, share), np.full(n, 1 - share)]
    bounds = [(None, None)] * (count + 1) + [(0, None)] * (2 * n)
    found = linprog(costs, A_eq=np.hstack([line, np.eye(n), -np.eye(n)]), b_eq=aims, bounds=bounds)
    weights: Vector = found.x[: count + 1]
    return weights


def _features(u: Map, field: PaperField) -> Vector:
    """Return what is known of a field before its truth is: how its map is spread, and how its restored image is."""
    logs = np.log(u)
    image = field.restored.mean(axis=0)
    edges = np.hypot(*np.gradient(image))
    return np.r_[
        np.percentile(logs, PERCENTILES), np.log(u.mean(dtype=np.float64)), logs.std(), np.log(image.std() + 1e-3),
        np.log(edges.mean() + 1e-4),
    ]  # fmt: skip


def _log_threshold(u: Map, field: PaperField, distance: Any, tolerance: float) -> float:
    """Return the log of the image threshold; above the largest uncertainty all are alike."""
    threshold = image_threshold(u, field.restored, field.truth, distance, tolerance, "binary")
    return float(np.log(np.clip(threshold, u.min() / 2, u.max())))
