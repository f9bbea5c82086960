"""``maskcal train``: from pairs to a bundle, stopped and gone on with, and what becomes of wrong input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import napari_maskcal.training as training
from command_line import Ended, caller, failed
from napari_maskcal.bundle import read_content, write_bundle
from napari_maskcal.mask.learner import Learner
from napari_maskcal.models import load_mask_model, load_restorer
from napari_maskcal.read.tiff import read_tiff
from napari_maskcal.restore.events import Failed
from napari_maskcal.review.training_request import checkpoint_path
from small_models import noisy_planes
from triplet_files import write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

TOLERANCE = 0.09
QUICK = ("--steps", 6, "--crop-px", 32, "--device", "cpu")
MICE = r"(mouse\d+)"


@pytest.fixture
def maskcal(monkeypatch, capsys, tmp_path) -> Callable[..., Ended]:
    monkeypatch.setenv("MASKCAL_CACHE_DIR", str(tmp_path / "cache"))
    return caller(monkeypatch, capsys)


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy plane, and the clean one."""
    rng = np.random.default_rng(1000 + seed)
    y, x = np.mgrid[:64, :64]
    clean = 60 + 40 * np.sin(x / 9 + rng.uniform(0, 6)) * np.cos(y / 7 + rng.uniform(0, 6))
    return rng.poisson(clean).astype(np.uint16), clean.astype(np.float32)


def write_pairs(folder: Path, mice: Iterable[int], *, each: int = 1, other: int = 0) -> Path:
    """Write pairs of each mouse; with `other` they have the same names and other content."""
    for mouse in mice:
        for field in range(each):
            for part, plane in zip(("low", "high"), pair(100 * mouse + field + 10_000 * other), strict=True):
                write(folder / part / f"mouse{mouse}_{field}.tif", plane)
    return folder


@pytest.fixture
def seen(tmp_path) -> Path:
    return write_pairs(tmp_path / "seen", range(8))


@pytest.fixture
def target(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "mine.maskcal"


def options_of(folder: Path, restorer: Path, out: Path) -> list[object]:
    return ["--degraded", folder / "low", "--truth", folder / "high", "--restorer", restorer, "--out", out]


@pytest.fixture
def train(maskcal, trained, seen, target) -> Callable[..., Ended]:
    """`maskcal train` with what is right; options that are given count more."""

    def call(*options: object, folder: Path = seen, out: Any = target) -> Ended:
        return maskcal("train", *options_of(folder, trained.restorer_path, out), *QUICK, *options)

    return call


@pytest.fixture
def calibrate(maskcal, trained, tmp_path) -> Callable[..., Ended]:
    """`maskcal calibrate` of a trained bundle, for which one specimen is enough."""

    def call(bundle: Path, folder: Path, *options: object) -> Ended:
        where = options_of(folder, trained.restorer_path, tmp_path / "calibrated.maskcal")
        promise = ["--tolerance", TOLERANCE, "--confidence", 0.5, "--device", "cpu"]
        return maskcal("calibrate", *where, *promise, "--mask-model", bundle, *options)

    return call


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[Learner], None]) -> None:
    """Have something happen when the training comes to a step."""
    take = Learner.step

    def stepped(self: Learner, batch: Any, number: int) -> float:
        if number == step:
            act(self)
        return take(self, batch, number)

    monkeypatch.setattr(Learner, "step", stepped)


# ---- what is right


def test_one_command_leads_from_pairs_to_a_bundle_that_run_takes(train, maskcal, trained, target, tmp_path):
    ended = train("--tolerance", TOLERANCE, "--confidence", 0.8, "--group", MICE)
    assert ended.code == 0, ended.err
    assert names_in(target.parent) == ["mine.maskcal"]
    model = load_mask_model(target)
    assert model.certificate.sentence in ended.out
    assert f"Written to {target}" in ended.out
    assert "Kept is the " in ended.out
    assert len(model.certificate.groups) == 4  # what a confidence of 0.8 takes
    assert set(model.certificate.groups) | set(model.card.trained_on) == {f"mouse{i}" for i in range(8)}
    assert not set(model.certificate.groups) & set(model.card.trained_on)
    stack = write(tmp_path / "new.tif", noisy_planes(2, 64, 64), metadata={"axes": "ZYX"})
    models = ["--restorer", trained.restorer_path, "--mask-model", target, "--device", "cpu"]
    reviewed = maskcal("run", stack, "--out", tmp_path / "reviewed", *models)
    assert reviewed.code == 0, reviewed.err
    assert set(np.unique(read_tiff(tmp_path / "reviewed" / "uncertain.tif").data)) <= {0, 1}


def test_without_a_tolerance_the_bundle_promises_nothing_until_it_is_calibrated(
    train, calibrate, maskcal, trained, target, tmp_path
):
    ended = train("--group", MICE)
    assert ended.code == 0, ended.err
    content = read_content(target)
    assert content.certificate is None
    assert set(content.card.trained_on) == {f"mouse{i}" for i in range(8)}
    assert "not calibrated" in ended.out.lower()
    told = maskcal("info", target)
    assert told.code == 0
    assert "Not calibrated: it promises nothing yet" in told.out
    assert "mouse0" in told.out
    stack = write(tmp_path / "new.tif", noisy_planes(64, 64))
    failed(
        maskcal("run", stack, "--out", tmp_path / "r", "--restorer", trained.restorer_path, "--mask-model", target),
        "mine.maskcal holds a mask network that is not calibrated yet", "maskcal calibrate --mask-model mine.maskcal",
    )  # fmt: skip
    new = write_pairs(tmp_path / "new", range(20, 24))
    assert calibrate(target, new, "--group", MICE).code == 0
    assert load_mask_model(tmp_path / "calibrated.maskcal").card == content.card


def test_images_that_another_tool_restored_take_the_place_of_a_restorer(maskcal, seen, target):
    for mouse in range(8):
        low, high = pair(100 * mouse)
        write(seen / "restored" / f"mouse{mouse}_0.tif", (0.4 * low + 0.6 * high).astype(np.float32))
    where = ["--degraded", seen / "low", "--truth", seen / "high", "--restored", seen / "restored", "--out", target]
    ended = maskcal("train", *where, *QUICK, "--tolerance", 0.02, "--confidence", 0.8)
    assert ended.code == 0, ended.err
    assert load_mask_model(target).certificate.fingerprint.restorer_sha256 == "given"


def test_json_says_what_became_of_each_specimen_and_how_it_went(train, target):
    told = json.loads(train("--json", "--group", MICE, "--tolerance", TOLERANCE, "--confidence", 0.8).out)
    assert told["bundle"] == str(target)
    parts = [set(told["split"][part]) for part in ("training", "validation", "calibration")]
    assert set.union(*parts) == {f"mouse{i}" for i in range(8)}
    assert sum(map(len, parts)) == 8
    assert told["certificate"]["tolerance"] == TOLERANCE
    assert told["recipe"]["steps"] == 6
    assert told["best_step"] in [step for step, _ in told["validated"]]
    own = told["judged"]["trained network"]["masked_share"]
    assert 0 <= own == min(share for _, share in told["validated"]) <= 1
    assert told["kept"] in told["judged"]
    assert told["masked_share"] == told["judged"][told["kept"]]["masked_share"]
    assert all(0 <= one["untouched_share"] <= 1 for one in told["judged"].values())
    assert told["stopped"] == "finished"


def test_the_same_seed_gives_the_same_file_and_another_one_another(train, target, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert train("--seed", seed, out=tmp_path / "out" / f"{name}.maskcal").code == 0
    first, again, other = ((tmp_path / "out" / f"{name}.maskcal").read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_a_bundle_that_is_there_is_replaced_only_by_a_whole_one(train, target, monkeypatch):
    target.write_bytes(b"the one of last week")
    found = []
    at_step(monkeypatch, 5, lambda _: found.append(target.read_bytes()))
    assert train().code == 0
    assert found == [b"the one of last week"]
    assert read_content(target).card.role == "mask"


def test_a_calibration_that_is_refused_keeps_the_network(train, target, monkeypatch):
    def refused(*_: Any, **__: Any) -> Any:
        yield Failed(error=ValueError("the fields are of two sizes"))

    monkeypatch.setattr(training, "measure", refused)
    target.write_bytes(b"a promise of last week")
    for name in ("mine-uncalibrated.maskcal", "mine-uncalibrated-2.maskcal"):
        ended = train("--tolerance", TOLERANCE, "--confidence", 0.8)
        assert ended.code == 1
        assert "maskcal: the network is trained, but not calibrated: the fields are of two sizes" in ended.err
        assert f"the network alone is in {target.with_name(name)}" in ended.err
        assert read_content(target.with_name(name)).certificate is None
    assert target.read_bytes() == b"a promise of last week"
    assert checkpoint_path(target).exists()


def test_ctrl_c_while_it_calibrates_is_no_success(train, target, monkeypatch):
    measure = training.measure

    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        yield from measure(*arguments, **options)

    monkeypatch.setattr(training, "measure", interrupted)
    ended = train("--tolerance", TOLERANCE, "--confidence", 0.8)
    assert (ended.code, ended.out) == (1, "")
    assert "run the same command again" in ended.err
    assert names_in(target.parent) == ["mine.maskcal.training"]


# ---- stopped, and gone on with


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint; 0 where there is none yet."""
    if not checkpoint.exists():
        return 0
    content = checkpoint.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    step: int = json.loads(header["__metadata__"]["napari_maskcal_training"])["step"]
    return step


def test_a_training_that_was_killed_goes_on_to_the_very_same_file(train, trained, target, tmp_path):
    few, long = write_pairs(tmp_path / "few", range(3)), ("--steps", 60, "--crop-px", 16)
    whole = tmp_path / "out" / "whole.maskcal"
    assert train(*long, folder=few, out=whole).code == 0
    command = ["train", *options_of(few, trained.restorer_path, target), *QUICK, *long]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    checkpoint = target.with_name("mine.maskcal.training")
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "napari_maskcal", *map(str, command)], env=os.environ | threads
    ) as process:
        began = time.monotonic()
        while not step_of(checkpoint) and process.poll() is None and time.monotonic() - began < 60:
            time.sleep(0.01)
        process.kill()
    assert 0 < step_of(checkpoint) < 60
    assert not target.exists()
    ended = train(*long, folder=few)
    assert ended.code == 0, ended.err
    assert "going on" in ended.err.lower()
    assert target.read_bytes() == whole.read_bytes()
    assert names_in(target.parent) == ["mine.maskcal", "whole.maskcal"]


def test_ctrl_c_keeps_what_is_trained_and_the_same_command_goes_on(train, target, tmp_path, monkeypatch):
    whole = tmp_path / "out" / "whole.maskcal"
    assert train(out=whole).code == 0
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda _: os.kill(os.getpid(), signal.SIGINT))
        ended = train()
    assert (ended.code, ended.out) == (1, "")
    for words in ("stopped at step", "of 6", "mine.maskcal.training", "run the same command again to go on"):
        assert words in ended.err
    assert names_in(target.parent) == ["mine.maskcal.training", "whole.maskcal"]
    assert train().code == 0
    assert target.read_bytes() == whole.read_bytes()
    assert names_in(target.parent) == ["mine.maskcal", "whole.maskcal"]


def test_another_training_does_not_go_on_with_a_checkpoint_unless_it_starts_afresh(train, target, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda _: os.kill(os.getpid(), signal.SIGINT))
        train()
    failed(train("--loss", "score"), "mine.maskcal.training", "of another training")
    assert names_in(target.parent) == ["mine.maskcal.training"]
    assert train("--loss", "score", "--fresh").code == 0
    assert names_in(target.parent) == ["mine.maskcal"]


def test_a_loss_that_is_not_a_number_stops_it_and_names_what_is_kept(train, target, monkeypatch):
    def ruin(learner: Learner) -> None:
        with torch.no_grad():
            next(learner.network.parameters()).fill_(torch.nan)

    at_step(monkeypatch, 4, ruin)
    ended = train()
    assert (ended.code, ended.out) == (1, "")
    assert "at step 5" in ended.err
    assert "mine.maskcal.training" in ended.err
    assert names_in(target.parent) == ["mine.maskcal.training"]


# ---- what is wrong


def test_too_few_specimens_are_counted_and_said_what_for(train, target, tmp_path):
    few = write_pairs(tmp_path / "few", range(7), each=2)
    failed(
        train("--tolerance", TOLERANCE, "--group", MICE, folder=few),
        "calibration 9 groups for confidence 0.9", "11 groups in all", "there are 7", "leave the tolerance out",
    )  # fmt: skip
    one = write_pairs(tmp_path / "one", [3], each=3)
    failed(train("--group", MICE, folder=one), "2 groups in all", "there are 1")
    assert train("--group", MICE, folder=few).code == 0  # without a promise they are enough
    assert names_in(target.parent) == ["mine.maskcal"]


def test_colour_images_among_grey_ones_are_named_before_anything_runs(train, seen, target):
    write(seen / "low" / "mouse3_0.tif", np.zeros((3, 64, 64), np.uint16), metadata={"axes": "CYX"})
    ended = train()
    assert (ended.code, ended.out) == (1, "")
    assert "mouse3_0" in ended.err
    assert names_in(target.parent) == []


@pytest.mark.parametrize(
    ("place", "words"),
    [("out/mine.txt", "does not end in .maskcal"), ("nowhere/mine.maskcal", "there is no folder"), ("out", "maskcal")],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(train, target, tmp_path, monkeypatch, place, words):
    monkeypatch.setattr(training, "training", lambda *_, **__: pytest.fail("it began"))
    failed(train(out=tmp_path / place), words)


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--tolerance", 0], "tolerance is 0"), (["--confidence", 1], "confidence is 1"), (["--steps", 0], "steps is 0"),
     (["--crop-px", 0], "crop_px is 0"), (["--distance", "l0.5"], "l0.5")],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused_in_one_line(train, options, words):
    failed(train(*options), words)


def test_an_unknown_loss_is_wrong_use(train):
    ended = train("--loss", "hinge")
    assert ended.code == 2
    assert "quantile" in ended.err


def test_specimens_of_the_training_are_refused_afterwards(train, calibrate, seen, target, tmp_path):
    assert train("--group", MICE).code == 0
    same = calibrate(target, seen, "--group", MICE)
    assert same.code == 1
    assert "was trained on mouse0, mouse1" in same.err
    again = write_pairs(tmp_path / "again", range(8), other=1)
    assert "was trained on mouse0, mouse1" in calibrate(target, again, "--group", MICE).err
    renamed = tmp_path / "renamed"
    for mouse in range(8):
        for part, plane in zip(("low", "high"), pair(100 * mouse), strict=True):
            write(renamed / part / f"rat{mouse}.tif", plane)
    assert "low/rat0.tif" in (told := calibrate(target, renamed).err)
    assert "was used to train" in told


def test_without_the_names_and_hashes_in_the_card_they_would_not_be(train, calibrate, seen, target):
    assert train("--group", MICE).code == 0
    model = load_mask_model(target)
    card = model.card.model_copy(update={"trained_on": (), "trained_on_sha256": ()})
    write_bundle(target, model.network, card, None)
    assert calibrate(target, seen, "--group", MICE).code == 0


def test_files_that_are_no_specimens_are_known_by_their_content_alone(train, calibrate, seen, target, tmp_path):
    assert train().code == 0
    assert read_content(target).card.trained_on == ()
    assert "was used to train" in calibrate(target, seen).err
    assert calibrate(target, write_pairs(tmp_path / "other", range(8), other=1)).code == 0


def test_the_restorer_goes_into_the_bundle_and_calibration_takes_it_from_there(
    maskcal, train, trained, target, tmp_path
):
    assert train("--with-restorer").code == 0
    assert read_content(target).certificate is None
    assert load_restorer(target).sha256 == trained.restorer.sha256
    new = write_pairs(tmp_path / "new", range(10, 14))
    promise = ["--tolerance", TOLERANCE, "--confidence", 0.5, "--device", "cpu", "--out", tmp_path / "whole.maskcal"]
    where = ["--degraded", new / "low", "--truth", new / "high"]
    assert maskcal("calibrate", *where, *promise, "--mask-model", target, "--with-restorer").code == 0
    assert load_restorer(tmp_path / "whole.maskcal").sha256 == trained.restorer.sha256


def test_a_restorer_that_cannot_be_packed_is_refused_before_the_training(maskcal, seen, target):
    shutil.copytree(seen / "low", seen / "restored")
    where = ["--degraded", seen / "low", "--truth", seen / "high", "--restored", seen / "restored", "--out", target]
    failed(maskcal("train", *where, *QUICK, "--with-restorer"), "comes from no file that could be put into a bundle")
    assert names_in(target.parent) == []
