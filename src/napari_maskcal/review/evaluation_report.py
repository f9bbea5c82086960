"""What an evaluation leaves on disk: a page to read, a table, and all numbers for machines."""

from __future__ import annotations

import base64
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_maskcal import __version__
from napari_maskcal.review.calibration_figures import draw_coverage, draw_masked_share, draw_thresholds
from napari_maskcal.review.certificate_words import (
    certificate_lines,
    coverage_words,
    masked_words,
    number_of,
    percent,
    promise_words,
)
from napari_maskcal.review.comparison_table import (
    HEADER,
    comparison_csv,
    comparison_json,
    comparison_rows,
    comparison_words,
)
from napari_maskcal.review.csv_text import csv_text
from napari_maskcal.review.evaluation_words import asked_words, chance_words, conclusion, notes
from napari_maskcal.review.held_out import chance_of_as_few, kept_over_confidence, masked_over_tolerance

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from napari_maskcal.review.held_out import Evaluation, HeldOutField

SCHEMA_VERSION = 1
COLUMNS = ("name", "group", "distance", "distance_outside_marks", "kept", "counted", "image_threshold", "masked_share",
           "intensity_range", "sha256")  # fmt: skip
_MOST_ROWS = 200
_TEMPLATE = "evaluation_report.html.j2"
_UNITS = {"share": "shares of the plane's intensity range", "raw": "raw intensities", "none": "without unit"}


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write ``report.html``, ``fields.csv`` and ``evaluation.json`` into an existing folder.

    Where the evaluated uncertainty was compared with others, ``comparison.csv`` too.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written.
    """
    text = json.dumps(evaluation_json(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
    contents = {
        "evaluation.json": text + "\n", "fields.csv": fields_csv(evaluation), "report.html": report_html(evaluation),
    }  # fmt: skip
    if (comparison := comparison_csv(evaluation)) is not None:
        contents["comparison.csv"] = comparison
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8", newline="")


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return all numbers, ready for JSON; what is infinite is the text ``"Infinity"``, as in a certificate."""
    certificate = evaluation.certificate
    coverage = evaluation.coverage if certificate.guarantee != "expected" else None
    return {
        "schema_version": SCHEMA_VERSION,
        "conclusion": conclusion(evaluation),
        "notes": list(notes(evaluation)),
        "promise": promise_words(certificate),
        "limits": certificate.limits,
        "restorer": evaluation.restorer,
        "mask_model": evaluation.mask_model,
        "n_fields": len(evaluation.fields),
        "groups": evaluation.groups,
        "grouped": evaluation.grouped,
        "coverage": coverage.model_dump() if coverage else None,
        "mean_counted_distance": None if coverage else float(evaluation.counted_losses.mean()),
        "chance_of_as_few": chance_of_as_few(evaluation),
        "masked": evaluation.masked.model_dump(mode="json"),
        "rank_correlation_of_masked_share_with_distance": evaluation.rank_correlation,
        "comparison": comparison_json(evaluation),
        "certificate": json.loads(certificate.model_dump_json(exclude={"fields"})),
        "fields": _records(evaluation),
        "version": __version__,
        "created": _today(),
    }


def fields_csv(evaluation: Evaluation) -> str:
    """Return one line a field under a header, in the order of the fields."""
    pairs = zip(_records(evaluation), evaluation.fields, strict=True)
    return csv_text(COLUMNS, [record | {"image_threshold": one.threshold} for record, one in pairs])


def report_html(evaluation: Evaluation) -> str:
    """Return the page: one file that needs neither network nor JavaScript."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    certificate = evaluation.certificate
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    ).get_template(_TEMPLATE)  # fmt: skip
    return page.render(
        mask_model=evaluation.mask_model,
        restorer=evaluation.restorer,
        conclusion=conclusion(evaluation),
        notes=notes(evaluation),
        exploration=certificate.exploration,
        promise=promise_words(certificate),
        limits=certificate.limits,
        found=found_lines(evaluation),
        figures=_figures(evaluation),
        comparison=comparison_words(evaluation),
        comparison_header=HEADER,
        comparison_rows=comparison_rows(evaluation),
        rows=_rows(evaluation),
        n_fields=len(evaluation.fields),
        unit=_UNITS[certificate.intensity],
        certificate=certificate_lines(certificate),
        version=__version__,
        date=_today(),
    )


def found_lines(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return the numbers of the whole set: (label, words)."""
    word, correlation = evaluation.group_word, evaluation.rank_correlation
    lines = [
        ("Held out", f"{number_of(len(evaluation.fields), 'fields')} of {number_of(len(evaluation.groups), word)}")
    ]
    if evaluation.certificate.guarantee == "expected":
        lines.append(("Mean distance outside the marks, as counted", f"{evaluation.counted_losses.mean():.4g}"))
    else:
        label = "Exploration" if evaluation.certificate.exploration else "Promise"
        lines.append((label, coverage_words(evaluation.coverage, word)))
    if (chance := chance_of_as_few(evaluation)) is not None:
        as_few = "As much or more" if evaluation.certificate.guarantee == "expected" else "As few or fewer"
        lines.append((f"{as_few}, if {asked_words(evaluation)} holds", f"in {chance_words(chance)} of such sets"))
    return [
        *lines,
        ("Masked share", masked_words(evaluation.masked)),
        ("Masked share with true distance", "not defined" if correlation is None else f"Spearman {correlation:.2f}"),
    ]


def _records(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "group": one.group,
            "distance": one.distance,
            "distance_outside_marks": one.trusted_distance,
            "kept": one.kept,
            "counted": counted,
            "image_threshold": one.threshold if one.threshold < float("inf") else "Infinity",
            "masked_share": one.masked_share,
            "intensity_range": one.span,
            "sha256": one.sha256,
        }
        for one, counted in zip(evaluation.fields, evaluation.counted, strict=True)
    ]


def _rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the fields that are farthest from the truth outside the marks, the worst first."""

    def badness(pair: tuple[HeldOutField, bool]) -> tuple[float, float]:
        return -pair[0].trusted_distance, -pair[0].distance

    pairs = sorted(zip(evaluation.fields, evaluation.counted, strict=True), key=badness)
    return [
        {
            "name": one.name, "group": one.group, "kept": one.kept, "counted": counted,
            "distance": f"{one.distance:.4g}", "outside": f"{one.trusted_distance:.4g}",
            "threshold": f"{one.threshold:.4g}".replace("inf", "∞"), "masked": percent(one.masked_share),
        }
        for one, counted in pairs[:_MOST_ROWS]
    ]  # fmt: skip


def _figures(evaluation: Evaluation) -> list[dict[str, str]]:
    """Return the plots as images within the page; what guarantee or curves do not answer has none."""
    certificate = evaluation.certificate
    thresholds = [one.threshold for one in evaluation.fields]
    figures = [_figure(
        "Image thresholds of the held-out fields: those at or above the chosen threshold are kept within tolerance.",
        lambda ax: draw_thresholds(ax, thresholds, certificate.threshold),
    )]  # fmt: skip
    if certificate.curves is None:
        return figures
    if certificate.guarantee != "expected":
        asked, kept = kept_over_confidence(evaluation)
        figures.append(_figure(
            f"Share of held-out {evaluation.group_word} that were kept, at each confidence that the certificate can "
            "answer for.",
            lambda ax: draw_coverage(ax, asked, asked, kept, chosen=certificate.confidence, label="held out",
                                     unit=evaluation.group_word),
        ))  # fmt: skip
    tolerances, shares = masked_over_tolerance(evaluation)
    unit = _UNITS[certificate.intensity] if certificate.intensity != "none" else ""
    figures.append(_figure(
        "Mean masked share of the held-out fields over the tolerance.",
        lambda ax: draw_masked_share(ax, tolerances, shares, certificate.tolerance, unit=unit),
    ))  # fmt: skip
    return figures


def _figure(caption: str, draw: Callable[[Axes], None]) -> dict[str, str]:
    from matplotlib import rc_context, rcdefaults
    from matplotlib.figure import Figure

    with rc_context():
        rcdefaults()  # a dark style that the user has set would not be read on this page
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        draw(figure.add_subplot())
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(content.getvalue()).decode()
    return {"caption": caption, "source": f"data:image/svg+xml;base64,{encoded}"}


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
