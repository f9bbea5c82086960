"""The commands with restorers of others: agreed to once, tried when they are first used."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

from command_line import Ended, caller, failed
from foreign_models import as_onnx, as_torchscript, small_unet
from triplet_files import mice

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., Ended]

CODE = """
import numpy as np

def smoothed(plane):
    padded = np.pad(plane, 1, mode="edge")
    return (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
"""


@pytest.fixture
def maskcal(monkeypatch, capsys, tmp_path) -> Command:
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "MASKCAL_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return caller(monkeypatch, capsys)


@pytest.fixture
def package(monkeypatch, tmp_path) -> str:
    """The name of a restorer that an installed package announces."""
    site = tmp_path / "site"
    (site / "others-1.0.dist-info").mkdir(parents=True)
    (site / "maskcal_others.py").write_text(CODE)
    (site / "others-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    points = "[napari_maskcal.restorers]\nSmooth = maskcal_others:smoothed\n"
    (site / "others-1.0.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(site))
    return "smooth"


@pytest.fixture
def pairs(tmp_path) -> Path:
    mice(tmp_path)
    return tmp_path


@pytest.fixture
def calibrate(maskcal, pairs) -> Callable[[object], Ended]:
    def call(restorer: object) -> Ended:
        where = ["--degraded", pairs / "low", "--truth", pairs / "high", "--device", "cpu"]
        return maskcal("calibrate", *where, "--restorer", restorer, "--mask-model", "residual", "--tolerance", 0.1,
                       "--out", pairs / "mine.maskcal")  # fmt: skip

    return call


@pytest.fixture
def run(maskcal, pairs) -> Callable[[object], Ended]:
    def call(restorer: object) -> Ended:
        return maskcal("run", pairs / "low" / "mouse0.tif", "--out", pairs / "out", "--restorer", restorer,
                       "--mask-model", pairs / "mine.maskcal", "--device", "cpu")  # fmt: skip

    return call


def test_a_file_that_nobody_described_is_tried_by_the_command_that_takes_it_first(tmp_path, calibrate, run):
    path = as_onnx(small_unet(), tmp_path / "net.onnx")
    description = tmp_path / "net.onnx.maskcal.json"
    assert calibrate(path).code == 0
    described = json.loads(description.read_text())
    assert described["card"]["halo_px"] == 24
    description.unlink()
    ended = run(path)
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(description.read_text()) == described
    assert "Marked uncertain" in ended.out


def test_a_file_that_can_run_code_is_tried_only_after_the_user_has_agreed(maskcal, tmp_path, calibrate, run):
    path = as_torchscript(small_unet(), tmp_path / "net.pt")
    failed(calibrate(path), f"agree to it once: maskcal info --trust {path}")
    assert maskcal("info", "--trust", path).code == 0
    assert calibrate(path).code == 0
    (tmp_path / "net.pt.maskcal.json").unlink()
    (tmp_path / "XDG_CONFIG_HOME" / "napari-maskcal" / "trusted.json").unlink()
    failed(run(path), f"agree to it once: maskcal info --trust {path}")
    assert not (tmp_path / "net.pt.maskcal.json").exists()
    assert not (tmp_path / "out").exists()


def test_why_a_file_cannot_be_tried_is_said_by_run_itself(tmp_path, calibrate, run):
    assert calibrate(as_onnx(small_unet(), tmp_path / "net.onnx")).code == 0
    other = tmp_path / "pickle.onnx"
    other.write_bytes(b"\x80\x02N.")
    failed(run(other), "is a pickle, but no checkpoint of torch")


def test_a_restorer_of_a_package_is_agreed_to_by_its_name_and_used(maskcal, package, calibrate, run):
    for command in (lambda name: maskcal("info", name), calibrate):
        failed(
            command(package), "Smooth is a restorer of others 1.0, which can run code", "maskcal info --trust Smooth"
        )
    told = maskcal("info", "--trust", package, "--verify")
    assert (told.code, told.err) == (0, "")
    for words in (
        "Smooth",
        "Format: restorer of others 1.0",
        "Looks at: 1 pixel to each side",
        "Verified: a trial run",
    ):
        assert words in told.out
    content = json.loads(maskcal("info", package, "--json").out)
    assert content["card"]["network"] == {"kind": "function"}
    assert calibrate(package).code == 0
    ended = run(package.upper())
    assert (ended.code, ended.err) == (0, "")
    assert "Marked uncertain" in ended.out


def test_what_is_neither_a_file_nor_announced_is_refused(maskcal, package):
    failed(maskcal("info", "--trust", "smoother"), "smoother does not exist; choose a file")


def test_a_mask_network_is_exported_for_other_programs(maskcal, trained, tmp_path):
    path = tmp_path / "mask.zip"
    ended = maskcal("export", trained.mask_path, "--author", "A. Author", "--licence", "MIT", "--out", path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"random mask 0 is written to {path}, as a network alone: its promise holds only here.\n"
    with ZipFile(path) as archive:
        told = archive.read("rdf.yaml").decode()
    assert "A. Author" in told
    assert "license: MIT" in told
    before = path.read_bytes()
    named = ("--author", "A. Author", "--out")
    failed(maskcal("export", trained.mask_path, "--licence", "mine", *named, path), "no identifier of SPDX")
    failed(maskcal("export", trained.restorer_path, *named, path), "is not a .maskcal bundle")
    failed(maskcal("export", trained.mask_path, *named, tmp_path / "mask"), "does not end in .zip")
    assert path.read_bytes() == before
    assert maskcal("export", trained.mask_path, "--out", path).code == 2
