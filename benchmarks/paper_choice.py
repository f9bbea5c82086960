"""What each of several uncertainties masks of a task's validation fields, judged as the package's training does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_maskcal.training_validation import judged_tolerances, masked_shares, validation_thresholds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from paper_methods import Question

    Map = NDArray[np.float32]

CONFIDENCE = 0.9


def validation_shares(candidates: Sequence[Sequence[Map]], question: Question) -> dict[float, list[float]]:
    """Return the masked share of each candidate, given by its map of each validation field, for each tolerance."""
    fields, distance = question.task.validation, question.distance
    restored, truths = ([getattr(f, image) for f in fields] for image in ("restored", "truth"))
    whole = np.ones((1, *truths[0].shape[1:]), bool)
    images = zip(restored, truths, strict=True)
    distances = np.array([float(distance.between(whole, one[None], other[None])[0]) for one, other in images])
    judged_at = {
        t: judged_tolerances(distances, tolerance=t, confidence=CONFIDENCE)[0] for t in question.tolerances
    }  # fmt: skip
    every = sorted({t for own in judged_at.values() for t in own})
    shares: dict[float, list[float]] = {t: [] for t in judged_at}
    for maps in candidates:
        found = validation_thresholds(maps, restored, truths, distance, every, confidence=CONFIDENCE)
        of_all = dict(zip(every, masked_shares(maps, found).mean(axis=0), strict=True))
        for tolerance, judged in judged_at.items():
            shares[tolerance].append(float(np.mean([of_all[t] for t in judged])))
    return shares
