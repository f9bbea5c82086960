from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_maskcal.mask.crops import plan_crops
from napari_maskcal.mask.recipe import TrainingField
from training_fields import training_fields


def numbered(*shape: int, factor: int = 1, name: str = "n") -> TrainingField:
    """A field whose pixels know where they are: restored, truth and degraded show the same places."""
    restored = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    coarse = restored[(slice(None), *[slice(None, None, factor)] * len(shape))]
    return TrainingField(degraded=coarse, restored=restored, truth=restored.copy(), name=name)


@pytest.mark.parametrize("shape", [(40, 40), (8, 40, 40)])
@pytest.mark.parametrize("factor", [1, 2])
def test_the_three_images_of_a_crop_show_the_same_place(shape, factor):
    field = numbered(*shape, factor=factor)
    batch = plan_crops([field], crop_px=16, stride_px=4).draw(20, 7)
    size = tuple(min(n, 16) for n in shape)
    assert batch.restored.shape == (20, 1, *size)
    assert batch.degraded.shape == (20, 1, *(n // factor for n in size))
    assert np.array_equal(batch.restored, batch.truth)
    cells = batch.restored.reshape(20, *(part for n in size for part in (n // factor, factor)))
    first = cells.min(axis=tuple(range(2, cells.ndim, 2)))  # of each cell that one degraded pixel stands for
    assert np.array_equal(first, batch.degraded[:, 0])


def test_crops_are_turned_and_mirrored_in_all_ways_and_cut_everywhere():
    field = numbered(9, 9)
    batch = plan_crops([field], crop_px=8, stride_px=1).draw(600, 1)
    looks = {tuple(crop[0].ravel()) for crop in batch.restored}
    assert len(looks) == 8 * 2 * 2


def test_volumes_are_mirrored_along_z_too_but_never_turned_out_of_the_plane():
    batch = plan_crops([numbered(4, 4, 4)], crop_px=4, stride_px=4).draw(400, 1)
    assert len({tuple(crop.ravel()) for crop in batch.restored}) == 16
    planes = {frozenset(plane.ravel()) for crop in batch.restored for plane in crop[0]}
    assert len(planes) == 4


def test_a_field_is_drawn_as_often_as_it_has_pixels():
    small, large = numbered(16, 16, name="small"), numbered(16, 48, name="large")
    labels = plan_crops([small, large], crop_px=16, stride_px=4).draw(2000, 0).labels
    assert labels.count("small") / 2000 == pytest.approx(0.25, abs=0.04)


def test_a_batch_is_a_function_of_its_seed():
    crops = plan_crops(training_fields(), crop_px=32, stride_px=2)
    assert np.array_equal(crops.draw(4, 5, 3).restored, crops.draw(4, 5, 3).restored)
    assert not np.array_equal(crops.draw(4, 5, 3).restored, crops.draw(4, 5, 4).restored)
    assert not np.array_equal(crops.draw(4, 5, 3).restored, crops.draw(4, 6, 3).restored)


@pytest.mark.parametrize(
    ("shapes", "crop_px", "stride_px", "factor", "expected"),
    [
        ([(48, 48)], 32, 4, 1, (32, 32)),
        ([(48, 48), (30, 90)], 32, 4, 1, (28, 28)),
        ([(48, 48)], 31, 4, 1, (28, 28)),
        ([(48, 48)], 128, 4, 3, (48, 48)),
        ([(36, 36)], 34, 4, 3, (24, 24)),
        ([(10, 48, 60)], 32, 4, 1, (8, 32, 32)),
    ],
)
def test_crops_are_the_largest_multiples_that_all_fields_have(shapes, crop_px, stride_px, factor, expected):
    fields = [numbered(*shape, factor=factor) for shape in shapes]
    assert plan_crops(fields, crop_px=crop_px, stride_px=stride_px).size_px == expected


def test_volumes_may_be_finer_in_the_plane_alone():
    field = replace(numbered(4, 16, 16), degraded=np.zeros((1, 4, 8, 8), np.float32))
    crops = plan_crops([field], crop_px=8, stride_px=2)
    assert crops.factor == (1, 2, 2)
    assert crops.draw(3, 0).degraded.shape == (3, 1, 4, 4, 4)


def changed(i: int = 1, **shapes: tuple[int, ...]) -> list[TrainingField]:
    """Four fields, one of which has images of other shapes."""
    fields = training_fields()
    fields[i] = replace(fields[i], **{name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    return fields


def spoiled(name: str, value: float) -> list[TrainingField]:
    fields = training_fields()
    getattr(fields[2], name)[0, 3, 3] = value
    return fields


RGB = (3, 48, 48)
CUBE = (1, 8, 48, 48)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "there are no fields to train on; give at least one triplet"),
        (changed(truth=(1, 48, 40)), r"field cell 1 \(group specimen 1\): the restored image has shape \(1, 48"),
        (changed(restored=RGB, truth=RGB), r"the restored image of field cell 1 \(.*\) has 3 channel\(s\) and that of "
                                           r"cell 0 \(group specimen 0\) 1; leave out fields of either kind"),
        (changed(degraded=RGB), r"the degraded image of field cell 1 \(.*\) has 3 channel\(s\) and that of cell 0"),
        (changed(degraded=CUBE, restored=CUBE, truth=CUBE), r"field cell 1 .* has 3 axes and cell 0 .* has 2"),
        (changed(degraded=(1, 24, 24)), "cell 1 .* is restored 2 × 2 finer and cell 0 .* 1 × 1; train on fields of"),
        (changed(0, degraded=(1, 20, 20)), "field cell 0 .* has 48 × 48 pixels and the degraded one 20 × 20; it has"),
        (changed(0, degraded=(1, 24, 48)), "field cell 0 .* 24 × 48; it has to be finer by a whole factor"),
        (changed(0, degraded=(48, 48)), r"field cell 0 .* has shape \(48, 48\) and the restored one \(1, 48, 48\)"),
        (changed(0, degraded=(1, 0, 48)), "field cell 0 .* 0 × 48; it has to be finer by a whole factor"),
        (spoiled("truth", np.nan), r"the truth image of field cell 2 \(group specimen 2\) has 1 pixel\(s\) that are"),
        (spoiled("degraded", np.inf), r"the degraded image of field cell 2 .* has 1 pixel\(s\) that are NaN"),
    ],
)  # fmt: skip
def test_fields_that_do_not_go_together_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        plan_crops(fields, crop_px=32, stride_px=2)


@pytest.mark.parametrize(
    ("shape", "crop_px", "message"),
    [
        ((48, 3), 32, "field n has 48 × 3 pixels and crops at most 32; the network needs at least 4 along each axis"),
        ((2, 48, 48), 32, "field n has 2 × 48 × 48 pixels and crops at most 32; the network needs at least 4"),
        ((48, 48), 3, "field n has 48 × 48 pixels and crops at most 3; the network needs at least 4 along each axis"),
    ],
)
def test_fields_smaller_than_the_network_takes_are_refused_with_their_size(shape, crop_px, message):
    with pytest.raises(ValueError, match=message):
        plan_crops([numbered(*shape)], crop_px=crop_px, stride_px=4)
