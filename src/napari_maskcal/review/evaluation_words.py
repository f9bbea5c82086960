"""What an evaluation found, in sentences that claim no more than its numbers do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_maskcal.calibrate.words import amount, percent_at_least, percent_at_most
from napari_maskcal.review.certificate_words import percent
from napari_maskcal.review.held_out import chance_of_as_few

if TYPE_CHECKING:
    from napari_maskcal.review.held_out import Evaluation

_AGAINST = 0.05


def conclusion(evaluation: Evaluation) -> str:
    """Return what was found beside what was promised, as one sentence."""
    return f"{_found(evaluation)}: {_judged(evaluation)}."


def notes(evaluation: Evaluation) -> tuple[str, ...]:
    """Return what a reader has to know before the numbers are quoted."""
    found = [_of_exploration(evaluation), _of_groups(evaluation), _of_sizes(evaluation), _of_masks(evaluation)]
    return (*(note for note in found if note), *evaluation.warnings)


def _found(evaluation: Evaluation) -> str:
    certificate, new = evaluation.certificate, evaluation.group_word
    limit, promised = amount(certificate.tolerance, certificate), _promised(evaluation)
    if certificate.guarantee == "expected":
        losses = evaluation.counted_losses
        bound = amount(certificate.bound or 0, certificate)
        return (
            f"Over {len(losses)} held-out {new} the {certificate.distance_words} {_where(evaluation)}, counted as at "
            f"most {bound}, is {amount(float(losses.mean()), certificate)} on average, where {promised} at most {limit}"
        )
    kept = evaluation.coverage
    low, high = percent_at_least(kept.low), percent_at_most(kept.high)
    return (
        f"{kept.kept} of {kept.of} held-out {new} ({percent(kept.kept / kept.of)}; 95 % interval {low} to {high}) "
        f"kept the {certificate.distance_words} {_where(evaluation)} within {limit}, where "
        f"{promised} at least {percent(certificate.confidence)}"
    )


def _judged(evaluation: Evaluation) -> str:
    new, count = evaluation.group_word, len(evaluation.losses)
    chance = chance_of_as_few(evaluation)
    if chance is None:
        return f"{count} {new} that differ so little say nothing about the average"
    if chance >= _AGAINST:
        return f"this does not speak against the promise, and {count} {new} cannot prove it"
    so = "as much or more" if evaluation.certificate.guarantee == "expected" else "as few or fewer"
    return (
        f"{so} would come about with a probability of {percent(float(f'{chance:.2g}'))} if the promise held here, so "
        f"either it does not, or these {new} are not like the calibrated ones"
    )


def _promised(evaluation: Evaluation) -> str:
    return "the exploration asked for" if evaluation.certificate.exploration else "the promise is"


def _where(evaluation: Evaluation) -> str:
    return "outside the marks" if evaluation.certificate.mask == "binary" else "of the image weighted by the soft mask"


def _of_exploration(evaluation: Evaluation) -> str:
    if not evaluation.certificate.exploration:
        return ""
    return (
        "EXPLORATION: tolerance or confidence are not those that were pinned. Values that were chosen after a look at "
        "such results are no promise to be quoted."
    )


def _of_groups(evaluation: Evaluation) -> str:
    if evaluation.grouped:
        return ""
    return (
        "No groups were named, so each image counts as a specimen of its own; if several are of one specimen, the "
        "interval above is too narrow."
    )


def _of_sizes(evaluation: Evaluation) -> str:
    """Say where groups of other sizes than the calibrated ones make the comparison lopsided."""
    if evaluation.certificate.grouping == "one":
        return ""
    here, there = max(evaluation.groups.values()), max(evaluation.certificate.groups.values())
    if here == there:
        return ""
    harder = "harder with more, so fewer" if here > there else "easier with fewer, so more"
    return (
        f"These {evaluation.group_word} have up to {here} fields, the calibrated ones up to {there}: all fields of one "
        f"of them have to keep the promise together, which is {harder} may be kept than was promised."
    )


def _of_masks(evaluation: Evaluation) -> str:
    masked = evaluation.masked
    if masked.untouched == 1:
        return "Nothing is marked in any of these fields."
    if masked.quartiles[1] == 1:
        return (
            f"Everything is marked in {percent(masked.whole)} of these fields: there the promise is kept, but says "
            "nothing."
        )
    return ""
