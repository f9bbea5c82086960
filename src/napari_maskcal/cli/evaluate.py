"""``maskcal evaluate``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from napari_maskcal.cli.options import JSON, check_promise, options
from napari_maskcal.cli.progress import Progress
from napari_maskcal.cli.triplets import NO_CACHE, WHERE, Where, faults_as_table, load_models, open_cache
from napari_maskcal.settings import CONFIDENCE, DEVICE, DISTANCE, RESTORER, TOLERANCE

if TYPE_CHECKING:
    from napari_maskcal.models import MaskModel, Restorer
    from napari_maskcal.review.held_out import Evaluation


_NONE = "none"
_DISTANCE = replace(
    DISTANCE, default=None,
    help="The calibrated distance, where its name does not find it, such as lpips-alex:FILE with the file of weights.",
)  # fmt: skip


@click.command()
@click.argument("mask_model", metavar="MODEL.maskcal")
@options(*WHERE, RESTORER, _DISTANCE, TOLERANCE, CONFIDENCE, DEVICE)
@click.option(
    "--against",
    multiple=True,
    metavar="MODEL",
    help="Compare with another uncertainty, at the same tolerance and confidence: a .maskcal bundle, 'constant', "
    "'residual:1', or what else --mask-model of `maskcal calibrate` takes; may be given several times. Without it, the "
    "smoothed residual; 'none': no comparison.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder for the report.")
@NO_CACHE
@JSON
def evaluate(mask_model: str, out: Path, no_cache: bool, as_json: bool, **chosen: Any) -> None:
    """Hold the promise of MODEL.maskcal against images that calibration has not seen, whose truth is known.

    Writes report.html, fields.csv, evaluation.json and, where uncertainties are compared, comparison.csv. --tolerance
    and --confidence explore other values.
    """
    where = Where.taken_from(chosen)
    check_promise(chosen["tolerance"], chosen["confidence"])
    from napari_maskcal.read.atomic import new_folder
    from napari_maskcal.review.evaluation_report import write_evaluation

    with new_folder(out) as folder, faults_as_table():
        evaluation = _evaluate(mask_model, where, chosen, no_cache=no_cache)
        write_evaluation(evaluation, folder)
    _tell(evaluation, out, as_json=as_json)


def _evaluate(choice: str, where: Where, chosen: dict[str, Any], *, no_cache: bool) -> Evaluation:
    from napari_maskcal.evaluation import evaluate as evaluate_fields
    from napari_maskcal.restore.allocator import keep_freed_memory

    keep_freed_memory()
    cache = open_cache(unused=no_cache)
    triplets = where.read(cache)
    restorer, model = load_models(triplets, chosen["restorer"], choice)
    against = _others(chosen["against"], restorer)
    explored = _certificate(model, chosen["tolerance"], chosen["confidence"])
    with Progress() as progress:
        return evaluate_fields(
            triplets, model, restorer, explored, distance=chosen["distance"], against=against, device=chosen["device"],
            cache=cache, on_event=progress,
        )  # fmt: skip


def _others(choices: tuple[str, ...], restorer: Restorer) -> list[MaskModel] | None:
    """Return the mask models to compare with; None where nothing was said."""
    if not choices:
        return None
    if _NONE in choices and len(choices) > 1:
        raise click.UsageError(f"--against {_NONE} is for no comparison; leave the others out")
    from napari_maskcal.models import load_mask_model

    return [load_mask_model(choice, restorer) for choice in choices if choice != _NONE]


def _certificate(model: MaskModel, tolerance: float | None, confidence: float | None) -> Any:
    """Return the certificate at the values that are explored, its own where none is."""
    if model.certificate is None:
        return None
    return model.certificate.at(tolerance=tolerance, confidence=confidence)


def _tell(evaluation: Evaluation, out: Path, *, as_json: bool) -> None:
    from napari_maskcal.review.comparison_table import comparison_lines
    from napari_maskcal.review.evaluation_report import evaluation_json, found_lines
    from napari_maskcal.review.evaluation_words import conclusion, notes

    if as_json:
        click.echo(json.dumps(evaluation_json(evaluation), indent=2, ensure_ascii=False))
        return
    click.echo(conclusion(evaluation))
    for note in notes(evaluation):
        click.echo(note)
    for label, words in found_lines(evaluation):
        click.echo(f"{label}: {words}")
    for line in comparison_lines(evaluation):
        click.echo(line)
    click.echo(f"Written to {out}")
