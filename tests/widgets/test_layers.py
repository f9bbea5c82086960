from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Points

from napari_maskcal._widgets.layers import (
    METADATA_KEY,
    describe_layer,
    display_range,
    image_of,
    is_result,
    named_axes,
    placement,
    plane_at,
    result_layers,
    view_point,
    visible_plane,
)
from napari_maskcal.pipeline import Review
from napari_maskcal.read.image import from_array
from small_models import noisy_planes

if TYPE_CHECKING:
    from small_models import Trained

# a rotated stack is cut askew, and napari says that it draws it nearly right
askew = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing:UserWarning")
AXES = {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}


def crafted(trained: Trained, shape: tuple[int, ...], *, factor: int = 1, first: tuple[int, ...] = ()) -> Review:
    """A review of an image of `shape` whose box has one plane at `first`, or all planes."""
    lead = shape[:-2]
    box = (1,) * len(lead) if first else lead
    out = (*box, factor * shape[-2], factor * shape[-1])
    return Review(
        image=from_array(np.zeros(shape, np.float32), axes=AXES[len(shape)]),
        first=first or (0,) * len(lead),
        last=first or tuple(n - 1 for n in lead),
        restored=np.zeros(out, np.float32),
        uncertainty=np.ones(out, np.float32),
        uncertain=np.zeros(out, np.uint8),
        certificate=trained.mask_model.certificate,
        scale_factor=factor,
        planes_done=1,
        planes=1,
    )


def random_layer(shape: tuple[int, ...], *, seed: int) -> ImageLayer:
    """An image layer with a random scale, translation, rotation, shear and affine."""
    rng = np.random.default_rng(seed)
    n = len(shape)
    rotation, triangle = np.linalg.qr(rng.normal(size=(n, n)))
    rotation = rotation * np.sign(np.diag(triangle))
    if np.linalg.det(rotation) < 0:
        rotation[:, 0] *= -1
    affine = np.eye(n + 1)
    affine[:n] += rng.normal(scale=0.2, size=(n, n + 1))
    return ImageLayer(
        np.zeros(shape, np.float32),
        scale=rng.uniform(0.2, 3, n),
        translate=rng.normal(scale=20, size=n),
        rotate=rotation,
        shear=rng.normal(scale=0.3, size=n * (n - 1) // 2),
        affine=affine,
    )


@askew
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(30, 40), (5, 30, 40), (4, 5, 30, 40), (2, 3, 4, 30, 40)], ids=str)
def test_a_result_pixel_lies_where_its_input_pixel_lies_however_the_layer_is_placed(trained, shape, seed):
    layer = random_layer(shape, seed=seed)
    whole = ImageLayer(np.zeros(shape, np.float32), **placement(layer, crafted(trained, shape)))
    rng = np.random.default_rng(seed)
    for _ in range(5):
        pixel = tuple(rng.integers(0, shape))
        np.testing.assert_allclose(whole.data_to_world(pixel), layer.data_to_world(pixel), rtol=1e-9, atol=1e-9)


@askew
@pytest.mark.parametrize("seed", range(4))
def test_a_single_plane_lies_where_it_was_taken_from(trained, seed):
    shape, first = (3, 4, 5, 30, 40), (1, 3, 2)
    layer = random_layer(shape, seed=seed)
    review = crafted(trained, shape, first=first)
    single = ImageLayer(review.restored, **placement(layer, review))
    unplaced = ImageLayer(review.restored, **placement(layer, crafted(trained, shape)))
    for y, x in ((0, 0), (29, 39), (7, 31)):
        expected = layer.data_to_world((*first, y, x))
        np.testing.assert_allclose(single.data_to_world((0, 0, 0, y, x)), expected, rtol=1e-9, atol=1e-9)
        assert not np.allclose(unplaced.data_to_world((0, 0, 0, y, x)), expected)


@askew
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_super_resolved_image_covers_the_same_piece_of_the_world(trained, factor, seed):
    shape = (5, 30, 40)
    layer = random_layer(shape, seed=seed)
    review = crafted(trained, shape, factor=factor)
    fine = ImageLayer(review.restored, **placement(layer, review))
    assert fine.data.shape == (5, 30 * factor, 40 * factor)
    for corner in np.ndindex(2, 2, 2):
        coarse_edge = np.where(corner, shape, 0) - 0.5
        fine_edge = np.where(corner, fine.data.shape, 0) - 0.5
        np.testing.assert_allclose(fine.data_to_world(fine_edge), layer.data_to_world(coarse_edge), atol=1e-9)


def test_scaling_alone_would_move_the_edges_of_a_super_resolved_image(trained):
    layer = ImageLayer(np.zeros((30, 40), np.float32), scale=(0.5, 0.5))
    review = crafted(trained, (30, 40), factor=2)
    naive = ImageLayer(review.restored, scale=(0.25, 0.25))
    edge = layer.data_to_world((-0.5, -0.5))
    assert not np.allclose(naive.data_to_world((-0.5, -0.5)), edge)
    placed = ImageLayer(review.restored, **placement(layer, review))
    np.testing.assert_allclose(placed.data_to_world((-0.5, -0.5)), edge)


@askew
def test_results_have_all_seven_spatial_properties_of_the_input(trained):
    layer = random_layer((5, 30, 40), seed=9)
    layer.units, layer.axis_labels = ("micrometer", "nanometer", "nanometer"), ("z", "y", "x")
    review = crafted(trained, (5, 30, 40))
    plain = ImageLayer(review.restored)
    for new in result_layers(layer, review):
        for name in ("scale", "translate", "rotate", "shear"):
            np.testing.assert_allclose(getattr(new, name), getattr(layer, name), atol=1e-12, err_msg=name)
            assert not np.allclose(getattr(plain, name), getattr(layer, name)), name
        np.testing.assert_allclose(new.affine.affine_matrix, layer.affine.affine_matrix)
        assert (new.units, new.axis_labels) == (layer.units, layer.axis_labels)
        assert (plain.units, plain.axis_labels) != (layer.units, layer.axis_labels)


def test_the_viewer_keeps_its_units_when_results_are_added(trained):
    model = ViewerModel()
    layer = model.add_image(np.zeros((5, 30, 40)), units=("micrometer",) * 3, scale=(2, 0.1, 0.1))
    for new in result_layers(layer, crafted(trained, (5, 30, 40))):
        model.add_layer(new)
    assert [str(unit) for unit in model.layers.extent.units] == ["micrometer"] * 3
    model.add_image(np.zeros((5, 30, 40)))  # one layer in pixels, and the units are gone
    assert model.layers.extent.units is None


def test_labels_are_uint8_not_editable_and_transparent_where_trusted(trained):
    restored, uncertainty, uncertain = result_layers(
        ImageLayer(np.zeros((30, 40), np.float32)), crafted(trained, (30, 40))
    )
    assert (restored.name, uncertainty.name, uncertain.name) == ("restored", "uncertainty", "uncertain")
    assert (restored.visible, uncertainty.visible, uncertain.visible) == (True, False, True)
    assert isinstance(uncertain, LabelsLayer)
    assert (uncertain.data.dtype, uncertain.editable) == (np.uint8, False)
    trusted, marked, missing = (uncertain.get_color(label) for label in (0, 1, 2))
    assert trusted is None or trusted[3] == 0
    np.testing.assert_allclose(marked[:3], np.array([0xD5, 0x5E, 0x00]) / 255, atol=0.01)
    np.testing.assert_allclose(missing[:3], 0x99 / 255, atol=0.01)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("z", "y", "x"), ("ZYX", True)),
        (("time", "row", "x"), ("ZYX", False)),
        (("Time", "Y", "X"), ("TYX", True)),
        (("channel", "y", "x"), ("CYX", True)),
        (("depth", "y", "x"), ("ZYX", True)),
        (("y", "y", "x"), ("ZYX", False)),
        (("-3", "-2", "-1"), ("ZYX", False)),
    ],
    ids=str,
)
def test_axes_are_read_from_names_and_proposed_without(labels, expected):
    assert named_axes(ImageLayer(np.zeros((3, 8, 8)), axis_labels=labels)) == expected


@pytest.mark.parametrize(("ndim", "axes"), [(2, "YX"), (3, "ZYX"), (4, "TZYX"), (5, "TCZYX"), (6, "")])
def test_naparis_own_axis_labels_are_not_names(ndim, axes):
    layer = ImageLayer(np.zeros((2,) * ndim))
    assert layer.axis_labels[-1] == "-1"
    assert named_axes(layer) == (axes, False)


def test_the_image_of_a_layer_has_its_pixel_size_and_units():
    data = noisy_planes(3, 8, 9)
    layer = ImageLayer(data, scale=(2, 0.5, 0.5), units=("micrometer",) * 3, name="cells")
    image = image_of(layer, "ZYX")
    assert (image.name, image.axes, image.scale) == ("cells", "ZYX", (2.0, 0.5, 0.5))
    assert image.units == ("micrometer",) * 3
    np.testing.assert_array_equal(image.read_plane((1,)), data[1])


def test_of_a_pyramid_the_finest_level_is_taken():
    data = noisy_planes(2, 64, 64)
    layer = ImageLayer([data, data[:, ::2, ::2]], multiscale=True)
    assert image_of(layer, "ZYX").shape == (2, 64, 64)
    assert describe_layer(layer).shape == (2, 64, 64)


def test_a_layer_is_described_by_its_kind_and_its_number_type():
    image, points = ImageLayer(np.zeros((8, 9, 3), np.uint8), rgb=True), Points(np.zeros((2, 2)))
    assert describe_layer(None) is None
    assert (describe_layer(image).kind, describe_layer(image).rgb) == ("image", True)
    assert (describe_layer(points).kind, describe_layer(points).shape) == ("points", ())
    assert describe_layer(image) == describe_layer(image)
    assert describe_layer(image) != describe_layer(ImageLayer(image.data, rgb=True))
    assert describe_layer(image).dtype == "uint8"


@pytest.mark.parametrize("seed", range(3))
def test_the_plane_in_view_is_found_in_a_scaled_and_shifted_layer(trained, seed):
    rng = np.random.default_rng(seed)
    shape = (3, 4, 20, 30)
    layer = ImageLayer(np.zeros(shape), scale=rng.uniform(0.2, 3, 4), translate=rng.normal(scale=9, size=4))
    model = ViewerModel()
    model.add_layer(layer)
    model.add_image(np.zeros((2, 3, 4, 20, 30)))  # the viewer may have more axes than the layer
    for index in ((0, 0), (2, 3), (1, 2)):
        point = (0.0, *layer.data_to_world((*index, 0, 0)))
        assert visible_plane(layer, point, shape) == index
        assert plane_at(layer, point) == index


def test_the_plane_in_view_is_found_when_another_layer_has_a_smaller_unit():
    model = ViewerModel()
    layer = model.add_image(np.zeros((5, 20, 30)), scale=(2, 1, 1), units=("micrometer",) * 3)
    model.dims.set_current_step(0, 1)
    assert plane_at(layer, view_point(model, layer)) == (1,)
    model.add_image(np.zeros((5, 20, 30)), scale=(2000, 100, 100), units=("nanometer",) * 3)
    model.dims.set_current_step(0, 1)
    assert model.dims.point[0] == pytest.approx(2000)
    assert plane_at(layer, model.dims.point) is None
    assert visible_plane(layer, view_point(model, layer), (5, 20, 30)) == (1,)
    assert plane_at(layer, view_point(model, layer)) == (1,)


def test_outside_of_a_result_there_is_no_plane_but_the_input_has_a_nearest_one(trained):
    layer = ImageLayer(np.zeros((5, 20, 30)), scale=(2, 1, 1))
    review = crafted(trained, (5, 20, 30), first=(3,))
    single = ImageLayer(review.restored, **placement(layer, review))
    assert plane_at(single, (6.0, 0.0, 0.0)) == (0,)
    assert plane_at(single, (4.0, 0.0, 0.0)) is None
    assert plane_at(layer, (-2.0, 0.0, 0.0)) is None
    assert visible_plane(layer, (-2.0, 0.0, 0.0), (5, 20, 30)) == (0,)
    assert visible_plane(layer, (99.0, 0.0, 0.0), (5, 20, 30)) == (4,)


def test_a_result_is_known_by_its_metadata_whatever_its_name():
    layer = ImageLayer(np.zeros((8, 9)), name="restored")
    assert not is_result(layer)
    assert not is_result(None)
    layer.metadata[METADATA_KEY] = {}
    layer.name = "mine"
    assert is_result(layer)


def test_the_restored_image_is_shown_in_its_own_range_even_if_it_is_flat():
    plane = np.linspace(100, 200, 64 * 64, dtype=np.float32).reshape(64, 64)
    low, high = display_range(plane)
    assert 100 <= low < 101
    assert 199 < high <= 200
    assert display_range(np.full((8, 8), 5, np.float32)) == (5.0, 6.0)


@pytest.mark.parametrize(("threshold", "top"), [(0.25, 0.5), (float("inf"), 1.0), (0.0, 1.0)])
def test_the_threshold_is_in_the_middle_of_the_uncertainty_layers_range(trained, threshold, top):
    from dataclasses import replace

    review = crafted(trained, (30, 40))
    certificate: Any = review.certificate.model_copy(update={"threshold": threshold})
    layers = result_layers(ImageLayer(np.zeros((30, 40))), replace(review, certificate=certificate))
    assert tuple(layers[1].contrast_limits) == (0.0, top)
