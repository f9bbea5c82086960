"""What an evaluation found, in sentences that claim no more than its numbers do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_maskcal.calibrate.words import amount, percent_at_least, percent_at_most
from napari_maskcal.review.certificate_words import number_of, percent
from napari_maskcal.review.held_out import chance_of_as_few

if TYPE_CHECKING:
    from napari_maskcal.review.held_out import Evaluation

_AGAINST = 0.05
_SMALLEST_CHANCE = 1e-4  # the digits of a smaller one would say nothing more


def conclusion(evaluation: Evaluation) -> str:
    """Return what was found beside what was promised, as one sentence."""
    return f"{_found(evaluation)}: {_judged(evaluation)}."


def notes(evaluation: Evaluation) -> tuple[str, ...]:
    """Return what a reader has to know before the numbers are quoted."""
    found = [_of_exploration(evaluation), _of_groups(evaluation), _of_sizes(evaluation), _of_masks(evaluation)]
    return (*(note for note in found if note), *evaluation.warnings)


def chance_words(chance: float) -> str:
    """Return a probability as percent, to two digits."""
    rounded = float(f"{chance:.2g}")
    return "less than 0.01 %" if rounded < _SMALLEST_CHANCE else percent(rounded)


def _found(evaluation: Evaluation) -> str:
    certificate = evaluation.certificate
    limit, promised = amount(certificate.tolerance, certificate), _promised(evaluation)
    many = number_of(len(evaluation.losses), f"held-out {evaluation.group_word}")
    if certificate.guarantee == "expected":
        losses = evaluation.counted_losses
        bound = amount(certificate.bound or 0, certificate)
        return (
            f"Over {many} the {certificate.distance_words} {_where(evaluation)}, counted as at most {bound}, "
            f"is {amount(float(losses.mean()), certificate)} on average, where {promised} at most {limit}"
        )
    kept = evaluation.coverage
    low, high = percent_at_least(kept.low), percent_at_most(kept.high)
    return (
        f"{kept.kept} of {many} ({percent(kept.kept / kept.of)}; 95 % interval {low} to {high}) "
        f"kept the {certificate.distance_words} {_where(evaluation)} within {limit}, where "
        f"{promised} at least {percent_at_least(certificate.confidence)}"
    )


def _judged(evaluation: Evaluation) -> str:
    many, asked = number_of(len(evaluation.losses), evaluation.group_word), asked_words(evaluation)
    chance = chance_of_as_few(evaluation)
    if chance is None:
        return f"of {many} without a spread of distances nothing follows for the average"
    if chance >= _AGAINST:
        return f"this does not speak against {asked}, and {many} cannot prove it"
    so = "as much or more" if evaluation.certificate.guarantee == "expected" else "as few or fewer"
    return (
        f"{so} would come about with a probability of {chance_words(chance)} if {asked} held here, so either it does "
        f"not, or what was held out is not like the calibrated {evaluation.group_word}"
    )


def asked_words(evaluation: Evaluation) -> str:
    """Return what the fields are held against: an exploration is no promise."""
    return "what was explored" if evaluation.certificate.exploration else "the promise"


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
        f"These {evaluation.group_word} have up to {number_of(here, 'fields')}, the calibrated ones up to {there}: all "
        f"fields of one of them have to stay within tolerance together, which is {harder} may be kept than expected."
    )


def _of_masks(evaluation: Evaluation) -> str:
    masked = evaluation.masked
    if masked.untouched == 1:
        return "Nothing is marked in any of these fields."
    if masked.quartiles[1] == 1:
        return (
            f"Everything is marked in {percent(masked.whole)} of these fields: there {asked_words(evaluation)} is "
            "kept, but says nothing."
        )
    return ""
