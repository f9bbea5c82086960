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
    from napari_maskcal.models import MaskModel
    from napari_maskcal.review.held_out import Evaluation


_DISTANCE = replace(
    DISTANCE, default=None,
    help="The calibrated distance, where its name does not find it, such as lpips-alex:FILE with the file of weights.",
)  # fmt: skip


@click.command()
@click.argument("mask_model", metavar="MODEL.maskcal")
@options(*WHERE, RESTORER, _DISTANCE, TOLERANCE, CONFIDENCE, DEVICE)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder for the report.")
@NO_CACHE
@JSON
def evaluate(mask_model: str, out: Path, no_cache: bool, as_json: bool, **chosen: Any) -> None:
    """Hold the promise of MODEL.maskcal against images that calibration has not seen, whose truth is known.

    Writes report.html, fields.csv and evaluation.json. --tolerance and --confidence explore other values.
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
    explored = _certificate(model, chosen["tolerance"], chosen["confidence"])
    with Progress() as progress:
        return evaluate_fields(
            triplets, model, restorer, explored, distance=chosen["distance"], device=chosen["device"], cache=cache,
            on_event=progress,
        )  # fmt: skip


def _certificate(model: MaskModel, tolerance: float | None, confidence: float | None) -> Any:
    """Return the certificate at the values that are explored, its own where none is."""
    if model.certificate is None:
        return None
    return model.certificate.at(tolerance=tolerance, confidence=confidence)


def _tell(evaluation: Evaluation, out: Path, *, as_json: bool) -> None:
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
    click.echo(f"Written to {out}")
