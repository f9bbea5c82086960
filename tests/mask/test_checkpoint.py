from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_maskcal.mask import checkpoint, learner
from napari_maskcal.mask.checkpoint import Keeper, read_best
from napari_maskcal.mask.train import Validation, train_mask_network
from napari_maskcal.read import atomic
from napari_maskcal.restore.events import CancelToken, StepDone, TrainingDone, TrainingStarted, Warned
from training_fields import QUICK, trained, training_fields, weights

RECIPE = replace(QUICK, steps=20)
TESTS = Path(__file__).parent.parent


def validate(network) -> Validation:
    """Say something that depends on the network, and falls and rises."""
    return Validation(masked_share=float(np.sin(1e3 * float(weights(network).sum())) / 2 + 0.5))


def interrupted(path: Path, after: int, recipe=RECIPE, **options) -> None:
    """Train until a step and write the checkpoint then, as cancelling does."""
    cancel = CancelToken()
    for event in train_mask_network(training_fields(), recipe, checkpoint=path, cancel=cancel, **options):
        if isinstance(event, StepDone) and event.step == after:
            cancel.cancel()


def same(first: TrainingDone, second: TrainingDone) -> bool:
    told = [(d.step, d.best_step, d.losses, d.validated, d.stopped) for d in (first, second)]
    return told[0] == told[1] and torch.equal(weights(first.network), weights(second.network))


# ---- going on


@pytest.mark.parametrize("loss", ["score", "quantile"])
@pytest.mark.parametrize("after", [1, 7, 12, 19])
def test_a_training_that_goes_on_ends_as_if_it_had_never_stopped(tmp_path, after, loss):
    recipe, path = replace(RECIPE, loss=loss), tmp_path / "kept"
    interrupted(path, after, recipe, validation=validate)
    first, *_, done = train_mask_network(training_fields(), recipe, validation=validate, checkpoint=path)
    assert first == TrainingStarted(steps=20, fields=4, device="cpu", resumed_at=after)
    assert same(done, trained(training_fields(), recipe, validation=validate))
    assert not same(done, trained(training_fields(), replace(recipe, seed=1), validation=validate))


def test_volumes_go_on_too(tmp_path):
    fields, recipe = training_fields(2, shape=(4, 16, 16), channels=2), replace(QUICK, crop_px=16, batch=2)
    cancel = CancelToken()
    for event in train_mask_network(fields, recipe, checkpoint=tmp_path / "kept", cancel=cancel):
        if isinstance(event, StepDone) and event.step == 4:
            cancel.cancel()
    assert same(trained(fields, recipe, checkpoint=tmp_path / "kept"), trained(fields, recipe))


def test_a_training_that_is_done_is_done_again_without_a_step(tmp_path):
    whole = trained(training_fields(), RECIPE, validation=validate, checkpoint=tmp_path / "kept")
    events = list(train_mask_network(training_fields(), RECIPE, validation=validate, checkpoint=tmp_path / "kept"))
    assert [type(event) for event in events] == [TrainingStarted, TrainingDone]
    assert same(events[-1], whole)


def test_a_training_that_ended_early_does_not_go_on(tmp_path):
    recipe = replace(RECIPE, patience=1)
    options = {"validation": lambda network: Validation(masked_share=0.5), "checkpoint": tmp_path / "kept"}
    first, again = (trained(training_fields(), recipe, **options) for _ in range(2))
    assert (first.stopped, first.step) == ("early", 6)
    assert same(first, again)


def test_a_checkpoint_keeps_the_parts_that_fit_the_memory(tmp_path, monkeypatch):
    original = learner.Learner._loss_of

    def loss_of(self, images):
        if len(images[0]) > 2:
            raise torch.OutOfMemoryError
        return original(self, images)

    with monkeypatch.context() as patched:
        patched.setattr(learner.Learner, "_loss_of", loss_of)
        whole = trained(training_fields(), RECIPE)
        interrupted(tmp_path / "kept", 5)
    assert same(trained(training_fields(), RECIPE, checkpoint=tmp_path / "kept"), whole)


LONG = replace(RECIPE, steps=200, patience=1000)
TRAIN = f"""
import sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / "mask")!r}]
import torch; torch.set_num_threads(1)
from pathlib import Path
from test_checkpoint import LONG, StepDone, train_mask_network, training_fields, validate
for event in train_mask_network(training_fields(), LONG, validation=validate, checkpoint=Path(sys.argv[1])):
    if isinstance(event, StepDone): print(event.step, flush=True)
"""


@pytest.mark.parametrize("after", [4, 32])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, after):
    path = tmp_path / "kept"
    with subprocess.Popen([sys.executable, "-c", TRAIN, str(path)], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        next(line for line in process.stdout if int(line) == after)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    first, *_, done = train_mask_network(training_fields(), LONG, validation=validate, checkpoint=path)
    assert after - 3 < first.resumed_at < LONG.steps
    assert same(done, trained(training_fields(), LONG, validation=validate))


# ---- when it is written


def test_it_is_written_at_each_validation_and_when_it_is_old(tmp_path, monkeypatch):
    written = []
    original = Keeper._write

    def write(self, learner, progress):
        written.append(progress.step)
        original(self, learner, progress)

    monkeypatch.setattr(Keeper, "_write", write)
    trained(training_fields(), replace(QUICK, steps=8), checkpoint=tmp_path / "one")
    assert written == [0, 3, 6, 8]
    written.clear()
    monkeypatch.setattr(Keeper, "every_s", 0.0)
    trained(training_fields(), replace(QUICK, steps=4), checkpoint=tmp_path / "two")
    assert written == [0, 1, 2, 3, 4]


def test_nothing_but_the_checkpoint_is_left_beside_it(tmp_path):
    trained(training_fields(), QUICK, checkpoint=tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_best_network_can_be_had_from_it(tmp_path):
    done = trained(training_fields(), RECIPE, validation=validate, checkpoint=tmp_path / "kept")
    assert done.best_step < RECIPE.steps
    assert torch.equal(weights(read_best(tmp_path / "kept")), weights(done.network))
    last = trained(training_fields(), RECIPE, checkpoint=tmp_path / "last")
    assert torch.equal(weights(read_best(tmp_path / "last")), weights(last.network))


# ---- the disk


def fail_from(monkeypatch, count: int) -> None:
    """Let the disk be full from the count-th write on."""
    original, writes = atomic._write_atomically, []

    def write(path, content):
        writes.append(path)
        if len(writes) >= count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(path, content)

    monkeypatch.setattr(atomic, "_write_atomically", write)


def test_a_disk_that_fills_up_is_told_once_and_the_training_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "kept"
    with monkeypatch.context() as full:
        fail_from(full, 3)
        *events, done = train_mask_network(training_fields(), RECIPE, checkpoint=path)
    warnings = [event.message for event in events if isinstance(event, Warned)]
    assert warnings == [
        f"{path} cannot be written: No space left on device; make room, or choose another place; the training goes on, "
        "but cannot be taken up again after an end"
    ]
    assert same(done, trained(training_fields(), RECIPE))
    assert next(train_mask_network(training_fields(), RECIPE, checkpoint=path)).resumed_at == 3


@pytest.mark.parametrize("place", ["missing/kept", "."])
def test_a_place_that_cannot_be_written_is_refused_before_the_first_step(tmp_path, place):
    with pytest.raises(ValueError, match=r"(cannot be written: No such file|is no checkpoint of a training)"):
        next(train_mask_network(training_fields(), RECIPE, checkpoint=tmp_path / place))


def test_a_full_disk_is_refused_before_the_first_step(tmp_path, monkeypatch):
    fail_from(monkeypatch, 1)
    with pytest.raises(ValueError, match="kept cannot be written: No space left on device; make room"):
        next(train_mask_network(training_fields(), RECIPE, checkpoint=tmp_path / "kept"))


# ---- what is not gone on with


@pytest.fixture
def kept(tmp_path) -> Path:
    path = tmp_path / "kept"
    interrupted(path, 7)
    return path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 4}, r"kept is the checkpoint of another training: seed 0, now 4; delete it to start anew, or name"),
        ({"steps": 30, "loss": "likelihood"}, "loss 'score', now 'likelihood'; steps 20, now 30; delete it to start"),
        ({"widths": (4, 9)}, r"widths \[4, 8\], now \[4, 9\]; delete it"),
    ],
)
def test_another_recipe_is_refused_with_what_differs(kept, changed, message):
    before = kept.read_bytes()
    with pytest.raises(ValueError, match=message):
        next(train_mask_network(training_fields(), replace(RECIPE, **changed), checkpoint=kept))
    assert kept.read_bytes() == before


@pytest.mark.parametrize("name", ["degraded", "restored", "truth"])
def test_other_fields_are_refused(kept, name):
    fields = training_fields()
    getattr(fields[3], name)[0, 5, 5] += 1e-3
    with pytest.raises(
        ValueError, match="kept is the checkpoint of another training: other training fields; delete it"
    ):
        next(train_mask_network(fields, RECIPE, checkpoint=kept))
    renamed = [replace(field, name="other") for field in training_fields()]
    assert next(train_mask_network(renamed, RECIPE, checkpoint=kept)).resumed_at == 7


def test_a_checkpoint_without_its_end_is_refused(kept):
    content = kept.read_bytes()
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        kept.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"kept is no checkpoint of a training, or is truncated: .*; delete it to"):
            next(train_mask_network(training_fields(), RECIPE, checkpoint=kept))
    kept.write_bytes(content)
    assert next(train_mask_network(training_fields(), RECIPE, checkpoint=kept)).resumed_at == 7


def test_a_single_changed_byte_is_noticed_in_weights_and_in_numbers(kept):
    content = kept.read_bytes()
    for place in (content.index(b"best_step") + 13, len(content) - 3):
        kept.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match="kept is damaged or was changed: its hash is not the one it was written"):
            read_best(kept)


def test_a_pickle_and_other_files_are_not_opened(tmp_path):
    torch.save({"step": 3}, tmp_path / "pickle")
    with pytest.raises(ValueError, match="pickle is no checkpoint of a training, or is truncated"):
        read_best(tmp_path / "pickle")
    save_file({"a": torch.zeros(2)}, tmp_path / "weights")
    with pytest.raises(ValueError, match="weights has weights, but is no checkpoint of a training; name another file"):
        next(train_mask_network(training_fields(), RECIPE, checkpoint=tmp_path / "weights"))
    with pytest.raises(ValueError, match="nothing is no checkpoint of a training"):
        read_best(tmp_path / "nothing")


def test_a_checkpoint_of_another_version_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(checkpoint, "_VERSION", 2)
        interrupted(tmp_path / "kept", 2)
    with pytest.raises(
        ValueError, match=r"written by another napari-maskcal \(version 2 of checkpoints, this one reads"
    ):
        read_best(tmp_path / "kept")


@pytest.mark.parametrize("missing", ["losses", "adam.0.exp_avg", "network.trunk.head.bias"])
def test_a_checkpoint_that_lacks_a_part_is_refused_though_its_hash_is_right(kept, missing, monkeypatch):
    original = checkpoint.plain
    monkeypatch.setattr(
        checkpoint, "plain", lambda tensors: {k: t for k, t in original(tensors).items() if k != missing}
    )
    assert missing in load_file(kept)
    kept.unlink()
    interrupted(kept, 3)
    assert missing not in load_file(kept)
    monkeypatch.setattr(checkpoint, "plain", original)
    with pytest.raises(ValueError, match=r"kept does not hold a whole training: .*; delete it to start anew"):
        next(train_mask_network(training_fields(), RECIPE, checkpoint=kept))
