"""From stacks to a promise, and back to stacks: restorers of volumes calibrated, trained with, and run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from foreign_volumes import blobs, volume_restorer
from given_models import certified
from napari_maskcal.calibrate.certificate import Fingerprint
from napari_maskcal.calibrate.certify import CalibrationField, certify
from napari_maskcal.calibration import calibrate
from napari_maskcal.evaluation import evaluate
from napari_maskcal.mask.untrained import augmentation_mask, given_mask, residual_mask
from napari_maskcal.pipeline import review, run
from napari_maskcal.read.cache import Cache
from napari_maskcal.read.triplet_images import image_of_parts
from napari_maskcal.read.triplets import read_triplets, triplets_from_arrays
from napari_maskcal.restore.card import Normalisation
from napari_maskcal.restore.events import PlaneReviewed, Warned
from napari_maskcal.training import plan_training, recipe_of, train
from napari_maskcal.training_choice import SPREAD, candidates

if TYPE_CHECKING:
    from pathlib import Path

N, SHAPE = 10, (9, 24, 28)
RULE = {"tolerance": 0.06, "device": "cpu"}
RESTORER = volume_restorer()
MASK = residual_mask(RESTORER)


@pytest.fixture(autouse=True)
def small_tiles(set_effort):
    set_effort(max_voxels=4000, max_tile_px=32, batch=2)


def pair_of(seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    low = blobs(*shape, seed=seed)
    noise = np.random.default_rng(seed).normal(0, 2 + seed % 5, shape)
    restored = RESTORER(low) if len(shape) == 3 else np.stack([RESTORER(one) for one in low])
    return low, (restored + noise).astype(np.float32)


def written(folder: Path, count: int = N, shape: tuple[int, ...] = SHAPE, axes: str = "ZYX", first: int = 0) -> None:
    for seed in range(first, first + count):
        for part, data in zip(("low", "high"), pair_of(seed, shape), strict=True):
            (folder / part).mkdir(parents=True, exist_ok=True)
            options = {"ome": True, "metadata": {"axes": axes}}
            tifffile.imwrite(folder / part / f"specimen{seed:02}.ome.tif", data, **options)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stacks")
    written(folder)
    return folder


def fields_by_hand() -> list[CalibrationField]:
    fields = []
    for seed in range(N):
        low, high = pair_of(seed)
        restored = RESTORER(low)
        for z in range(len(low)):
            offset, span = RESTORER.card.normalisation.measure(low[z])
            fields.append(CalibrationField(
                name=f"specimen{seed:02} Z={z}", group=f"specimen{seed:02}",
                uncertainty=MASK.uncertainty(low[z], restored[z]),
                restored=(restored[z].astype(float) - offset) / span, truth=(high[z].astype(float) - offset) / span,
            ))  # fmt: skip
    return fields


@pytest.fixture(scope="module")
def certificate(stacks):
    return calibrate(read_triplets(stacks / "low", stacks / "high"), MASK, RESTORER, **RULE)


def test_it_is_calibrated_on_stacks_and_each_plane_is_a_field_of_its_file(certificate):
    expected = certify(
        fields_by_hand(), distance="l1", tolerance=0.06, confidence=0.9,
        fingerprint=Fingerprint.of(RESTORER, MASK.card, MASK.sha256),
    )  # fmt: skip
    assert certificate.groups == expected.groups
    assert certificate.threshold == pytest.approx(expected.threshold, rel=1e-4)
    found, by_hand = ({one.name: one.distance for one in each.fields} for each in (certificate, expected))
    assert found == pytest.approx(by_hand, rel=1e-4)
    assert certificate.stack_planes == SHAPE[0]
    assert (
        "restored as parts of volumes, whole stacks of at least 9 planes; thinner stacks are not" in certificate.limits
    )
    again = type(certificate).model_validate_json(certificate.model_dump_json())
    assert again.stack_planes == SHAPE[0]


@pytest.mark.parametrize("axes", ["TZYX", "ZTYX"])
def test_times_are_stacks_of_their_own_in_any_order_of_axes(axes, tmp_path):
    """Tifffile writes ZTYX as it stands; its planes come in another order than they are restored in."""
    written(tmp_path / "t", shape=(2, *SHAPE), axes="TZYX")
    for path in sorted((tmp_path / "t").rglob("*.tif")) if axes == "ZTYX" else ():
        data = np.moveaxis(tifffile.imread(path), 0, 1)
        tifffile.imwrite(path, np.ascontiguousarray(data), ome=True, metadata={"axes": axes})
    triplets = read_triplets(tmp_path / "t" / "low", tmp_path / "t" / "high")
    assert triplets[0].degraded.header.axes == axes
    found = calibrate(triplets, MASK, RESTORER, **RULE)
    named = {one.name: one.distance for one in found.fields}
    low, high = pair_of(3, (2, *SHAPE))
    for t, z in [(0, 0), (1, 4)]:
        words = f"T={t} Z={z}" if axes == "TZYX" else f"Z={z} T={t}"
        _, span = RESTORER.card.normalisation.measure(low[t, z])
        expected = np.abs(RESTORER(low[t])[z] - high[t, z]).mean() / span
        assert named[f"specimen03 {words}"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("axes", ["ZYX", "TZYX"])
def test_a_stack_is_restored_masked_and_marked_with_the_visible_plane_first(certificate, axes):
    shape = {"ZYX": (10, 40, 44), "TZYX": (2, 12, 40, 44)}[axes]
    stack = np.stack([blobs(*shape[-3:], seed=40 + t) for t in range(shape[0])]) if axes == "TZYX" else blobs(*shape)
    volumes = stack.reshape(-1, *shape[-3:])
    expected = np.stack([RESTORER(volume) for volume in volumes]).reshape(shape)
    found = run(stack, RESTORER, MASK, certificate, axes=axes, device="cpu")
    assert found.complete
    np.testing.assert_allclose(found.restored, expected, rtol=0, atol=2e-5 * expected.std())
    for place in np.ndindex(shape[:-2]):
        np.testing.assert_array_equal(found.uncertain[place], found.uncertainty[place] > certificate.threshold)
    assert 0 < found.masked_share < 1
    assert "parts of volumes" in found.summary()["limits"]
    visible = (*(0,) * (len(shape) - 3), 7)
    planes = [visible, *(index for index in np.ndindex(shape[:-2]) if index != visible)]
    events = review(found.image, RESTORER, MASK, certificate, planes=planes, device="cpu")
    order = [event.index for event in events if isinstance(event, PlaneReviewed)]
    assert order[0] == visible
    assert sorted(order) == sorted(planes)


def test_thinner_stacks_than_those_of_the_calibration_are_refused(certificate, tmp_path):
    with pytest.raises(
        ValueError, match=r"is in a stack of 8 planes, fewer than the 9 of the thinnest stack calibrated"
    ):
        run(blobs(8, 40, 44), RESTORER, MASK, certificate, axes="ZYX", device="cpu")
    assert run(blobs(9, 40, 44), RESTORER, MASK, certificate, axes="ZYX", planes=[(3,)], device="cpu").complete
    written(tmp_path, shape=(8, *SHAPE[1:]), first=30)
    thin = read_triplets(tmp_path / "low", tmp_path / "high")
    with pytest.raises(ValueError, match="is in a stack of 8 planes"):
        evaluate(thin, MASK, RESTORER, certificate, device="cpu")


def test_new_stacks_are_evaluated(certificate, tmp_path):
    written(tmp_path, first=30)
    found = evaluate(read_triplets(tmp_path / "low", tmp_path / "high"), MASK, RESTORER, certificate, device="cpu")
    assert len(found.fields) == N * SHAPE[0]


def test_planes_of_one_stack_are_no_specimens_of_their_own(stacks):
    triplets = read_triplets(
        stacks / "low" / "specimen00.ome.tif", stacks / "high" / "specimen00.ome.tif", group=r"Z=\d+"
    )
    assert len({triplet.group for triplet in triplets}) == SHAPE[0]
    with pytest.raises(
        ValueError, match="are planes of one stack, which deep restores together, but count as two spec"
    ):
        calibrate(triplets, MASK, RESTORER, **RULE)


def test_restorers_of_planes_that_take_the_range_of_the_stack_are_calibrated_on_stacks_too(trained, stacks):
    card = trained.restorer.card.model_copy(update={"takes": Normalisation(kind="range", scope="stack")})
    restorer = replace(trained.restorer, card=card, sha256="of stacks")
    mask = augmentation_mask(restorer)  # which asks again in the same units
    found = calibrate(read_triplets(stacks / "low", stacks / "high"), mask, restorer, **RULE)
    assert found.stack_planes == SHAPE[0]
    low, high = pair_of(2)
    review = run(low, restorer, mask, found, axes="ZYX", device="cpu")
    _, span = card.normalisation.measure(low[4])
    named = {one.name: one.distance for one in found.fields}
    assert named["specimen02 Z=4"] == pytest.approx(np.abs(review.restored[4] - high[4]).mean() / span, rel=1e-4)
    with pytest.raises(
        ValueError, match="in the range of a whole stack, and degraded of layers, field 0 is a single pl"
    ):
        calibrate(triplets_from_arrays(low, high), mask, restorer, **RULE)
    recipe = recipe_of(steps=2, crop_px=16)
    names = [one.name for one in train(read_triplets(stacks / "low", stacks / "high"), restorer, recipe=recipe).judged]
    assert SPREAD in names


def test_an_uncertainty_may_be_given_with_what_is_restored_as_a_volume():
    stack, mask = blobs(9, 64, 65), certified(RESTORER, given_mask())
    maps = np.random.default_rng(0).gamma(2, 5, stack.shape).astype(np.float32)
    found = run(stack, RESTORER, mask, axes="ZYX", uncertainty=maps, device="cpu")
    np.testing.assert_array_equal(found.uncertainty, maps)
    np.testing.assert_allclose(found.restored, RESTORER(stack), rtol=0, atol=2e-5 * RESTORER(stack).std())


def test_fields_without_a_stack_are_refused(stacks):
    low, high = pair_of(0)
    with pytest.raises(
        ValueError, match="at least 2 planes, and degraded of layers, field 0 is a single plane; give st"
    ):
        calibrate(triplets_from_arrays(low, high), MASK, RESTORER, **RULE)


def test_planes_above_and_below_that_are_no_fields_are_read_and_held_to_their_first_content(stacks, monkeypatch):
    triplets = read_triplets(stacks / "low", stacks / "high")
    part = triplets[4].degraded
    assert [one.place for one in part.stack()] == [f"plane Z={z}" for z in range(SHAPE[0])]
    image = image_of_parts([part], [""], name="it", with_stacks=True)
    stack = image.stack_of((0,))
    np.testing.assert_array_equal(np.stack([image.read_plane(index) for index in stack]), blobs(*SHAPE))
    assert image.describe(stack[2]).endswith("specimen00.ome.tif, plane Z=2")
    image.data.sha256[stack[2][0]] = "another"
    with pytest.raises(ValueError, match="plane Z=2 was changed while the calibration ran; start again"):
        image.read_plane(stack[2])


def test_a_stack_that_changes_elsewhere_is_not_taken_for_the_one_before(tmp_path):
    """What is kept of a field has its own content as a key, and not that of the planes around it."""
    written(tmp_path)
    cache = Cache(tmp_path / "cache")
    before = calibrate(read_triplets(tmp_path / "low", tmp_path / "high"), MASK, RESTORER, cache=cache, **RULE)
    path = tmp_path / "low" / "specimen05.ome.tif"
    stack = tifffile.imread(path)
    stack[5] += 40
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "ZYX"})
    after = calibrate(read_triplets(tmp_path / "low", tmp_path / "high"), MASK, RESTORER, cache=cache, **RULE)
    ours, theirs = ({one.name: one.distance for one in each.fields} for each in (before, after))
    changed = [name for name, distance in ours.items() if distance != theirs[name]]
    assert len(changed) > 2  # not the one plane alone
    assert {name.split(".")[0].split(" ")[0] for name in changed} == {"specimen05"}


def test_a_mask_network_is_trained_on_planes_of_restored_volumes(stacks):
    triplets = read_triplets(stacks / "low", stacks / "high")
    recipe = recipe_of(steps=4, crop_px=32)
    plan = plan_training(triplets, RESTORER, recipe=recipe)
    events = []
    trained = train(triplets, RESTORER, recipe=recipe, device="cpu", on_event=events.append)
    assert trained.mask_model.network is not None
    names = [one.name for one in candidates(plan, trained.done.network)]
    assert SPREAD not in names
    assert not [event for event in events if isinstance(event, Warned) and "could not be compared" in event.message]
