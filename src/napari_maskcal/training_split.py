"""Which specimens train a mask network, which choose among its states, and which are kept to calibrate it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_CALIBRATION = 0.25  # of all groups
_VALIDATION = 0.2  # of those that are left


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Names of groups; no group is in two parts, and `calibration` is empty where none was asked for."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    calibration: tuple[str, ...] = ()


def split_groups(
    groups: Sequence[str], *, calibration: int = 0, confidence: float = 0.9, seed: int = 0, seen: Collection[str] = ()
) -> Split:
    """Return groups split at random: 60 % to train, 15 % to validate, 25 % to calibrate; or 80 and 20 %.

    Parameters
    ----------
    groups
        Each name once, in any order: the split depends on the names and the seed alone.
    calibration
        How many groups calibration takes at least; 0: it is left out.
    confidence
        What it is to promise, for the message.
    seed
        Of the draw.
    seen
        Groups that the restorer was trained on. It errs less on them, so they can but train.

    Raises
    ------
    ValueError
        If there are too few groups; it says how many it takes, and for what.
    """
    foreign = sorted(set(groups) - set(seen))
    known = sorted(set(groups) & set(seen))
    needed = 1 + calibration + (not known)
    if len(foreign) < needed:
        raise ValueError(_too_few(len(foreign), len(known), calibration, confidence))
    order = [foreign[i] for i in np.random.default_rng(seed).permutation(len(foreign))]
    kept = max(calibration, round(_CALIBRATION * len(groups))) if calibration else 0
    kept = min(kept, len(foreign) - (needed - calibration))
    left = len(foreign) - kept
    chosen = max(min(2, (left + len(known)) // 2), round(_VALIDATION * (left + len(known))))
    chosen = min(chosen, left - (not known))
    return Split(
        calibration=tuple(sorted(order[:kept])),
        validation=tuple(sorted(order[kept : kept + chosen])),
        training=tuple(sorted([*order[kept + chosen :], *known])),
    )


def _too_few(count: int, known: int, calibration: int, confidence: float) -> str:
    training = 0 if known else 1
    uses = [f"training needs {training}"] * training + ["validation 1" if training else "validation needs 1"]
    if calibration:
        uses[-1:] = [uses[-1], f"calibration {calibration} groups for confidence {confidence:g}"]
    together = f"{', '.join(uses[:-1])} and {uses[-1]}" if len(uses) > 1 else uses[0]
    unseen = " that the restorer was not trained on" if known else ""
    remedy = "give more specimens, or say how names tell specimens apart"
    if calibration and count > training:
        remedy = "give more specimens, or leave the tolerance out and calibrate later with others"
    return f"{together}: {training + 1 + calibration} groups in all{unseen}; there are {count}: {remedy}"
