"""The training stages together: from triplets to a network that is judged, calibrated and kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import napari_maskcal.training as training_module
from napari_maskcal.bundle import read_bundle, read_content
from napari_maskcal.calibration import calibrate
from napari_maskcal.mask.budget import ErrorBudget
from napari_maskcal.models import load_restorer
from napari_maskcal.read.facts import content_hash
from napari_maskcal.read.faults import FaultyTriplets
from napari_maskcal.read.triplets import triplets_from_arrays
from napari_maskcal.restore.events import (
    Cancelled,
    CancelToken,
    Done,
    Failed,
    StepDone,
    TrainingDone,
    TrainingStarted,
    UncertaintyJudged,
    Validated,
    Warned,
)
from napari_maskcal.training import Preview, Trained, plan_training, train, training
from napari_maskcal.training_choice import BARE, SMOOTHED, TRAINED
from napari_maskcal.training_fields import available_bytes, bytes_held, check_memory
from training_triplets import TINY, images, of, triplets

if TYPE_CHECKING:
    from pathlib import Path

    from napari_maskcal.restore.events import Event

TOLERANCE = 0.02


def events_of(
    *, groups: Any = 12, tolerance: float | None = TOLERANCE, recipe: Any = TINY, **options: Any
) -> list[Event]:
    plan = plan_training(triplets(groups), recipe=recipe, tolerance=tolerance)
    return list(training(plan, device="cpu", **options))


def trained(**options: Any) -> Trained:
    last = events_of(**options)[-1]
    assert isinstance(last, Done), last
    return last.result


@pytest.fixture(scope="module")
def done() -> Trained:
    return trained()


def share_of(result: Trained, name: str) -> float:
    return next(one.masked_share for one in result.judged if one.name == name)


def saved(result: Trained, path: Path) -> bytes:
    result.save(path)
    return path.read_bytes()


# ---- what comes out


def test_with_a_tolerance_there_is_a_calibrated_bundle_at_the_end(done, tmp_path):
    path = tmp_path / "mine.maskcal"
    done.save(path)
    model = read_bundle(path)
    assert model.certificate is not None
    assert model.certificate.tolerance == TOLERANCE
    assert set(model.certificate.groups) == set(done.split.calibration)
    assert model.certificate.note == "specimens kept from training, drawn with seed 0"
    assert isinstance(model.network, ErrorBudget)


def test_without_one_it_is_not_calibrated_and_all_groups_train_or_validate(tmp_path):
    result = trained(tolerance=None, groups=6)
    assert result.certificate is None
    assert len(result.split.training) + len(result.split.validation) == 6
    path = tmp_path / "mine.maskcal"
    result.save(path)
    assert read_content(path).certificate is None
    these = triplets(10, seed=5)
    renamed = replace(these, items=tuple(replace(one, group=f"new {one.group}") for one in these))
    certificate = calibrate(renamed, read_bundle(path), tolerance=TOLERANCE)  # later, with other specimens
    assert certificate.n_fields == 10


def test_the_same_seed_and_data_give_the_same_file(done, tmp_path):
    first, again = saved(done, tmp_path / "a.maskcal"), saved(trained(), tmp_path / "b.maskcal")
    other = saved(trained(recipe=replace(TINY, seed=1)), tmp_path / "c.maskcal")
    assert first == again
    assert first != other


def test_the_card_says_on_what_and_how_it_was_trained(done):
    card = done.mask_model.card
    assert set(card.trained_on) == {*done.split.training, *done.split.validation}
    degraded, _, truth = images(12)
    learned = [i for i in range(12) if f"mouse {i}" not in done.split.calibration]
    assert set(card.trained_on_sha256) == {content_hash(part[i]) for part in (degraded, truth) for i in learned}
    assert card.network == {
        "kind": "budget", "of": {"kind": "mask-unet", "head": "quantile", "widths": [4, 8]}, "power": 2.0,
        "radius_cells": 8,
    }  # fmt: skip
    assert card.citation == (
        "trained by napari-maskcal with the loss quantile on 2 fields, 4 steps of 4 crops of 32 pixels, best at step "
        f"{done.done.best_step}, seed 0"
    )


def test_what_was_trained_without_named_specimens_cannot_promise_about_specimens():
    plan = plan_training(triplets(4, grouped=False), recipe=TINY)
    model = list(training(plan, device="cpu"))[-1].result.mask_model
    others = of(triplets(12), [f"mouse {i}" for i in range(4, 12)])
    with pytest.raises(ValueError, match=r"trained on images without named specimens.*leave the groups out"):
        calibrate(others, model, tolerance=TOLERANCE, confidence=0.5)
    assert calibrate(replace(others, grouped=False), model, tolerance=TOLERANCE, confidence=0.5).groups


def test_the_names_of_files_are_no_specimens():
    plan = plan_training(triplets(4, grouped=False), recipe=TINY)
    result = list(training(plan, device="cpu"))[-1].result
    assert result.mask_model.card.trained_on == ()
    assert len(result.mask_model.card.trained_on_sha256) == 8


def test_what_it_was_trained_on_cannot_calibrate_it(done):
    these = of(triplets(12), [*done.split.training, *done.split.validation])
    with pytest.raises(ValueError, match=r"mask network for given restored image was trained on mouse \d"):
        calibrate(these, done.mask_model, tolerance=TOLERANCE, confidence=0.5)
    renamed = replace(these, items=tuple(replace(one, group=f"new {i}") for i, one in enumerate(these)))
    with pytest.raises(FaultyTriplets, match="was used to train; leave all fields of its specimen out"):
        calibrate(renamed, done.mask_model, tolerance=TOLERANCE, confidence=0.5)
    # Without the card's memory both would pass.
    forgot = done.mask_model.card.model_copy(update={"trained_on": (), "trained_on_sha256": ()})
    calibrate(these, replace(done.mask_model, card=forgot), tolerance=TOLERANCE, confidence=0.5)


# ---- what is told


def test_the_stream_tells_of_each_stage_and_ends_with_the_result():
    events = events_of()
    kinds = [type(event) for event in events]
    assert kinds.count(StepDone) == TINY.steps
    assert kinds.index(TrainingStarted) < kinds.index(StepDone) < kinds.index(Validated) < kinds.index(TrainingDone)
    assert isinstance(events[-1], Done)
    validated = [event for event in events if isinstance(event, Validated)]
    assert [event.step for event in validated] == [2, 4]
    result = events[-1].result
    assert isinstance(validated[0].preview, Preview)
    assert validated[0].preview.name in {f"field {g.removeprefix('mouse ')}" for g in result.split.validation}
    assert result.masked_share == min(event.masked_share for event in validated)
    assert [event.name for event in events if isinstance(event, UncertaintyJudged)] == [TRAINED, SMOOTHED, BARE]
    assert result.judged == tuple(event for event in events if isinstance(event, UncertaintyJudged))


def test_training_learns_where_the_error_is():
    result = trained(recipe=replace(TINY, steps=60, validate_every=20))
    assert result.masked_share is not None
    assert result.masked_share < 0.8 * share_of(result, SMOOTHED)


# ---- a training that is stopped


def stopped_at(step: int, checkpoint: Path | None) -> list[Event]:
    cancel, events = CancelToken(), []
    plan = plan_training(triplets(12), recipe=TINY, tolerance=TOLERANCE)
    for event in training(plan, device="cpu", checkpoint=checkpoint, cancel=cancel):
        events.append(event)
        if isinstance(event, StepDone) and event.step == step:
            cancel.cancel()
    return events


def test_a_training_that_was_stopped_goes_on_and_ends_with_the_same_file(done, tmp_path):
    checkpoint = tmp_path / "mine.maskcal.training"
    last = stopped_at(3, checkpoint)[-1]
    assert isinstance(last, Cancelled)
    assert (last.result.done.stopped, last.result.done.best_step) == ("cancelled", 2)
    assert last.result.certificate is None
    events = events_of(checkpoint=checkpoint)
    assert [event.resumed_at for event in events if isinstance(event, TrainingStarted)] == [3]
    result = events[-1].result
    assert checkpoint.exists()
    assert saved(result, tmp_path / "a.maskcal") == saved(done, tmp_path / "b.maskcal")
    assert not checkpoint.exists()


def test_the_best_so_far_can_be_kept_and_the_checkpoint_stays(tmp_path):
    checkpoint = tmp_path / "mine.maskcal.training"
    result = stopped_at(3, checkpoint)[-1].result
    result.save(tmp_path / "mine.maskcal")
    assert checkpoint.exists()
    assert read_content(tmp_path / "mine.maskcal").certificate is None


def test_one_that_was_stopped_before_it_began_has_no_result(tmp_path):
    cancel = CancelToken()
    cancel.cancel()
    events = events_of(cancel=cancel)
    assert events[-1] == Cancelled(result=None)
    with pytest.raises(InterruptedError, match="the training was stopped before its first step"):
        train(triplets(12), recipe=TINY, cancel=cancel)


def test_a_checkpoint_is_not_gone_on_with_for_another_tolerance(tmp_path):
    checkpoint = tmp_path / "mine.maskcal.training"
    stopped_at(3, checkpoint)
    with pytest.raises(ValueError, match=r"is the checkpoint of another training: validated otherwise; delete it"):
        train(triplets(12), recipe=TINY, tolerance=2 * TOLERANCE, checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"another training: steps 4, now 5; delete it"):
        train(triplets(12), recipe=replace(TINY, steps=5), tolerance=TOLERANCE, checkpoint=checkpoint)


def test_the_weight_of_the_papers_loss_is_searched_once(tmp_path):
    recipe = replace(TINY, loss="paper", steps=30, validate_every=30, learning_rate=3e-3)
    checkpoint = tmp_path / "mine.maskcal.training"
    first = events_of(recipe=recipe, tolerance=None, groups=3, checkpoint=checkpoint)
    told = [event.message for event in first if isinstance(event, Warned)]
    assert sum("the paper's loss with weight" in message for message in told) > 1
    again = events_of(recipe=recipe, tolerance=None, groups=3, checkpoint=checkpoint)
    assert isinstance(again[-1], Done)
    assert not [event for event in again if isinstance(event, Warned | StepDone)]
    assert again[-1].result.recipe == first[-1].result.recipe != recipe
    assert again[-1].result.mask_model.card.network["kind"] == "mask-unet"


def test_a_search_for_the_weight_that_is_stopped_leaves_no_half_found_weight_behind(tmp_path):
    recipe = replace(TINY, loss="paper", steps=30, validate_every=30, learning_rate=3e-3)
    checkpoint, cancel = tmp_path / "mine.maskcal.training", CancelToken()
    events = []
    for event in training(
        plan_training(triplets(3), recipe=recipe), device="cpu", checkpoint=checkpoint, cancel=cancel
    ):
        events.append(event)
        if isinstance(event, Warned) and "with weight" in event.message:
            cancel.cancel()
    assert events[-1] == Cancelled(result=None)
    assert not checkpoint.exists()


# ---- what goes wrong


def test_a_loss_that_is_not_a_number_names_step_and_field_and_keeps_the_checkpoint(monkeypatch, tmp_path):
    def spoil(plan: Any, fields: Any) -> Any:
        events = restored_fields(plan, fields)
        for field in events:
            field.truth[:] = 3e38  # finite, but its square is not
        return events

    restored_fields = _as_function(training_module.restored_fields)
    monkeypatch.setattr(training_module, "restored_fields", _as_generator(spoil))
    monkeypatch.setattr(training_module, "Judge", _NoJudge)
    checkpoint = tmp_path / "mine.maskcal.training"
    last = events_of(recipe=replace(TINY, loss="likelihood"), tolerance=None, groups=3, checkpoint=checkpoint)[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, FloatingPointError)
    assert "at step 1, from field field" in str(last.error)
    assert checkpoint.exists()


def test_a_calibration_that_is_refused_leaves_the_network_and_says_so(monkeypatch, done):
    def refuse(*_: Any, **__: Any) -> Any:
        yield Failed(error=ValueError("there are too few groups for this promise"))

    monkeypatch.setattr(training_module, "measure", refuse)
    result = trained()
    assert result.certificate is None
    assert result.warnings == (
        "the network is trained, but not calibrated: there are too few groups for this promise",
    )  # fmt: skip
    assert result.mask_model.sha256 == done.mask_model.sha256


def test_all_faults_of_all_files_are_told_before_any_work():
    degraded, restored, truth = images(12)
    truth[3], restored[5, 0, 0] = 7, np.nan
    plan = plan_training(triplets_from_arrays(
        degraded=degraded, truth=truth, restored=restored, groups=[f"mouse {i}" for i in range(12)]
    ), recipe=TINY)  # fmt: skip
    events = list(training(plan, device="cpu"))
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, FaultyTriplets)
    assert len(events[-1].error.faults) == 2
    assert not [event for event in events if isinstance(event, TrainingStarted)]


def test_a_truth_that_the_restorer_made_is_refused():
    degraded, restored, truth = images(4)
    truth[:] = restored * (1 + 1e-12)
    plan = plan_training(triplets_from_arrays(degraded=degraded, truth=truth, restored=restored), recipe=TINY)
    with pytest.raises(ValueError, match="is what the restorer makes of the degraded image, not a truth"):
        raise list(training(plan, device="cpu"))[-1].error


def test_images_of_the_restorers_training_do_not_validate_under_another_name(monkeypatch):
    degraded, _, truth = images(3)
    demo = load_restorer("demo")
    card = demo.card.model_copy(update={"trained_on_sha256": tuple(content_hash(image) for image in degraded)})
    plan = plan_training(triplets_from_arrays(degraded=degraded, truth=truth), replace(demo, card=card), recipe=TINY)
    last = list(training(plan, device="cpu"))[-1]
    assert isinstance(last.error, FaultyTriplets)
    assert len(last.error.faults) == len(plan.split.validation) == 1
    assert "was used to train Demo denoiser; leave all fields of its specimen out" in str(last.error)


def test_fields_that_do_not_fit_into_memory_are_counted_in_gigabytes():
    these = triplets(3, size=32)
    assert bytes_held(these) == 3 * 3 * 4 * 32 * 32
    assert check_memory(10**9, 2 * 10**9) == check_memory(10**12, None) == ""
    assert check_memory(10**9, 1_200_000_000).startswith("the training fields take 1.0 GB of memory, and 1.2 GB are")
    with pytest.raises(MemoryError, match=r"take 5\.0 GB of memory, and 1\.2 GB are free; train on fewer or smaller"):
        check_memory(5 * 10**9, 1_200_000_000)
    free = available_bytes()
    assert free is None or 10**7 < free < 10**15


def test_that_is_asked_before_anything_is_restored(monkeypatch):
    monkeypatch.setattr("napari_maskcal.training_fields.available_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match=r"0\.0 GB are free"):
        train(triplets(4), recipe=TINY)


class _NoJudge:
    """Judges nothing, so that only the training itself can fail."""

    remark, tolerances, fields = "", (1.0,), ()

    def __init__(self, *_: Any) -> None:
        pass

    def __call__(self, network: Any) -> Any:
        raise AssertionError


def _as_function(generator: Any) -> Any:
    def call(plan: Any, fields: Any) -> Any:
        events = generator(plan, fields, device="cpu", cancel=CancelToken())
        try:
            while True:
                next(events)
        except StopIteration as end:
            return end.value

    return call


def _as_generator(function: Any) -> Any:
    def call(plan: Any, fields: Any, **_: Any) -> Any:
        yield from ()
        return function(plan, fields)

    return call
