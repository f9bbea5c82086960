"""``maskcal calibrate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from napari_maskcal.cli.options import JSON, check_promise, options
from napari_maskcal.cli.progress import Progress
from napari_maskcal.cli.triplets import (
    NO_CACHE,
    WHERE,
    Where,
    check_new_file,
    faults_as_table,
    load_models,
    open_cache,
)
from napari_maskcal.settings import (
    BOUND,
    CALIBRATION_CONFIDENCE,
    CALIBRATION_MASK_MODEL,
    CALIBRATION_TOLERANCE,
    DELTA,
    DEVICE,
    DISTANCE,
    FIELD_PX,
    GROUPING,
    GUARANTEE,
    INTENSITY,
    MASK,
    NOTE,
    RESTORER,
    SEED,
    WITH_RESTORER,
)

if TYPE_CHECKING:
    from napari_maskcal.calibrate.certificate import Certificate
    from napari_maskcal.calibrate.certify import Measured
    from napari_maskcal.calibrate.promise import Promise
    from napari_maskcal.calibration_plan import Plan
    from napari_maskcal.read.cache import Cache

_PROMISE = ("tolerance", "confidence", "guarantee", "delta", "bound", "grouping", "seed")


@click.command()
@options(*WHERE, RESTORER, CALIBRATION_MASK_MODEL, DISTANCE, INTENSITY, CALIBRATION_TOLERANCE, CALIBRATION_CONFIDENCE,
         GUARANTEE, DELTA, BOUND, GROUPING, SEED, MASK, FIELD_PX, DEVICE, NOTE, WITH_RESTORER)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="The .maskcal bundle to write.")
@NO_CACHE
@JSON
def calibrate(out: Path | None, with_restorer: bool, no_cache: bool, as_json: bool, **chosen: Any) -> None:
    """Calibrate a mask on images whose truth is known, and write a .maskcal bundle.

    Without --tolerance the images are measured and tolerances suggested; nothing is written.
    """
    where = Where.taken_from(chosen)
    promise = _promise(chosen)
    if promise is not None and out is None:
        raise click.UsageError("with --tolerance, name the bundle to be written with --out")
    if promise is not None and out is not None:
        check_new_file(out, suffix=".maskcal")
    from napari_maskcal.packed import packable

    cache = open_cache(unused=no_cache)
    with faults_as_table():
        plan = _plan(where, chosen, promise, cache)
        if with_restorer:
            packable(plan.restorer)
        measured = _measure(plan, chosen["device"], cache)
    if promise is None or out is None:
        _suggest(measured, as_json=as_json)
        return
    certificate = measured.certify(promise, note=chosen["note"], history=_history(plan, measured, out))
    from napari_maskcal.bundle import write_bundle

    inside = plan.restorer if with_restorer else None
    write_bundle(out, plan.mask_model.network, plan.mask_model.card, certificate, restorer=inside)
    _tell(certificate, out, as_json=as_json)


def _promise(chosen: dict[str, Any]) -> Promise | None:
    """Return what is to be promised; None without a tolerance."""
    numbers = {name: chosen.pop(name) for name in _PROMISE}
    check_promise(numbers["tolerance"], numbers["confidence"])
    if numbers["tolerance"] is None:
        return None
    from napari_maskcal.calibrate.promise import Promise

    return Promise(**numbers)


def _plan(where: Where, chosen: dict[str, Any], promise: Promise | None, cache: Cache | None) -> Plan:
    """Return what to measure; for suggestions any number of groups will do, and no walk is cut short."""
    from napari_maskcal.calibration_plan import Plan, groups_needed
    from napari_maskcal.distance.registry import parse_distance

    distance = parse_distance(chosen["distance"])
    triplets = where.read(cache)
    restorer, mask_model = load_models(triplets, chosen["restorer"], chosen["mask_model"])
    return Plan(
        triplets=triplets, restorer=restorer, mask_model=mask_model, distance=distance, mask=chosen["mask"],
        intensity=chosen["intensity"], field_px=chosen["field_px"],
        promise=promise,
        minimal_groups=0 if promise is None else groups_needed(promise),
    )  # fmt: skip


def _measure(plan: Plan, device: str, cache: Cache | None) -> Measured:
    from napari_maskcal.calibration import measure
    from napari_maskcal.restore.allocator import keep_freed_memory
    from napari_maskcal.restore.events import Done, Failed

    keep_freed_memory()
    with Progress() as progress:
        for event in measure(plan, device=device, cache=cache):
            progress(event)
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                measured: Measured = event.result
    if cache is not None and cache.fault:
        click.echo(f"maskcal: the next calibration of these files will start anew: {cache.fault}", err=True)
    return measured


def _history(plan: Plan, measured: Measured, out: Path) -> tuple[Any, ...]:
    """Return the pins that were made before of the very same measurements, in the mask model or the file replaced."""
    from napari_maskcal.bundle import read_description
    from napari_maskcal.review.pins import earlier_pins

    if plan.mask_model.certificate is not None and (pins := earlier_pins(plan.mask_model.certificate, measured)):
        return pins
    try:
        return earlier_pins(read_description(out).certificate, measured)
    except ValueError:  # there is none, or it is another file, which the user chose to replace
        return ()


def _suggest(measured: Measured, *, as_json: bool) -> None:
    from napari_maskcal.review.suggestions import suggestion_lines, suggestions

    if as_json:
        click.echo(json.dumps(suggestions(measured), indent=2, ensure_ascii=False))
        return
    for line in suggestion_lines(measured):
        click.echo(line)


def _tell(certificate: Certificate, out: Path, *, as_json: bool) -> None:
    from napari_maskcal.review.certificate_words import certificate_lines
    from napari_maskcal.review.remarks import remarks

    found = remarks(certificate)
    for remark in found:
        click.echo(f"maskcal: {remark}", err=True)
    if as_json:
        content = json.loads(certificate.model_dump_json(exclude={"fields"}))
        told = {"promise": certificate.sentence, "limits": certificate.limits, "remarks": found, "bundle": str(out)}
        click.echo(json.dumps(content | told, indent=2, ensure_ascii=False))
        return
    click.echo(f"{certificate.sentence}\n{certificate.limits}")
    for label, words in certificate_lines(certificate):
        click.echo(f"{label}: {words}")
    click.echo(f"Written to {out}")
