"""What is said of a training, in a microscopist's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_maskcal.review.certificate_words import number_of, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_maskcal.restore.events import TrainingDone

_NAMED = 6  # specimens; the rest is counted


def validated_words(step: int, masked_share: float, *, best_step: int, best_share: float) -> str:
    """Return how much of the validation fields is masked now, and at best."""
    now = f"Masked at step {step}: {percent(masked_share)} of the validation fields"
    if step == best_step:
        return f"{now}, the best so far."
    return f"{now}; best {percent(best_share)}, at step {best_step}."


def resumed_words(step: int, steps: int) -> str:
    """Return that an earlier training is gone on with; nothing for one that begins."""
    return f"Going on at step {step} of {steps}, where this training was left." if step else ""


def stopped_words(done: TrainingDone, *, steps: int) -> str:
    """Return why a training ended, and which of its networks was kept."""
    best = f"the best, from step {done.best_step}, is kept"
    if not done.validated:
        best = f"none was validated yet, so the one of step {done.step} is kept"
    if done.stopped == "cancelled":
        return f"Stopped at step {done.step} of {steps}; {best}."
    if done.stopped == "early":
        return f"Ended at step {done.step} of {steps}, since the mask no longer became smaller; {best}."
    return f"All {done.step} steps are done; {best}."


def gone_on_words(step: int, *, checkpoint: str) -> str:
    """Return how a training that failed or was stopped is gone on with."""
    return (
        f"Press Train with the same choices to go on from about step {step}: {checkpoint} has what it takes. To start "
        "from nothing, tick Anew under Advanced."
    )


def compared_words(masked_share: float, baseline_share: float) -> str:
    """Return how a mask compares with the smoothed residual, which takes no training."""
    told = (
        f"It masks {percent(masked_share)} of the validation fields, where the smoothed residual, which takes no "
        f"training, masks {percent(baseline_share)} for the same promise"
    )
    if masked_share < baseline_share:
        return f"{told}."
    return f"{told}: no gain. Train longer or on more specimens, or calibrate the residual."


def specimens_words(part: str, groups: Sequence[str]) -> str:
    """Return which specimens took part, the first of them by name."""
    named = ", ".join(groups[:_NAMED]) + (f" and {len(groups) - _NAMED} more" if len(groups) > _NAMED else "")
    return f"{part} {number_of(len(groups), 'specimens')}: {named}."
