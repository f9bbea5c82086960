"""What is said of a training, in a microscopist's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_maskcal.review.certificate_words import number_of, percent
from napari_maskcal.training_choice import ALL, SPREAD, TRAINED, TURNED, preferred

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_maskcal.restore.events import TrainingDone, UncertaintyJudged

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


def unfinished_words(*, trained: bool, compared: bool) -> str:
    """Return what was stopped, after the steps; nothing where these were."""
    if not trained:
        return ""
    return " with the calibration, which was stopped" if compared else " with the comparison, which was stopped"


def compared_words(kept: str, judged: Sequence[UncertaintyJudged]) -> str:
    """Return which uncertainty is kept, how much it masks, and how much the others would."""
    chosen = next(one for one in judged if one.name == kept)
    others = "; ".join(f"the {one.name} {percent(one.masked_share)}" for one in judged if one is not chosen)
    told = (
        f"Kept is the {kept}: it masks {percent(chosen.masked_share)} of the validation fields and leaves "
        f"{percent(chosen.untouched_share)} of them untouched. At the same promise others mask: {others}."
    )
    if kept == TRAINED:
        asked = "The network was asked for by its loss. " if chosen is not judged[preferred(_shares(judged))] else ""
        return f"{told} {asked}".strip()
    views = "For the spread the restorer sees each plane in three more views. " if kept in (TURNED, ALL, SPREAD) else ""
    gain = "" if kept in (TURNED, ALL) else "Training gained nothing here: train longer, or on more specimens."
    return f"{told} {views}{gain}".strip()


def _shares(judged: Sequence[UncertaintyJudged]) -> list[float]:
    return [one.masked_share for one in judged]


def specimens_words(part: str, groups: Sequence[str]) -> str:
    """Return which specimens took part, the first of them by name."""
    named = ", ".join(groups[:_NAMED]) + (f" and {len(groups) - _NAMED} more" if len(groups) > _NAMED else "")
    return f"{part} {number_of(len(groups), 'specimens')}: {named}."
