"""``maskcal train``."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from napari_maskcal.cli.options import check_promise, options
from napari_maskcal.cli.progress import Progress
from napari_maskcal.cli.triplets import (
    NO_CACHE,
    WHERE,
    Where,
    check_new_file,
    chosen_restorer,
    faults_as_table,
    open_cache,
)
from napari_maskcal.settings import (
    CROP_PX,
    DEVICE,
    DISTANCE,
    LOSS,
    RESTORER,
    STEPS,
    TRAINING_CONFIDENCE,
    TRAINING_SEED,
    TRAINING_TOLERANCE,
    UNCERTAINTY_FOLDER,
    WITH_RESTORER,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_maskcal.read.cache import Cache
    from napari_maskcal.restore.events import CancelToken
    from napari_maskcal.training import Trained, TrainingPlan

_WHERE = [parameter for parameter in WHERE if parameter is not UNCERTAINTY_FOLDER]
_JSON = click.option("--json", "as_json", is_flag=True, help="Print how the training went as JSON, not in sentences.")


@click.command()
@options(*_WHERE, RESTORER, DISTANCE, TRAINING_TOLERANCE, TRAINING_CONFIDENCE, LOSS, STEPS, CROP_PX, TRAINING_SEED,
         DEVICE, WITH_RESTORER)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .maskcal bundle to write.")
@click.option("--fresh", is_flag=True, help="Start anew, where an earlier training was stopped.")
@NO_CACHE
@_JSON
def train(out: Path, fresh: bool, with_restorer: bool, no_cache: bool, as_json: bool, **chosen: Any) -> None:
    """Train a mask network for your restorer on images whose truth is known, and write a .maskcal bundle.

    Specimens are split: some train, some choose the best network, and, with --tolerance, some calibrate it. Ctrl-C
    stops; the same command goes on from there.
    """
    from napari_maskcal.packed import packable
    from napari_maskcal.review.training_request import checkpoint_path

    where = Where.taken_from(chosen | {"uncertainty": None})
    check_promise(chosen["tolerance"], chosen["confidence"])
    check_new_file(out, suffix=".maskcal")
    checkpoint, cache = checkpoint_path(out), open_cache(unused=no_cache)
    with faults_as_table():
        plan = _plan(where, chosen, cache)
        if with_restorer:
            packable(plan.restorer)
        if fresh:
            checkpoint.unlink(missing_ok=True)
        trained, whole = _train(plan, chosen["device"], checkpoint, cache)
    if not whole:
        raise InterruptedError(_stopped(trained, plan))
    if not trained.is_complete:  # a calibrated bundle must not be replaced by one that promises nothing
        out = free_name(out.with_stem(f"{out.stem}-uncalibrated"))
    trained.save(out, restorer=plan.restorer if with_restorer else None)
    _tell(trained, plan, out, as_json=as_json)
    if not trained.is_complete:
        raise ValueError(f"the calibration was refused, see above; the network alone is in {out}")


def free_name(path: Path) -> Path:
    """Return `path`, or the next numbered name that no file has."""
    names = (path.with_stem(f"{path.stem}-{i}") for i in count(2))
    return path if not path.exists() else next(name for name in names if not name.exists())


def _plan(where: Where, chosen: dict[str, Any], cache: Cache | None) -> TrainingPlan:
    from napari_maskcal.training_plan import plan_training, recipe_of

    recipe = recipe_of(**{name: chosen[name] for name in ("loss", "steps", "crop_px", "seed")})
    triplets = where.read(cache)
    return plan_training(
        triplets, chosen_restorer(triplets, chosen["restorer"]), recipe=recipe, distance=chosen["distance"],
        tolerance=chosen["tolerance"], confidence=chosen["confidence"],
    )  # fmt: skip


def _train(plan: TrainingPlan, device: str, checkpoint: Path, cache: Cache | None) -> tuple[Trained, bool]:
    """Return what was trained, and whether nothing was stopped: neither the training nor the calibration."""
    from napari_maskcal.restore.allocator import keep_freed_memory
    from napari_maskcal.restore.events import Cancelled, Done, Failed
    from napari_maskcal.training import training

    keep_freed_memory()
    with _stopped_by_signals() as cancel, Progress() as progress:
        for event in training(plan, device=device, checkpoint=checkpoint, cache=cache, cancel=cancel):
            progress(event)
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done | Cancelled):
                result: Trained | None = event.result
                whole = isinstance(event, Done)
    if result is None:
        raise InterruptedError("stopped before the first step; nothing was written")
    return result, whole


@contextmanager
def _stopped_by_signals() -> Iterator[CancelToken]:
    """Give a token that Ctrl-C, or the end of a job's time, sets: the step is finished, and the best network kept.

    A second Ctrl-C ends at once, with what the checkpoint has.
    """
    from napari_maskcal.restore.events import CancelToken

    token = CancelToken()

    def ask(*_: object) -> None:
        if token.cancelled:
            raise KeyboardInterrupt
        token.cancel()

    if threading.current_thread() is not threading.main_thread():
        yield token
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield token
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stopped(trained: Trained, plan: TrainingPlan) -> str:
    from napari_maskcal.review.training_words import stopped_words, unfinished_words

    told = stopped_words(trained.done, steps=plan.recipe.steps).rstrip(".")
    rest = unfinished_words(trained=trained.done.stopped != "cancelled", compared=bool(trained.judged))
    return f"{told[0].lower()}{told[1:]}, in {trained.checkpoint}: run the same command again to go on{rest}"


def _tell(trained: Trained, plan: TrainingPlan, out: Path, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(summary(trained, out), indent=2, ensure_ascii=False))
        return
    from napari_maskcal.review.training_words import compared_words, specimens_words, stopped_words

    click.echo(stopped_words(trained.done, steps=plan.recipe.steps))
    for part, groups in (
        ("Trained on", trained.split.training), ("Chosen on", trained.split.validation),
        ("Calibrated on", trained.split.calibration if trained.certificate else ()),
    ):  # fmt: skip
        if groups:
            click.echo(specimens_words(part, groups))
    if trained.judged:
        click.echo(compared_words(trained.kept, trained.judged))
    if trained.certificate is not None:
        click.echo(f"{trained.certificate.sentence}\n{trained.certificate.limits}")
        click.echo(f"Written to {out}")
        return
    click.echo(f"Written to {out}; it is not calibrated yet: maskcal calibrate --mask-model {out} does that")


def summary(trained: Trained, out: Path) -> dict[str, Any]:
    """Return how a training went, in plain values."""
    done, certificate = trained.done, trained.certificate
    return {
        "bundle": str(out),
        "promise": None if certificate is None else certificate.sentence,
        "certificate": None if certificate is None else json.loads(certificate.model_dump_json(exclude={"fields"})),
        "split": asdict(trained.split),
        "recipe": asdict(trained.recipe),
        "steps": done.step,
        "best_step": done.best_step,
        "stopped": done.stopped,
        "kept": trained.kept,
        "masked_share": trained.masked_share,
        "judged": {
            one.name: {"masked_share": one.masked_share, "untouched_share": one.untouched_share}
            for one in trained.judged
        },
        "validated": done.validated,
        "seconds": round(done.seconds, 1),
        "warnings": trained.warnings,
    }
