from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_maskcal.bundle import read_bundle, write_bundle
from napari_maskcal.calibrate.certificate import Fingerprint
from napari_maskcal.calibrate.certify import CalibrationField, certify
from napari_maskcal.calibration import calibrate, measure
from napari_maskcal.calibration_plan import Plan
from napari_maskcal.distance.custom import from_callable
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.mask.untrained import given_mask, residual_mask
from napari_maskcal.models import GIVEN_RESTORER
from napari_maskcal.pipeline import run
from napari_maskcal.read.cache import Cache
from napari_maskcal.read.facts import content_hash
from napari_maskcal.read.faults import FaultyTriplets
from napari_maskcal.read.image import Image, from_array
from napari_maskcal.read.parts import Part
from napari_maskcal.read.pixel_size import PixelSize
from napari_maskcal.read.triplets import read_triplets, triplets_from_arrays
from napari_maskcal.restore.events import CancelToken, Done, Failed, FieldMeasured, FieldSurveyed, Warned

N, SIZE = 12, 48
RULE = {"tolerance": 0.2, "device": "cpu"}
BIAS = from_callable(lambda restored, truth: abs(float((restored - truth).mean())), name="bias")


def planes(count: int = N, size: int = SIZE, *, levels: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Degraded and true planes, all different; each degraded one has an intensity range of exactly `levels`."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    waves = [np.sin(x / rng.uniform(3, 9) + i) * np.cos(y / rng.uniform(3, 9)) for i in range(count)]
    truth = (2 + 0.3 * np.array(waves)) * levels / 4
    noisy = truth + rng.normal(0, 0.1, truth.shape) * levels * rng.lognormal(0, 0.4, (count, 1, 1))
    low, high = (np.quantile(noisy, q, axis=(1, 2), keepdims=True) for q in (0.05, 0.95))
    return np.clip((noisy - low) / (high - low), 0, 1) * levels + levels / 2, truth


DEGRADED, TRUTH = planes()


def in_memory(**options):
    return triplets_from_arrays(DEGRADED, TRUTH, **options)


def as_fields(restorer, mask_model, degraded=DEGRADED, truth=TRUTH) -> list[CalibrationField]:
    """What calibration has to make of the planes, one by one."""
    fields = []
    for i, (plane, clean) in enumerate(zip(degraded, truth, strict=True)):
        restored = restorer(plane)
        offset, span = restorer.card.normalisation.measure(plane)
        fields.append(CalibrationField(
            name=f"field {i}", group=f"field {i}", uncertainty=mask_model.uncertainty(plane, restored),
            restored=(restored.astype(float) - offset) / span, truth=(clean - offset) / span,
        ))  # fmt: skip
    return fields


@pytest.fixture
def pair(trained):
    """Two small networks; how they were calibrated is of no interest here."""
    return trained.restorer, replace(trained.mask_model, certificate=None)


@pytest.fixture
def folders(tmp_path):
    """The same planes as files, three to a specimen."""
    for part, images in (("low", DEGRADED), ("high", TRUTH)):
        for i, image in enumerate(images):
            path = tmp_path / part / f"specimen{i // 3 if part == 'never' else i:02}.tif"
            path.parent.mkdir(exist_ok=True)
            tifffile.imwrite(path, image.astype(np.float32))
    return tmp_path / "low", tmp_path / "high"


@pytest.fixture
def reads(monkeypatch):
    """All planes that were read."""
    found = []
    read = Part.read
    monkeypatch.setattr(Part, "read", lambda part: found.append(part.describe()) or read(part))
    return found


@pytest.fixture
def restored_planes(monkeypatch):
    """How many planes each run of the networks was asked for."""
    from napari_maskcal.restore import engine

    counts, process = [], engine.process
    monkeypatch.setattr(
        engine, "process", lambda image, indices, *rest, **named: counts.append(len(indices))
        or process(image, indices, *rest, **named),
    )  # fmt: skip
    return counts


def same(one, other) -> bool:
    """Whether two certificates say the same of the same fields."""
    return (
        one.threshold == other.threshold
        and one.sentence == other.sentence
        and [record.model_dump() for record in one.fields] == [record.model_dump() for record in other.fields]
    )


@pytest.mark.parametrize("distance", ["l1", "linf", "ssim", BIAS])
@pytest.mark.parametrize("mask", ["soft", "binary"])
def test_calibrating_planes_is_certifying_what_the_networks_make_of_them(pair, distance, mask):
    tolerance = 0.6 if distance == "linf" else 0.2
    found = calibrate(in_memory(), pair[1], pair[0], distance=distance, mask=mask, tolerance=tolerance, device="cpu")
    fingerprint = Fingerprint.of(pair[0], pair[1].card, pair[1].sha256)
    expected = certify(
        as_fields(*pair), distance=distance, mask=mask, tolerance=tolerance, confidence=0.9, fingerprint=fingerprint
    )
    assert 0 < expected.threshold < np.inf
    assert found.threshold == pytest.approx(expected.threshold, rel=1e-5)
    for ours, theirs in zip(found.fields, expected.fields, strict=True):
        assert (ours.name, ours.group) == (theirs.name, theirs.group)
        assert ours.distance == pytest.approx(theirs.distance, rel=1e-5)
        assert ours.threshold == pytest.approx(theirs.threshold, rel=1e-5)
        assert ours.sha256
    assert found.fingerprint == fingerprint
    assert found.field_shape == (SIZE, SIZE)
    assert found.intensity == ("share" if distance in ("l1", "linf") else "none")
    assert "new images like the 12 calibrated ones" in found.sentence  # nobody named specimens
    found.verify()


def test_files_give_what_the_same_planes_in_memory_give(pair, folders):
    found = calibrate(read_triplets(*folders), pair[1], pair[0], **RULE)
    expected = calibrate(in_memory(), pair[1], pair[0], **RULE)
    assert found.threshold == pytest.approx(expected.threshold, rel=1e-5)
    assert list(found.groups) == [f"specimen{i:02}" for i in range(N)]


def test_named_groups_are_specimens_that_count_once(pair):
    groups = [f"fish {i // 3}" for i in range(N)]
    found = calibrate(in_memory(groups=groups), pair[1], pair[0], **RULE, confidence=0.75)
    assert "new specimens like the 4 calibrated ones" in found.sentence
    assert "in all of 3 fields" in found.sentence
    assert found.threshold == min(record.threshold for record in found.fields)
    alone = calibrate(in_memory(), pair[1], pair[0], **RULE, confidence=0.75)
    assert found.threshold < alone.threshold


def test_another_tolerance_reads_no_image_again_and_gives_what_a_new_calibration_gives(pair, folders, tmp_path, reads):
    first = calibrate(read_triplets(*folders), pair[1], pair[0], **RULE, cache=Cache(tmp_path))
    assert len(reads) > 2 * N
    reads.clear()
    options = {"tolerance": 0.15, "confidence": 0.8, "grouping": "one", "device": "cpu"}
    again = calibrate(read_triplets(*folders), pair[1], pair[0], **options, cache=Cache(tmp_path))
    assert reads == []
    fresh = calibrate(read_triplets(*folders), pair[1], pair[0], **options)
    assert len(reads) > 2 * N
    assert same(again, fresh)
    assert not same(again, first)


def test_a_walk_is_kept_as_far_as_it_went(pair, folders, tmp_path, restored_planes):
    mask_model = residual_mask(pair[0])  # of which the distance rises in many steps

    def run(tolerance: float, **options):
        triplets = read_triplets(*folders)
        return calibrate(triplets, mask_model, pair[0], distance="ssim", tolerance=tolerance, device="cpu", **options)

    def kept(tolerance: float):
        return run(tolerance, cache=Cache(tmp_path))

    kept(0.1)
    assert restored_planes == [N]
    for tolerance in (0.05, 0.2):  # twice the first is as far as it went
        assert same(kept(tolerance), run(tolerance))
    assert restored_planes == [N, N, N]
    far = kept(0.3)
    assert restored_planes[3] > 0
    assert same(far, run(0.3))
    assert same(kept(0.1), run(0.1))
    assert len(restored_planes) == 6


def test_what_a_function_of_the_user_gave_is_not_kept(pair, folders, tmp_path, restored_planes):
    def run(distance):
        triplets, mask_model = read_triplets(*folders), residual_mask(pair[0])
        calibrate(triplets, mask_model, pair[0], distance=distance, tolerance=0.1, cache=Cache(tmp_path), device="cpu")

    for distance in ("ssim", "ssim", BIAS, BIAS):  # its text may stay the same while a number that it looks up changes
        run(distance)
    assert restored_planes == [N, N, N]


def test_the_order_of_fields_does_not_depend_on_which_were_kept(pair, folders, tmp_path):
    triplets = read_triplets(*folders, group="specimen(0|1)")
    later = replace(triplets, items=triplets.items[5:])
    rule = {"restorer": pair[0], "mask_model": pair[1], "distance": parse_distance("l1")}
    for event in measure(Plan(triplets=later, **rule), device="cpu", cache=Cache(tmp_path)):
        assert not isinstance(event, Failed)
    mixed = list(measure(Plan(triplets=triplets, **rule), device="cpu", cache=Cache(tmp_path)))
    fresh = list(measure(Plan(triplets=triplets, **rule), device="cpu"))
    order = [field.name for event in mixed if isinstance(event, FieldMeasured) for field in event.fields]
    assert order[0] == "specimen05"
    names = [[field.name for field in events[-1].result.fields] for events in (mixed, fresh)]
    assert names[0] == names[1] == [f"specimen{i:02}" for i in range(N)]


@pytest.mark.parametrize(
    "change",
    [
        {"distance": "l2"},
        {"distance": BIAS},
        {"mask": "soft"},
        {"intensity": "raw"},
        {"field_px": 24},
        {"restorer": "another"},
        {"mask_model": "another"},
    ],
)
def test_what_was_kept_is_not_used_for_anything_else(pair, folders, tmp_path, restored_planes, change):
    usual = {"restorer": pair[0], "mask_model": pair[1], "distance": "l1"}

    def run(cache=None, **changes):
        options = RULE | usual | changes
        return calibrate(read_triplets(*folders), options.pop("mask_model"), **options, cache=cache)

    cache = Cache(tmp_path)
    run(cache)
    run(cache)
    assert restored_planes == [N]
    if "restorer" in change:
        change = {"restorer": replace(pair[0], sha256="another")}
    if "mask_model" in change:
        change = {"mask_model": residual_mask(pair[0])}
    found = run(cache, **change)
    assert restored_planes == [N, N]
    assert same(found, run(**change))


def test_a_file_that_changed_is_measured_again(pair, folders, tmp_path, restored_planes):
    calibrate(read_triplets(*folders), pair[1], pair[0], **RULE, cache=Cache(tmp_path))
    tifffile.imwrite(folders[1] / "specimen03.tif", TRUTH[3].astype(np.float32) + 20)
    again = calibrate(read_triplets(*folders), pair[1], pair[0], **RULE, cache=Cache(tmp_path))
    assert restored_planes == [N, 1]
    assert same(again, calibrate(read_triplets(*folders), pair[1], pair[0], **RULE))


def test_the_same_content_under_other_names_has_the_new_names(pair, folders, tmp_path, restored_planes):
    rule, cache = {**RULE, "field_px": 24}, Cache(tmp_path / "cache")
    first = calibrate(read_triplets(*folders, group="specimen(..)"), pair[1], pair[0], **rule, cache=cache)
    for folder in folders:
        for i in range(N):
            (folder / f"specimen{i:02}.tif").rename(folder / f"mouse{chr(ord('z') - i)}.tif")
    renamed = read_triplets(*folders, group="(mouse.)")
    again = calibrate(renamed, pair[1], pair[0], **rule, cache=cache)
    assert restored_planes == [N]  # nothing was measured again
    assert (first.fields[0].name, first.fields[0].group) == ("specimen00 y0 x0", "00")
    assert (again.fields[-4].name, again.fields[-4].group) == ("mousez y0 x0", "mousez")
    assert again.fields[-4].distance == first.fields[0].distance
    assert again.groups == {f"mouse{chr(ord('z') - i)}": 4 for i in range(N)}
    assert same(again, calibrate(renamed, pair[1], pair[0], **rule))


class Versioned:
    """A distance that is walked and has a version, as LPIPS has its weights."""

    name = sentence_name = "versioned"
    monotone = differentiable = in_intensity_units = False

    def __init__(self, identity: str) -> None:
        self.identity = identity

    def between(self, trust, restored, truth):
        return np.abs(trust * (np.asarray(restored) - truth)).mean(axis=(1, 2)) * float(self.identity)


def test_what_another_version_of_a_distance_gave_is_not_used(pair, folders, tmp_path, restored_planes, monkeypatch):
    monkeypatch.setattr("napari_maskcal.calibration.is_built_in", lambda distance: True)

    def distances(identity: str) -> np.ndarray:
        plan = Plan(
            triplets=read_triplets(*folders), restorer=pair[0], mask_model=pair[1], distance=Versioned(identity)
        )
        return list(measure(plan, device="cpu", cache=Cache(tmp_path)))[-1].result.distances

    first = distances("1")
    assert np.array_equal(distances("1"), first)
    assert restored_planes == [N]
    np.testing.assert_allclose(distances("2"), 2 * first, rtol=1e-6)
    assert restored_planes == [N, N]


@pytest.mark.parametrize("part", [0, 1])
def test_a_file_that_changes_after_it_was_looked_at_is_refused_and_not_kept(pair, folders, tmp_path, monkeypatch, part):
    file = folders[part] / "specimen03.tif"
    original, changed, kept = file.read_bytes(), tifffile.imread(file)[::-1], []
    put = Cache.put
    monkeypatch.setattr(Cache, "put", lambda cache, key, value: kept.append(key) or put(cache, key, value))

    def change(event):
        if isinstance(event, FieldSurveyed) and event.done == N:
            tifffile.imwrite(file, changed)

    def run(**options):
        return calibrate(read_triplets(*folders), pair[1], pair[0], **RULE, **options)

    with pytest.raises(ValueError, match=r"specimen03\.tif was changed while the calibration ran; start again"):
        run(cache=Cache(tmp_path), on_event=change)
    assert len([key for key in kept if key.startswith("measured ")]) <= 3
    file.write_bytes(original)
    assert same(run(cache=Cache(tmp_path)), run())
    assert len([key for key in kept if key.startswith("measured ")]) >= N


def test_all_faults_are_told_before_any_network_runs(pair, folders, monkeypatch):
    def forbidden(*given, **named):
        raise AssertionError("a network ran")

    low, high = folders
    tifffile.imwrite(low / "specimen01.tif", np.full((SIZE, SIZE), np.nan, np.float32))
    tifffile.imwrite(low / "specimen02.tif", np.ones((SIZE, SIZE), np.float32))
    (high / "specimen04.tif").write_bytes((high / "specimen03.tif").read_bytes())
    (low / "specimen04.tif").write_bytes((low / "specimen03.tif").read_bytes())
    (low / "lonely.tif").write_bytes((low / "specimen05.tif").read_bytes())
    monkeypatch.setattr("napari_maskcal.restore.engine.process", forbidden)
    with pytest.raises(FaultyTriplets) as caught:
        calibrate(read_triplets(low, high), pair[1], pair[0], **RULE)
    told = {fault.file: fault.fault for fault in caught.value.faults}
    for name in ("specimen01", "specimen02", "specimen04", "lonely"):
        assert any(name in file for file in told), name
    assert not any("specimen07" in file for file in told)
    with pytest.raises(AssertionError, match="a network ran"):
        calibrate(in_memory(), pair[1], pair[0], **RULE)


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({"confidence": 0.95}, 19),
        ({"guarantee": "pac", "delta": 0.1}, 22),
        ({"guarantee": "expected", "bound": 5.0}, 24),
    ],
)
def test_too_few_fields_are_refused_before_any_network_runs(pair, restored_planes, options, needed):
    with pytest.raises(FaultyTriplets) as caught:
        calibrate(in_memory(), pair[1], pair[0], **RULE, **options)
    assert [fault.fault for fault in caught.value.faults] == [f"are of 12 groups, and {needed} are needed"]
    assert restored_planes == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": -1}, "tolerance is -1;"),
        ({"distance": "cosine"}, "no distance 'cosine'"),
        ({"distance": "ssim", "intensity": "raw"}, r"1 - SSIM\) has no intensity unit; leave the unit at the share"),
        ({"field_px": 0}, "field size is 0 pixels; give a .*number of at least 1"),
        (
            {"field_px": SIZE + 1},
            f"field 0 has {SIZE} × {SIZE} .*pixels, too small for a field of {SIZE + 1}",
        ),
        ({"guarantee": "pac"}, "delta is None;"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_with_the_value(pair, options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(in_memory(), pair[1], pair[0], **RULE | options)


def test_a_specimen_that_trained_a_network_is_refused_by_name(pair):
    for i in (0, 1):
        networks = list(pair)
        networks[i] = replace(pair[i], card=pair[i].card.model_copy(update={"trained_on": ("field 7", "other")}))
        with pytest.raises(ValueError, match=f"{networks[i].card.name} was trained on field 7; .* leave these"):
            calibrate(in_memory(), networks[1], networks[0], **RULE)


@pytest.mark.parametrize("which", [0, 1])
def test_a_folder_of_a_group_may_have_the_name_that_trained_a_network(pair, which):
    triplets = in_memory(groups=["set1/S3", "set1/S30", *(f"set2/S{i}" for i in range(4, N + 2))])

    def run_trained_on(specimen: str):
        networks = list(pair)
        networks[which] = replace(pair[which], card=pair[which].card.model_copy(update={"trained_on": (specimen,)}))
        return calibrate(triplets, networks[1], networks[0], **RULE)

    assert run_trained_on("s").n_fields == N
    with pytest.raises(ValueError, match=f"{pair[which].card.name} was trained on set1/S3; a network errs less"):
        run_trained_on("s3")


@pytest.mark.parametrize("shift", [0.0, 0.01])
def test_what_the_restorer_makes_is_no_truth(pair, shift):
    truth = TRUTH.copy()
    truth[5] = pair[0](DEGRADED[5]) + shift
    triplets = triplets_from_arrays(DEGRADED, truth)
    if shift:
        assert calibrate(triplets, pair[1], pair[0], **RULE).fields[5].distance > 0
        return
    with pytest.raises(ValueError, match=r"truth of layers, field 5 is what the restorer makes of .*; leave it out"):
        calibrate(triplets, pair[1], pair[0], **RULE)


def test_images_beside_a_network_that_makes_them_are_refused_before_any_network_runs(pair, restored_planes):
    what = {"restored": ("a restored image", pair[0]), "uncertainty": ("an uncertainty map", pair[1])}
    for name, (words, model) in what.items():
        given = in_memory(**{name: TRUTH + 1})
        with pytest.raises(
            ValueError, match=f"field 0 comes with {words}, as do 11 more triplets, but {model.card.name} m"
        ):
            calibrate(given, pair[1], pair[0], **RULE)
    assert restored_planes == []


def test_an_image_that_trained_a_network_is_known_again_under_any_name(pair, restored_planes):
    seen = (content_hash(TRUTH[4]), content_hash(DEGRADED[9]), "0" * 64)
    for i in (0, 1):
        networks = list(pair)
        networks[i] = replace(pair[i], card=pair[i].card.model_copy(update={"trained_on_sha256": seen}))
        with pytest.raises(FaultyTriplets) as caught:
            calibrate(in_memory(), networks[1], networks[0], **RULE)
        files = [fault.file for fault in caught.value.faults]
        assert len(files) == 2
        assert "field 4" in files[0]
        assert "field 9" in files[1]
    assert restored_planes == []


def test_a_calibration_that_is_stopped_ends_at_once_and_keeps_what_it_has(pair, folders, tmp_path, restored_planes):
    cancel, measured = CancelToken(), []

    def on_event(event):
        if isinstance(event, FieldMeasured):
            measured.append(event)
            if len(measured) == 3:
                cancel.cancel()

    options = {**RULE, "cache": Cache(tmp_path)}
    with pytest.raises(InterruptedError, match="stopped; nothing was written"):
        calibrate(read_triplets(*folders), pair[1], pair[0], **options, on_event=on_event, cancel=cancel)
    assert len(measured) == 3
    found = calibrate(read_triplets(*folders), pair[1], pair[0], **options)
    assert restored_planes == [N, N - 3]
    assert same(found, calibrate(read_triplets(*folders), pair[1], pair[0], **RULE))


def test_a_walk_that_is_stopped_ends_before_the_fields_that_are_under_way(pair):
    asked, cancel = [], CancelToken()

    def slow(restored, truth):
        asked.append(1)
        if len(asked) == 20:
            cancel.cancel()
        return abs(float((restored - truth).mean()))

    with pytest.raises(InterruptedError):
        calibrate(
            in_memory(), pair[1], pair[0], distance=from_callable(slow, name="slow"), **RULE, cancel=cancel
        )  # fmt: skip
    assert len(asked) <= 20 + 8


def test_progress_counts_up_to_all_fields(pair):
    events = []
    calibrate(in_memory(), pair[1], pair[0], **RULE, on_event=events.append)
    for kind in (FieldSurveyed, FieldMeasured):
        assert [(e.done, e.total) for e in events if isinstance(e, kind)] == [(i + 1, N) for i in range(N)]
    assert isinstance(events[-1], Done)


def test_planes_are_cut_into_fields_whose_group_is_the_plane(pair):
    found = calibrate(in_memory(), pair[1], pair[0], **RULE, field_px=20)
    assert found.n_fields == 4 * N
    assert found.field_shape == (20, 20)
    assert set(found.groups.values()) == {4}
    assert [record.name for record in found.fields[:5]] == [
        "field 0 y0 x0", "field 0 y0 x20", "field 0 y20 x0", "field 0 y20 x20", "field 1 y0 x0",
    ]  # fmt: skip
    whole = as_fields(*pair)[1]
    block = np.s_[20:40, 0:20]
    error = np.abs(whole.restored - whole.truth)[block].mean()
    assert found.fields[6].distance == pytest.approx(error, rel=1e-5)
    assert "in all of 4 fields of 20 × 20 pixels" in found.sentence


def test_the_promise_of_cut_fields_does_not_hold_for_planes_smaller_than_those_they_were_cut_from(pair):
    found = calibrate(triplets_from_arrays(*planes(size=64)), pair[1], pair[0], **RULE, field_px=32)
    assert (found.field_shape, found.plane_shape) == ((32, 32), (64, 64))
    found.check_plane((64, 64), name="cells")
    told = "planes of 48 × 48 pixels, smaller than the calibrated planes of 64 × 64: the promise"
    with pytest.raises(ValueError, match=f"cells has {told}"):
        found.check_plane((48, 48), name="cells")
    with pytest.raises(ValueError, match=told):
        run(DEGRADED[0], pair[0], pair[1], found, axes="YX", device="cpu")
    assert run(planes(1, 64)[0][0], pair[0], pair[1], found, axes="YX", device="cpu").complete


def sized(data: np.ndarray, size: float, unit: str = "micrometer") -> Image:
    axes = "TYX"[-data.ndim :]
    return from_array(data, axes=axes, scale=(1, size, size)[-data.ndim :], units=("pixel", unit, unit)[-data.ndim :])


def test_a_promise_is_about_the_magnification_that_was_calibrated(pair, tmp_path):
    restorer, mask = pair
    found = calibrate(triplets_from_arrays(sized(DEGRADED, 0.1), sized(TRUTH, 0.1)), mask, restorer, **RULE)
    assert str(found.pixel_size) == "0.1 × 0.1 micrometer"
    assert run(sized(DEGRADED[0], 105, "nanometer"), restorer, mask, found, device="cpu").complete
    assert run(DEGRADED[0], restorer, mask, found, axes="YX", device="cpu").complete  # nobody knows
    told = "image has pixels of 0.2 × 0.2 micrometer, the calibrated images of 0.1 × 0.1 micrometer"
    with pytest.raises(ValueError, match=told):
        run(sized(DEGRADED[0], 0.2), restorer, mask, found, device="cpu")
    write_bundle(tmp_path / "a.maskcal", mask.network, mask.card, found)
    assert read_bundle(tmp_path / "a.maskcal").certificate.pixel_size == found.pixel_size
    assert calibrate(in_memory(), mask, restorer, **RULE).pixel_size is None


def test_images_of_another_magnification_than_the_restorers_are_calibrated_with_a_warning(pair):
    restorer, mask = pair
    for size, warned in ((0.1, 0), (0.2, 1)):
        trained_at = PixelSize(y=size, x=size, unit="micrometer")
        other = replace(restorer, card=restorer.card.model_copy(update={"pixel_size": trained_at}))
        events: list[Any] = []
        triplets = triplets_from_arrays(sized(DEGRADED, 0.1), sized(TRUTH, 0.1))
        calibrate(triplets, mask, other, **RULE, on_event=events.append)
        told = [event.message for event in events if isinstance(event, Warned)]
        assert len(told) == warned
        assert all("the calibration has pixels of 0.1 × 0.1 micrometer, but" in one for one in told)


@pytest.mark.parametrize("distance", ["l1", "l2", "linf"])
def test_raw_intensities_are_shares_times_the_range(pair, distance):
    share = calibrate(in_memory(), pair[1], pair[0], distance=distance, **RULE)
    raw = calibrate(
        in_memory(), pair[1], pair[0], distance=distance, tolerance=20.0, intensity="raw", device="cpu"
    )  # fmt: skip
    assert 0 < share.threshold < np.inf
    assert raw.threshold == pytest.approx(share.threshold, rel=1e-4)
    assert raw.fields[0].distance == pytest.approx(100 * share.fields[0].distance, rel=1e-4)
    assert "is at most 20 intensity units" in raw.sentence
    assert "is at most 20 % of the plane's intensity range" in share.sentence
    brighter = triplets_from_arrays(10 * DEGRADED, 10 * TRUTH)
    scaled = calibrate(brighter, pair[1], pair[0], distance=distance, tolerance=200.0, intensity="raw", device="cpu")
    assert scaled.threshold == pytest.approx(raw.threshold, rel=1e-4)
    assert calibrate(brighter, pair[1], pair[0], distance=distance, **RULE).threshold == pytest.approx(
        share.threshold, rel=1e-4
    )


def test_images_and_maps_of_other_tools_need_no_network(pair, restored_planes):
    fields = as_fields(*pair)
    restored = np.array([pair[0](plane) for plane in DEGRADED])
    uncertainty = np.array([field.uncertainty for field in fields])
    expected = calibrate(in_memory(), pair[1], pair[0], **RULE)
    made = [
        calibrate(in_memory(restored=restored), pair[1], **RULE),
        calibrate(in_memory(uncertainty=uncertainty), given_mask("mine"), pair[0], **RULE),
        calibrate(in_memory(restored=restored, uncertainty=uncertainty), given_mask("mine"), GIVEN_RESTORER, **RULE),
    ]
    for found in made:
        assert found.threshold == pytest.approx(expected.threshold, rel=1e-4)
    assert [found.uncertainty for found in made] == [pair[1].card.name, "mine", "mine"]
    assert len({found.fingerprint for found in (expected, *made)}) == 4
    restored_planes.clear()
    with pytest.raises(FaultyTriplets) as caught:
        calibrate(in_memory(), pair[1], **RULE)
    assert sum(fault.fault == "has no restored image" for fault in caught.value.faults) == N
    with pytest.raises(ValueError, match="12 triplets, the first field 0, have no uncertainty image"):
        calibrate(in_memory(), given_mask("mine"), pair[0], **RULE)
    assert restored_planes == []


@pytest.mark.parametrize("distance", ["l1", BIAS])
def test_the_mean_that_is_promised_needs_distances_up_to_its_bound(pair, distance):
    mask_model = residual_mask(pair[0])
    rule = {"distance": distance, "tolerance": 0.05, "guarantee": "expected", "bound": 0.5, "device": "cpu"}
    found = calibrate(in_memory(), mask_model, pair[0], **rule)
    everything = Plan(triplets=in_memory(), restorer=pair[0], mask_model=mask_model, distance=parse_distance(distance))
    measured = list(measure(everything, device="cpu"))[-1].result
    assert found.threshold == measured.certify(found.promise).threshold > 0
    assert "counted as at most" in found.sentence
    if distance is BIAS:
        usual = calibrate(in_memory(), mask_model, pair[0], distance=BIAS, tolerance=0.05, device="cpu")
        assert np.isnan(usual.curves.walked).any()
        assert not np.isnan(found.curves.walked).any()


def test_suggested_tolerances_are_two_digits_above_the_percentiles_of_the_distances(pair):
    plan = Plan(triplets=in_memory(), restorer=pair[0], mask_model=pair[1], distance=parse_distance("l1"))
    measured = list(measure(plan, device="cpu"))[-1].result
    for share, tolerance in measured.suggested_tolerances().items():
        exact = np.percentile(measured.distances, share)
        assert exact <= tolerance < 1.026 * exact
    assert list(measured.suggested_tolerances()) == [30, 60, 80]


def test_no_triplets_are_no_calibration(pair):
    nothing = replace(in_memory(), items=())
    with pytest.raises(ValueError, match="no triplets; choose folders"):
        calibrate(nothing, pair[1], pair[0], **RULE)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"distance": "ssim", "mask": "soft"},
        {"guarantee": "pac", "delta": 0.5, "confidence": 0.8},
        {"distance": "ssim", "guarantee": "pac", "delta": 0.5, "confidence": 0.8},
        {"guarantee": "expected", "bound": 0.6, "intensity": "raw", "tolerance": 20.0},
        {"field_px": 24, "grouping": "one"},
    ],
)
def test_a_bundle_keeps_every_kind_of_promise_and_answers_as_it_did(pair, tmp_path, kind):
    if kind.get("intensity") == "raw":
        kind = kind | {"bound": 60.0}
    found = calibrate(in_memory(), pair[1], pair[0], **RULE | kind)
    write_bundle(tmp_path / "own.maskcal", pair[1].network, pair[1].card, found)
    again = read_bundle(tmp_path / "own.maskcal").certificate
    assert again == found.model_copy(update={"curves": again.curves})
    explored = [c.at(tolerance=1.5 * c.tolerance, confidence=0.75) for c in (found, again)]
    assert explored[0].threshold == explored[1].threshold
    assert explored[0].sentence == explored[1].sentence


def test_the_folder_that_the_files_lie_in_tells_a_specimen_of_the_training(pair, folders, tmp_path):
    inside = []
    for folder in folders:
        (tmp_path / f"part {folder.name}").mkdir()
        inside.append(folder.rename(tmp_path / f"part {folder.name}" / "Slide7"))
    card = pair[1].card.model_copy(update={"trained_on": ("slide7",)})
    with pytest.raises(ValueError, match=r"was trained on Slide7; a network errs less"):
        calibrate(read_triplets(*inside), replace(pair[1], card=card), pair[0], tolerance=0.1)
