from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from napari_maskcal.restore.tiles import Plan, plan_tiles, plan_volume, smallest_tile_px

SHAPES = [(1, 1), (16, 16), (64, 65), (100, 37), (257, 130), (300, 511), (700, 64)]
GEOMETRIES = [(halo, stride) for halo in (0, 4, 24, 25, 48) for stride in (1, 4, 8)]


def plans(halo: int | None, stride: int) -> list[Plan]:
    return [
        plan_tiles(shape, max_tile_px=most, halo_px=halo, stride_px=stride)
        for shape, most in [*product(SHAPES, (129, 200, 256, 1024)), ((40, 140), 1), ((64, 70), 40)]
    ]


@pytest.mark.parametrize(("halo", "stride"), GEOMETRIES)
def test_what_the_tiles_write_covers_the_padded_plane_exactly_once(halo, stride):
    for plan in plans(halo, stride):
        written = np.zeros(plan.padded_shape, int)
        for tile in plan.tiles:
            written[tile.write] += 1
        assert (written == 1).all()


@pytest.mark.parametrize(("halo", "stride"), GEOMETRIES)
def test_tiles_are_read_inside_the_plane_on_the_stride_and_all_of_one_size(halo, stride):
    for plan in plans(halo, stride):
        for axis, (n, padded) in enumerate(zip(plan.shape, plan.padded_shape, strict=True)):
            assert padded % stride == 0
            assert n <= padded < n + stride
            for tile in plan.tiles:
                read, write = tile.read[axis], tile.write[axis]
                assert 0 <= read.start <= write.start < write.stop <= read.stop <= padded
                assert read.start % stride == 0
                assert read.stop - read.start == plan.tile_shape[axis]


@pytest.mark.parametrize(("halo", "stride"), GEOMETRIES)
def test_every_side_but_the_planes_border_has_at_least_the_halo(halo, stride):
    cut = 0
    for plan in plans(halo, stride):
        cut += len(plan.tiles) > 1
        for tile, axis in product(plan.tiles, (0, 1)):
            read, write, end = tile.read[axis], tile.write[axis], plan.padded_shape[axis]
            assert write.start - read.start >= halo or read.start == write.start == 0
            assert read.stop - write.stop >= halo or read.stop == write.stop == end
    assert cut > 5


@pytest.mark.parametrize(("halo", "stride"), GEOMETRIES)
def test_tiles_are_no_larger_than_asked_for_unless_the_halo_leaves_no_room(halo, stride):
    for shape, most in product(SHAPES, (256, 1024)):
        plan = plan_tiles(shape, max_tile_px=most, halo_px=halo, stride_px=stride)
        assert max(plan.tile_shape) <= most
    for plan in plans(halo, stride):  # even where it leaves none, a tile writes something
        assert all(tile.write[0].stop > tile.write[0].start for tile in plan.tiles)


@pytest.mark.parametrize("halo", [None, 24])
def test_a_plane_that_fits_is_read_in_one_piece(halo):
    plan = plan_tiles((250, 130), max_tile_px=256, halo_px=halo, stride_px=4)
    assert plan.padded_shape == plan.tile_shape == (252, 132)
    assert len(plan.tiles) == 1
    assert plan.halo_ratio == pytest.approx(252 * 132 / (250 * 130))


def test_a_network_of_unbounded_reach_is_never_cut():
    assert {len(plan.tiles) for plan in plans(None, 4)} == {1}
    assert max(len(plan.tiles) for plan in plans(48, 4)) > 1


def test_tiles_are_as_few_and_as_even_as_the_size_allows():
    plan = plan_tiles((64, 1100), max_tile_px=1024, halo_px=24, stride_px=4)
    assert len(plan.tiles) == 2
    assert plan.tile_shape == (64, 576)  # not 1024 and a narrow rest
    assert plan.halo_ratio == pytest.approx(2 * 576 / 1100)


def test_the_output_is_cut_and_placed_on_the_restored_grid():
    tile = plan_tiles((300, 300), max_tile_px=128, halo_px=8, stride_px=4).tiles[-1]
    for factor in (1, 3):
        keep, target = tile.keep(factor), tile.target(factor)
        for axis in (0, 1):
            assert keep[axis].start == factor * (tile.write[axis].start - tile.read[axis].start)
            assert target[axis] == slice(factor * tile.write[axis].start, factor * 300)
            assert keep[axis].stop - keep[axis].start == target[axis].stop - target[axis].start


@pytest.mark.parametrize(
    ("halo", "stride", "expected"), [(48, 4, 192), (24, 16, 96), (25, 8, 104), (0, 8, 8), (0, 1, 1)]
)
def test_half_of_the_smallest_tile_is_halo(halo, stride, expected):
    assert smallest_tile_px(halo_px=halo, stride_px=stride) == expected


# ---- volumes

VOLUMES = [(5, 40, 40), (37, 46, 61), (130, 64, 33), (33, 300, 20)]
REACHES = [((0, 0), (1, 1)), ((3, 8), (1, 4)), ((24, 24), (4, 4)), ((1, 25), (2, 8))]


@pytest.mark.parametrize("shape", VOLUMES)
@pytest.mark.parametrize(("halo", "stride"), REACHES)
@pytest.mark.parametrize("most", [1, 50_000, 2**21])
def test_each_voxel_is_written_once_with_the_halo_around_it(shape, halo, stride, most):
    plan = plan_volume(shape, most_voxels=most, halo=halo, stride=stride, least=(1, 1))
    reaches, strides = (halo[0], halo[1], halo[1]), (stride[0], stride[1], stride[1])
    for n, padded, spans, reach, step in zip(
        shape, plan.padded_shape, (plan.z, plan.y, plan.x), reaches, strides, strict=True
    ):
        assert n <= padded < n + step
        assert [write.start for _, write in spans[1:]] == [write.stop for _, write in spans[:-1]]
        assert (spans[0][1].start, spans[-1][1].stop) == (0, padded)
        for read, write in spans:
            assert read.start % step == 0 == (read.stop - read.start) % step
            assert write.start - read.start >= reach or read.start == 0
            assert read.stop - write.stop >= reach or read.stop == padded
    voxels = np.prod(plan.tile_shape)
    sides = [max(4 * reach, step) + step for reach, step in zip(reaches, strides, strict=True)]
    least = np.prod([max(sides[0], round(most ** (1 / 3))), *sides[1:]])
    assert voxels <= max(most, least)
    assert plan.tile_shape[0] <= max(most ** (1 / 3), 4 * halo[0]) + stride[0]


def test_a_slab_of_large_planes_is_thin():
    shapes = [(500, 2048, 2048), (500, 512, 512), (500, 8192, 8192)]
    plans = [plan_volume(one, most_voxels=2**21, halo=(8, 8), stride=(1, 1), least=(1, 1)) for one in shapes]
    for plan, most in zip(plans, (32, 128, 32), strict=True):
        assert 0.8 * most < plan.tile_shape[0] <= most


@pytest.mark.parametrize("least", [1, 9])
def test_of_a_slab_only_what_is_asked_for_is_read(least):
    plan = plan_volume((130, 64, 33), most_voxels=1, halo=(3, 8), stride=(2, 4), least=(least, 1))
    for first in range(130):
        for stop in range(first + 1, min(first + 4, 131)):
            number = plan.slab_of(first)
            if plan.slab_of(stop - 1) != number:
                continue
            read, write = plan.narrowed(number, first, stop)
            assert write == slice(first, stop)
            assert read.start % 2 == 0
            assert read.stop % 2 == 0
            assert read.start <= max(0, first - 3)
            assert read.stop >= min(130, stop + 3)
            assert least <= read.stop - read.start <= max(stop - first + 6 + 2, least + 2)


def test_a_volume_that_has_no_bound_is_one_tile():
    plan = plan_volume((130, 64, 33), most_voxels=1, halo=None, stride=(2, 4), least=(1, 1))
    assert plan.tile_shape == plan.padded_shape == (130, 64, 36)
    assert plan.narrowed(0, 5, 6) == (slice(0, 130), slice(5, 6))
