from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_maskcal.pipeline import Review, run
from napari_maskcal.read.image import from_array
from napari_maskcal.read.tiff import read_tiff
from napari_maskcal.review.report import write_review
from small_models import noisy_planes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def review(trained) -> Review:
    units = ("second", "pixel", "micrometer", "micrometer")
    image = from_array(noisy_planes(3, 2, 64, 68), axes="TCYX", scale=(2.0, 1.0, 0.25, 0.5), units=units, name="cells")
    return run(image, trained.restorer, trained.mask_model, channel=1, device="cpu")


def written(review: Review, folder: Path) -> dict:
    write_review(review, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["certificate.json", "restored.tif", "uncertain.tif"]
    text = (folder / "certificate.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_both_images_keep_axes_pixel_size_and_units_of_the_input(review, tmp_path):
    write_review(review, tmp_path)
    for name, pixels in (("restored", review.restored), ("uncertain", review.uncertain)):
        image = read_tiff(tmp_path / f"{name}.tif")
        assert (image.axes, image.units) == ("TYX", ("second", "micrometer", "micrometer"))  # one channel is left
        assert image.scale == pytest.approx((2.0, 0.25, 0.5))
        assert image.data.dtype == pixels.dtype
        np.testing.assert_array_equal(image.data, pixels[:, 0])
    assert review.restored.shape == (3, 1, 64, 68)


def test_the_pixel_size_of_a_finer_grid_is_smaller(review, tmp_path):
    finer = np.zeros((3, 1, 128, 136), np.float32)
    doubled = replace(review, scale_factor=2, restored=finer, uncertainty=finer, uncertain=finer.astype(np.uint8))
    write_review(doubled, tmp_path)
    assert read_tiff(tmp_path / "restored.tif").scale == pytest.approx((2.0, 0.125, 0.25))


def test_the_certificate_says_what_was_promised_and_what_it_was_applied_to(review, tmp_path):
    content, certificate = written(review, tmp_path), review.certificate
    for name in ("distance", "tolerance", "confidence", "guarantee", "threshold", "mask", "n_fields", "exploration"):
        assert content[name] == getattr(certificate, name)
    assert content["field_shape"] == [64, 64]
    assert content["promise"] == certificate.sentence
    assert content["limits"] == certificate.limits
    assert content["fingerprint"] == json.loads(certificate.fingerprint.model_dump_json())
    assert (content["input"], content["planes"], content["complete"]) == ("cells", 3, True)
    assert content["masked_share"] == (review.uncertain == 1).mean()
    assert 0 < content["masked_share"] < 1
    assert "curves" not in content


def test_an_infinite_threshold_and_an_unfinished_run_are_still_json(review, tmp_path):
    endless = review.certificate.model_copy(update={"threshold": np.inf})
    none_done = replace(review, certificate=endless, planes_done=0, uncertain=np.full_like(review.uncertain, 2))
    content = written(none_done, tmp_path)
    assert content["threshold"] == "Infinity"
    assert (content["masked_share"], content["complete"], content["planes_done"]) == (None, False, 0)
