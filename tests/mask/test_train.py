from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_maskcal.mask import collapse, learner
from napari_maskcal.mask.checkpoint import read_best
from napari_maskcal.mask.network import network_for
from napari_maskcal.mask.train import CollapsedError, DivergedError, Recipe, Validation, train_mask_network
from napari_maskcal.restore.events import CancelToken, StepDone, TrainingDone, TrainingStarted, Validated, Warned
from napari_maskcal.settings import LOSS
from training_fields import QUICK, trained, training_fields, weights

LONG = replace(QUICK, steps=30, validate_every=100)
LONG_VALIDATED = replace(QUICK, steps=30)


def by_turns(*shares: float):
    """A validation that finds these shares, one after the other, and keeps what it was shown."""
    left, shown = list(shares), []

    def validate(network):
        shown.append(weights(network).clone())
        return Validation(masked_share=left.pop(0), preview=f"preview {len(shown)}")

    return validate, shown


def surer(network, value: float, *, dims: int = 2, channels: int = 1) -> float:
    """The mean uncertainty inside a plane of one value."""
    image = torch.full((1, channels, *[16] * dims), value)
    with torch.inference_mode():
        return float(network(image, image)[(..., *[slice(6, 10)] * dims)].mean())


# ---- what is learnt


@pytest.mark.parametrize(("loss", "weight"), [("score", 1.0), ("likelihood", 1.0), ("paper", 8.0), ("quantile", 1.0)])
def test_training_makes_the_network_less_sure_where_the_restoration_errs(loss, weight):
    fields, recipe = training_fields(), replace(LONG, loss=loss, weight=weight)
    untrained = network_for(recipe, fields).eval()
    assert 0.4 < surer(untrained, 0.9) / surer(untrained, 0.1) < 2
    done = trained(fields, recipe)
    assert np.mean(done.losses[-10:]) < np.mean(done.losses[:10])
    assert surer(done.network, 0.9) / surer(done.network, 0.1) > 2
    assert not done.network.training
    assert not any(weight.requires_grad for weight in done.network.parameters())


def test_volumes_of_several_channels_are_learnt_alike():
    fields = training_fields(shape=(8, 24, 24), channels=2)
    recipe = replace(LONG, batch=2, crop_px=16)
    options = {"dims": 3, "channels": 2}
    before = network_for(recipe, fields).eval()
    done = trained(fields, recipe)
    assert done.network.dims == 3
    assert surer(before, 0.9, **options) / surer(before, 0.1, **options) < 1.5
    assert surer(done.network, 0.9, **options) / surer(done.network, 0.1, **options) > 2


def test_a_grey_image_that_was_coloured_and_enlarged_is_trained_on():
    fields = training_fields(channels=3, degraded_channels=1, factor=2)
    assert (fields[0].degraded.shape, fields[0].restored.shape) == ((1, 24, 24), (3, 48, 48))
    done = trained(fields, LONG)
    assert (done.network.degraded_channels, done.network.channels) == (1, 3)
    assert np.mean(done.losses[-10:]) < np.mean(done.losses[:10])


def test_fields_smaller_than_a_crop_make_smaller_crops():
    assert trained(training_fields(shape=(20, 20)), replace(QUICK, crop_px=128)).step == QUICK.steps
    with pytest.raises(
        ValueError, match=r"cell 0 .* has 1 × 1 pixels and crops at most 128; the network needs at least 2"
    ):
        trained(training_fields(shape=(1, 1)), replace(QUICK, crop_px=128))


def test_the_same_seed_gives_the_same_weights_and_another_gives_others():
    first, again, other = (trained(training_fields(), replace(QUICK, seed=seed)).network for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_training_leaves_the_callers_random_numbers_alone():
    state = torch.get_rng_state()
    trained(training_fields())
    assert torch.equal(torch.get_rng_state(), state)


# ---- what is told


def test_the_stream_begins_and_ends_and_tells_each_step_between():
    validate, _ = by_turns(0.5, 0.4)
    events = list(train_mask_network(training_fields(), QUICK, validation=validate))
    kinds = [type(event).__name__ for event in events]
    steps = ["StepDone"] * 3
    assert kinds == ["TrainingStarted", *steps, "Validated", *steps, "Validated", "TrainingDone"]
    assert events[0] == TrainingStarted(steps=6, fields=4, device="cpu")
    done = events[-1]
    told = [event for event in events if isinstance(event, StepDone)]
    assert [(one.step, one.steps) for one in told] == [(i, 6) for i in range(1, 7)]
    assert tuple(one.loss for one in told) == done.losses
    assert told[0].seconds_left > told[-1].seconds_left == 0
    assert (done.step, done.stopped) == (6, "finished")
    assert done.seconds > 0


def test_the_last_step_is_validated_whatever_its_number():
    validate, _ = by_turns(0.5, 0.4)
    assert trained(training_fields(), replace(QUICK, steps=5), validation=validate).validated == ((3, 0.5), (5, 0.4))


def test_the_network_that_masked_least_is_returned_and_not_the_last():
    validate, shown = by_turns(0.5, 0.2, 0.3, 0.2)
    recipe = replace(QUICK, steps=12)
    *events, done = train_mask_network(training_fields(), recipe, validation=validate)
    assert [(e.step, e.masked_share, e.best, e.preview) for e in events if isinstance(e, Validated)] == [
        (3, 0.5, True, "preview 1"), (6, 0.2, True, "preview 2"), (9, 0.3, False, "preview 3"),
        (12, 0.2, False, "preview 4"),
    ]  # fmt: skip
    assert done.best_step == 6
    assert torch.equal(weights(done.network), shown[1])
    last = trained(training_fields(), recipe)
    assert (last.best_step, last.validated) == (12, ())
    assert torch.equal(weights(last.network), shown[3])


def test_a_share_that_is_no_number_is_never_the_best():
    validate, shown = by_turns(float("nan"), 0.9)
    done = trained(training_fields(), QUICK, validation=validate)
    assert done.best_step == 6
    validate, _ = by_turns(float("nan"), float("nan"))
    done = trained(training_fields(), QUICK, validation=validate)
    assert torch.equal(weights(done.network), shown[1])


def test_what_the_validation_does_with_its_network_does_not_change_the_training():
    def spoil(network):
        with torch.no_grad():
            for weight in network.parameters():
                weight.zero_()
        return Validation(masked_share=0.5)

    validate, _ = by_turns(0.5, 0.5)
    spoiled, left = (trained(training_fields(), QUICK, validation=one) for one in (spoil, validate))
    assert spoiled.losses == left.losses
    assert torch.equal(weights(spoiled.network), weights(left.network))


# ---- how it ends early


@pytest.mark.parametrize(("patience", "step"), [(1, 9), (2, 15), (9, 18)])
def test_a_training_that_gets_no_better_ends_early(patience, step):
    validate, shown = by_turns(0.5, 0.3, 0.4, 0.2, 0.3, 0.3)
    recipe = replace(QUICK, steps=18, patience=patience)
    if patience == 2:
        validate, shown = by_turns(0.5, 0.4, 0.3, 0.4, 0.5, 0.1)
    done = trained(training_fields(), recipe, validation=validate)
    assert (done.step, done.stopped) == (step, "finished" if step == 18 else "early")
    best = min(done.validated, key=lambda one: one[1])
    assert done.best_step == best[0]
    assert torch.equal(weights(done.network), shown[best[0] // 3 - 1])


def test_cancel_ends_after_the_step_with_the_best_so_far(tmp_path):
    cancel, events = CancelToken(), []
    validate, shown = by_turns(0.5)
    for event in train_mask_network(
        training_fields(), LONG_VALIDATED, validation=validate, cancel=cancel, checkpoint=tmp_path / "kept"
    ):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 5:
            cancel.cancel()
    done = events[-1]
    assert isinstance(done, TrainingDone)
    assert (done.step, done.stopped, done.best_step, len(done.losses)) == (5, "cancelled", 3, 5)
    assert torch.equal(weights(done.network), shown[0])
    resumed = next(train_mask_network(training_fields(), LONG_VALIDATED, checkpoint=tmp_path / "kept"))
    assert resumed.resumed_at == 5


def test_a_training_cancelled_before_its_first_step_gives_the_network_it_began_with():
    cancel = CancelToken()
    cancel.cancel()
    done = trained(training_fields(), QUICK, cancel=cancel)
    assert (done.step, done.stopped) == (0, "cancelled")
    assert torch.equal(weights(done.network), weights(network_for(QUICK, training_fields())))


# ---- losses that are not finite


def poisoned(monkeypatch, *, at_step: int, field: str):
    """Let the pixels of one field become NaN when a step is reached, as an overflow would."""
    original, taken = learner.Learner._on_device, []

    def on_device(self, batch):
        images = original(self, batch)
        taken.append(1)
        if len(taken) >= at_step:
            for i, label in enumerate(batch.labels):
                if label.startswith(field):
                    images[2][i] = float("nan")
        return images

    monkeypatch.setattr(learner.Learner, "_on_device", on_device)


def test_a_loss_that_is_no_longer_finite_is_told_with_its_step_and_field(monkeypatch, tmp_path):
    recipe = replace(QUICK, batch=16)  # each field is in each batch
    validate, shown = by_turns(0.5, 0.5)
    poisoned(monkeypatch, at_step=5, field="cell 2")
    kept = tmp_path / "kept"
    with pytest.raises(DivergedError, match=(
        r"the loss is nan at step 5, from field cell 2 \(group specimen 2\); leave that field out, or take "
        rf"another loss or seed; {kept} holds the training up to step 3"
    )) as raised:  # fmt: skip
        trained(training_fields(), recipe, validation=validate, checkpoint=kept)
    assert torch.equal(weights(raised.value.best), shown[0])
    assert torch.equal(weights(read_best(kept)), shown[0])
    assert torch.isfinite(weights(read_best(kept))).all()


def test_a_loss_that_no_field_alone_explains_is_told_without_one(monkeypatch):
    poisoned(monkeypatch, at_step=1, field="cell")
    monkeypatch.setattr(learner.Learner, "faulty", lambda self, batch: [])
    with pytest.raises(DivergedError, match=r"^the loss is nan at step 1; take another loss or seed$") as raised:
        trained(training_fields())
    assert raised.value.best is None


# ---- memory


def out_of_memory_above(monkeypatch, limit: int, error: type[Exception] = torch.OutOfMemoryError) -> list[int]:
    """Let a device hold at most `limit` crops; returns how many were tried."""
    original, tried = learner.Learner._loss_of, []

    def loss_of(self, images):
        tried.append(len(images[0]))
        if len(images[0]) > limit:
            raise error("out of memory")
        return original(self, images)

    monkeypatch.setattr(learner.Learner, "_loss_of", loss_of)
    return tried


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_memory_that_runs_out_makes_the_parts_smaller_and_is_said(monkeypatch, error):
    expected = trained(training_fields(), QUICK)
    tried = out_of_memory_above(monkeypatch, 1, error)
    *events, done = train_mask_network(training_fields(), QUICK)
    assert [e.message for e in events if isinstance(e, Warned)] == [
        "cpu ran out of memory; going on with 2 crop(s) at a time, of 4 in a step",
        "cpu ran out of memory; going on with 1 crop(s) at a time, of 4 in a step",
    ]
    assert tried == [4, 2, *[1] * 4 * QUICK.steps]
    assert done.losses == pytest.approx(expected.losses, rel=1e-3)
    torch.testing.assert_close(weights(done.network), weights(expected.network), rtol=0, atol=1e-2)


def test_a_device_too_small_for_one_crop_is_an_error_with_a_remedy(monkeypatch):
    out_of_memory_above(monkeypatch, 0)
    with pytest.raises(MemoryError, match="cpu has too little memory to train on even one crop; take smaller crops"):
        trained(training_fields(), QUICK)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    def broken(self, images):
        raise RuntimeError("something else")

    monkeypatch.setattr(learner.Learner, "_loss_of", broken)
    with pytest.raises(RuntimeError, match="something else"):
        trained(training_fields(), QUICK)


# ---- the collapse of the paper's loss


@pytest.mark.parametrize(
    ("weight", "bias", "end"), [(1e-6, 20.0, "low: take a larger"), (1e4, -20.0, "high: take a sm")]
)
def test_a_collapse_of_the_papers_loss_is_told_with_the_weight_and_its_direction(monkeypatch, weight, bias, end):
    monkeypatch.setattr(learner.Learner, "_descend", lambda self, number: constant(self.network, bias))
    with pytest.raises(CollapsedError, match=rf"everywhere; the loss weight {weight:g} is too {end}") as raised:
        trained(training_fields(), replace(LONG_VALIDATED, loss="paper", weight=weight))
    assert f"it is {1 / (1 + np.exp(-bias)):.3f} everywhere" in str(raised.value)
    assert isinstance(raised.value, RuntimeError)


def constant(network, bias: float) -> None:
    with torch.no_grad():
        network.trunk.head.weight.zero_()
        network.trunk.head.bias.fill_(bias)


def test_a_collapse_is_noticed_at_half_of_the_steps(monkeypatch):
    monkeypatch.setattr(learner.Learner, "_descend", lambda self, number: constant(self.network, -20.0))
    stream = train_mask_network(training_fields(), replace(LONG_VALIDATED, loss="paper"))
    told = [next(stream) for _ in range(1 + 15)]
    assert told[-1].step == 15
    with pytest.raises(CollapsedError):
        next(stream)


def test_a_collapse_after_a_good_network_does_not_cost_that(monkeypatch):
    original = learner.Learner._descend

    def descend(self, number):
        original(self, number)
        if number >= 15:
            constant(self.network, -20.0)

    monkeypatch.setattr(learner.Learner, "_descend", descend)
    validate, shown = by_turns(0.5, 1.0, 1.0)
    recipe = replace(QUICK, steps=45, validate_every=15, loss="paper", weight=8.0)
    done = trained(training_fields(), recipe, validation=validate)
    assert done.best_step == 15
    assert torch.equal(weights(done.network), shown[0])


def test_a_cancelled_training_is_not_called_a_collapse(monkeypatch):
    monkeypatch.setattr(collapse, "_SAME", 10.0)
    cancel = CancelToken()
    cancel.cancel()
    assert trained(training_fields(), replace(QUICK, loss="paper"), cancel=cancel).stopped == "cancelled"
    with pytest.raises(CollapsedError):
        trained(training_fields(), replace(QUICK, loss="paper"))


# ---- what is refused before the first step


def test_the_default_recipe_is_one_of_the_quantile():
    assert Recipe().loss == LOSS.default == "quantile"


@pytest.mark.parametrize(
    ("recipe", "device", "message"),
    [
        (replace(QUICK, loss="paper", distance="linf"), "cpu", "the distance linf has no gradient to train with"),
        (QUICK, "nonsense", "there is no device 'nonsense'; devices here: auto, "),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_step(recipe, device, message):
    with pytest.raises(ValueError, match=message):
        next(train_mask_network(training_fields(), recipe, device=device))
