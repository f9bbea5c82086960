from __future__ import annotations

import inspect
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.mask import budget
from napari_maskcal.mask.budget import CELL_PX, ErrorBudget, budget_power, error_budget
from napari_maskcal.mask.network import MaskNetwork
from napari_maskcal.mask.scores import FLOOR
from napari_maskcal.models import MaskModel
from napari_maskcal.read.image import from_array
from napari_maskcal.restore.card import ModelCard
from napari_maskcal.restore.engine import process
from napari_maskcal.restore.events import PlaneDone
from napari_maskcal.restore.kinds import make_network
from small_models import lively, noisy_planes

if TYPE_CHECKING:
    from collections.abc import Callable

UNET = {"kind": "mask-unet", "head": "exponential", "widths": [4, 8]}
LEVELS = 1e-4 * 1e5 ** (np.arange(63) / 62)  # between which bins lie, in shares of the intensity range


def errors(*shape: int, seed: int = 0, spread: float = 1.0, middle: float = 0.05) -> torch.Tensor:
    """Estimated errors that differ from place to place."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=tuple(-(-n // 16) for n in shape))
    for axis in range(len(shape)):
        coarse = coarse.repeat(16, axis)
    slow = coarse[tuple(slice(n) for n in shape)]
    return torch.from_numpy((middle * np.exp(spread * (slow + rng.normal(size=shape)))).astype(np.float32))[None, None]


def around(error: np.ndarray, pixel: tuple[int, ...], radius: int) -> np.ndarray:
    """All errors in the window of a pixel: the cells around its own that lie inside."""
    window = tuple(slice(max(i // CELL_PX - radius, 0) * CELL_PX, (i // CELL_PX + radius + 1) * CELL_PX) for i in pixel)
    return error[window].ravel()


def spent(found: torch.Tensor, error: torch.Tensor) -> np.ndarray:
    """The budget without the little that is added to it."""
    return (found.double() - FLOOR - 1e-4 * error.double())[0, 0].numpy()


def some_pixels(shape: tuple[int, ...], count: int = 150) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(1)
    corners = itertools.product(*((0, n - 1) for n in shape))
    return [*corners, *(tuple(int(rng.integers(n)) for n in shape) for _ in range(count))]


def check_definition(computed: Callable[..., torch.Tensor], shape: tuple[int, ...], power: float, radius: int) -> None:
    """Compare with the sum over the window, pixel by pixel: exactly to a bin of errors, which are a fifth apart."""
    tensor = errors(*shape)
    error = tensor[0, 0].double().numpy()
    found = spent(computed(tensor, power=power, radius_cells=radius), tensor)
    for pixel in some_pixels(shape):
        own, window = error[pixel], around(error, pixel, radius)
        place = np.searchsorted(LEVELS, own, side="right")
        lower, upper = np.append(0, LEVELS)[place], np.append(LEVELS, np.inf)[place]
        inside = np.log(own / lower) / np.log(upper / lower)
        smaller, same = (np.sum(window[chosen] ** power) / window.size
                         for chosen in (window < lower, (window >= lower) & (window < upper)))  # fmt: skip
        expected = (smaller + inside * same) ** (1 / power)
        assert abs(found[pixel] - expected) < 1e-4 * expected + 1e-6, f"{found[pixel]:.5f}, not {expected:.5f}"
        defined = np.mean(np.where(window <= own, window, 0) ** power) ** (1 / power)
        least, most = smaller ** (1 / power), (smaller + same) ** (1 / power)
        assert least <= defined * (1 + 1e-9) <= most * (1 + 1e-6)


@pytest.mark.parametrize("power", [1, 1.5, 2, 3])
@pytest.mark.parametrize(("shape", "radius"), [((64, 80), 2), ((40, 136), 8), ((16, 24, 32), 1)])
def test_it_is_the_error_predicted_around_a_pixel_if_all_that_are_as_sure_are_trusted(shape, radius, power):
    check_definition(error_budget, shape, power, radius)


FAULTS = {
    "all of its own bin counts": {"around.flatten()[place] * inside": "around.flatten()[place]"},
    "nothing of its own bin counts": {"around.flatten()[place] * inside": "0"},
    "larger errors count": {"around.cumsum(-1)": "around.flip(-1).cumsum(-1).flip(-1)"},
    "no root": {".pow(1 / power)": ".pow(1)"},
    "the own cell alone": {
        "_window_means(mass.view(-1, *cells, _LEVELS), radius_cells)": "mass.view(-1, *cells, _LEVELS)"
    },
    "a window one cell too large": {"_LEVELS), radius_cells)": "_LEVELS), radius_cells + 1)"},
    "pixels are counted, not their errors": {"(error / _HIGHEST).pow(power)": "torch.ones_like(error)"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_noticed(fault):
    source = inspect.getsource(budget.error_budget)
    for right, wrong in FAULTS[fault].items():
        assert source.count(right) == 1
        source = source.replace(right, wrong)
    space = dict(vars(budget))
    exec(compile("from __future__ import annotations\n" + source, "planted", "exec"), space)  # noqa: S102
    with pytest.raises(AssertionError, match=r"\d\.\d+, not \d\.\d+"):
        check_definition(space["error_budget"], (64, 80), 2, 2)


def test_borders_count_what_lies_inside_so_padding_would_be_noticed(monkeypatch):
    pool = torch.nn.functional.avg_pool1d
    monkeypatch.setattr(
        torch.nn.functional, "avg_pool1d", lambda *args, **options: pool(*args, **options | {"count_include_pad": True})
    )
    with pytest.raises(AssertionError, match=r"\d\.\d+, not \d\.\d+"):
        check_definition(error_budget, (64, 80), 1, 2)


def cells_of(image: torch.Tensor) -> np.ndarray:
    """Pixels by cell, (cells, pixels)."""
    height, width = (n // CELL_PX for n in image.shape[-2:])
    cut = image[0, 0].double().numpy().reshape(height, CELL_PX, width, CELL_PX)
    return cut.transpose(0, 2, 1, 3).reshape(height * width, -1)


@pytest.mark.parametrize("power", [1, 2, 8])
@pytest.mark.parametrize(("spread", "middle"), [(0.01, 0.05), (1, 0.05), (3, 0.01), (4, 5.0)])
def test_pixels_of_one_cell_keep_their_order(power, spread, middle):
    error = errors(64, 64, spread=spread, middle=middle)
    own, found = (cells_of(image) for image in (error, error_budget(error, power=power, radius_cells=2)))
    order = own.argsort(axis=1)
    steps = np.diff(np.take_along_axis(found, order, 1), axis=1)
    larger = np.diff(np.take_along_axis(own, order, 1), axis=1) > 0
    assert (steps[larger] >= 0).all()
    assert (steps[larger] > 0).mean() > 0.98  # float32 has equal numbers for a few
    assert (found.max(axis=1)[:, None] > found.max() * 0.999).mean() < 1  # windows have budgets of their own


def test_of_one_threshold_a_good_field_is_left_alone_and_of_a_bad_one_the_worst_is_marked():
    good, bad = errors(64, 64, middle=0.02), errors(64, 64, middle=0.06)
    threshold = 0.05
    assert (error_budget(good, power=1) > threshold).float().mean() < 0.05 < (good > threshold).float().mean()
    marked = error_budget(bad, power=1) > threshold
    assert 0.1 < marked.float().mean() < 0.9
    trusted = (bad * ~marked).mean()  # one window is the whole field
    assert trusted == pytest.approx(threshold, rel=0.1)


@pytest.mark.parametrize("power", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("spread", [1, 10, 25])
def test_it_is_a_number_above_0_whatever_the_network_says(spread, power):
    error = torch.exp(spread * torch.randn(2, 1, 32, 40)).clamp(max=np.exp(60))
    error[0, 0, 0, :4] = torch.tensor([np.exp(-60), np.exp(60), 1e-30, 0.0])
    found = error_budget(error, power=power, radius_cells=1)
    assert torch.isfinite(found).all()
    assert (found >= FLOOR).all()


@pytest.mark.parametrize("value", [1e-8, 1e-4, 0.003, 0.1, 10.0, 1e4])
def test_one_error_everywhere_gives_no_more_than_it_and_all_alike(value):
    found = error_budget(torch.full((1, 1, 24, 32), value), power=1, radius_cells=1)
    assert found.max() - found.min() <= 1e-5 * found.max()
    assert FLOOR <= float(found.max()) <= value * (1 + 2e-4) + FLOOR * 1.001


def test_each_image_of_a_batch_and_each_slice_of_cells_is_on_its_own():
    first, second = errors(32, 48, seed=1), errors(32, 48, seed=2)
    together = error_budget(torch.cat((first, second)), power=1, radius_cells=1)
    torch.testing.assert_close(together[:1], error_budget(first, power=1, radius_cells=1))
    torch.testing.assert_close(together[1:], error_budget(second, power=1, radius_cells=1))
    changed = first.clone()
    changed[..., :8] *= 3
    before, after = (error_budget(image, power=1, radius_cells=1) for image in (first, changed))
    torch.testing.assert_close(before[..., 16:], after[..., 16:])  # two cells away
    assert (before[..., 8:16] != after[..., 8:16]).any()


def test_sizes_that_are_no_whole_cells_are_refused():
    with pytest.raises(ValueError, match=r"the plane has shape \(16, 20\); cut it to multiples of 8 pixels"):
        error_budget(torch.ones(1, 1, 16, 20), power=1)
    with pytest.raises(ValueError, match=r"has shape \(4, 16, 16\); cut"):
        error_budget(torch.ones(1, 1, 4, 16, 16), power=1)


# ---- as a network


def test_it_is_a_network_of_its_own_kind_whose_weights_are_those_of_the_other():
    torch.manual_seed(3)
    inner = lively(MaskNetwork((4, 8), head="exponential"))
    spec = {"kind": "budget", "of": inner.spec, "power": 2.0, "radius_cells": 1}
    network = make_network(spec, role="mask")
    assert isinstance(network, ErrorBudget)
    network.load_state_dict({f"of.{name}": weight for name, weight in inner.state_dict().items()})
    degraded, restored = torch.rand(1, 1, 32, 40), torch.rand(1, 1, 32, 40)
    found = network(degraded, restored)
    torch.testing.assert_close(found, error_budget(inner(degraded, restored), power=2, radius_cells=1))
    assert found.shape == (1, 1, 32, 40)
    assert (found - inner(degraded, restored)).abs().max() > 0.01
    assert network.stride_px % CELL_PX == 0
    assert network.halo_px >= inner.halo_px + 2 * CELL_PX - 1
    assert network.halo_px % network.stride_px == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"power": 0.5}, "power is 0.5; give a number from 1 to 64"), ({"power": np.nan}, "power is nan"),
     ({"power": 65}, "power is 65"), ({"radius_cells": 0}, "radius is 0 cells; give a whole number from 1 to 64"),
     ({"radius_cells": True}, "radius is True"), ({"radius_cells": 2.0}, "radius is 2.0"),
     ({"radius_cells": 65}, "radius is 65")],
)  # fmt: skip
def test_what_it_cannot_be_made_with_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ErrorBudget(UNET, **({"power": 1.0} | arguments))


def test_it_is_no_restorer_and_wraps_none():
    with pytest.raises(ValueError, match="a network of kind 'budget' as its restorer; those are unet"):
        make_network({"kind": "budget", "of": UNET}, role="restorer")
    with pytest.raises(ValueError, match="a network of kind 'unet' as its mask"):
        ErrorBudget({"kind": "unet", "widths": [4, 8]}, power=1.0)


def budget_of(of: dict[str, Any], *, halo_px: int | None = None) -> MaskModel:
    torch.manual_seed(5)
    network = ErrorBudget(of, power=1.0, radius_cells=2).eval()
    lively(network.of)
    card = ModelCard(
        name="budget", role="mask", network={"kind": "budget", "of": of, "radius_cells": 2},
        stride_px=network.stride_px, halo_px=network.halo_px if halo_px is None else halo_px, min_size_px=16,
    )  # fmt: skip
    return MaskModel(card=card, network=network, sha256="0")


def computed(restorer: Any, mask: MaskModel, planes: np.ndarray) -> PlaneDone:
    image = from_array(planes, axes="ZYX", name="cells")
    (done,) = (e for e in process(image, [(0,)], restorer, mask, device="cpu") if isinstance(e, PlaneDone))
    return done


OTHERS = [UNET, {"kind": "residual", "window_px": 9}]


@pytest.mark.parametrize("of", OTHERS, ids=["network", "residual"])
@pytest.mark.parametrize("shape", [(203, 310), (256, 97)])
def test_tiles_give_what_the_whole_plane_gives(trained, set_effort, of, shape):
    planes, mask = noisy_planes(1, *shape, seed=2), budget_of(of)
    set_effort(max_tile_px=4096, batch=1)
    whole = computed(trained.restorer, mask, planes)
    set_effort(max_tile_px=192, batch=1)
    tiled = computed(trained.restorer, mask, planes)
    np.testing.assert_allclose(tiled.uncertainty, whole.uncertainty, rtol=2e-5, atol=1e-6)
    assert np.ptp(whole.uncertainty) > 0.01


def test_without_the_reach_of_its_windows_seams_appear(trained, set_effort):
    planes, mask = noisy_planes(1, 203, 310, seed=2), budget_of(OTHERS[1])
    set_effort(max_tile_px=4096, batch=1)
    whole = computed(trained.restorer, mask, planes)
    set_effort(max_tile_px=128, batch=1)
    short = budget_of(OTHERS[1], halo_px=8)
    tiled = computed(trained.restorer, short, planes)
    assert not np.allclose(tiled.uncertainty, whole.uncertainty, rtol=1e-3)
    direct = replace(short, card=mask.card)
    np.testing.assert_allclose(
        computed(trained.restorer, direct, planes).uncertainty, whole.uncertainty, rtol=2e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("distance", "power"), [("l1", 2.0), ("l1.5", 3.0), ("l2", 4.0), ("l64", 64.0), ("linf", 64.0), ("ssim", 2.0)]
)
def test_the_power_is_twice_that_of_the_distance(distance, power):
    assert budget_power(parse_distance(distance)) == power


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_that_the_plane_is_refused(value):
    error = errors(16, 16, middle=0.02)
    assert torch.isfinite(error_budget(error, power=2)).all()
    error[0, 0, 3, 4] = value
    found = error_budget(error, power=2)
    assert found[0, 0, 3, 4].isnan()
    assert torch.isfinite(found).sum() == error.numel() - 1
