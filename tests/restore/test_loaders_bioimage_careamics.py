"""Packages as CAREamics exports them, written by hand; its own are in `test_loaders_weights`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("bioimageio.core")

from bioimage_packages import folder, npy, rdf, sha256, state_bytes, zipped
from napari_maskcal.restore.loaders import bioimage
from napari_maskcal.restore.loaders.bioimage import LOADER
from napari_maskcal.restore.loaders.bioimage_careamics import is_exported
from napari_maskcal.restore.loaders.registry import describe
from napari_maskcal.restore.unet import UNet
from small_models import lively

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # bioimageio.spec keeps its zips open
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]

SIZES = {"z": 16, "y": 64, "x": 96}  # of the example, all different
MEAN, STD = 60.0, 20.0
MEAN_STD = {"name": "mean_std", "per_channel": True, "skip_target": False, "input_means": [MEAN], "input_stds": [STD],
            "target_means": None, "target_stds": None}  # fmt: skip
CARE = MEAN_STD | {"target_means": [250.0], "target_stds": [55.0]}


class StandIn(nn.Module):
    """For the U-Net of CAREamics, with its arguments."""

    def __init__(self, *, conv_dims: int, depth: int, **_: Any) -> None:
        super().__init__()
        self.unet = UNet((4,) * (depth + 1), dims=conv_dims)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.unet(image)


def arguments(spatial: str = "yx", depth: int = 2) -> dict[str, Any]:
    return {"conv_dims": len(spatial), "num_classes": 1, "in_channels": 1, "depth": depth, "num_channels_init": 8}


def network(spatial: str = "yx", depth: int = 2) -> nn.Module:
    return lively(StandIn(**arguments(spatial, depth))).eval()


def step(mean: float, std: float) -> list[dict[str, Any]]:
    kind = {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
    return [kind, {"id": "fixed_zero_mean_unit_variance", "kwargs": {"mean": [mean], "std": [std], "axis": "channel"}}]


def exported(
    module: nn.Module,
    normalization: Any = None,
    *,
    spatial: str = "yx",
    depth: int = 2,
    change: Any = None,
    **data: Any,
) -> dict[str, bytes]:
    """What CAREamics 0.3.5 writes, as far as it is read."""
    data = data or {"axes": spatial.upper(), "normalization": normalization or MEAN_STD}
    weights = state_bytes(module)
    configuration = json.dumps({"algorithm_config": {"algorithm": "n2v"}, "data_config": data}).encode()
    library = {"import_from": "careamics.models.unet", "callable": "UNet", "kwargs": arguments(spatial, depth)}
    entry = {"source": "weights.pth", "sha256": sha256(weights), "pytorch_version": "2.6", "architecture": library}
    example = npy(np.zeros((1, 1, *(SIZES[axis] for axis in spatial)), np.float32))
    axes: list[dict[str, Any]] = [{"type": "batch"}, {"type": "channel", "channel_names": ["channel"]}]
    axes += [{"type": "space", "id": axis, "size": SIZES[axis]} for axis in spatial]
    before, behind = step(MEAN, STD), step(-MEAN / STD, 1 / STD)
    described = rdf({"pytorch_state_dict": entry}) | {
        "inputs": [{"id": "input", "axes": axes, "test_tensor": {"source": "in.npy"}, "preprocessing": before}],
        "outputs": [{"id": "given", "axes": axes, "test_tensor": {"source": "out.npy"}, "postprocessing": behind}],
        "attachments": [{"source": "careamics.yaml", "sha256": sha256(configuration)}],
    }  # fmt: skip
    described = json.loads(json.dumps(described))
    if change is not None:
        change(described)
    files = {"weights.pth": weights, "careamics.yaml": configuration, "in.npy": example, "out.npy": example}
    return files | {"rdf.yaml": json.dumps(described).encode()}


@pytest.fixture
def stand_in(monkeypatch) -> None:
    def found(module: str, name: str, *, where: Path) -> Any:
        assert (module, name) == ("careamics.models.unet", "UNet")
        return StandIn

    monkeypatch.setattr(bioimage, "from_careamics", found)


def architecture(described: dict[str, Any]) -> dict[str, Any]:
    return described["weights"]["pytorch_state_dict"]["architecture"]


def with_sigmoid(described: dict[str, Any]) -> None:
    described["outputs"][0]["postprocessing"].append({"id": "sigmoid"})


def with_other_size(described: dict[str, Any]) -> None:
    described["outputs"][0]["axes"][3]["size"] = 48


NOT_ITS_EXPORT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another library": lambda described: architecture(described).update(import_from="others.unet"),
    "another network": lambda described: architecture(described).update(callable="LVAE"),
    "depth of a text": lambda described: architecture(described)["kwargs"].update(depth="2"),
    "too deep": lambda described: architecture(described)["kwargs"].update(depth=1000),
    "another step": with_sigmoid,
    "no configuration": lambda described: described.pop("attachments"),
}


@pytest.mark.parametrize("depth", [1, 3])
def test_all_sizes_are_taken_though_only_that_of_the_example_is_written(depth, tmp_path):
    files = exported(network(depth=depth), depth=depth)
    said = LOADER.said(zipped(tmp_path / "a.zip", files))
    assert (said.axes, said.stride_px, said.min_size_px, said.scale_factor) == ("YX", 2**depth, 2**depth, 1)
    takes = said.normalisation
    assert (takes.kind, takes.offset, takes.span) == ("fixed", pytest.approx(MEAN), pytest.approx(STD + 1e-6))


@pytest.mark.parametrize("case", NOT_ITS_EXPORT)
def test_nothing_is_added_to_other_packages(case, tmp_path):
    path = zipped(tmp_path / "a.zip", exported(network(), change=NOT_ITS_EXPORT[case]))
    with pytest.raises(ValueError, match="takes images of 64 pixels along y only, so it cannot be tiled"):
        LOADER.said(path)


def test_an_answer_of_another_size_than_its_input_stays_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", exported(network(), change=with_other_size))
    with pytest.raises(ValueError, match="always gives 48 pixels along x"):
        LOADER.said(path)


@pytest.mark.parametrize("axes", [None, "bcyx", ["y"], [{"id": ["y"]}]])
def test_axes_that_are_none_are_left_to_the_check_of_the_description(axes, tmp_path):
    files = exported(network(), change=lambda described: described["inputs"][0].update(axes=axes))
    with pytest.raises(ValueError, match="has a description that is not valid"):
        LOADER.said(zipped(tmp_path / "a.zip", files))


@pytest.mark.parametrize("nothing", [{}, {"inputs": 1}, {"inputs": [1], "outputs": [1]}, {"inputs": [], "outputs": []}])
def test_a_description_that_is_none_is_no_export(nothing):
    assert not is_exported(nothing)


def none_behind(described: dict[str, Any]) -> None:
    described["outputs"][0]["postprocessing"] = []


def targets_behind(described: dict[str, Any]) -> None:
    described["outputs"][0]["postprocessing"] = step(-250 / 55, 1 / 55)


@pytest.mark.parametrize(
    ("data", "change", "expected"),
    [
        ({"normalization": MEAN_STD}, None, (MEAN, STD)),
        ({"normalization": CARE}, None, (250, 55)),
        ({"normalization": CARE}, none_behind, (250, 55)),
        ({"normalization": CARE}, targets_behind, (250, 55)),
        ({"normalization": CARE | {"skip_target": True}}, None, (0, 1)),
        ({"image_means": [MEAN], "image_stds": [STD], "target_means": [7], "target_stds": [2]}, None, (7, 2)),
    ],
)
@pytest.mark.parametrize("form", ["zip", "folder"])
def test_the_answer_is_in_the_range_that_the_network_was_trained_for(data, change, expected, form, stand_in, tmp_path):
    files = exported(module := network(), change=change, **data)
    path = zipped(tmp_path / "a.zip", files) if form == "zip" else folder(tmp_path / "a", files)
    takes = LOADER.said(path).normalisation
    image = torch.rand(2, 1, 32, 40)
    with torch.inference_mode():
        found = LOADER.load(path)(image) * takes.span + takes.offset
        answer = module(image)
    assert answer.std() > 1e-4
    torch.testing.assert_close(found, answer * expected[1] + expected[0], rtol=1e-5, atol=1e-3)


def test_a_network_for_volumes_is_described(stand_in, tmp_path):
    path = zipped(tmp_path / "a.zip", exported(network("zyx", 1), spatial="zyx", depth=1))
    card = describe(path, LOADER, LOADER.load(path))
    assert (card.axes, card.stride_z, card.stride_px, card.min_size_z) == ("ZYX", 2, 2, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"normalization": MEAN_STD | {"input_means": [61.0]}},
            "by 60 and 20, but its careamics.yaml .* with 61 and 20",
        ),
        (
            {"normalization": MEAN_STD | {"input_stds": [21.0]}},
            "by 60 and 20, but its careamics.yaml .* with 60 and 21",
        ),
        ({"normalization": MEAN_STD | {"input_means": [1.0, 2.0]}}, "does not say how intensities were normalised"),
        ({"normalization": {"name": "log"}}, "does not say how intensities were normalised"),
        ({"axes": "YX"}, "does not say how intensities were normalised"),
        ({"normalization": CARE | {"target_stds": [float("nan")]}}, "were divided by nan"),
    ],
)
def test_ranges_that_are_not_known_are_refused(data, message, stand_in, tmp_path):
    path = zipped(tmp_path / "a.zip", exported(network(), **data))
    with pytest.raises(ValueError, match=message) as caught:
        LOADER.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data_config: {normalization: {name: none}}", "careamics.yaml has the SHA-256 .* but the description says"),
        (None, "does not hold careamics.yaml"),
        (b"x" * (5 * 2**20), "careamics.yaml has 5 MiB, more than the 4"),
    ],
)
def test_another_configuration_than_the_described_one_is_refused(content, message, stand_in, tmp_path):
    files = exported(network())
    del files["careamics.yaml"]
    path = folder(tmp_path / "a", files | ({} if content is None else {"careamics.yaml": content}))
    with pytest.raises(ValueError, match=message):
        LOADER.load(path)


def test_without_careamics_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "careamics", None)
    path = zipped(tmp_path / "a.zip", exported(network()))
    assert LOADER.said(path).stride_px == 4
    with pytest.raises(ImportError, match=r"need careamics, which is not installed: pip install .*\[careamics\]"):
        LOADER.load(path)
