"""Restorers in foreign formats: found, agreed to, tried once, and the same as the network itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from foreign_models import FORMATS, as_onnx, as_torchscript, small_unet
from napari_maskcal.calibration import calibrate
from napari_maskcal.mask.untrained import augmentation_mask, constant_mask, residual_mask
from napari_maskcal.models import load_restorer
from napari_maskcal.read.image import from_array
from napari_maskcal.read.triplets import triplets_from_arrays
from napari_maskcal.restore.card import ModelCard, Normalisation
from napari_maskcal.restore.engine import process
from napari_maskcal.restore.events import PlaneDone
from napari_maskcal.restore.loaders import description, python_function, registry, trust
from napari_maskcal.restore.loaders.base import NotDescribedError, NotTrustedError, Said, content_sha256
from napari_maskcal.restore.loaders.probe import probe
from napari_maskcal.restore.loaders.python_function import find_plugin, restorer_of
from napari_maskcal.restore.unet import UNet
from napari_maskcal.review.request import restorer_card
from small_models import WIDTHS, noisy_planes

if TYPE_CHECKING:
    from pathlib import Path

    from napari_maskcal.models import Restorer


@pytest.fixture(autouse=True)
def own_places(monkeypatch, tmp_path):
    """What the user has agreed to, and descriptions that stand in no model's folder."""
    monkeypatch.setattr(trust, "_place", lambda: tmp_path / "config" / "trusted.json")
    monkeypatch.setattr(description, "_own_place", lambda sha256: tmp_path / "data" / f"{sha256}.json")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("foreign")
    return {kind: write(small_unet(), folder / "network.bin").rename(folder / kind) for kind, write in FORMATS.items()}


@pytest.fixture
def opened(files, tmp_path):
    """A way to open a copy of a file to which the user has agreed."""

    def open_copy(kind: str) -> Restorer:
        path = tmp_path / f"{kind}.model"
        path.write_bytes(files[kind].read_bytes())
        registry.agree(path)
        return load_restorer(path)

    return open_copy


def planes_of(restorer: Restorer, image: np.ndarray, **models: Any) -> PlaneDone:
    mask = models.get("mask") or constant_mask(restorer)
    stack = from_array(image[None], axes="ZYX", name="cells")
    (done,) = (e for e in process(stack, [(0,)], restorer, mask, device="cpu") if isinstance(e, PlaneDone))
    return done


# ---- the same through every format


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_found_by_content_and_gives_what_the_network_gives(opened, set_effort, kind, capsys):
    restorer = opened(kind)
    assert restorer.card.network == {"kind": kind, "channels": 1}
    own = small_unet()
    assert (restorer.card.stride_px, restorer.card.halo_px) == (own.stride_px, own.halo_px)
    (plane,) = noisy_planes(1, 333, 210)
    padded = np.pad(plane, [(0, -n % own.stride_px) for n in plane.shape], mode="reflect")
    offset, span = restorer.card.normalisation.measure(plane)
    with torch.inference_mode():
        direct = own(torch.from_numpy(((padded - offset) / span).astype(np.float32))[None, None])[0, 0].numpy()
    direct = direct[: plane.shape[0], : plane.shape[1]] * span + offset
    whole = restorer(plane)
    set_effort(max_tile_px=160, batch=2)
    tiled = planes_of(restorer, plane).restored
    apart = [float(np.abs(found - direct).max() / span) for found in (whole, tiled)]
    with capsys.disabled():
        print(f"\n{kind:>14}: whole {apart[0]:.1e}, tiled {apart[1]:.1e} of the range from the network itself", end="")
    assert max(apart) < 1e-5
    assert np.abs(direct - plane).mean() > 1e-3 * span  # it does something


@pytest.mark.parametrize("kind", FORMATS)
def test_it_is_calibrated_and_asked_again_like_any_other(opened, kind):
    restorer = opened(kind)
    degraded = noisy_planes(10, 64, 64).astype(np.float32)
    triplets = triplets_from_arrays(degraded=degraded, truth=degraded + 1, groups=[f"s{i}" for i in range(10)])
    certificate = calibrate(triplets, augmentation_mask(restorer), restorer, tolerance=0.05, device="cpu")
    assert certificate.fingerprint.restorer_sha256 == restorer.sha256


# ---- agreed to, and described


def test_a_file_that_can_run_code_is_opened_after_the_user_has_agreed_once(files, tmp_path):
    path = tmp_path / "mine.pt"
    path.write_bytes(files["torchscript"].read_bytes())
    with pytest.raises(NotTrustedError, match=r"mine.pt is a TorchScript file, which can run code.*info --trust"):
        load_restorer(path)
    assert "can run code" in restorer_card(str(path))[2]
    registry.agree(path)
    load_restorer(path)
    path.rename(tmp_path / "elsewhere.pt")
    load_restorer(tmp_path / "elsewhere.pt")  # the same content
    other = as_torchscript(UNet(WIDTHS).eval(), tmp_path / "other.pt")
    with pytest.raises(NotTrustedError):
        load_restorer(other)


def test_a_file_that_cannot_run_code_needs_no_agreement(files, tmp_path):
    path = tmp_path / "mine.onnx"
    path.write_bytes(files["onnx"].read_bytes())
    registry.agree(path)
    assert not (tmp_path / "config").exists()
    load_restorer(path)


def test_a_trial_run_is_kept_beside_the_file_and_for_that_content_alone(files, tmp_path, monkeypatch):
    path = tmp_path / "mine.onnx"
    path.write_bytes(files["onnx"].read_bytes())
    with pytest.raises(NotDescribedError, match="a trial run finds that out: maskcal info"):
        registry.card_of(path)
    first = load_restorer(path)
    kept = json.loads((tmp_path / "mine.onnx.maskcal.json").read_text())
    assert kept["sha256"] == content_sha256(path)
    monkeypatch.setattr(registry, "describe", lambda *_: pytest.fail("it is known already"))
    assert load_restorer(path).card == first.card == registry.card_of(path)[0]
    monkeypatch.undo()
    as_onnx(UNet(WIDTHS).eval(), path)
    assert load_restorer(path).sha256 != first.sha256


def test_in_a_folder_that_cannot_be_written_it_is_kept_among_the_users_own(files, tmp_path, monkeypatch):
    path = tmp_path / "mine.onnx"
    path.write_bytes(files["onnx"].read_bytes())
    refused = ValueError("cannot be written")

    def write(place: Path, content: bytes) -> None:
        if place.parent == tmp_path:
            raise refused
        place.write_bytes(content)

    monkeypatch.setattr(description, "write_atomically", write)
    card = load_restorer(path).card
    assert not (tmp_path / "mine.onnx.maskcal.json").exists()
    assert registry.card_of(path)[0] == card


def test_whatever_is_computed_with_changes_the_hash_and_what_is_only_read_does_not(opened):
    restorer = opened("onnx")
    same = restorer.card.model_copy(update={"name": "another name", "licence": "MIT"})
    assert registry.restorer_sha256(same, "a") == registry.restorer_sha256(restorer.card, "a")
    assert registry.restorer_sha256(same, "b") != registry.restorer_sha256(same, "a")
    for change in (
        {"halo_px": 28}, {"stride_px": 8}, {"scale_factor": 2}, {"takes": Normalisation(kind="mean_std")},
        {"network": {"kind": "onnx", "channels": 3}}, {"min_size_px": 99},
    ):  # fmt: skip
        other = restorer.card.model_copy(update=change)
        assert registry.restorer_sha256(other, "a") != registry.restorer_sha256(restorer.card, "a")


def test_what_no_loader_takes_is_refused_with_the_reason_of_each(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no network at all")
    with pytest.raises(ValueError, match=r"no network that can be read here\. napari-maskcal: ") as caught:
        load_restorer(path)
    for loader in registry.loaders():
        assert f"{loader.name}: " in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- the units that a restorer takes


@pytest.mark.parametrize(
    "takes",
    [
        Normalisation(kind="mean_std"), Normalisation(kind="range"), Normalisation(kind="fixed", offset=70, span=13),
        Normalisation(low_percentile=5, high_percentile=90),
    ],
)  # fmt: skip
def test_a_restorer_gets_the_units_that_it_takes_in_each_tile_and_view(set_effort, takes):
    """A network that is not linear: what it gives depends on its units."""

    class Root(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.sign() * image.abs().sqrt() + 0.1 * torch.roll(image, 1, -1) * image

    card = ModelCard(
        name="root", role="restorer", network={"kind": "test"}, stride_px=1, halo_px=1, min_size_px=1, takes=takes
    )  # fmt: skip
    restorer = replace(load_restorer("demo"), card=card, network=Root())
    (plane,) = noisy_planes(1, 200, 300)
    offset, span = takes.measure(plane)
    taken = torch.from_numpy(((plane - offset) / span).astype(np.float32))[None, None]
    expected = restorer.network(taken)[0, 0].numpy() * span + offset
    set_effort(max_tile_px=100, batch=3)
    for mask in (residual_mask(restorer), augmentation_mask(restorer)):
        done = planes_of(restorer, plane, mask=mask)
        inside = (slice(None), slice(1, None))  # what is rolled in at the border is the plane's own in the whole
        np.testing.assert_allclose(done.restored[inside], expected[inside], rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(restorer(plane), expected, rtol=1e-3, atol=1e-2)
    turned = [np.rot90(restorer.network(taken.rot90(k, (-2, -1)))[0, 0].numpy(), -k) for k in range(4)]
    mirrored = [
        np.rot90(restorer.network(taken.rot90(k, (-2, -1)).flip(-1))[0, 0].flip(-1).numpy(), -k) for k in range(4)
    ]
    own = restorer.card.normalisation.measure(plane)[1]
    spread = np.std(turned + mirrored, axis=0) * span / own
    middle = (slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(done.uncertainty[middle] - 1e-3, spread[middle], rtol=1e-2, atol=1e-4)


def test_a_plane_that_has_no_such_unit_is_refused():
    flat = np.full((8, 8), 3.0)
    for kind in ("mean_std", "range", "percentile"):
        with pytest.raises(ValueError, match="the plane is constant"):
            Normalisation(kind=kind).measure(flat)
    assert Normalisation(kind="fixed", offset=1, span=2).measure(flat) == (1, 2)
    with pytest.raises(ValueError, match="shares of a range between percentiles"):
        ModelCard(name="a", role="mask", network={}, stride_px=1, halo_px=0, min_size_px=1,
                  normalisation=Normalisation(kind="range"))  # fmt: skip


def test_cards_of_before_have_the_same_text_as_before():
    assert json.loads(Normalisation().model_dump_json()) == {"low_percentile": 1.0, "high_percentile": 99.8}
    assert "takes" not in json.loads(load_restorer("demo").card.model_dump_json())


# ---- trial runs


class Padded(nn.Module):
    """Takes any size, as many published networks do, by padding inside."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        stride = self.network.stride_px
        padded = nn.functional.pad(image, (0, -width % stride, 0, -height % stride), mode="reflect")
        return self.network(padded)[..., :height, :width]


def found(network: nn.Module, **known: Any) -> tuple[Any, ...]:
    result = probe(network.eval().requires_grad_(False), name="it", said=Said(**known))
    return result.channels, result.scale_factor, result.stride_px, result.halo_px


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Identity(), (1, 1, 1, 0)),
        (nn.Conv2d(1, 1, 3, padding=1), (1, 1, 1, 1)),
        (nn.Conv2d(1, 1, (3, 31), padding=(1, 15)), (1, 1, 1, 15)),
        (nn.Conv2d(1, 1, 3, padding=60, dilation=60), (1, 1, 1, 60)),
        (nn.Sequential(nn.Conv2d(3, 48, 5, padding=2), nn.PixelShuffle(4)), (3, 4, 1, 2)),
        (nn.Sequential(nn.AvgPool2d(8), nn.Upsample(scale_factor=8)), (1, 1, 8, 0)),
        (nn.InstanceNorm2d(1), (1, 1, 1, None)),
    ],
)
def test_a_trial_run_finds_channels_scale_grid_and_reach(network, expected):
    assert found(network) == expected


@pytest.mark.parametrize("wrapped", [False, True])
def test_of_a_unet_it_finds_what_the_unet_knows_of_itself(wrapped):
    own = small_unet()
    assert found(Padded(own) if wrapped else own) == (1, 1, own.stride_px, own.halo_px)


def test_what_is_said_is_a_lower_bound():
    assert found(nn.Conv2d(1, 1, 3, padding=1), halo_px=10, stride_px=4) == (1, 1, 4, 12)


class Watched(nn.Module):
    """Brings each image to a range of its own, as some networks do first, and notes how long the images are."""

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.longest = max(self.longest, *image.shape[-2:])
        return image - image.mean()


def test_a_slow_network_is_not_tried_on_longer_and_longer_strips(monkeypatch):
    quick, slow = Watched(), Watched()
    assert found(quick) == (1, 1, 1, None)
    monkeypatch.setattr("napari_maskcal.restore.loaders.probe.LONGEST_S", -1)
    assert found(slow) == (1, 1, 1, None)
    assert slow.longest == 128 < quick.longest


class Noise(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + torch.rand_like(image)


class Fails(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        raise KeyError("no such\nthing")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.AvgPool2d(2), "it makes 64 pixels of 128; only networks that keep the size, or enlarge it"),
        (nn.Conv2d(1, 1, 5), "it makes 124 pixels of 128"),
        (
            nn.Conv2d(5, 1, 3, padding=1),
            "it takes no plane and no volume of 1 or 3 channels and 64 to 512",
        ),
        (nn.Conv2d(1, 7, 3, padding=1), "it is no restorer"),
        (Noise(), "it gives another answer each time"),
        (nn.Threshold(2.0, float("nan")), "it gives values that are NaN or infinite"),
        (nn.Flatten(), "its answer is no image"),
        (Fails(), "no such"),
    ],
)
def test_what_is_no_restorer_is_refused_by_what_it_does(network, message):
    with pytest.raises(ValueError, match=message) as caught:
        found(network)
    assert "\n" not in str(caught.value)


# ---- restorers that are Python


def brighter(plane: np.ndarray) -> np.ndarray:
    return plane + 0.1 * np.roll(plane, 2, axis=1)


def test_a_function_is_a_restorer_and_its_hash_is_that_of_its_code_and_version():
    restorer = restorer_of(brighter, name="brighter")
    assert (restorer.card.stride_px, restorer.card.halo_px) == (1, 2)
    (plane,) = noisy_planes(1, 100, 180)
    offset, span = restorer.card.normalisation.measure(plane)
    expected = brighter((plane - offset) / span) * span + offset
    inside = (slice(None), slice(2, None))
    np.testing.assert_allclose(restorer(plane)[inside], expected[inside], rtol=1e-4)
    assert restorer_of(brighter, name="another name").sha256 == restorer.sha256
    assert restorer_of(brighter, name="brighter", version="2").sha256 != restorer.sha256
    assert restorer_of(lambda plane: plane * 2, name="brighter").sha256 != restorer.sha256
    takes = Normalisation(kind="mean_std")
    assert restorer_of(brighter, name="brighter", takes=takes).sha256 != restorer.sha256


@pytest.mark.parametrize("wrong", [lambda plane: plane[0], lambda plane: plane + 1j, lambda plane: "no"])
def test_a_function_that_gives_no_plane_is_refused(wrong):
    with pytest.raises(ValueError, match="a restorer gives a plane of numbers"):
        restorer_of(wrong, name="wrong")


class Entry:
    """What a package announces."""

    def __init__(self, name: str, found: Any, package: str = "others", version: str = "1.0") -> None:
        self.name, self.value, self.found = name, "others:restorer", found
        self.dist = type("Dist", (), {"name": package, "version": version})
        self.loaded = 0

    def load(self) -> Any:
        self.loaded += 1
        return self.found


@pytest.fixture
def announce(monkeypatch):
    def these(*entries: Entry) -> None:
        monkeypatch.setattr(python_function, "entry_points", lambda group: entries if "restorers" in group else ())

    return these


def test_what_a_package_announces_is_asked_for_by_name_and_agreed_to_once(announce):
    entry = Entry("Bright", brighter)
    announce(entry)
    with pytest.raises(NotTrustedError, match=r"Bright is a restorer of others 1.0, which can run code"):
        load_restorer("bright")
    assert not entry.loaded
    find_plugin("bright", agreed=True)
    restorer = load_restorer("Bright")
    assert restorer.sha256 == restorer_of(brighter, name="Bright", version="others 1.0").sha256
    announce(Entry("Bright", brighter, version="2.0"))
    with pytest.raises(NotTrustedError):
        load_restorer("bright")


def test_an_entry_point_may_be_a_restorer_or_make_one(announce):
    made = restorer_of(brighter, name="made")
    for found in (made, lambda: made):
        announce(Entry("made", found))
        assert find_plugin("made", agreed=True) is made


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([Entry("x", 3)], "the restorer x of others 1.0 cannot be loaded: TypeError: others:restorer is a int"),
        ([Entry("x", lambda: 3)], "gave a int, not a restorer"),
        ([Entry("x", brighter), Entry("X", brighter, package="more")], "is in more 1.0 and in others 1.0; uninstall"),
    ],
)
def test_a_package_that_announces_something_else_is_named(announce, entries, message):
    announce(*entries)
    with pytest.raises(ValueError, match=message):
        find_plugin("x", agreed=True)
