from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from napari_maskcal.models import MaskModel, Restorer
from napari_maskcal.pipeline import review
from napari_maskcal.read.image import Image, from_array
from napari_maskcal.restore import engine
from napari_maskcal.restore.engine import Pair, normalise, process
from napari_maskcal.restore.events import CancelToken, Done, Event, Failed, PlaneDone, Started, TileDone, Warned
from small_models import noisy_planes

if TYPE_CHECKING:
    from collections.abc import Sequence

WHOLE = {"max_tile_px": 4096, "batch": 1}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
ODD_SHAPES = [(64, 64), (203, 310), (333, 97), (512, 66)]


@pytest.fixture
def pair(trained) -> tuple[Restorer, MaskModel]:
    return trained.restorer, trained.mask_model


def image_of(planes: np.ndarray, axes: str = "ZYX") -> Image:
    return from_array(planes, axes=axes, name="cells")


def computed(pair: Sequence[Any], planes: np.ndarray, **options) -> list[PlaneDone]:
    image = image_of(planes)
    events = process(image, image.planes(), *pair, device="cpu", **options)
    return [event for event in events if isinstance(event, PlaneDone)]


def changed(pair: tuple[Restorer, MaskModel], **card: Any) -> tuple[Restorer, MaskModel]:
    restorer, mask = pair
    return (
        replace(restorer, card=restorer.card.model_copy(update=card)),
        replace(mask, card=mask.card.model_copy(update=card)),
    )


def assert_same(found: PlaneDone, expected: PlaneDone) -> None:
    span = float(np.ptp(expected.restored))
    np.testing.assert_allclose(found.restored / span, expected.restored / span, **CLOSE)
    np.testing.assert_allclose(found.uncertainty, expected.uncertainty, **CLOSE)


@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_one_plane_is_what_the_bare_networks_make_of_it(pair, shape):
    (plane,) = noisy_planes(1, *shape, seed=1)
    (found,) = computed(pair, plane[None])
    padded = np.pad(plane.astype(np.float64), [(0, -n % 4) for n in shape], mode="reflect")
    low, high = np.percentile(plane, (1, 99.8), method="nearest")
    with torch.inference_mode():
        restored, uncertainty = Pair(*pair)(
            torch.from_numpy(((padded - low) / (high - low)).astype(np.float32))[None, None]
        )
    inside = tuple(slice(n) for n in shape)
    assert_same(
        found,
        PlaneDone(
            index=(0,),
            restored=(restored[0, 0].numpy() * (high - low) + low)[inside],
            uncertainty=uncertainty[0, 0].numpy()[inside],
        ),
    )
    assert found.restored.shape == found.uncertainty.shape == shape


def test_the_networks_called_directly_give_the_same(pair):
    (plane,) = noisy_planes(1, 200, 308, seed=1)
    (found,) = computed(pair, plane[None])
    restored = pair[0](plane)
    assert_same(found, PlaneDone(index=(0,), restored=restored, uncertainty=pair[1].uncertainty(plane, restored)))


@pytest.mark.parametrize("shape", [(203, 308), (200, 97)])
def test_a_direct_call_that_would_give_another_uncertainty_is_refused(pair, shape):
    """Padding comes before the restorer in the engine, and would come after it here."""
    (plane,) = noisy_planes(1, *shape, seed=1)
    with pytest.raises(ValueError, match=r"cut it to multiples of 4 pixels"):
        pair[1].uncertainty(plane, pair[0](plane))
    with pytest.raises(ValueError, match="no multiple"):
        pair[1].uncertainty(plane, plane[:-4].astype(np.float32))


def test_an_uncertainty_that_is_no_number_is_refused_not_trusted(pair):
    planes = noisy_planes(2, 64, 64).astype(np.float64)
    planes[1, 5, 6] = 1e300
    events = process(from_array(planes, axes="ZYX", name="hot"), [(0,), (1,)], *pair, device="cpu")
    assert any(isinstance(event, PlaneDone) and event.index == (0,) for event in itertools.islice(events, 3))
    with pytest.raises(ValueError, match=r"hot, plane Z=1: the restored image has \d+ values that are NaN or infinite"):
        list(events)


def test_others_precision_settings_do_not_reach_the_networks(pair):
    planes = noisy_planes(1, 64, 64)
    (exact,) = computed(pair, planes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = computed(pair, planes)
    assert_same(found, exact)


@pytest.mark.parametrize("max_tile_px", [192, 256, 300])
@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_tiles_give_what_the_whole_plane_gives(pair, set_effort, shape, max_tile_px):
    planes = noisy_planes(1, *shape, seed=2)
    set_effort(**WHOLE)
    (whole,) = computed(pair, planes)
    set_effort(max_tile_px=max_tile_px, batch=1)
    (tiled,) = computed(pair, planes)
    assert_same(tiled, whole)


def test_without_halo_seams_appear(pair, set_effort):
    planes = noisy_planes(1, 300, 300)
    set_effort(**WHOLE)
    (whole,) = computed(pair, planes)
    set_effort(max_tile_px=192, batch=1)
    (seamed,) = computed(changed(pair, halo_px=0), planes)
    difference = np.abs(seamed.uncertainty - whole.uncertainty) / whole.uncertainty
    assert difference.max() > 1e-2
    assert difference[:100, :100].max() < 1e-5  # far from the cuts in the middle there are none


def test_a_tile_off_the_stride_gives_other_values(pair):
    network, plane = Pair(*pair), torch.rand(1, 1, 200, 200)
    with torch.inference_mode():
        whole = network(plane)[1][..., 80:100, 80:100]
        aligned, shifted = (network(plane[..., at : at + 160, at : at + 160])[1] for at in (20, 21))
    assert torch.allclose(aligned[..., 60:80, 60:80], whole, atol=1e-5)
    assert not torch.allclose(shifted[..., 59:79, 59:79], whole, atol=1e-4)


@pytest.mark.parametrize("batch", [2, 3, 16])
def test_a_batch_over_several_planes_gives_what_one_tile_at_a_time_gives(pair, set_effort, batch):
    planes = noisy_planes(3, 80, 200)
    planes[1] //= 2
    set_effort(max_tile_px=192, batch=1)
    alone = computed(pair, planes)
    set_effort(max_tile_px=192, batch=batch)
    together = computed(pair, planes)
    assert [event.index for event in together] == [(0,), (1,), (2,)]
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected)


class Doubler(nn.Module):
    """Super-resolution with a reach of 2 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(1, 4, 5, padding=2)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shuffle(self.before(x))


@pytest.fixture
def doubling(pair) -> tuple[Restorer, MaskModel]:
    torch.manual_seed(5)
    card = pair[0].card.model_copy(update={"scale_factor": 2, "stride_px": 1, "halo_px": 2})
    return Restorer(card=card, network=Doubler().eval(), sha256="doubler"), pair[1]


@pytest.mark.parametrize("shape", [(210, 305), (64, 200)])
def test_a_restorer_that_doubles_the_grid_is_tiled_like_any_other(doubling, set_effort, shape):
    planes = noisy_planes(2, *shape, seed=3)
    set_effort(**WHOLE)
    whole = computed(doubling, planes)
    set_effort(max_tile_px=96, batch=2)
    for tiled, expected in zip(computed(doubling, planes), whole, strict=True):
        assert tiled.restored.shape == tiled.uncertainty.shape == (2 * shape[0], 2 * shape[1])
        assert_same(tiled, expected)


def test_the_pair_states_its_geometry_on_the_degraded_grid(pair, doubling):
    same, double = Pair(*pair), Pair(*doubling)
    assert (same.factor, same.stride_px, same.halo_px, same.min_size_px) == (1, 4, 48, 16)
    assert (double.factor, double.stride_px, double.halo_px, double.min_size_px) == (2, 2, 14, 16)
    assert Pair(*changed(pair, halo_px=None)).halo_px is None


class Hungry(nn.Module):
    """Takes batches and images up to a size; above it, memory runs out."""

    def __init__(self, network: nn.Module, *, most: int, largest_px: int = 10**9) -> None:
        super().__init__()
        self.network, self.most, self.largest_px = network, most, largest_px

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > self.most or max(x.shape[-2:]) > self.largest_px:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return self.network(x)


def hungry(pair: tuple[Restorer, MaskModel], **limits: int) -> tuple[Restorer, MaskModel]:
    return replace(pair[0], network=Hungry(pair[0].network, **limits)), pair[1]


def test_out_of_memory_halves_the_batch_then_the_tile_and_the_result_is_the_same(pair, set_effort):
    planes = noisy_planes(2, 500, 300)
    set_effort(**WHOLE)
    expected = computed(pair, planes)
    set_effort(max_tile_px=1024, batch=4)
    image = image_of(planes)
    events = list(process(image, image.planes(), *hungry(pair, most=1, largest_px=260), device="cpu"))
    warnings = [event.message for event in events if isinstance(event, Warned)]
    steps = [message.split("going on with ")[1] for message in warnings]
    assert [step.split()[0] for step in steps] == ["2", "1", "1"]  # tiles at a time
    assert "at most 250 pixels" in steps[-1]
    assert all(message.startswith("cpu ran out of memory; ") for message in warnings)
    found = [event for event in events if isinstance(event, PlaneDone)]
    assert [event.index for event in found] == [(0,), (1,)]
    for done, undisturbed in zip(found, expected, strict=True):
        assert_same(done, undisturbed)
    counts = [(event.done, event.total) for event in events if isinstance(event, TileDone)]
    assert counts[-1][0] == counts[-1][1]


def test_planes_done_before_memory_ran_out_are_not_done_again(pair, set_effort):
    class TiredAfter(Hungry):
        def forward(self, x):
            self.most, self.calls = (1, self.calls + 1) if self.calls == 2 else (self.most, self.calls + 1)
            return super().forward(x)

    network = TiredAfter(pair[0].network, most=2)
    network.calls = 0
    set_effort(max_tile_px=1024, batch=2)
    image = image_of(noisy_planes(8, 64, 64))
    events = list(process(image, image.planes(), replace(pair[0], network=network), pair[1], device="cpu"))
    assert [event.index for event in events if isinstance(event, PlaneDone)] == image.planes()
    assert [event.done for event in events if isinstance(event, TileDone)] == [2, 4, 5, 6, 7, 8]
    assert network.calls == 2 + 1 + 4  # two batches of two, one failure, four single planes


def test_when_not_even_the_smallest_tile_fits_the_error_names_its_size(pair, set_effort):
    set_effort(max_tile_px=1024, batch=2)
    with pytest.raises(MemoryError, match=r"cpu has too little memory even for one tile of \d+ × \d+ pixels; close"):
        computed(hungry(pair, most=0), noisy_planes(1, 500, 300))


def test_other_errors_of_a_network_are_not_taken_for_a_lack_of_memory(pair):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        computed((replace(pair[0], network=Broken()), pair[1]), noisy_planes(1, 64, 64))


def test_events_come_in_order_and_count_the_tiles(pair, set_effort):
    set_effort(max_tile_px=192, batch=1)
    image = image_of(noisy_planes(2, 300, 100))
    events = list(process(image, image.planes(), *pair, device="cpu"))
    assert events[0] == Started(planes=2, tiles=6, device="cpu")
    assert [type(event) for event in events[1:]] == 2 * [*3 * [TileDone], PlaneDone]
    assert [event.done for event in events if isinstance(event, TileDone)] == list(range(1, 7))
    assert {event.total for event in events if isinstance(event, TileDone)} == {6}


def test_a_cancelled_run_stops_before_the_next_tile(pair, set_effort):
    set_effort(max_tile_px=192, batch=1)
    image, cancel, events = image_of(noisy_planes(3, 300, 100)), CancelToken(), []
    for event in process(image, image.planes(), *pair, device="cpu", cancel=cancel):
        events.append(event)
        if isinstance(event, TileDone) and event.done == 5:
            cancel.cancel()
    assert [event.index for event in events if isinstance(event, PlaneDone)] == [(0,)]
    assert sum(isinstance(event, TileDone) for event in events) == 5


def test_a_run_cancelled_before_it_starts_reads_nothing(pair):
    cancel = CancelToken()
    cancel.cancel()
    array = Lazy(noisy_planes(2, 64, 64))
    assert [type(e) for e in process(image_of(array), [(0,), (1,)], *pair, device="cpu", cancel=cancel)] == [Started]
    assert array.reads == []


def spoiled(value: float, *places: tuple[int, int]) -> np.ndarray:
    plane = noisy_planes(1, 64, 70).astype(np.float32)
    for place in places:
        plane[(0, *place)] = value
    return plane


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        (spoiled(np.nan, (3, 7), (9, 1)), r"cells, plane Z=0 has 2 NaN or infinite values, the first at .* \(3, 7\)"),
        (spoiled(-np.inf, (63, 69)), r"plane Z=0 has 1 NaN or infinite values, the first at .* \(63, 69\)"),
        (np.full((1, 64, 64), 7, np.uint8), r"plane Z=0 is constant: its percentiles 1 and 99\.8 are both 7;"),
        (noisy_planes(1, 64, 15), r"cells has planes of 64 × 15 pixels; random restorer 0 needs at least 16"),
    ],
)
def test_a_plane_that_cannot_be_restored_is_refused_with_its_name_and_value(pair, planes, message):
    with pytest.raises(ValueError, match=message):
        computed(pair, planes)


def test_a_few_bright_pixels_on_a_constant_plane_do_not_make_it_restorable(pair):
    planes = np.full((1, 64, 64), 7, np.uint16)
    planes[0, 0, :3] = 1000  # less than the 0.2 % above the upper percentile
    with pytest.raises(ValueError, match="constant"):
        computed(pair, planes)
    planes[0, 0, :50] = 1000
    assert len(computed(pair, planes)) == 1


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", ">u2", "int16", "uint32", "int32", "float16", "float32", ">f4", "float64"]
)
def test_equal_contents_give_equal_results_in_every_number_type(pair, dtype):
    planes = noisy_planes(1, 70, 66)
    (expected,), (found,) = computed(pair, planes), computed(pair, planes.astype(dtype))
    assert planes.max() < 256
    np.testing.assert_allclose(found.restored, expected.restored, rtol=1e-6)
    np.testing.assert_allclose(found.uncertainty, expected.uncertainty, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "offset"), [("uint32", 4_000_000_000), ("float64", 1e9), ("int16", -3000)])
def test_a_large_offset_does_not_cost_digits(pair, dtype, offset):
    planes = noisy_planes(1, 70, 66)
    (expected,), (found,) = computed(pair, planes), computed(pair, (planes.astype("int64") + offset).astype(dtype))
    np.testing.assert_allclose(found.uncertainty, expected.uncertainty, rtol=1e-5)
    # float32 itself tells numbers of this size apart to one part in 2^24
    np.testing.assert_allclose(found.restored, expected.restored + offset, atol=abs(offset) / 2**23 + 1e-3)


def test_normalising_in_float32_would_lose_the_digits_of_wide_integers():
    plane = np.array([4_000_000_000, 4_000_000_100], np.uint32)
    assert normalise(plane, 4e9, 100.0).tolist() == [0, 1]
    assert (plane.astype(np.float32) - np.float32(4e9)).tolist() == [0, 0]


class Lazy:
    """An array like dask's or zarr's: it has a shape, and gives numpy arrays only when it is sliced."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.shape, self.dtype, self.reads = pixels, pixels.shape, pixels.dtype, []

    def __getitem__(self, index: Any) -> np.ndarray:
        self.reads.append(index)
        return self.pixels[index]

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise MemoryError("the whole stack was asked for")


def test_a_lazy_stack_is_read_once_plane_by_plane_as_results_come(pair):
    array = Lazy(noisy_planes(2, 3, 64, 64))
    image = image_of(array, "TZYX")
    done = 0
    for event in review(image, *pair, device="cpu"):
        if isinstance(event, PlaneDone):
            done += 1
            assert len(array.reads) == done
    assert isinstance(event, Done)
    assert array.reads == image.planes()


def test_a_plane_that_fails_keeps_the_planes_before_it(pair):
    planes = noisy_planes(4, 64, 64)
    planes[2] = 9
    events: list[Event] = list(review(image_of(planes), *pair, device="cpu"))
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert "cells, plane Z=2 is constant" in str(failed.error)
    assert (failed.result.planes_done, failed.result.planes, failed.result.complete) == (2, 4, False)
    assert [(plane == 2).all() for plane in failed.result.uncertain] == [False, False, True, True]


def test_a_bad_plane_in_memory_is_found_before_the_first_is_computed(pair):
    planes = noisy_planes(4, 64, 64).astype(np.float32)
    planes[3, 5, 6] = np.nan
    (failed,) = review(image_of(planes), *pair, device="cpu")
    assert "plane Z=3 has 1 NaN" in str(failed.error)


def test_a_plane_asked_for_twice_is_computed_once(pair, set_effort):
    set_effort(max_tile_px=1024, batch=2)
    events = []
    for event in review(image_of(noisy_planes(2, 64, 64)), *pair, planes=[(1,), (1,)], device="cpu"):
        events.append(event)
        assert len(events) < 20, "the same tiles are computed for ever"
    assert isinstance(event, Done)
    assert (event.result.planes_done, event.result.planes) == (1, 1)


def test_the_networks_are_left_as_they_were(pair):
    before = {name: weight.clone() for name, weight in pair[0].network.state_dict().items()}
    computed(pair, noisy_planes(1, 64, 64))
    assert all(torch.equal(before[name], weight) for name, weight in pair[0].network.state_dict().items())


def test_a_processor_takes_one_tile_at_a_time_and_an_accelerator_several():
    assert engine.Effort.on(torch.device("cpu")).batch == 1
    assert engine.Effort.on(torch.device("cuda")).batch > 1
