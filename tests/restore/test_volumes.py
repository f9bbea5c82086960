"""Restorers of volumes: slabs and tiles give what the whole volume gives, in bounded memory, in every format."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from foreign_volumes import FORMATS, REACH, STRIDE, as_onnx, as_package, blobs, small_unet3d, volume_restorer
from napari_maskcal.mask.untrained import augmentation_mask, constant_mask, ensemble_mask, residual_mask
from napari_maskcal.models import load_restorer
from napari_maskcal.read.image import from_array
from napari_maskcal.restore import volumes
from napari_maskcal.restore.card import ModelCard, Normalisation
from napari_maskcal.restore.engine import process
from napari_maskcal.restore.events import CancelToken, PlaneDone, Started, TileDone, Warned
from napari_maskcal.restore.loaders import description, registry, trust
from napari_maskcal.restore.loaders.base import Said
from napari_maskcal.restore.loaders.native import write_restorer
from napari_maskcal.restore.loaders.probe import probe
from napari_maskcal.restore.loaders.python_function import restorer_of
from napari_maskcal.restore.tiles import VolumePlan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_maskcal.models import Restorer
    from napari_maskcal.restore.events import Event

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # bioimageio.spec keeps its zips open
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]
SHAPE = (37, 46, 61)
SMALL = {"max_voxels": 20_000, "max_tile_px": 32, "batch": 3}
CLOSE = 2e-5  # of the spread


@pytest.fixture(autouse=True)
def own_places(monkeypatch, tmp_path):
    monkeypatch.setattr(trust, "_place", lambda: tmp_path / "config" / "trusted.json")
    monkeypatch.setattr(description, "_own_place", lambda sha256: tmp_path / "data" / f"{sha256}.json")


def events_of(restorer: Restorer, stack: Any, axes: str = "ZYX", planes: Sequence[Any] = (), **options) -> list[Event]:
    image = from_array(stack, axes=axes, name="cells")
    indices = planes or image.planes()
    return list(process(image, indices, restorer, constant_mask(restorer), device="cpu", **options))


def restored(restorer: Restorer, stack: Any, axes: str = "ZYX", planes: Sequence[Any] = ()) -> dict[Any, np.ndarray]:
    done = [e for e in events_of(restorer, stack, axes, planes) if isinstance(e, PlaneDone)]
    return {event.index: event.restored for event in done}


def together(planes: dict[Any, np.ndarray]) -> np.ndarray:
    return np.stack([planes[index] for index in sorted(planes)])


def direct(stack: np.ndarray) -> np.ndarray:
    """What torch makes of the padded volume, between the percentiles of all of it."""
    low, high = np.percentile(stack, (1, 99.8), method="nearest").astype(float)
    padded = np.pad(stack.astype(float), [(0, -n % STRIDE) for n in stack.shape], mode="reflect")
    with torch.inference_mode():
        image = torch.from_numpy(((padded - low) / (high - low)).astype(np.float32))
        answer = small_unet3d()(image[None, None])[0, 0].numpy()
    return answer[tuple(slice(n) for n in stack.shape)] * (high - low) + low


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / expected.std())


# ---- the same through every format


def opened(kind: str, path: Path) -> Restorer:
    network = small_unet3d()
    if kind == "Python function":
        return restorer_of(
            lambda volume: network(torch.from_numpy(volume)[None, None])[0, 0].numpy(), name="mine", axes="ZYX"
        )
    if kind == "napari-maskcal":
        spec = {"kind": "unet", "widths": [3, 4], "residual": True, "dims": 3}
        said = {"network": spec, "halo_px": network.halo_px, "halo_z": network.halo_px}
        write_restorer(path, network, volume_restorer(network).card.model_copy(update=said))
        return load_restorer(path)
    file = FORMATS[kind](network, path)
    registry.agree(file)
    return load_restorer(file)


@pytest.mark.parametrize("kind", [*FORMATS, "Python function", "napari-maskcal"])
def test_the_same_weights_restore_the_same_volume_in_every_format(kind, tmp_path, set_effort, capsys):
    restorer = opened(kind, tmp_path / "network.bin")
    card, packaged = restorer.card, kind.startswith("bioimage.io")
    assert (card.axes, card.scale_factor) == ("ZYX", 1)
    strides = (4, 4) if packaged else (STRIDE, STRIDE)  # the package says 4
    assert (card.stride_z, card.stride_px) == strides
    assert card.halo_z == card.halo_px == (12 if kind == "napari-maskcal" else REACH) or card.halo_z == 10
    stack = blobs(*(40, 48, 60))  # not padded by either stride
    expected = direct(stack)
    if packaged:  # it says that it takes raw intensities
        with torch.inference_mode():
            expected = small_unet3d()(torch.from_numpy(stack.astype(np.float32))[None, None])[0, 0].numpy()
    set_effort(**SMALL)
    started = next(event for event in events_of(restorer, stack) if isinstance(event, Started))
    tiled = together(restored(restorer, stack))
    found = [float(np.abs(one - expected).max() / np.ptp(expected)) for one in (restorer(stack), tiled)]
    with capsys.disabled():
        print(f"\n{kind:>25}: whole {found[0]:.1e}, {started.tiles} steps {found[1]:.1e} of the range", end="")
    assert max(found) < 1e-5
    assert np.abs(expected - stack).mean() > 1e-3 * np.ptp(stack)  # it does something


# ---- tiled as whole


@pytest.mark.parametrize("shape", [SHAPE, (7, 90, 33), (64, 31, 31), (2, 64, 64)])
def test_slabs_and_tiles_give_what_the_whole_volume_gives(shape, set_effort):
    restorer, stack = volume_restorer(), blobs(*shape)
    expected = direct(stack)
    assert apart(restorer(stack), expected) < CLOSE
    for effort in (SMALL, {"max_voxels": 1}, {}):
        set_effort(**effort)
        assert apart(together(restored(restorer, stack)), expected) < CLOSE


@pytest.mark.parametrize("planes", [[(20,)], [(36,), (0,)], [(5,), (6,), (30,), (4,)]])
def test_a_few_planes_are_those_of_the_whole_volume(planes, set_effort):
    set_effort(**SMALL)
    stack = blobs(*SHAPE)
    found, expected = restored(volume_restorer(), stack, planes=planes), direct(stack)
    assert next(iter(found)) == planes[0]  # the visible one
    assert sorted(found) == sorted(planes)
    for (z,), plane in found.items():
        assert np.abs(plane - expected[z]).max() < CLOSE * expected.std()


class Flat(nn.Module):
    """Reaches 3 planes and 1 pixel; on a grid of 4 pixels, but of every plane."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv3d(1, 2, (7, 1, 1), padding=(3, 0, 0)).requires_grad_(False)
        self.last = nn.Conv3d(2, 1, (1, 3, 3), padding=(0, 1, 1)).requires_grad_(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        coarse = nn.functional.avg_pool3d(torch.tanh(self.first(image)), (1, 4, 4), ceil_mode=True)
        fine = nn.functional.interpolate(coarse, scale_factor=(1, 4, 4))[..., : image.shape[-2], : image.shape[-1]]
        return image + self.last(fine)


FLAT = {"stride_px": 4, "halo_px": 8, "stride_z": 1, "halo_z": 3, "min_size_px": 4, "min_size_z": 1}


def test_z_has_a_grid_and_a_reach_of_its_own(set_effort):
    found = probe(Flat().eval(), name="flat")
    assert (found.axes, found.stride_px, found.stride_z, found.halo_z) == ("ZYX", 4, 1, 3)
    restorer, stack = volume_restorer(Flat(), **FLAT), blobs(*SHAPE)
    set_effort(max_voxels=1000)
    whole, tiled = restorer(stack), together(restored(restorer, stack))
    assert apart(tiled, whole) < CLOSE


@pytest.mark.parametrize("fault", [{"halo_z": 2}, {"halo_px": 0}, {"stride_px": 1, "halo_px": 9}])
def test_less_than_the_network_needs_is_noticed(fault, set_effort):
    restorer, stack = volume_restorer(Flat(), **FLAT | fault), blobs(36, 48, 64)
    set_effort(max_voxels=1000)
    whole, tiled = restorer(stack), together(restored(restorer, stack))
    assert apart(tiled, whole) > 10 * CLOSE


def test_a_slab_off_the_grid_is_noticed(set_effort, monkeypatch):
    own = VolumePlan.narrowed

    def shifted(plan, number, first, stop):
        read, write = own(plan, number, first, stop)
        inside = read.start and read.stop < plan.padded_shape[0]
        return (slice(read.start + 1, read.stop - 1) if inside else read), write

    monkeypatch.setattr(VolumePlan, "narrowed", shifted)
    restorer, stack = volume_restorer(halo_z=REACH + 2), blobs(90, 24, 24)
    set_effort(max_voxels=1)
    assert apart(together(restored(restorer, stack)), direct(stack)) > 10 * CLOSE


def test_what_has_no_bound_is_never_cut(set_effort):
    class Centred(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image - image.mean(dim=(2, 3, 4), keepdim=True) + torch.tanh(image)

    class Batched(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return Centred()(image[:, :1]) if image.ndim == 5 else image[:, :, 9:]

    found = probe(Batched(), name="it", said=Said(axes="ZYX"))
    assert (found.halo_px, found.halo_z) == (None, None)
    said = {"halo_px": None, "halo_z": None, "stride_px": 1, "stride_z": 1}
    restorer, stack = volume_restorer(Centred(), **said), blobs(12, 40, 40)
    set_effort(max_voxels=1)
    assert apart(together(restored(restorer, stack)), restorer(stack)) < CLOSE


# ---- where planes come from


class Lazy:
    """Counts how often each plane is read, and how many are held at a time is for the tests to say."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.shape, self.dtype = data, data.shape, data.dtype
        self.reads: dict[Any, int] = {}

    def __getitem__(self, index: Any) -> np.ndarray:
        self.reads[index] = self.reads.get(index, 0) + 1
        return self.data[index]


@pytest.mark.parametrize("axes", ["ZYX", "TZYX", "ZTYX"])
def test_each_plane_is_read_thrice_however_long_the_stack(axes, set_effort, monkeypatch):
    """For the range of the stack, for the volume, and to be masked."""
    shape = {"ZYX": (150, 16, 16), "TZYX": (3, 60, 16, 16), "ZTYX": (60, 3, 16, 16)}[axes]
    lazy, held = Lazy(blobs(*shape)), []
    own = volumes.Volumes._answer

    def answer(self, *args):
        held.append(len(self._read) + len(self._restored))
        return own(self, *args)

    monkeypatch.setattr(volumes.Volumes, "_answer", answer)
    set_effort(max_voxels=1000)
    found = restored(volume_restorer(), lazy, axes)
    assert len(found) == np.prod(shape[:-2])
    assert max(lazy.reads.values()) == 3
    assert max(held) <= 32 + 2 * REACH


def test_the_plane_on_the_screen_does_not_wait_for_its_slab(set_effort):
    lazy = Lazy(blobs(150, 16, 16))
    set_effort(max_voxels=2**21)
    takes = Normalisation(kind="fixed", offset=60, span=100)
    restorer = volume_restorer(takes=takes)
    image = from_array(lazy, axes="ZYX", name="cells")
    planes = [(70,), *(index for index in image.planes() if index != (70,))]
    done = (e for e in process(image, planes, restorer, constant_mask(restorer)) if isinstance(e, PlaneDone))
    assert next(done).index == (70,)
    assert len(lazy.reads) <= 2 * REACH + STRIDE + 1
    assert [event.index for event in done][:3] == [(0,), (1,), (2,)]
    assert max(lazy.reads.values()) == 2


def test_planes_of_a_volume_are_those_of_its_own_time_and_channel(set_effort):
    set_effort(**SMALL)
    stack = np.stack([blobs(20, 40, 40, seed=seed) for seed in range(4)]).reshape(2, 2, 20, 40, 40)
    image = from_array(stack, axes="TCZYX", name="cells")
    planes = image.planes(channel=1)
    restorer = volume_restorer()
    done = process(image, planes, restorer, constant_mask(restorer), device="cpu")
    for event in done:
        if isinstance(event, PlaneDone):
            time, channel, z = event.index
            assert channel == 1
            expected = direct(stack[time, 1])
            assert np.abs(event.restored - expected[z]).max() < CLOSE * expected.std()


# ---- intensities


@pytest.mark.parametrize(
    "takes",
    [None, Normalisation(kind="mean_std"), Normalisation(kind="range"), Normalisation(kind="fixed", offset=9, span=40)],
)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "int32", ">u2"])
def test_a_volume_has_one_offset_and_span(takes, dtype, set_effort):
    set_effort(**SMALL)
    stack = np.clip(blobs(20, 36, 40), 0, 255).astype(dtype)
    seen: list[np.ndarray] = []

    class Noted(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(image.numpy())
            return image

    said = {"takes": takes, "halo_px": 0, "halo_z": 0, "stride_px": 1, "stride_z": 1}
    found = restored(volume_restorer(Noted(), **said), stack)
    wide = stack.astype(float)
    low, high = {
        None: lambda: np.percentile(wide, (1, 99.8), method="nearest"), "range": lambda: (wide.min(), wide.max()),
        "mean_std": lambda: (wide.mean(), wide.mean() + wide.std()), "fixed": lambda: (9, 49),
    }[takes and takes.kind]()  # fmt: skip
    expected = (wide - low) / (high - low)
    assert (min(map(np.min, seen)), max(map(np.max, seen))) == pytest.approx((expected.min(), expected.max()), rel=1e-5)
    np.testing.assert_allclose(together(found), wide, rtol=1e-5, atol=1e-4)


def test_a_range_for_each_plane_by_itself_is_noticed(set_effort, monkeypatch):
    set_effort(**SMALL)
    stack = blobs(*SHAPE)
    own = volumes.normalise
    monkeypatch.setattr(
        volumes, "normalise", lambda plane, *_: own(plane, *np.percentile(plane, (1, 99.8)) * [1, 1] - [0, plane.min()])
    )
    assert apart(together(restored(volume_restorer(), stack)), direct(stack)) > 10 * CLOSE


def test_of_many_pixels_a_sample_is_looked_at(monkeypatch):
    from napari_maskcal.restore import stacks

    monkeypatch.setattr(stacks, "MOST_SAMPLES", 10_000)
    stack = blobs(30, 64, 64).astype(np.float32) + np.arange(64)  # columns differ
    summary = stacks.Summary(Normalisation(scope="stack"), len(stack))
    for plane in stack:
        summary.add(plane)
    assert sum(len(part) for part in summary._samples) <= 10_000
    offset, span = summary.units(where="it")
    low, high = np.percentile(stack, (1, 99.8))
    assert (offset, offset + span) == pytest.approx((low, high), abs=0.03 * (high - low))


def test_restorers_of_planes_may_take_the_range_of_the_stack(trained, set_effort):
    set_effort(max_tile_px=32, batch=4)
    card = trained.restorer.card.model_copy(update={"takes": Normalisation(kind="range", scope="stack")})
    restorer, stack = replace(trained.restorer, card=card), blobs(5, 48, 64)
    lazy = Lazy(stack)
    found = together(restored(restorer, lazy))
    assert max(lazy.reads.values()) == 2
    low, high = float(stack.min()), float(stack.max())
    images = torch.from_numpy(((stack.astype(float) - low) / (high - low)).astype(np.float32))[:, None]
    with torch.inference_mode():
        expected = trained.restorer.network(images)[:, 0].numpy() * (high - low) + low
    assert apart(found, expected) < CLOSE
    assert apart(found, together(restored(trained.restorer, stack))) > 10 * CLOSE
    views = augmentation_mask(restorer)  # asked again in these units
    done = list(process(from_array(stack, axes="ZYX"), [(2,)], restorer, views, device="cpu"))[-1]
    assert done.uncertainty.max() < np.ptp(stack)
    with pytest.raises(ValueError, match="takes intensities in the range of a whole stack, and the plane is a plane"):
        restorer(stack[0])


def test_a_constant_stack_is_refused_by_name():
    with pytest.raises(ValueError, match=r"the stack of cells, plane Z=0 is constant: its percentiles 1 and 99.8"):
        events_of(volume_restorer(), np.full((9, 32, 32), 7, np.uint8))


# ---- what cannot be


@pytest.mark.parametrize(
    ("stack", "axes", "message"),
    [
        (blobs(1, 32, 32)[0], "YX", "deep restores volumes of at least 2 planes, and cells is a single plane; give"),
        (blobs(5, 32, 32), "TYX", "at least 2 planes, and cells, plane T=0 is a single plane; give stacks"),
    ],
)
def test_planes_by_themselves_are_refused(stack, axes, message):
    with pytest.raises(ValueError, match=message):
        events_of(volume_restorer(min_size_z=1, stride_z=1), stack, axes)


def test_thin_stacks_are_refused_where_the_network_does_not_take_them():
    with pytest.raises(ValueError, match="at least 16 planes, and cells, plane Z=0 is in a stack of 9 planes"):
        events_of(volume_restorer(min_size_z=16), blobs(9, 32, 32))


def test_a_restorer_of_volumes_is_not_asked_for_views_of_planes(trained):
    restorer, views = volume_restorer(), augmentation_mask(trained.restorer)
    image = from_array(blobs(8, 32, 32), axes="ZYX")
    with pytest.raises(
        ValueError, match=r"asks the restorer again, .*, and deep restores whole volumes; choose another"
    ):
        next(process(image, [(0,)], restorer, views, device="cpu"))
    with pytest.raises(ValueError, match="deep restores whole volumes and is none that could be asked again"):
        augmentation_mask(restorer)
    with pytest.raises(ValueError, match="deep restores whole volumes; only restorers of planes"):
        ensemble_mask([trained.restorer, restorer])
    plane = blobs(1, 32, 32)[0].astype(np.float32)
    assert residual_mask(restorer).uncertainty(plane, plane + 1, restorer).shape == plane.shape
    with pytest.raises(ValueError, match="deep restores whole volumes"):
        views.uncertainty(plane, plane, restorer)


def test_a_network_that_gives_another_size_is_named(set_effort):
    with pytest.raises(
        ValueError, match=r"deep makes \(1, 1, 7, 32, 32\) of a volume of \(8, 32, 32\); it has to keep"
    ):
        events_of(volume_restorer(nn.AvgPool3d((2, 1, 1), stride=1)), blobs(8, 32, 32))


def test_values_that_are_not_finite_are_counted(set_effort):
    class Broken(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.where(image > 0.9, torch.nan, image)

    with pytest.raises(ValueError, match=r"the restored image has .* values that are NaN or infinite"):
        events_of(volume_restorer(Broken()), blobs(8, 32, 32))


# ---- while it runs


def test_it_stops_between_tiles_and_tells_of_each_step(set_effort):
    set_effort(**SMALL)
    stack, restorer, cancel = blobs(*SHAPE), volume_restorer(), CancelToken()
    events = events_of(restorer, stack)
    steps = [event for event in events if isinstance(event, TileDone)]
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert {step.total for step in steps} == {steps[-1].done} == {events[0].tiles}
    image = from_array(stack, axes="ZYX")
    seen = []
    for event in process(image, image.planes(), restorer, constant_mask(restorer), device="cpu", cancel=cancel):
        seen.append(event)
        if isinstance(event, TileDone) and event.done == SHAPE[0] + 2:  # two tiles after the range is known
            cancel.cancel()
    assert len(seen) == SHAPE[0] + 3
    assert not any(isinstance(event, PlaneDone) for event in seen)


def test_where_memory_runs_out_tiles_become_smaller(set_effort):
    class Large(nn.Module):
        network = small_unet3d()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if image.numel() > 40_000:
                raise MemoryError
            return self.network(image)

    set_effort(max_voxels=2**20, max_tile_px=64)
    restorer, stack = volume_restorer(Large()), blobs(*SHAPE)
    events = events_of(restorer, stack)
    assert any(isinstance(event, Warned) and "pieces of volumes of about" in event.message for event in events)
    found = {event.index: event.restored for event in events if isinstance(event, PlaneDone)}
    assert apart(together(found), direct(stack)) < CLOSE

    class TooLarge(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise MemoryError

    with pytest.raises(MemoryError, match="cpu has too little memory even for one tile of 28 × 32 × 32 pixels"):
        events_of(volume_restorer(TooLarge()), stack)


# ---- cards and hashes


def test_cards_of_planes_say_nothing_of_volumes_and_keep_their_hash():
    card = ModelCard(name="a", role="restorer", network={"kind": "onnx"}, stride_px=4, halo_px=8, min_size_px=16)
    assert card.model_dump_json() == (
        '{"name":"a","role":"restorer","network":{"kind":"onnx"},"axes":"YX","channels":1,"scale_factor":1,'
        '"stride_px":4,"halo_px":8,"min_size_px":16,"normalisation":{"low_percentile":1.0,"high_percentile":99.8},'
        '"dtype":"float32","licence":"","citation":"","trained_on":[]}'
    )
    assert registry.restorer_sha256(card, "a") == "81b9a2c033cb06a00160fc97ad9141a039d31f3fec1c49dcaf2b8d1de0ec46cb"


def test_all_that_volumes_need_is_in_the_card_and_in_the_hash():
    card = volume_restorer().card
    assert ModelCard.model_validate_json(card.model_dump_json()) == card
    unbounded = card.model_copy(update={"halo_px": None, "halo_z": None})
    assert ModelCard.model_validate_json(unbounded.model_dump_json()) == unbounded
    taken = Normalisation(kind="range", scope="stack")
    assert Normalisation.model_validate_json(taken.model_dump_json()) == taken
    hashes = {registry.restorer_sha256(card, "a")}
    for change in (
        {"stride_z": 4},
        {"halo_z": 9},
        {"halo_z": None},
        {"min_size_z": 3},
        {"axes": "YX"},
        {"takes": taken},
    ):
        hashes.add(registry.restorer_sha256(card.model_copy(update=change), "a"))
    assert len(hashes) == 7


def test_masks_and_what_enlarges_are_not_of_volumes():
    said = {"name": "a", "network": {}, "stride_px": 1, "halo_px": 0, "min_size_px": 1, "axes": "ZYX"}
    for wrong in ({"role": "mask"}, {"role": "restorer", "scale_factor": 2}):
        with pytest.raises(ValueError, match="only a restorer that keeps the size of its image is one of volumes"):
            ModelCard(**said | wrong)
    with pytest.raises(ValueError, match="shares of a range between percentiles of a plane"):
        ModelCard(**said | {"role": "restorer", "normalisation": Normalisation(scope="stack")})


# ---- trial runs, and what files say


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Conv3d(1, 1, (3, 5, 7), padding=(1, 2, 3)), ("ZYX", 1, 1, 3, 1, 1, 1)),
        (nn.Conv3d(1, 1, (1, 3, 3), padding=(0, 1, 1)), ("ZYX", 1, 1, 1, 1, 1, 0)),
        (nn.Sequential(nn.Conv3d(3, 3, 1), nn.AvgPool3d(4), nn.Upsample(scale_factor=4)), ("ZYX", 3, 4, 0, 4, 4, 0)),
        (small_unet3d(), ("ZYX", 1, STRIDE, REACH, STRIDE, STRIDE, REACH)),
        (nn.Sequential(nn.Conv3d(1, 2, 1), nn.InstanceNorm3d(2), nn.Conv3d(2, 1, 1)), ("ZYX", 1, 1, None, 1, 1, None)),
        (nn.Conv2d(1, 1, 3, padding=1), ("YX", 1, 1, 1, 1, 1, 0)),
        (nn.Identity(), ("YX", 1, 1, 0, 1, 1, 0)),
    ],
)
def test_a_trial_run_tells_volumes_from_planes_and_finds_each_axis(network, expected):
    found = probe(network.eval().requires_grad_(False), name="it")
    told = (found.axes, found.channels, found.stride_px, found.halo_px, found.min_size_px, found.stride_z, found.halo_z)
    assert told == expected


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv3d(1, 1, 3), r"it makes volumes of \(14, 14, 14\) of those of \(16, 16, 16\); only networks that keep"),
        (nn.Sequential(nn.Conv3d(1, 1, 1), nn.Upsample(scale_factor=2)), "only networks that keep the size of volumes"),
        (nn.Conv3d(5, 1, 3), "it takes no plane and no volume of 1 or 3 channels"),
    ],
)
def test_what_is_no_restorer_of_volumes_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        probe(network.eval().requires_grad_(False), name="it", said=None)


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ({"id": "zero_mean_unit_variance", "kwargs": {"axes": ["z", "y", "x"]}}, Normalisation(kind="mean_std")),
        ({"id": "scale_range", "kwargs": {"axes": ["y", "x"]}}, "over the axes y, x and not over whole volumes"),
    ],
)
def test_a_package_says_on_what_it_measures(tmp_path, pre, expected):
    path = as_package(as_onnx, "onnx", [pre])(small_unet3d(), tmp_path / "deep.zip")
    registry.agree(path)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            load_restorer(path)
    else:
        assert load_restorer(path).card.taken == expected.model_copy(update={"scope": "stack"})


def test_a_file_of_volumes_is_described_verified_and_read_again(tmp_path, capsys):
    path = as_onnx(small_unet3d(), tmp_path / "deep.onnx")
    first = load_restorer(path)
    assert registry.card_of(path) == (first.card, first.sha256)
    assert "agrees with its card" in registry.verified(path)
    place = description.description_path(path)
    place.write_text(place.read_text().replace('"halo_z": 8', '"halo_z": 4'))
    with pytest.raises(ValueError, match=r"reached farther than its card says, .*'halo_z': 4"):
        registry.verified(path)


def test_own_files_say_the_axes_of_their_network(tmp_path):
    network = small_unet3d()
    spec = {"kind": "unet", "widths": [3, 4], "residual": True, "dims": 3}
    card = volume_restorer(network).card.model_copy(update={"network": spec, "halo_px": 10})
    for wrong, message in (
        ({"axes": "YX"}, "the card's axes are YX, but the network has 3 dimensions"),
        ({"halo_z": 8}, "the card's stride_z is 2 and its halo_z 8, but the network's are 2 and 10"),
        ({"stride_z": 1, "halo_z": 10}, "the card's stride_z is 1"),
    ):
        write_restorer(tmp_path / "a.safetensors", network, card.model_copy(update=wrong))
        with pytest.raises(ValueError, match=message):
            load_restorer(tmp_path / "a.safetensors")
