from __future__ import annotations

import os
import tracemalloc
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import zarr

from napari_maskcal.read.cache import Cache
from napari_maskcal.read.facts import content_hash, facts_from_bytes, facts_to_bytes, measure
from napari_maskcal.read.faults import Fault
from napari_maskcal.read.parts import Part
from napari_maskcal.read.survey import all_faults, survey
from napari_maskcal.read.triplets import read_triplets, triplets_from_arrays
from triplet_files import noise, pairs, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def told(triplets, **options) -> list[tuple[str, str]]:
    return [(f.file, f.fault) for f in all_faults(triplets, list(survey(triplets, **options)))]


def layers(count: int = 3, **changes: np.ndarray):
    arrays = {"degraded": noise(count, 8, 9), "truth": noise(count, 8, 9, seed=1)} | changes
    return triplets_from_arrays(**arrays)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """List the planes that are read."""
    read: list[str] = []
    original = Part.read

    def count(part: Part) -> np.ndarray:
        read.append(part.describe())
        return original(part)

    with monkeypatch.context() as patch:
        patch.setattr(Part, "read", count)
        yield read


def test_good_fields_have_no_faults_and_hashes_of_their_pixels(tmp_path):
    triplets = read_triplets(*pairs(tmp_path))
    surveyed = list(survey(triplets))
    assert [field.triplet for field in surveyed] == list(triplets)
    assert all_faults(triplets, surveyed, minimal_groups=3) == ()
    assert surveyed[1].hashes == {
        "degraded": content_hash(noise(8, 9, seed=2)),
        "truth": content_hash(noise(8, 9, seed=3)),
    }
    assert len({field.sha256 for field in surveyed}) == 3
    assert surveyed[0].sha256 == next(survey(read_triplets(*pairs(tmp_path / "copy")))).sha256


def test_the_hash_is_that_of_shape_and_values_whatever_their_dtype_and_order_in_memory():
    plane = noise(8, 9)
    copies = [plane.astype(dtype) for dtype in (">u2", "int32", "float32", ">f8")] + [np.asfortranarray(plane)]
    assert {content_hash(copy) for copy in copies} == {content_hash(plane)}
    assert content_hash(np.float32([[-0.0, 1]])) == content_hash(np.int8([[0, 1]]))
    others = (plane + 1, plane.astype("float64") + 1e-9, plane.reshape(9, 8), plane.T)
    assert content_hash(plane) not in {content_hash(other) for other in others}


def test_a_hash_of_the_field_changes_with_each_part():
    whole = layers(restored=noise(3, 8, 9, seed=2))
    sha256 = next(survey(whole)).sha256
    assert sha256 != next(survey(layers())).sha256
    assert sha256 != next(survey(layers(restored=noise(3, 8, 9, seed=5)))).sha256
    swapped = layers(degraded=noise(3, 8, 9, seed=1), truth=noise(3, 8, 9), restored=noise(3, 8, 9, seed=2))
    assert sha256 != next(survey(swapped)).sha256


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_counted_and_placed(value):
    truth = noise(3, 8, 9, dtype="float32", seed=1)
    truth[1, 2, 5:7] = value
    assert told(layers(truth=truth)) == [
        ("truth of layers, field 1", "has 2 NaN or infinite values, the first at (y, x) = (2, 5)")
    ]


@pytest.mark.parametrize("part", ["degraded", "truth", "restored"])
def test_a_constant_image_is_named_but_a_constant_uncertainty_is_a_choice(part):
    whole = {"degraded": noise(3, 8, 9), "truth": noise(3, 8, 9, seed=1), "restored": noise(3, 8, 9, seed=2)}
    whole |= {"uncertainty": np.full((3, 8, 9), 0.5)}
    assert told(layers(**whole)) == []
    whole[part][2] = 7
    assert told(layers(**whole)) == [(f"{part} of layers, field 2", "is constant: every pixel is 7")]


@pytest.mark.parametrize("smallest", [0.0, -0.25])
def test_an_uncertainty_that_is_not_positive_is_named(smallest):
    uncertainty = np.ones((3, 8, 9))
    assert told(layers(uncertainty=uncertainty)) == []
    uncertainty[0, 3, 4] = smallest
    assert told(layers(uncertainty=uncertainty)) == [
        ("uncertainty of layers, field 0", f"has values that are not above 0, the smallest is {smallest:g}")
    ]


def test_a_truth_that_is_the_restored_or_the_degraded_image_is_named():
    truth, restored = noise(3, 8, 9, seed=1), noise(3, 8, 9, seed=2)
    restored[0], truth[1] = truth[0], noise(3, 8, 9)[1]
    assert told(layers(truth=truth, restored=restored)) == [
        ("truth of layers, field 0", "has the same pixels as restored of layers, field 0"),
        ("truth of layers, field 1", "has the same pixels as degraded of layers, field 1"),
    ]


def test_shapes_have_to_fit_the_scale_factor(tmp_path):
    low, high = pairs(tmp_path, "ab")
    write(high / "b.tif", noise(16, 18, seed=7))
    triplets = read_triplets(low, high)
    (fault,) = all_faults(triplets, list(survey(triplets)))
    assert str(fault) == (
        "high/b.tif is 16 x 18 pixels, but low/b.tif is 8 x 9; bring it to 8 x 9, or leave the field out"
    )
    assert told(triplets, scale_factor=2) == [
        ("high/a.tif", "is 8 x 9 pixels, but low/a.tif is 8 x 9, which a restorer enlarges 2 times")
    ]


def test_a_restored_image_that_is_needed_is_missed():
    assert told(layers(1), needs_restored=True) == [("degraded of layers, field 0", "has no restored image")]
    assert told(layers(1, restored=noise(1, 8, 9, seed=2)), needs_restored=True) == []


def test_the_same_field_twice_is_named_with_both(tmp_path):
    low, high = pairs(tmp_path)
    write(low / "c.tif", noise(8, 9, seed=0))
    assert told(read_triplets(low, high)) == [("low/c.tif", "has the same pixels as low/a.tif")]


def test_fields_that_share_a_truth_have_to_be_of_one_group(tmp_path):
    low, high = pairs(tmp_path, ["s1_r1", "s1_r2", "s2_r1"])
    write(high / "s1_r2.tif", noise(8, 9, seed=1))
    assert told(read_triplets(low, high, group=r"s\d")) == []
    for pattern, groups in ((None, "'s1_r1' and 's1_r2'"), (r"r\d", "'r1' and 'r2'")):
        assert told(read_triplets(low, high, group=pattern)) == [
            ("high/s1_r2.tif", f"has the same pixels as high/s1_r1.tif, of another group: {groups}")
        ]


def test_an_image_that_was_used_to_train_is_named(tmp_path):
    triplets = read_triplets(*pairs(tmp_path))
    training = {content_hash(noise(8, 9, seed=2)), content_hash(noise(8, 9, seed=5)), "another"}
    assert told(triplets, foreign_to=training) == [
        ("low/b.tif", "was used to train"),
        ("high/c.tif", "was used to train"),
    ]


def test_all_faults_are_told_at_once_and_each_once(tmp_path):
    low, high = pairs(tmp_path, "abcdef", 2, 8, 9)
    write(low / "a.tif", np.full((2, 8, 9), 3, "uint16"))
    (high / "b.tif").unlink()
    for name in "acdef":
        truth = noise(2, 8, 9, dtype="float32", seed=ord(name))
        write(high / f"{name}.tif", truth * np.nan if name == "c" else truth)
    write(low / "d.tif", noise(2, 8, 9, dtype="uint8", seed=50))
    content = write(low / "e.tif", noise(2, 8, 9), compression="zlib").read_bytes()
    with tifffile.TiffFile(low / "e.tif") as file:
        start = file.pages[1].dataoffsets[0]
    (low / "e.tif").write_bytes(content[:start] + bytes(30) + content[start + 30 :])
    triplets = read_triplets(low, high, axes="ZYX")
    surveyed = list(survey(triplets))
    faults = [(f.file, f.fault) for f in all_faults(triplets, surveyed, minimal_groups=9)]
    unreadable = faults.pop([file for file, _ in faults].index("low/e.tif, plane Z=1"))
    assert unreadable[1].startswith("cannot be read as TIFF: ")
    assert faults == [
        ("low/b.tif", "has no truth of the same name"),
        ("low/d.tif", "has dtype uint8, but low/a.tif has uint16"),
        ("low/a.tif, plane Z=0", "is constant: every pixel is 3"),
        ("low/a.tif, plane Z=1", "is constant: every pixel is 3"),
        ("high/c.tif, plane Z=0", "has 72 NaN or infinite values, the first at (y, x) = (0, 0)"),
        ("high/c.tif, plane Z=1", "has 72 NaN or infinite values, the first at (y, x) = (0, 0)"),
        ("the fields", "are of 5 groups, and 9 are needed"),
    ]
    assert [field.triplet.name for field in surveyed if not field.faults] == ["e Z=0", "f Z=0", "f Z=1"]


def test_too_few_groups_are_counted():
    triplets = layers(5)
    surveyed = list(survey(triplets))
    assert all_faults(triplets, surveyed, minimal_groups=5) == ()
    assert all_faults(triplets, surveyed, minimal_groups=9) == (
        Fault(
            file="the fields",
            fault="are of 5 groups, and 9 are needed",
            remedy="add fields of other specimens, or ask for less confidence",
        ),
    )
    assert "are none" in str(all_faults(triplets, []))


def test_one_group_only_is_said_to_be():
    triplets = triplets_from_arrays(noise(5, 8, 9), noise(5, 8, 9, seed=1), groups=["fish"] * 5)
    (fault,) = all_faults(triplets, list(survey(triplets)), minimal_groups=9)
    assert fault.fault == "are 5 of one group, 'fish', and 9 groups are needed"


def test_groups_that_a_fault_takes_away_are_missed():
    truth = noise(3, 8, 9, seed=1)
    truth[2] = 0
    triplets = layers(truth=truth)
    faults = all_faults(triplets, list(survey(triplets)), minimal_groups=3)
    assert faults[-1].fault == "without fault are of 2 groups, and 3 are needed"


def test_a_survey_can_be_stopped():
    cancel = SimpleNamespace(cancelled=False)
    stream = survey(layers(), cancel=cancel)
    next(stream)
    cancel.cancelled = True
    assert list(stream) == []


def test_facts_come_back_as_they_were():
    plane = noise(8, 9, dtype="float64")
    for facts in (measure(plane), measure(plane / 3)):
        assert facts_from_bytes(facts_to_bytes(facts)) == facts
    plane[3, 4] = np.nan
    again = facts_from_bytes(facts_to_bytes(measure(plane)))
    assert (again.nonfinite, again.first, again.constant) == (1, (3, 4), False)


@pytest.mark.parametrize("shape", [(8, 9), (3, 8, 9)])
def test_a_second_survey_reads_no_image(tmp_path, monkeypatch, shape):
    triplets = read_triplets(*pairs(tmp_path, "abc", *shape), axes="ZYX"[-len(shape) :])
    with counted(monkeypatch) as read:
        first = list(survey(triplets, cache=Cache(tmp_path / "cache")))
        assert len(read) == 2 * len(triplets)
        again = list(survey(triplets, cache=Cache(tmp_path / "cache")))
        assert len(read) == 2 * len(triplets)
        list(survey(triplets))  # without a cache, all are read
        assert len(read) == 4 * len(triplets)
    assert [field.facts for field in again] == [field.facts for field in first]


def test_a_file_that_changed_is_read_again_however_little_shows(tmp_path, monkeypatch):
    low, high = pairs(tmp_path)
    cache = Cache(tmp_path / "cache")
    triplets = read_triplets(low, high)
    before = list(survey(triplets, cache=cache))
    status = (low / "b.tif").stat()
    write(low / "b.tif", noise(8, 9, seed=77))  # of the same size
    os.utime(low / "b.tif", ns=(status.st_atime_ns, status.st_mtime_ns))
    with counted(monkeypatch) as read:
        after = list(survey(triplets, cache=cache))
    assert read == ["low/b.tif"]
    assert [a.sha256 == b.sha256 for a, b in zip(after, before, strict=True)] == [True, False, True]


def test_a_chunk_that_changed_in_an_ome_zarr_is_read_again(tmp_path, monkeypatch):
    for seed, name in enumerate(("low", "high")):
        zarr.create_array(tmp_path / f"{name}.zarr", data=noise(3, 8, 9, seed=seed), chunks=(1, 8, 9))
    triplets = read_triplets(tmp_path / "low.zarr", tmp_path / "high.zarr", axes="TYX")
    cache = Cache(tmp_path / "cache")
    before = list(survey(triplets, cache=cache))
    with counted(monkeypatch) as read:
        list(survey(triplets, cache=cache))
        assert read == []
        zarr.open(tmp_path / "low.zarr")[1] = noise(8, 9, seed=5)
        after = list(survey(triplets, cache=cache))
    assert len(read) == 3  # the planes of the one file
    assert [a.sha256 == b.sha256 for a, b in zip(after, before, strict=True)] == [True, False, True]


def test_what_is_written_during_the_survey_is_not_kept(tmp_path, monkeypatch):
    low, high = pairs(tmp_path, "a")
    cache, triplets = Cache(tmp_path / "cache"), read_triplets(low, high)
    original = Part.read

    def overwrite(part: Part) -> np.ndarray:
        plane = original(part)
        if part.label == "low/a.tif":
            write(low / "a.tif", noise(8, 9, seed=77))
        return plane

    with monkeypatch.context() as patch:
        patch.setattr(Part, "read", overwrite)
        list(survey(triplets, cache=cache))
    assert next(survey(triplets, cache=cache)).hashes["degraded"] == content_hash(noise(8, 9, seed=77))


def test_a_file_that_cannot_be_read_is_tried_again(tmp_path):
    low, high = pairs(tmp_path, "ab")
    cache, triplets = Cache(tmp_path / "cache"), read_triplets(low, high)
    content = (low / "a.tif").read_bytes()
    (low / "a.tif").unlink()
    (fault,) = next(survey(triplets, cache=cache)).faults
    assert (fault.file, fault.remedy) == ("low/a.tif", "repair it, or leave the field out")
    assert "No such file" in fault.fault
    (low / "a.tif").write_bytes(content)
    assert next(survey(triplets, cache=cache)).faults == ()


def peak_bytes(folder: Path, count: int, *, stack: bool) -> int:
    """Memory that reading and surveying `count` fields takes at most."""
    names = ["a"] if stack else [f"{i:03}" for i in range(count)]
    for name in names:
        for seed, part in enumerate(("low", "high")):
            data = noise(*((count,) if stack else ()), 512, 512, seed=seed, dtype="float32")
            write(folder / part / f"{name}.tif", data, metadata={"axes": "ZYX"[-data.ndim :]})
    tracemalloc.start()
    try:
        for _ in survey(read_triplets(folder / "low", folder / "high"), cache=Cache(folder / "cache")):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("stack", [False, True])
def test_memory_does_not_grow_with_the_number_of_fields(tmp_path, stack):
    few, many = (peak_bytes(tmp_path / str(count), count, stack=stack) for count in (30, 300))
    assert few > 2 * 512 * 512 * 4
    assert many < 1.2 * few


def test_a_copy_in_another_dtype_is_the_same_field():
    degraded, truth = noise(3, 8, 9), noise(3, 8, 9, seed=1)
    degraded[2] = degraded[0]
    assert told(layers(degraded=degraded, truth=truth)) == [
        ("degraded of layers, field 2", "has the same pixels as degraded of layers, field 0")
    ]
    copies = layers(truth=truth, restored=truth.astype("float64"))
    assert [fault for _, fault in told(copies)][:1] == ["has the same pixels as restored of layers, field 0"]


def test_intensities_in_another_unit_are_named_but_noise_is_not():
    degraded, truth = noise(3, 8, 9).astype("float64"), noise(3, 8, 9, seed=1).astype("float64")
    assert told(layers(degraded=degraded, truth=truth / 10)) == []
    found = told(layers(degraded=degraded, truth=truth / 1000))
    assert len(found) == 3
    assert found[0][1].startswith("has intensities over a range of 0.")


def test_a_plane_with_nothing_between_its_percentiles_is_named():
    degraded = np.zeros((3, 40, 40), "uint16")
    degraded[:, 3, :2] = noise(3, 2) + 1  # two pixels of 1,600
    truth = noise(3, 40, 40, seed=1)
    assert [fault for _, fault in told(layers(degraded=degraded, truth=truth))][:1] == [
        "has nothing to restore: its percentiles 1 and 99.8 are both 0"
    ]


@pytest.mark.parametrize("twin", ["Fish 1", "fish 1 ", "FISH 1"])
def test_a_specimen_spelled_in_two_ways_does_not_count_as_two(twin):
    arrays = noise(3, 8, 9), noise(3, 8, 9, seed=1)
    told = [
        (one.fault, one.remedy)
        for groups in (["fish 1", "fish 2", twin], ["fish 1", "fish 2", "fish 11"])
        for triplets in [triplets_from_arrays(*arrays, groups=groups)]
        for one in all_faults(triplets, list(survey(triplets)), minimal_groups=3)
    ]
    assert told == [
        (f"of {twin!r} and of 'fish 1' would count as two specimens", "spell a specimen's name in one way")
    ]  # fmt: skip
