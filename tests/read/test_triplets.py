from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image as Pillow

from napari_maskcal.read.cache import Cache
from napari_maskcal.read.faults import Fault
from napari_maskcal.read.image import from_array
from napari_maskcal.read.tiff import write_tiff
from napari_maskcal.read.triplets import read_triplets, triplets_from_arrays
from triplet_files import noise, pairs, write


def told(triplets) -> list[tuple[str, str]]:
    return [(fault.file, fault.fault) for fault in triplets.faults]


def test_folders_are_paired_by_name(tmp_path):
    triplets = read_triplets(*pairs(tmp_path))
    assert (len(triplets), triplets.grouped, triplets.faults) == (3, False, ())
    assert [(t.name, t.group) for t in triplets] == [("a", "a"), ("b", "b"), ("c", "c")]
    assert list(triplets[1].parts()) == ["degraded", "truth"]
    for part, seed in ((triplets[1].degraded, 2), (triplets[1].truth, 3)):
        np.testing.assert_array_equal(part.read(), noise(8, 9, seed=seed))
        assert (part.dtype, part.shape) == (part.read().dtype, part.read().shape)
    assert triplets[1].truth.describe() == "high/b.tif"


def test_no_pixel_is_read_before_it_is_asked_for(tmp_path):
    low, high = pairs(tmp_path)
    with tifffile.TiffFile(low / "b.tif") as file:
        offset = file.pages[0].dataoffsets[0]
    triplets = read_triplets(low, high)
    content = bytearray((low / "b.tif").read_bytes())
    content[offset : offset + 2] = b"\x39\x05"
    (low / "b.tif").write_bytes(content)
    assert triplets[1].degraded.read()[0, 0] == 0x539


def test_restored_images_and_uncertainty_make_the_four_complete(tmp_path):
    low, high = pairs(tmp_path)
    for name in "abc":
        write(tmp_path / "net" / f"{name}_restored.tif", noise(8, 9, dtype="float32"))
        write(tmp_path / "net" / f"{name}_sd.tif", noise(8, 9, seed=1, dtype="float32"))
    net = tmp_path / "net"
    triplets = read_triplets(low, high, restored=net / "*_restored.tif", uncertainty=str(net / "*_sd.tif"))
    assert [t.name for t in triplets] == ["a", "b", "c"]
    assert list(triplets[2].parts()) == ["degraded", "truth", "restored", "uncertainty"]
    assert triplets[2].uncertainty.describe() == "net/c_sd.tif"
    (net / "b_restored.tif").unlink()
    triplets = read_triplets(low, high, restored=net / "*_restored.tif")
    assert [t.name for t in triplets] == ["a", "c"]
    assert told(triplets) == [("low/b.tif", "has no restored image of the same name")]


def test_patterns_divide_one_folder(tmp_path):
    for seed, name in enumerate(("a_input", "a_truth", "b_input", "b_truth")):
        write(tmp_path / "cells" / f"{name}.tif", noise(8, 9, seed=seed))
    triplets = read_triplets(tmp_path / "cells" / "*_input.tif", str(tmp_path / "cells" / "*_truth.tif"))
    assert [(t.degraded.describe(), t.truth.describe()) for t in triplets] == [
        ("cells/a_input.tif", "cells/a_truth.tif"),
        ("cells/b_input.tif", "cells/b_truth.tif"),
    ]
    with pytest.raises(ValueError, match=r"degraded and truth are the same files, .*cells; choose two folders, or"):
        read_triplets(tmp_path / "cells", tmp_path / "cells")


def test_every_file_without_a_partner_is_named(tmp_path):
    low, high = pairs(tmp_path, "abcd")
    (low / "b.tif").unlink()
    (high / "c.tif").unlink()
    (high / "d.tif").rename(high / "e.tif")
    (low / "f.czi").write_bytes(b"")
    (low / "notes.txt").write_text("of no account")
    (low / ".hidden.tif").write_text("of no account")
    triplets = read_triplets(low, high)
    assert [t.name for t in triplets] == ["a"]
    assert told(triplets) == [
        ("low/f.czi", "is of a format that is not read"),
        ("low/c.tif", "has no truth of the same name"),
        ("low/d.tif", "has no truth of the same name"),
        ("high/b.tif", "has no degraded image of the same name"),
        ("high/e.tif", "has no degraded image of the same name"),
    ]


def test_one_name_twice_in_a_folder_is_no_pair(tmp_path):
    low, high = pairs(tmp_path, "ab")
    np.save(low / "a.npy", noise(8, 9))
    triplets = read_triplets(low, high)
    assert [t.name for t in triplets] == ["b"]
    assert told(triplets) == [("low/a.tif", "has the name of low/a.npy")]


def test_folders_in_folders_are_read_too_and_a_link_upwards_ends(tmp_path):
    low, high = pairs(tmp_path, ["day1/a", "day2/a"])
    (low / "day1" / "up").symlink_to(low)
    triplets = read_triplets(low, high, group=r"day\d")
    assert [(t.name, t.group) for t in triplets] == [("day1/a", "day1"), ("day2/a", "day2")]
    assert triplets.grouped


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [(r"s(\d)", ["1", "1", "2"]), (r"s\d", ["s1", "s1", "s2"]), (r"_(\w)\.tif$", ["a", "b", "a"])],
)
def test_groups_are_what_the_pattern_finds(tmp_path, pattern, groups):
    triplets = read_triplets(*pairs(tmp_path, ["s1_a", "s1_b", "s2_a"]), group=pattern)
    assert [t.group for t in triplets] == groups


@pytest.mark.parametrize("pattern", [r"s(\d)", r"s(\d)?_|q", r"(s*)q"])
def test_a_file_whose_group_cannot_be_told_is_named(tmp_path, pattern):
    triplets = read_triplets(*pairs(tmp_path, ["s1_a", "q_b"]), group=pattern)
    assert "q_b" not in [t.name for t in triplets]
    assert ("low/q_b.tif", f"does not say its group: {pattern!r} is not found in 'q_b.tif'") in told(triplets)


def test_what_cannot_be_right_is_refused_at_once(tmp_path):
    low, high = pairs(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"group '\(' is not a regular expression: missing \)"):
        read_triplets(low, high, group="(")
    with pytest.raises(ValueError, match=r"truth .*nowhere does not exist; choose a folder"):
        read_triplets(low, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"degraded .*empty has no TIFF, OME-Zarr, PNG or NPY images; choose"):
        read_triplets(tmp_path / "empty", high)
    with pytest.raises(ValueError, match=r"restored .*\*\.png has no TIFF"):
        read_triplets(low, high, restored=low / "*.png")
    (tmp_path / "empty" / "a.nd2").write_bytes(b"")
    with pytest.raises(ValueError, match=r"images, only others such as a\.nd2; choose"):
        read_triplets(tmp_path / "empty", high)


@pytest.mark.parametrize("kind", ["tif", "npy", "zarr"])
def test_each_plane_of_a_stack_is_a_triplet_of_the_files_group(tmp_path, kind):
    stacks = {folder: noise(2, 1, 3, 8, 9, seed=seed) for seed, folder in enumerate(("low", "high"))}
    for folder, data in stacks.items():
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / f"a.{kind}"
        if kind == "tif":
            write_tiff(path, data, from_array(data, axes="TCZYX"))
        elif kind == "npy":
            np.save(path, data)
        else:
            zarr.create_array(path, data=data, chunks=(1, 1, 1, 8, 9))
    triplets = read_triplets(tmp_path / "low", tmp_path / "high", axes=None if kind == "tif" else "TCZYX")
    assert [t.name for t in triplets] == [f"a T={t} Z={z}" for t in range(2) for z in range(3)]
    assert {t.group for t in triplets} == {"a"}
    assert triplets[4].truth.describe() == f"high/a.{kind}, plane T=1 Z=1"
    np.testing.assert_array_equal(triplets[4].truth.read(), stacks["high"][1, 0, 1])


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "raw"),
        ({"imagej": True}, "raw"),
        ({"ome": True}, "raw"),
        ({"byteorder": ">"}, "raw"),
        ({"compression": "zlib"}, "pages"),
        ({"tile": (16, 16)}, "pages"),
    ],
)
def test_tiff_planes_are_read_one_by_one_whatever_way_they_are_written(tmp_path, options, kind):
    data = noise(5, 20, 30, dtype=">u2" if "byteorder" in options else "uint16")
    for folder in ("low", "high"):
        write(tmp_path / folder / "a.tif", data, metadata={"axes": "ZYX"}, **options)
    triplets = read_triplets(tmp_path / "low", tmp_path / "high")
    for z in (3, 0, 4):
        plane = triplets[z].degraded.read()
        np.testing.assert_array_equal(plane, data[z])
        assert plane.dtype == "uint16"
        assert plane.flags.writeable
    image = triplets[0].degraded.stacks.open(tmp_path / "low" / "a.tif", axes=None)
    assert (image.data._offset is not None) == (kind == "raw")


def test_the_planes_of_a_single_file_are_one_group_unless_the_user_says_otherwise(tmp_path):
    for seed, name in enumerate(("low", "high")):
        write(tmp_path / f"{name}.tif", noise(3, 8, 9, seed=seed), metadata={"axes": "TYX"})
    triplets = read_triplets(tmp_path / "low.tif", tmp_path / "high.tif")
    assert [t.group for t in triplets] == ["low"] * 3
    each = read_triplets(tmp_path / "low.tif", tmp_path / "high.tif", group=r"T=\d+")
    assert [t.group for t in each] == ["T=0", "T=1", "T=2"]
    assert triplets[2].truth.describe().endswith("/high.tif, plane T=2")
    by_pattern = read_triplets(tmp_path / "low.tif", tmp_path / "high.tif", group="T=([01])")
    assert [t.group for t in by_pattern] == ["0", "1"]
    assert len(by_pattern.faults) == 1


def test_files_that_cannot_be_used_are_faults_each_with_its_remedy(tmp_path):
    low, high = pairs(tmp_path, "abcdefgh")
    (low / "a.tif").write_bytes(b"no image")
    tifffile.imwrite(low / "b.tif", noise(8, 9, 3, dtype="uint8"), photometric="rgb")
    write(low / "c.tif", noise(2, 8, 9), metadata={"axes": "CYX"})
    write(low / "d.tif", noise(2, 8, 9), metadata={"axes": "ZYX"})
    write(low / "e.tif", noise(2, 8, 9))
    write(low / "f.tif", noise(8, 9, dtype="float64").astype(complex))
    (low / "g.tif").unlink()
    Pillow.fromarray(noise(8, 9, 3, dtype="uint8")).save(low / "g.png")
    triplets = read_triplets(low, high)
    assert [t.name for t in triplets] == ["h"]
    faults = {fault.file: (fault.fault, fault.remedy) for fault in triplets.faults}
    assert faults["low/a.tif"][0].startswith("cannot be read as TIFF: ")
    assert faults["low/a.tif"][1] == "repair it, or leave the field out"
    assert faults["low/b.tif"] == ("is an RGB image", "the network takes one channel: split the channels first")
    assert faults["low/c.tif"] == ("has 2 channels", "choose a channel and save it alone")
    assert faults["high/d.tif"][0] == "has one plane, but low/d.tif has planes Z=2"
    assert faults["low/e.tif"][0].startswith("of shape (2, 8, 9) does not say what its axes are")
    assert faults["low/f.tif"][0] == "has dtype complex128"
    assert faults["low/g.png"][0] == "is an RGB image"
    assert len(faults) == 7


def test_the_files_that_differ_from_most_are_named_not_the_most(tmp_path):
    low, high = pairs(tmp_path, "abcd")
    write(low / "a.tif", noise(8, 9, dtype="uint8"))
    write(low / "b.tif", noise(8, 7))
    assert told(read_triplets(low, high)) == [
        ("low/a.tif", "has dtype uint8, but low/b.tif has uint16"),
        ("low/b.tif", "is 8 x 7 pixels, but low/a.tif is 8 x 9"),
    ]


def test_floats_of_two_precisions_are_one_dtype(tmp_path):
    low, high = pairs(tmp_path, "ab")
    for name, dtype in (("a", "float32"), ("b", "float64")):
        write(low / f"{name}.tif", noise(8, 9, dtype=dtype))
    assert read_triplets(low, high).faults == ()


def test_pixel_sizes_are_compared_where_they_are_known(tmp_path):
    low, high = pairs(tmp_path, "abcd")
    for name, size, unit in (("a", 0.1, "micrometer"), ("b", 0.2, "micrometer"), ("c", 0.10001, "micrometer")):
        image = from_array(noise(8, 9), axes="YX", scale=(size, size), units=(unit, unit))
        write_tiff(low / f"{name}.tif", image.data, image)
    assert read_triplets(low, high).faults == (
        Fault(
            file="low/b.tif",
            fault="has pixels of 0.2 x 0.2 micrometer, but low/a.tif of 0.1 x 0.1 micrometer",
            remedy="correct its metadata, or leave it out",
        ),
    )


def test_the_same_last_folder_name_does_not_confuse(tmp_path):
    low, high = pairs(tmp_path)
    shutil.move(low, tmp_path / "one" / "set")
    shutil.move(high, tmp_path / "two" / "set")
    triplet = read_triplets(tmp_path / "one" / "set", tmp_path / "two" / "set")[0]
    assert [part.describe() for part in triplet.parts().values()] == ["one/set/a.tif", "two/set/a.tif"]


def test_a_part_that_cannot_be_read_any_more_says_so_in_one_line(tmp_path):
    low, high = pairs(tmp_path, "ab", 2, 8, 9)
    triplets = read_triplets(low, high, axes="ZYX")
    part = triplets[1].degraded
    assert part.read().shape == (8, 9)
    write(low / "a.tif", noise(2, 8, 7))
    with pytest.raises(ValueError, match=r"^low/a\.tif, plane Z=1 has changed from .*\(8, 9\) .*\(8, 7\); choose"):
        part.read()
    content = (high / "a.tif").read_bytes()
    (high / "a.tif").write_bytes(content[:-20])
    with pytest.raises(ValueError, match=r"^high/a\.tif, plane Z=1 cannot be read as TIFF: .*cut off.*; repair it, or"):
        triplets[1].truth.read()
    (low / "a.tif").unlink()
    with pytest.raises(ValueError, match=r"^low/a\.tif, plane Z=1 .*No such file.*; repair it, or leave the field out"):
        part.read()


def test_few_stacks_are_open_at_a_time(tmp_path):
    low, high = pairs(tmp_path, [f"{i:02}" for i in range(12)], 2, 8, 9)
    triplets = read_triplets(low, high, axes="ZYX")
    for triplet in triplets:
        for part in triplet.parts().values():
            part.read()
    assert 0 < len(triplets[0].degraded.stacks._images) <= 4


def test_a_part_goes_to_another_process(tmp_path):
    triplets = read_triplets(*pairs(tmp_path, "a", 2, 8, 9), axes="ZYX")
    triplets[0].degraded.read()
    again = pickle.loads(pickle.dumps(triplets))  # noqa: S301
    np.testing.assert_array_equal(again[1].degraded.read(), triplets[1].degraded.read())


def test_headers_are_kept_until_the_file_changes(tmp_path, monkeypatch):
    low, high = pairs(tmp_path)
    opened = []
    original = tifffile.TiffFile.__init__

    def count(self, path, *args, **options):
        opened.append(str(path))
        original(self, path, *args, **options)

    monkeypatch.setattr(tifffile.TiffFile, "__init__", count)
    first = read_triplets(low, high, cache=Cache(tmp_path / "cache"))
    assert len(opened) == 6
    again = read_triplets(low, high, cache=Cache(tmp_path / "cache"))
    assert len(opened) == 6
    assert [part.header for t in again for part in t.parts().values()] == [
        part.header for t in first for part in t.parts().values()
    ]
    write(low / "b.tif", noise(8, 7))
    assert read_triplets(low, high, cache=Cache(tmp_path / "cache"))[1].degraded.shape == (8, 7)
    assert opened[6:] == [str(low / "b.tif")]


class Lazy:
    """Slices like numpy and tells what was asked for."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.shape, self.dtype, self.asked = data, data.shape, data.dtype, []

    def __getitem__(self, index):
        self.asked.append(index)
        return self.data[index]


def test_layers_are_sliced_along_their_first_axis():
    low, high = Lazy(noise(3, 8, 9)), noise(3, 8, 9, seed=1)
    truth = from_array(high, axes="ZYX", name="layer 'high'")
    triplets = triplets_from_arrays(low, truth, groups=["x", "x", "y"], name="the layers")
    assert low.asked == []
    assert [(t.name, t.group) for t in triplets] == [("field 0", "x"), ("field 1", "x"), ("field 2", "y")]
    assert triplets.grouped
    plane = triplets[2].degraded.read()
    np.testing.assert_array_equal(plane, low.data[2])
    assert low.asked == [(2,)]
    plane[:] = 0
    assert low.data[2].any()
    assert triplets[2].truth.describe() == "layer 'high', field 2"
    assert triplets[2].degraded.describe() == "degraded of the layers, field 2"


def test_one_plane_is_one_field_and_ungrouped_fields_are_a_group_each():
    triplets = triplets_from_arrays(noise(8, 9), noise(1, 8, 9), restored=noise(8, 9, dtype="float32"), names=["cell"])
    assert [(t.name, t.group) for t in triplets] == [("cell", "cell")]
    assert not triplets.grouped
    assert triplets[0].truth.read().shape == triplets[0].restored.read().shape == (8, 9)


def test_layers_that_do_not_fit_are_refused():
    low, high = noise(3, 8, 9), noise(3, 8, 9)
    with pytest.raises(ValueError, match=r"degraded of layers has 3, truth of layers has 2; give as many"):
        triplets_from_arrays(low, high[:2])
    with pytest.raises(ValueError, match=r"has shape \(1, 3, 8, 9\); give \(fields, Y, X\)"):
        triplets_from_arrays(low[None], high)
    with pytest.raises(ValueError, match=r"has shape \(3, 0, 9\); give \(fields, Y, X\)"):
        triplets_from_arrays(low[:, :0], high)
    with pytest.raises(ValueError, match=r"^2 groups are given for 3 fields; give one for each"):
        triplets_from_arrays(low, high, groups=["a", "b"])
    with pytest.raises(ValueError, match="names of layers are not all different"):
        triplets_from_arrays(low, high, names=["a", "b", "a"])
    with pytest.raises(ValueError, match="restored of layers has dtype bool"):
        triplets_from_arrays(low, high, restored=low > 3)
