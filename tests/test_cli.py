from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import zarr

from command_line import Ended, caller, failed
from foreign_models import as_torchscript, small_unet
from given_models import given_bundle
from napari_maskcal import __version__
from napari_maskcal.models import GIVEN_RESTORER, load_mask_model, load_restorer
from napari_maskcal.pipeline import run
from napari_maskcal.read.image import from_array
from napari_maskcal.read.tiff import read_tiff, write_tiff
from small_models import Trained, noisy_planes, random_restorer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

can_mount = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="a small disk needs root on Linux",
)
UNITS = ("micrometer",) * 3


@pytest.fixture
def maskcal(monkeypatch, capsys) -> Callable[..., Ended]:
    return caller(monkeypatch, capsys)


@pytest.fixture
def stack(tmp_path) -> Path:
    path = tmp_path / "cells.tif"
    planes = noisy_planes(3, 64, 70)
    write_tiff(path, planes, from_array(planes, axes="ZYX", scale=(0.5, 0.25, 0.25), units=UNITS))
    return path


@pytest.fixture
def restore(maskcal, trained, stack, tmp_path) -> Callable[..., Ended]:
    """`maskcal run` with what is right; options that are given go before."""

    def call(*options: object, image: object = stack, out: object = tmp_path / "out") -> Ended:
        models = ["--restorer", trained.restorer_path, "--mask-model", trained.mask_path]
        return maskcal("run", image, "--out", out, *models, "--device", "cpu", *options)

    return call


def test_a_run_writes_two_images_and_a_certificate(restore, trained, stack, tmp_path):
    ended = restore()
    assert (ended.code, ended.err) == (0, "")
    review = run(read_tiff(stack), trained.restorer, trained.mask_model, device="cpu")
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["certificate.json", "restored.tif", "uncertain.tif"]
    restored, uncertain = (read_tiff(out / name) for name in ("restored.tif", "uncertain.tif"))
    for image in (restored, uncertain):
        assert (image.axes, image.units) == ("ZYX", UNITS)
        assert image.scale == pytest.approx((0.5, 0.25, 0.25))
    np.testing.assert_array_equal(restored.data, review.restored)
    np.testing.assert_array_equal(uncertain.data, review.uncertain)
    certificate = json.loads((out / "certificate.json").read_text(encoding="utf-8"))
    expected = {"distance": "l1", "tolerance": 0.02, "confidence": 0.9, "guarantee": "marginal", "mask": "binary",
                "n_fields": 12, "field_shape": [64, 64], "exploration": False}  # fmt: skip
    assert expected.items() <= certificate.items()
    assert certificate["threshold"] == trained.mask_model.certificate.threshold
    assert certificate["masked_share"] == uncertain.data.mean()
    assert 0 < certificate["masked_share"] < 1
    assert review.certificate.sentence in ended.out
    assert f"Marked uncertain: {100 * review.masked_share:.1f} % of 3 planes. Written to {out}" in ended.out


def test_json_is_all_that_is_printed_and_what_is_written(restore, tmp_path):
    printed = json.loads(restore("--json").out)
    assert printed == json.loads((tmp_path / "out" / "certificate.json").read_text(encoding="utf-8"))


def test_tolerance_and_confidence_are_moved_and_said_to_be(restore, trained):
    printed = json.loads(restore("--json", "--tolerance", 0.03, "--confidence", 0.8).out)
    certificate = trained.mask_model.certificate.at(tolerance=0.03, confidence=0.8)
    assert (printed["tolerance"], printed["confidence"], printed["exploration"]) == (0.03, 0.8, True)
    assert printed["threshold"] == certificate.threshold


def test_an_exploration_is_never_printed_as_a_promise(restore, trained, tmp_path):
    certificate = trained.mask_model.certificate.at(tolerance=0.03, confidence=0.8)
    said = f"Exploration, not a promise to quote: {certificate.sentence}"
    asked = ["--tolerance", 0.03, "--confidence", 0.8]
    assert restore(*asked).out.splitlines()[0] == said
    assert json.loads(restore("--json", *asked, out=tmp_path / "again").out)["promise"] == said
    for out, options in (("pinned", []), ("repeated", ["--tolerance", 0.02])):
        assert restore(*options, out=tmp_path / out).out.startswith(trained.mask_model.certificate.sentence)


def test_axes_and_channel_are_taken_from_the_command_line(restore, tmp_path):
    path = tmp_path / "unnamed.tif"
    planes = noisy_planes(3, 64, 64)
    tifffile.imwrite(path, planes, photometric="minisblack", metadata=None)
    ended = restore("--axes", "cyx", "--channel", 1, "--json", image=path)
    assert (ended.code, json.loads(ended.out)["planes"]) == (0, 1)
    restored = read_tiff(tmp_path / "out" / "restored.tif")
    assert (restored.axes, restored.shape) == ("YX", (64, 64))
    assert abs(np.corrcoef(restored.data.ravel(), planes[1].ravel())[0, 1]) > 0.9


@pytest.mark.parametrize("dtype", ["uint32", "float16", "int16", "float64"])
def test_other_number_types_give_the_same_marks(restore, tmp_path, stack, dtype):
    path = tmp_path / "typed.tif"
    planes = tifffile.imread(stack).astype(dtype)
    tifffile.imwrite(path, planes, metadata={"axes": "ZYX"}, photometric="minisblack")
    assert restore().code == restore(image=path, out=tmp_path / "typed").code == 0
    expected, found = (tifffile.imread(tmp_path / name / "uncertain.tif") for name in ("out", "typed"))
    assert (found != expected).mean() < 1e-3


def tiff(path: Path, pixels: np.ndarray, **options) -> Path:
    named = {"photometric": "minisblack", "metadata": {"axes": "ZYX"[-pixels.ndim :]}}
    tifffile.imwrite(path, pixels, **named | options)
    return path


def test_images_that_another_tool_made_take_the_place_of_networks(maskcal, stack, tmp_path):
    bundle, planes = given_bundle(tmp_path, GIVEN_RESTORER), read_tiff(stack).data
    restored = tiff(tmp_path / "theirs.tif", planes.astype(np.float32) + 0.5)
    uncertainty = tiff(tmp_path / "map.tif", np.random.default_rng(0).gamma(2, 5, planes.shape).astype(np.float32))
    options = ["--restorer", "given", "--mask-model", bundle, "--uncertainty", uncertainty, "--device", "cpu"]
    ended = maskcal("run", stack, "--out", tmp_path / "out", *options, "--restored", restored)
    assert (ended.code, ended.err) == (0, "")
    found = read_tiff(tmp_path / "out" / "restored.tif")
    np.testing.assert_array_equal(found.data, tifffile.imread(restored))
    assert (found.units, found.scale) == (UNITS, pytest.approx((0.5, 0.25, 0.25)))  # the input's, not the map's
    threshold = json.loads((tmp_path / "out" / "certificate.json").read_text(encoding="utf-8"))["threshold"]
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "out" / "uncertain.tif"), tifffile.imread(uncertainty) > threshold
    )
    failed(maskcal("run", stack, "--out", tmp_path / "other", *options), "the restored image comes from another tool")
    small = tiff(tmp_path / "small.tif", planes[:2])
    failed(maskcal("run", stack, "--out", tmp_path / "other", *options, "--restored", small), "small has shape (2, 64")
    assert not (tmp_path / "other").exists()


def test_what_a_network_makes_is_not_taken_from_a_file(restore, stack, tmp_path):
    failed(restore("--restored", stack), "cells was given, but random restorer 0 makes its own restored image")
    failed(restore("--mask-model", "residual"), "mask model 'residual' has no certificate yet; calibrate it")
    assert not (tmp_path / "out").exists()


def not_finite() -> np.ndarray:
    planes = noisy_planes(2, 64, 64).astype(np.float32)
    planes[1, 4, 5] = np.nan
    return planes


def with_a_constant_plane() -> np.ndarray:
    planes = noisy_planes(3, 64, 64)
    planes[1] = 7
    return planes


@pytest.mark.parametrize(
    ("pixels", "options", "words"),
    [
        (noisy_planes(64, 64, 3).astype(np.uint8), {"photometric": "rgb", "metadata": None},
         ["bad.tif is an RGB image", "split the channels first"]),
        (not_finite(), {}, ["bad, plane Z=1 has 1 NaN or infinite values", "(4, 5)", "replace them"]),
        (with_a_constant_plane(), {}, ["bad, plane Z=1 is constant", "leave such planes out"]),
        (noisy_planes(64, 15), {}, ["bad has planes of 64 × 15 pixels", "at least 16"]),
        (noisy_planes(64, 63), {}, ["bad has planes of 64 × 63 pixels", "of 64 × 64", "at least that size"]),
        (noisy_planes(5, 64, 64), {"metadata": None}, ["bad.tif of shape (5, 64, 64)", "--axes ZYX"]),
        (noisy_planes(2, 64, 64), {"metadata": {"axes": "CYX"}}, ["2 channels", "choose one, counted from 0"]),
        (noisy_planes(64, 64).astype(np.int64), {}, ["bad has dtype int64", "convert it to uint32"]),
        (noisy_planes(64, 64).astype(np.complex64), {}, ["bad has dtype complex64"]),
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_restored_is_refused_in_one_line(restore, tmp_path, pixels, options, words):
    failed(restore(image=tiff(tmp_path / "bad.tif", pixels, **options)), *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tif", "cells.tif"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tolerance", 0], ["tolerance is 0; give a number above 0"]),
        (["--tolerance", -1], ["tolerance is -1;"]),
        (["--tolerance", "nan"], ["tolerance is nan;"]),
        (["--confidence", 0], ["confidence is 0; give a number between 0 and 1"]),
        (["--confidence", 1], ["confidence is 1;"]),
        (["--confidence", 1.5], ["confidence is 1.5;"]),
        (["--confidence", 0.99], ["at least 99 groups", "got 12", "lower the confidence"]),
        (["--axes", "YX"], ["axes 'YX' name 2 axes, but cells has 3"]),
        (["--axes", "CYX"], ["3 channels", "choose one"]),
        (["--axes", "CYX", "--channel", 3], ["channels 0 to 2; channel 3 is not one of them"]),
        (["--channel", 0], ["cells has no channel axis", "leave it out"]),
        (["--device", "abacus"], ["no device 'abacus'; devices here: auto"]),
        (["--device", "cuda:99"], ["device cuda:99 does not work", "devices here: auto"]),
        (
            ["--restorer", "/nowhere.safetensors"],
            ["/nowhere.safetensors does not exist", "choose a file with a network"],
        ),
        (["--mask-model", "/nowhere.maskcal"], ["/nowhere.maskcal does not exist", "choose a .maskcal file"]),
    ],
)
def test_an_option_that_cannot_be_kept_is_refused_in_one_line(restore, tmp_path, options, words):
    failed(restore(*options), *words)
    assert not (tmp_path / "out").exists()


def test_a_missing_image_is_refused_by_name(restore, tmp_path):
    failed(restore(image=tmp_path / "gone.tif"), f"{tmp_path / 'gone.tif'} does not exist; choose an image file")


@pytest.mark.parametrize("option", ["--restorer", "--mask-model"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [(lambda content: content[: len(content) // 2], "truncated"), (lambda content: b"", "truncated"),
     (pickle.dumps, "")],
)  # fmt: skip
def test_a_damaged_model_is_refused_by_name(restore, trained, tmp_path, option, damage, words):
    source = trained.restorer_path if option == "--restorer" else trained.mask_path
    path = tmp_path / f"damaged{source.suffix}"
    path.write_bytes(damage(source.read_bytes()))
    # A restorer may be a checkpoint, so a pickle is tried.
    of_pickle = "no checkpoint of torch" if option == "--restorer" else "can run code, and is not opened"
    failed(restore(option, path), str(path), words or of_pickle)


def test_a_pair_that_does_not_belong_together_is_refused(restore, tmp_path):
    other = random_restorer(tmp_path, seed=4)
    failed(restore("--restorer", other), "random mask 0 was calibrated for another restorer than random restorer 4")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_results_are_never_written_over_anything(restore, tmp_path, kind):
    out = tmp_path / "out"
    mine = out / "restored.tif" if kind == "folder" else out
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    failed(restore(), f"output folder {out} exists; nothing was changed: choose another name")
    assert mine.read_text() == "mine"
    assert len(list(out.parent.iterdir())) == 2


def test_a_place_that_cannot_be_written_is_refused(restore, tmp_path, stack):
    failed(restore(out=stack / "out"), f"output folder {stack / 'out'} cannot be made", "choose another place")
    if os.geteuid() == 0:  # nobody else may make a folder there, and root may not either
        failed(restore(out="/proc/maskcal/out"), "output folder /proc/maskcal/out cannot be made")


def test_an_image_that_cannot_be_read_to_its_end_is_refused_by_its_plane(restore, tmp_path):
    path = tmp_path / "damaged.zarr"
    array = zarr.create_array(path, shape=(2, 64, 64), chunks=(1, 64, 64), dtype="uint16")
    array[...] = noisy_planes(2, 64, 64)
    (path / "c" / "1" / "0" / "0").write_bytes(b"damaged")
    failed(restore("--axes", "ZYX", image=path), "damaged, plane Z=1 cannot be read")
    assert not (tmp_path / "out").exists()


def at_the_shell(trained: Trained, image: Path, out: Path) -> list[str]:
    models = ["--restorer", str(trained.restorer_path), "--mask-model", str(trained.mask_path)]
    return [sys.executable, "-m", "napari_maskcal", "run", str(image), "--out", str(out), *models, "--device", "cpu"]


def test_the_module_is_the_command(trained, stack, tmp_path):
    command = at_the_shell(trained, stack, tmp_path / "out")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "restored.tif").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603
    failed(Ended(again.returncode, again.stdout, again.stderr), "exists; nothing was changed")


@can_mount
def test_a_full_disk_is_told_in_one_line_and_nothing_stays_on_it(trained, stack, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = " ".join(at_the_shell(trained, stack, disk / "out"))
    mount = f"mount -t tmpfs -o size=16k none {disk} || exit 77"
    script = f"{mount}; {command}; code=$?; find {disk} -mindepth 1; exit $code"
    shell = ["unshare", "--mount", "sh", "-c", script]  # the mount is gone with the process
    done = subprocess.run(shell, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603
    assert done.returncode != 77, done.stderr
    failed(Ended(done.returncode, done.stdout, done.stderr), f"output folder {disk / 'out'}", "No space left on device")


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["run", "x.tif"], ["run", "x.tif", "--out"], ["run", "x.tif", "--out", "o", "--tolerance", "much"],
     ["run", "x.tif", "--out", "o", "--frobnicate"], ["restore", "x.tif"], ["info", "a", "b"], ["demo", "x"]],
)  # fmt: skip
def test_wrong_use_ends_with_code_two_and_what_is_wrong(maskcal, arguments):
    ended = maskcal(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "Error: " in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["demo", "run", "info"]),
        (["run", "-h"], ["--tolerance", "--confidence", "--axes", "--channel", "--mask-model", "--device", "--json"]),
        (["demo", "--help"], ["--out", "--tolerance"]),
        (["info", "--help"], ["--json"]),
        (["--version"], [__version__]),
    ],
)
def test_help_and_version_are_no_failures(maskcal, arguments, words):
    ended = maskcal(*arguments)
    assert (ended.code, ended.err) == (0, "")
    for word in words:
        assert word in ended.out


def test_info_tells_the_promise_and_what_it_rests_on(maskcal, trained):
    ended = maskcal("info", trained.mask_path)
    assert (ended.code, ended.err) == (0, "")
    certificate = trained.mask_model.certificate
    for words in ("random mask 0", certificate.sentence, certificate.limits, "12 fields of 12 specimens", "not said"):
        assert words in ended.out


def test_info_as_json_is_the_description(maskcal, trained):
    content = json.loads(maskcal("info", trained.mask_path, "--json").out)
    assert content["card"]["name"] == "random mask 0"
    assert content["certificate"]["threshold"] == trained.mask_model.certificate.threshold
    assert len(content["certificate"]["fields"]) == 12


def test_info_on_a_restorer_says_how_it_is_used_and_verifies_it(maskcal, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = as_torchscript(small_unet(), tmp_path / "mine.pt")
    failed(maskcal("info", path), "can run code", f"maskcal info --trust {path}")
    told = maskcal("info", path, "--trust", "--verify").out
    assert "Format: TorchScript" in told
    assert "Looks at: 24 pixels to each side; planes and tiles in steps of 4 pixels" in told
    assert "a trial run agrees with its card" in told
    content = json.loads(maskcal("info", path, "--json").out)
    assert content["card"]["halo_px"] == 24
    card = tmp_path / "mine.pt.maskcal.json"
    card.write_text(card.read_text().replace('"halo_px": 24', '"halo_px": 8'))
    failed(maskcal("info", path, "--verify"), "a trial run reached farther than its card says")


def test_info_on_what_is_no_bundle_fails_in_one_line(maskcal, stack):
    failed(maskcal("info", stack), "cells.tif is no network that can be read here", "ONNX: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--tolerance", 0], "tolerance is 0;"), (["--tolerance", -1], "is -1;"), (["--confidence", 1], "is 1;")],
)
def test_the_demo_refuses_a_wrong_promise_before_it_opens_anything(maskcal, options, words):
    failed(maskcal("demo", *options), words)


def test_without_a_display_the_demo_refuses_an_existing_folder_before_it_starts_one(maskcal, monkeypatch, tmp_path):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("a virtual screen was started"))
    monkeypatch.setattr(sys, "platform", "linux")
    failed(maskcal("demo", "--out", tmp_path), f"output folder {tmp_path} exists; nothing was changed")
    monkeypatch.setenv("PATH", str(tmp_path))
    failed(maskcal("demo", "--out", tmp_path / "new"), "no display", "apt-get install xvfb")


def test_the_demo_files_are_the_default_of_the_command_line(maskcal):
    ended = maskcal("info")
    assert ended.code == 0
    assert load_mask_model().certificate.sentence in ended.out
    assert load_mask_model().certificate.fingerprint.restorer_sha256 == load_restorer().sha256
