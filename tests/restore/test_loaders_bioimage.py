from __future__ import annotations

import io
import json
import socket
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("bioimageio.core")

from bioimage_packages import (
    SIZE,
    SOURCE,
    Enlarging,
    files_of,
    folder,
    network,
    own_network,
    script_bytes,
    sha256,
    zipped,
)
from napari_maskcal.read.pixel_size import PixelSize
from napari_maskcal.restore.card import Normalisation
from napari_maskcal.restore.loaders.bioimage import LOADER
from napari_maskcal.restore.loaders.registry import describe
from small_models import lively, noisy_planes

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # bioimageio.spec keeps its zips open
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whatever is opened, nothing is fetched."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def changed(files: dict[str, bytes], change: Any) -> dict[str, bytes]:
    """The same package with a changed description."""
    described = json.loads(files["rdf.yaml"])
    change(described)
    return files | {"rdf.yaml": json.dumps(described).encode()}


def predicted(path: Path, plane: np.ndarray) -> np.ndarray:
    """What the reference implementation makes of a (channels, Y, X) image."""
    from bioimageio.core import predict
    from bioimageio.spec import ValidationContext, load_model_description

    LOADER.said(path)  # mends the library for newer versions of pydantic
    with ValidationContext(perform_io_checks=False, log_warnings=False):
        model = load_model_description(path, perform_io_checks=False)
        sample = predict(model=model, inputs={"raw": plane[None].astype(np.float32)})
    return np.asarray(sample.members["clean"].data)


def answered(path: Path, plane: np.ndarray) -> np.ndarray:
    """What this package makes of it, in the network's own units."""
    offset, span = LOADER.said(path).normalisation.measure(plane)
    image = torch.from_numpy((plane.astype(np.float64) - offset) / span).float()[None]
    with torch.inference_mode():
        return LOADER.load(path)(image).numpy()


def refused(path: Path, match: str) -> None:
    """It is refused in one line, before or when its network is loaded."""

    def opened() -> None:
        if not LOADER.refusal(path):
            LOADER.said(path)
            LOADER.load(path)

    with pytest.raises(ValueError, match=match) as caught:
        opened()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


KINDS = ("torchscript", "onnx", "pytorch_state_dict")


def of_kind(kind: str) -> nn.Module:
    return own_network() if kind == "pytorch_state_dict" else network()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["zip", "folder", "rdf"])
def test_a_package_is_found_by_its_content_and_gives_what_its_network_gives(tmp_path, kind, form):
    module = of_kind(kind)
    files = files_of(module, kind)
    path = zipped(tmp_path / "some.file", files) if form == "zip" else folder(tmp_path / "some.file", files)
    path = path / "rdf.yaml" if form == "rdf" else path
    assert LOADER.refusal(path) == ""
    image = torch.rand(2, 1, 32, 48)
    with torch.inference_mode():
        torch.testing.assert_close(LOADER.load(path)(image), module(image), rtol=1e-4, atol=1e-5)


def test_other_files_are_not_taken_for_packages(tmp_path):
    (tmp_path / "text").write_text("type: dataset\nformat_version: 0.3.0\n")
    folder(tmp_path / "empty", {"notes.txt": b"rdf.yaml"})
    zipped(tmp_path / "other.zip", {"data.pkl": b"rdf.yaml"})
    (tmp_path / "script.pt").write_bytes(script_bytes(network()))
    for name in ("text", "empty", "other.zip", "script.pt"):
        assert LOADER.refusal(tmp_path / name)


def test_what_it_says_of_itself_is_taken_over(tmp_path):
    pre = [{"id": "scale_range", "kwargs": {"axes": ["y", "x"], "min_percentile": 2, "max_percentile": 99.5}}]
    files = files_of(network(), pre=pre)

    def with_halo(described: dict[str, Any]) -> None:
        for axis in described["outputs"][0]["axes"][2:]:
            axis["halo"] = 6

    said = LOADER.said(zipped(tmp_path / "a.zip", changed(files, with_halo)))
    assert said.name == "Small denoiser"
    assert said.licence == "CC-BY-4.0"
    assert said.citation == "Author, A small network 10.1234/abc"
    assert (said.channels, said.scale_factor, said.stride_px, said.min_size_px, said.halo_px) == (1, 1, 4, 16, 6)
    assert said.normalisation == Normalisation(kind="percentile", low_percentile=2, high_percentile=99.5)
    assert LOADER.said(zipped(tmp_path / "b.zip", files)).halo_px is None


def test_a_package_is_described_by_what_it_says_and_a_trial(tmp_path):
    path = zipped(tmp_path / "a.zip", files_of(Enlarging(), factor=2, pre=[{"id": "zero_mean_unit_variance"}]))
    card = describe(path, LOADER, LOADER.load(path))
    assert (card.scale_factor, card.channels, card.network) == (2, 1, {"kind": "bioimageio", "channels": 1})
    assert card.takes == Normalisation(kind="mean_std")
    assert card.stride_px == 4
    assert card.halo_px is not None
    assert card.halo_px >= 4


def fixed(mean: float, std: float) -> dict[str, Any]:
    return {"id": "fixed_zero_mean_unit_variance", "kwargs": {"mean": mean, "std": std}}


def linear(gain: float, offset: float) -> dict[str, Any]:
    return {"id": "scale_linear", "kwargs": {"gain": gain, "offset": offset}}


CLIP = {"id": "clip", "kwargs": {"min": 0.1, "max": 0.8}}
CLIP_RAW = {"id": "clip", "kwargs": {"min": 30.0, "max": 60.0}}
ZMUV = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}
RANGE = {"id": "scale_range", "kwargs": {"axes": ["y", "x"]}}
FLOAT = {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("pre", "post", "units"),
    [
        ([], [], "raw"),
        ([FLOAT, ZMUV, FLOAT], [], "own"),
        ([RANGE, CLIP], [], "own"),
        ([RANGE], [CLIP, FLOAT], "own"),
        ([RANGE], [{"id": "sigmoid"}, linear(0.5, 0.2)], "own"),
        ([RANGE, linear(2, -1)], [linear(0.5, 0.5)], "own"),
        ([fixed(40, 25)], [], "own"),
        ([fixed(40, 25), CLIP], [linear(25, 40)], "raw"),
        (
            [CLIP_RAW, linear(1 / 255, 0)],
            [linear(255, 0), {"id": "clip", "kwargs": {"min": -400.0, "max": 400.0}}],
            "raw",
        ),
    ],
)
def test_its_answer_is_that_of_the_reference_implementation(tmp_path, kind, pre, post, units):
    path = zipped(tmp_path / "a.zip", files_of(of_kind(kind), kind, pre=pre, post=post))
    plane = noisy_planes(1, SIZE, SIZE)
    expected, own = predicted(path, plane), answered(path, plane)
    if units == "raw":  # the package undoes its own scale, and here that is done afterwards
        offset, span = LOADER.said(path).normalisation.measure(plane)
        own = own * span + offset
    assert expected.std() > 1e-4
    np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)


def test_a_linear_step_before_and_none_behind_is_undone(tmp_path):
    plain = zipped(tmp_path / "a.zip", files_of(module := network(), pre=[RANGE]))
    scaled = zipped(tmp_path / "b.zip", files_of(module, pre=[RANGE, linear(2, -1)]))
    plane = noisy_planes(1, SIZE, SIZE)
    own = (predicted(scaled, plane) + 1) / 2
    assert np.abs(own - predicted(plain, plane)).max() > 1e-3
    np.testing.assert_allclose(answered(scaled, plane), own, atol=1e-5)


def test_a_restored_plane_is_the_prediction_in_the_planes_own_units(tmp_path, monkeypatch):
    from napari_maskcal.restore.loaders import description, registry, trust

    monkeypatch.setattr(trust, "_place", lambda: tmp_path / "trusted.json")
    monkeypatch.setattr(description, "_own_place", lambda sha256: tmp_path / sha256)
    monkeypatch.setattr(registry, "loaders", lambda: [LOADER])
    path = zipped(tmp_path / "a.zip", files_of(network(), pre=[ZMUV]))
    with pytest.raises(registry.NotTrustedError, match=r"bioimage\.io file, which can run code"):
        registry.open_restorer(path)
    trust.trust(registry.content_sha256(path), name="a")
    plane = noisy_planes(SIZE, SIZE)
    expected = predicted(path, plane[None])[0, 0] * plane.std() + plane.mean()
    np.testing.assert_allclose(registry.open_restorer(path)(plane), expected, rtol=1e-4, atol=1e-3)


def test_networks_for_colours_and_of_one_image_at_a_time_are_taken(tmp_path):
    files = files_of(module := network(3), channels=3)

    def single(described: dict[str, Any]) -> None:
        described["inputs"][0]["axes"][0]["size"] = 1

    path = zipped(tmp_path / "a.zip", changed(files, single))
    image = torch.rand(2, 3, 16, 16)
    loaded = LOADER.load(path)
    assert not loaded.batched
    with torch.inference_mode():
        torch.testing.assert_close(loaded(image), module(image))
    assert LOADER.said(path).channels == 3


def test_version_04_is_understood(tmp_path):
    files = files_of(module := network())
    entry = json.loads(files["rdf.yaml"])["weights"]
    shape = {"min": [1, 1, 16, 16], "step": [0, 0, 4, 4]}
    implicit = {"reference_tensor": "raw", "scale": [1, 1, 1, 1], "offset": [0, 0, 0, 0]}
    range_ = {"name": "scale_range", "kwargs": {"mode": "per_sample", "axes": "yx", "min_percentile": 1.0}}
    old = {
        "format_version": "0.4.10", "type": "model", "name": "older", "description": "old", "license": "MIT",
        "authors": [{"name": "A"}], "cite": [{"text": "t", "doi": "10.1234/abc"}], "documentation": "README.md",
        "covers": [], "timestamp": "2022-01-01T00:00:00", "test_inputs": ["in.npy"], "test_outputs": ["out.npy"],
        "inputs": [{"name": "raw", "axes": "bcyx", "data_type": "uint16", "shape": shape, "preprocessing": [range_]}],
        "outputs": [{"name": "clean", "axes": "bcyx", "data_type": "float32", "shape": implicit, "halo": [0, 0, 5, 5]}],
        "weights": entry,
    }  # fmt: skip
    path = zipped(tmp_path / "a.zip", files | {"rdf.yaml": json.dumps(old).encode(), "README.md": b"# x"})
    said = LOADER.said(path)
    assert (said.halo_px, said.min_size_px, said.scale_factor) == (5, 16, 1)
    assert said.normalisation == Normalisation(kind="percentile", low_percentile=1, high_percentile=100)
    image = torch.rand(1, 1, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(LOADER.load(path)(image), module(image))


def axes(*names: str) -> list[dict[str, Any]]:
    size = {"min": 16, "step": 4}
    kinds = {"batch": {"type": "batch"}, "channel": {"type": "channel", "channel_names": ["c"]}}
    return [kinds.get(name, {"type": "space", "id": name, "size": size}) for name in names]


def second(described: dict[str, Any], side: str) -> None:
    described[side].append(described[side][0] | {"id": "other"})


def only(described: dict[str, Any], **weights: Any) -> None:
    described["weights"] = weights


def set_pre(*steps: dict[str, Any]) -> Any:
    return lambda d: d["inputs"][0].update(preprocessing=list(steps))


def set_post(*steps: dict[str, Any]) -> Any:
    return lambda d: d["outputs"][0].update(postprocessing=list(steps))


REFERENCE = {"id": "scale_mean_variance", "kwargs": {"reference_tensor": "raw"}}
REFUSED: dict[str, tuple[Any, str]] = {
    "planes of volumes": (
        lambda d: d["inputs"][0].update(axes=axes("batch", "channel", "z", "y", "x")),
        r"gives images with the axes batch, channel, y, x; only planes and volumes can be used, .* in and out alike",
    ),
    "channels last": (
        lambda d: d["inputs"][0].update(axes=axes("batch", "y", "x", "channel")), "axes batch, y, x, channel",
    ),
    "transposed": (lambda d: d["inputs"][0].update(axes=axes("batch", "channel", "x", "y")), "images along x, y"),
    "two inputs": (lambda d: second(d, "inputs"), r"takes 2 images \(raw, other\)"),
    "two outputs": (lambda d: second(d, "outputs"), r"gives 2 images \(clean, other\)"),
    "channels": (
        lambda d: d["outputs"][0]["axes"][1].update(channel_names=["a", "b"]), "makes 2 channels of 1",
    ),
    "one size": (lambda d: d["inputs"][0]["axes"][2].update(size=48), "images of 48 pixels along y only"),
    "one answer": (lambda d: d["outputs"][0]["axes"][2].update(size=48), "always gives 48 pixels along y"),
    "cropped": (
        lambda d: d["outputs"][0]["axes"][3]["size"].update(offset=-8), r"gives -8 pixels along x",
    ),
    "smaller": (lambda d: [a.update(scale=2) for a in d["outputs"][0]["axes"][2:]], r"changes the size by 0\.5"),
    "square only": (
        lambda d: (
            d["inputs"][0]["axes"][3].update(size={"tensor_id": "raw", "axis_id": "y"}),
            d["outputs"][0]["axes"][3]["size"].update(axis_id="y"),
        ),
        "x depends on another",
    ),
    "another model": (lambda d: d["inputs"][0].update(output_of="affable-shark"), "takes what another model gives"),
    "keras": (
        lambda d: only(d, tensorflow_js={"source": "w.zip", "tensorflow_version": "2.0"}),
        "weights of tensorflow_js only; those of torchscript, onnx",
    ),
    "remote": (
        lambda d: d["weights"]["torchscript"].update(source="https://example.org/w.pt"),
        r"keeps its torchscript at https://example.org/w.pt; nothing is fetched",
    ),
    "absolute": (lambda d: d["weights"]["torchscript"].update(source="/etc/hostname"), "outside of the package"),
    "outside": (lambda d: d["weights"]["torchscript"].update(source="../w.pt"), "outside of the package"),
    "missing": (lambda d: d["weights"]["torchscript"].update(source="w.pt"), r"does not hold w\.pt"),
    "wrong hash": (lambda d: d["weights"]["torchscript"].update(sha256="0" * 64), "but the description says 000000"),
    "dataset": (lambda d: d.update(type="dataset"), "describes a dataset and no model"),
    "not valid": (lambda d: d.pop("outputs"), "has a description that is not valid: .*outputs"),
    "rows": (
        set_pre({"id": "scale_range", "kwargs": {"axes": ["x"]}}), "over the axes x and not over whole planes",
    ),
    "batch": (
        set_pre({"id": "zero_mean_unit_variance", "kwargs": {"axes": ["batch", "y", "x"]}}), "over many images",
    ),
    "eps": (set_pre({"id": "zero_mean_unit_variance", "kwargs": {"eps": 0.05}}), r"adds eps = 0\.05"),
    "clip first": (set_pre(CLIP, RANGE), "changes intensities before it measures them by scale_range"),
    "scaled first": (set_pre(linear(3, 7), ZMUV), "before it measures them by zero_mean_unit_variance"),
    "measured twice": (set_pre(RANGE, ZMUV), "before it measures them by zero_mean_unit_variance"),
    "percentile clip": (
        set_pre({"id": "clip", "kwargs": {"min_percentile": 1, "max_percentile": 99}}), "clips at percentiles",
    ),
    "binary": (set_pre({"id": "binarize", "kwargs": {"threshold": 0.5}}), "prepares its input by binarize"),
    "integers": (set_pre(FLOAT, {"id": "ensure_dtype", "kwargs": {"dtype": "uint8"}}), "turns its input into uint8"),
    "dark": (set_pre(linear(-1, 0)), "multiplies intensities by -1"),
    "labels": (set_post({"id": "binarize", "kwargs": {"threshold": 0.5}}), "yes or no for each pixel and no restored"),
    "classes": (set_post({"id": "softmax"}), "ends with softmax, so it gives shares of classes"),
    "matched": (set_post(REFERENCE), "ends with scale_mean_variance, which depends on all of the answer"),
    "stretched": (set_post(RANGE), "ends with scale_range, which depends on all"),
    "other unit": (lambda d: (set_pre(linear(1 / 255, 0))(d), set_post(linear(65535, 0))(d)), "does not undo that"),
    "cast": (set_post({"id": "ensure_dtype", "kwargs": {"dtype": "uint8"}}), "turns its answer into uint8"),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> dict[str, bytes]:
    torch.manual_seed(0)
    return files_of(network())


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_words(tmp_path, plain, case):
    change, match = REFUSED[case]
    path = zipped(tmp_path / "a.zip", plain)
    assert LOADER.said(path).scale_factor == 1
    refused(zipped(tmp_path / "b.zip", changed(plain, change)), match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"type: model\nname: \xff\xfe\n", "is not UTF-8"),
        (b"type: [model\n", "is not valid YAML"),
        (b"- 1\n", "describes a list and no model"),
        (b"type: model\na: &a [1, *a]\n", "more than 100000 values"),
        (b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
            b"%s: &%s [*%s, *%s, *%s, *%s, *%s, *%s, *%s, *%s, *%s]\n" % (n, n, *[m] * 9)
            for m, n in zip(b"a b c d e f g".split(), b"b c d e f g h".split(), strict=True)
        ), "more than 100000 values"),
        (b"[" * 100_000, "is not valid YAML"),
        (b"a: " + b"x" * (5 * 2**20), "MiB, more than the 4"),
        (b"type: !!python/object/apply:os.system ['true']\n", "is not valid YAML|describes a"),
    ],
)  # fmt: skip
def test_a_hostile_description_is_refused(tmp_path, plain, content, match):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:  # stored, so that the size alone counts
        for name, part in (plain | {"rdf.yaml": content}).items():
            archive.writestr(name, part)
    refused(path, match)


def test_hostile_zips_are_refused_before_anything_is_read(tmp_path, plain):
    refused(zipped(tmp_path / "slip.zip", plain | {"../evil.py": b"x"}), "would be written outside")
    refused(zipped(tmp_path / "bomb.zip", plain | {"zeros.bin": bytes(2**24)}), "claims to grow")
    whole = zipped(tmp_path / "whole.zip", plain).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.zip", "truncated or damaged")
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(zipped(tmp_path / "link.zip", plain), "a") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path / "link.zip", "is a link")
    assert {p.name for p in tmp_path.iterdir()} == {"slip.zip", "bomb.zip", "whole.zip", "cut.zip", "link.zip"}


def test_a_bomb_inside_of_the_weights_is_refused(tmp_path, plain):
    inner = zipped(tmp_path / "inner.zip", {"a/code/x.py": bytes(2**24), "a/constants.pkl": b""}).read_bytes()
    files = changed(plain | {"weights.bin": inner}, lambda d: d["weights"]["torchscript"].update(sha256=sha256(inner)))
    with zipfile.ZipFile(path := tmp_path / "a.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    refused(path, "weights.bin: its entry 'a/code/x.py' claims to grow")


def test_weights_that_are_no_network_are_refused(tmp_path, plain):
    other = np.random.default_rng(0).bytes(1000)
    for kind, extra in (("torchscript", {"pytorch_version": "2.6"}), ("onnx", {"opset_version": 17})):
        entry = {"source": "weights.bin", "sha256": sha256(other), **extra}
        files = changed(plain | {"weights.bin": other}, lambda d, kind=kind, entry=entry: only(d, **{kind: entry}))
        refused(zipped(tmp_path / f"{kind}.zip", files), r"weights\.bin cannot be read as")


def test_a_link_out_of_a_folder_is_refused(tmp_path, plain):
    path = folder(tmp_path / "package", plain)
    assert LOADER.load(path) is not None
    (path / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (path / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    refused(path, r"weights\.bin is a link")


def test_a_lone_description_has_to_say_the_hashes_of_what_it_names(tmp_path, plain):
    files = changed(plain, lambda d: d["weights"]["torchscript"].pop("sha256"))
    path = folder(tmp_path / "package", files)
    assert LOADER.load(path) is not None
    with pytest.raises(ValueError, match=r"does not say which hash its weights.bin has.*open the folder"):
        LOADER.load(path / "rdf.yaml")


def test_weights_that_are_in_the_package_are_taken_where_others_are_remote(tmp_path):
    files = files_of(network(), "onnx")
    remote = {"source": "https://example.org/w.pt", "sha256": "0" * 64, "pytorch_version": "2.6", "parent": "onnx"}
    path = zipped(tmp_path / "a.zip", changed(files, lambda d: d["weights"].update(torchscript=remote)))
    assert type(LOADER.load(path).network).__name__ == "OnnxNetwork"


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (b"import not_installed_anywhere\n", "net.py cannot be imported: No module named 'not_installed_anywhere'"),
        (b"Other = 1\n", "cannot be imported: .*has no attribute 'Net'"),
        (b"def Net(width):\n    return width\n", "its architecture gives int and no network"),
        (SOURCE.replace("width, 1, 1", "width, 2, 1").encode(), "its weights cannot be read: .*size mismatch"),
        (b"\xff\xfe", "cannot be imported"),
    ],
)
def test_a_broken_architecture_is_refused(tmp_path, source, match):
    files = files_of(own_network(), "pytorch_state_dict") | {"net.py": source}

    def rehashed(described: dict[str, Any]) -> None:
        described["weights"]["pytorch_state_dict"]["architecture"]["sha256"] = sha256(source)

    refused(zipped(tmp_path / "a.zip", changed(files, rehashed)), match)


def test_changed_code_is_not_run(tmp_path):
    trap = tmp_path / "sprung"
    source = SOURCE.encode() + f"\nopen({str(trap)!r}, 'w')\n".encode()
    files = files_of(own_network(), "pytorch_state_dict") | {"net.py": source}
    refused(zipped(tmp_path / "a.zip", files), r"net\.py has the SHA-256")
    assert not trap.exists()


def test_a_pickle_among_the_weights_is_not_run(tmp_path):
    from test_loaders import Trap

    torch.save({"first.weight": Trap(tmp_path / "sprung")}, buffer := io.BytesIO())
    files = files_of(own_network(), "pytorch_state_dict") | {"weights.bin": buffer.getvalue()}

    def rehashed(described: dict[str, Any]) -> None:
        described["weights"]["pytorch_state_dict"]["sha256"] = sha256(buffer.getvalue())

    refused(zipped(tmp_path / "a.zip", changed(files, rehashed)), "holds more than weights")
    assert not (tmp_path / "sprung").exists()


def mask_models() -> dict[str, Any]:
    """A mask model of each architecture that a package can hold, without and with its own ways with sizes."""
    from napari_maskcal.bundle import mask_sha256, mask_weights
    from napari_maskcal.mask.composed import Composed, budget_of, mean_of, of_network, of_residual
    from napari_maskcal.mask.network import MaskNetwork
    from napari_maskcal.models import MaskModel
    from napari_maskcal.restore.card import ModelCard

    def made(part: Composed, **card: Any) -> MaskModel:
        module: Any = part.network()
        stride, halo = (getattr(module, name, 1) for name in ("stride_px", "halo_px"))
        card = {"normalisation": Normalisation(low_percentile=2, high_percentile=99)} | card
        said = ModelCard(
            name="mask: 1/2", role="mask", network=part.spec, stride_px=stride, halo_px=halo, min_size_px=stride, **card
        )
        return MaskModel(card=said, network=module, sha256=mask_sha256(said, mask_weights(module)))

    torch.manual_seed(0)
    one, other = (lively(MaskNetwork((4, 8, 8), head=head)) for head in ("exponential", "quantile"))
    return {
        "network": made(of_network(one), licence="MIT", citation="somebody"),
        "quantile": made(of_network(other)),
        "residual": made(of_residual(window_px=5)),
        "ensemble": made(mean_of([of_network(one), of_network(other)])),
        "budget": made(budget_of(of_network(one), power=2)),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["network", "quantile", "residual", "ensemble", "budget"])
def test_an_exported_mask_network_passes_the_test_of_the_reference_implementation(tmp_path, kind):
    from bioimageio.core import predict, test_model
    from bioimageio.spec import load_model_description

    from napari_maskcal.bioimage_export import export_mask

    mask_model = mask_models()[kind]
    path = tmp_path / "mask.zip"
    export_mask(mask_model, path, authors=["A. Author"], licence="CC-BY-4.0")
    summary = test_model(path)
    assert summary.status == "passed", summary.format()
    degraded = noisy_planes(96, 64).astype(np.float32)
    restored = degraded + np.random.default_rng(1).normal(0, 5, degraded.shape).astype(np.float32)
    model = load_model_description(path, perform_io_checks=False)
    sample = predict(model=model, inputs={"degraded": degraded[None, None], "restored": restored[None, None]})
    low, high = np.percentile(degraded, [2, 99])
    pair = [torch.from_numpy((image - low) / (high - low)).float()[None, None] for image in (degraded, restored)]
    with torch.inference_mode():
        expected = mask_model.network(*pair).numpy()
    assert expected.std() > 1e-4
    np.testing.assert_allclose(np.asarray(sample.members["uncertainty"].data), expected, rtol=1e-5, atol=1e-5)
    with zipfile.ZipFile(path) as archive:
        told = archive.read("rdf.yaml").decode() + archive.read("README.md").decode()
    assert "It was not calibrated" in told
    assert f"halo_px: {mask_model.card.halo_px}" in told
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore")
def test_where_torchscript_does_not_do_the_weights_go_with_this_packages_own_architecture(tmp_path, monkeypatch):
    from bioimageio.core import test_model

    from napari_maskcal import bioimage_export

    monkeypatch.setattr(bioimage_export, "_traced", lambda *_, **__: None)
    bioimage_export.export_mask(mask_models()["ensemble"], tmp_path / "mask.zip", authors=["A. Author"])
    summary = test_model(tmp_path / "mask.zip")
    assert summary.status == "passed", summary.format()
    with zipfile.ZipFile(tmp_path / "mask.zip") as archive:
        assert "pytorch_state_dict" in archive.read("rdf.yaml").decode()


def test_a_trace_that_holds_only_for_its_own_size_is_noticed():
    from napari_maskcal import bioimage_export

    class Fixed(nn.Module):
        def forward(self, degraded: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
            return (degraded - restored).abs() * len(range(restored.shape[-1]))

    mask_model = mask_models()["residual"]
    assert bioimage_export._traced(mask_model, mask_model.network, batched=True) is not None
    assert bioimage_export._traced(mask_model, Fixed(), batched=True) is None


@pytest.mark.filterwarnings("ignore")
def test_a_certificate_goes_with_an_exported_network_as_information_only(trained, tmp_path):
    from napari_maskcal.bioimage_export import export_mask

    export_mask(trained.mask_model, tmp_path / "mask.zip", authors=["A/B"])
    with zipfile.ZipFile(tmp_path / "mask.zip") as archive:
        readme, described = (archive.read(name).decode() for name in ("README.md", "rdf.yaml"))
    for told in (f"the threshold {trained.mask_model.certificate.threshold:.6g}", "holds only inside napari-maskcal"):
        assert told in readme
        assert told in " ".join(described.split())
    assert "A B" in described
    assert "&id" not in described


def test_what_no_package_can_hold_is_refused_in_words(trained, tmp_path):
    from dataclasses import replace

    from napari_maskcal.bioimage_export import export_mask
    from napari_maskcal.mask.untrained import augmentation_mask, given_mask

    path, usual = tmp_path / "mask.zip", mask_models()["residual"]
    volumes = usual.card.model_copy(update={"network": {"kind": "mask-unet", "dims": 3}})
    for mask_model, authors, licence, match in (
        (augmentation_mask(trained.restorer), ["A"], "", "runs the restorer again, for turned views"),
        (given_mask(), ["A"], "", "has no network: its map is given with the image"),
        (replace(usual, card=volumes), ["A"], "", "network for volumes or colours"),
        (usual, [], "", "names its authors; give at least one"),
        (usual, ["A"], "mine", "the licence 'mine' is no identifier of SPDX"),
    ):
        with pytest.raises(ValueError, match=match):
            export_mask(mask_model, path, authors=authors, licence=licence)
    assert not path.exists()
    with pytest.raises(ValueError, match="cannot be written"):
        export_mask(usual, tmp_path / "nowhere" / "mask.zip", authors=["A"])


def test_an_exported_package_is_replaced_only_by_a_whole_one(tmp_path):
    from napari_maskcal.bioimage_export import export_mask

    path, mask_model = tmp_path / "mask.zip", mask_models()["residual"]
    path.write_text("what was there")
    export_mask(mask_model, path, authors=["A"])
    assert list(tmp_path.iterdir()) == [path]
    refused(path, r"takes 2 images \(degraded, restored\); a restorer takes one")


def test_the_pixel_size_is_taken_from_the_axes_where_they_have_a_unit(tmp_path):
    files = files_of(network())
    described = json.loads(files["rdf.yaml"])
    assert LOADER.said(zipped(tmp_path / "a.zip", files)).pixel_size is None
    for axis in described["inputs"][0]["axes"][2:]:
        axis |= {"unit": "micrometer", "scale": 0.108}
    for axis in described["outputs"][0]["axes"][2:]:
        axis |= {"unit": "micrometer", "scale": 0.108}
    said = LOADER.said(zipped(tmp_path / "b.zip", files | {"rdf.yaml": json.dumps(described).encode()}))
    assert said.pixel_size == PixelSize(y=0.108, x=0.108, unit="micrometer")
