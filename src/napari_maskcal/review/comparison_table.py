"""How the uncertainty that was evaluated compares with others: the table, for readers and for machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from napari_maskcal.calibrate.oracle import OPT
from napari_maskcal.calibrate.threshold import is_exact
from napari_maskcal.calibrate.words import amount, percent_at_least
from napari_maskcal.distance.registry import built_in
from napari_maskcal.review.certificate_words import number_of, percent
from napari_maskcal.review.csv_text import csv_text

if TYPE_CHECKING:
    from napari_maskcal.calibrate.comparison import Comparison
    from napari_maskcal.review.held_out import Evaluation

COLUMNS = ("method", "tolerance", "confidence", "n_calibration", "n_test", "coverage", "coverage_low", "coverage_high",
           "masked_share", "untouched_share", "correlation")  # fmt: skip
HEADER = ("Uncertainty", "Masked share", "Fields untouched", "Kept", "Kept in 95 % of single splits",
          "Spearman, masked share with true distance")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What the evaluated uncertainty was compared with.

    Attributes
    ----------
    rows
        The evaluated uncertainty, the others in the order asked for, and the oracle; empty if none was compared.
    splits
        How many random splits of the groups the rows are means over.
    why_not
        Why there are no rows.
    """

    rows: tuple[Comparison, ...] = ()
    splits: int = 0
    why_not: str = ""


def comparison_words(evaluation: Evaluation) -> str:
    """Return what the table is and how it is to be read, or why there is none; empty if none was asked for."""
    beside = evaluation.beside
    if beside is None:
        return ""
    if not beside.rows:
        return f"Not compared with other uncertainties: {beside.why_not}."
    return f"{_how(evaluation, beside)} {_reading(evaluation)}"


def comparison_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """Return the cells of the table, a line for each uncertainty, in the order of `HEADER`."""
    return [_cells(row) for row in (evaluation.beside.rows if evaluation.beside else ())]


def comparison_lines(evaluation: Evaluation) -> list[str]:
    """Return words and table for a terminal, aligned."""
    lines = [words] if (words := comparison_words(evaluation)) else []
    table = [HEADER, *comparison_rows(evaluation)]
    if len(table) == 1:
        return lines
    wide = [max(len(row[column]) for row in table) for column in range(len(HEADER))]
    return [*lines, *("  ".join(f"{cell:<{n}}" for cell, n in zip(row, wide, strict=True)).rstrip() for row in table)]


def comparison_json(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return all of it for machines; None if none was asked for."""
    beside = evaluation.beside
    if beside is None:
        return None
    return {
        "words": comparison_words(evaluation), "splits": beside.splits, "why_not": beside.why_not,
        "rows": [asdict(row) for row in beside.rows],
    }  # fmt: skip


def comparison_csv(evaluation: Evaluation) -> str | None:
    """Return one line for each uncertainty; None where there are none."""
    rows = evaluation.beside.rows if evaluation.beside else ()
    return csv_text(COLUMNS, [asdict(row) for row in rows]) if rows else None


def _how(evaluation: Evaluation, beside: Beside) -> str:
    certificate, first = evaluation.certificate, beside.rows[0]
    new = "a new specimen" if evaluation.grouped else "a new image"
    which = "for one field drawn at random of" if certificate.grouping == "one" else "for all fields together of"
    return (
        f"Each uncertainty was calibrated on {first.n_calibration} of the "
        f"{number_of(len(evaluation.groups), evaluation.group_word)} held out here, drawn at random, and tested on the "
        f"other {first.n_test}, {beside.splits} times over: tolerance {amount(certificate.tolerance, certificate)}, "
        f"confidence {percent_at_least(certificate.confidence)}, {which} {new}."
    )


def _reading(evaluation: Evaluation) -> str:
    rule = built_in(evaluation.certificate.distance)
    exact = rule is not None and is_exact(rule)
    bound = "no binary mask can be smaller" if exact else "it masks what is most wrong; here others may mask less"
    return (
        "So calibrated, all keep about the share that was asked for, whatever they are worth, and more only where many "
        "thresholds are equal; the better one masks less and leaves more fields untouched. Small differences are "
        f"chance: other {evaluation.group_word} would give somewhat other shares. The last row, {OPT}, knows the "
        f"truth: {bound}. This compares uncertainties; what is promised, the certificate says."
    )


def _cells(row: Comparison) -> tuple[str, ...]:
    knows = row.n_calibration == 0
    return (
        row.method, percent(row.masked_share), percent(row.untouched_share), percent(row.coverage),
        "" if knows else f"{percent(row.coverage_low)} to {percent(row.coverage_high)}",
        "not defined" if row.correlation is None else f"{row.correlation:.2f}",
    )  # fmt: skip
