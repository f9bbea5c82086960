from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import napari_maskcal
from napari_maskcal.calibrate.certificate import Fingerprint
from napari_maskcal.models import DEMO, load_mask_model, load_restorer, model_path
from napari_maskcal.pipeline import agreed_certificate
from napari_maskcal.sample_data import sample_image, sample_layers

FOLDER = Path(napari_maskcal.__file__).parent / "demo"


@pytest.fixture(scope="module")
def image():
    return sample_image()


@pytest.fixture(scope="module")
def mask():
    return load_mask_model(DEMO)


@pytest.fixture(scope="module")
def restorer():
    return load_restorer(DEMO)


def test_the_sample_is_a_stack_with_axes_pixel_size_and_units(image):
    assert image.axes in {"ZYX", "TYX"}
    assert image.shape[0] >= 30
    assert image.units[1:] == ("micrometer", "micrometer")
    assert image.units[0] in {"micrometer", "second"}
    assert all(0 < size < 100 for size in image.scale)
    assert image.scale != (1.0, 1.0, 1.0)


def test_each_plane_of_the_sample_can_be_restored(image, restorer, mask):
    assert image.data.dtype.kind in "ui"
    assert min(image.shape[1:]) >= restorer.card.min_size_px
    for index in image.planes():
        assert restorer.card.normalisation.measure(image.read_plane(index))[1] > 0
    mask.certificate.check_plane(image.shape[1:], name=image.name)


def test_napari_gets_the_same_stack_with_the_same_meaning(image):
    ((data, options, kind),) = sample_layers()
    assert kind == "image"
    np.testing.assert_array_equal(data, image.data)
    assert (options["scale"], options["units"]) == (image.scale, image.units)
    assert options["axis_labels"] == tuple(image.axes.lower())


@pytest.mark.parametrize(("name", "most"), [("stack.tif", 3.0), ("restorer.safetensors", 1.0), ("demo.maskcal", 1.0)])
def test_the_files_are_small_enough_to_ship(name, most):
    assert 0 < (FOLDER / name).stat().st_size < most * 2**20


def test_nothing_else_is_shipped_with_them():
    names = {path.name for path in FOLDER.iterdir() if path.name != "__pycache__"}
    assert {"stack.tif", model_path(DEMO, role="restorer").name, model_path(DEMO, role="mask").name} <= names
    assert not {name for name in names if name.endswith((".py", ".pth", ".pt", ".npy", ".pkl"))}


def test_the_demo_pair_is_the_one_that_was_calibrated(restorer, mask):
    assert agreed_certificate(restorer, mask) is mask.certificate
    assert mask.certificate.fingerprint == Fingerprint.of(restorer, mask.card, mask.sha256)


def test_the_demo_certificate_is_honest(mask, restorer):
    certificate = mask.certificate
    certificate.verify()
    assert not certificate.exploration
    assert (certificate.guarantee, certificate.mask) == ("marginal", "binary")
    assert len(certificate.groups) >= 9
    assert sum(certificate.groups.values()) == certificate.n_fields == len(certificate.fields)
    assert 0 < certificate.threshold < np.inf
    assert certificate.note


def test_the_demo_was_calibrated_on_specimens_that_neither_network_had_seen(mask, restorer):
    for card in (mask.card, restorer.card):
        assert card.trained_on, f"{card.name} does not say what it was trained on"
        assert not set(card.trained_on) & set(mask.certificate.groups)
        assert card.licence
        assert card.citation


def test_the_demo_marks_a_part_of_its_stack_and_not_all(image, restorer, mask):
    review = napari_maskcal.run(image, restorer, mask, planes=[(0,), (image.shape[0] // 2,)], device="cpu")
    assert 0.005 < review.masked_share < 0.7
