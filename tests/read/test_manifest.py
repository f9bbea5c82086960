from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_maskcal.read.triplets import read_manifest
from triplet_files import noise, pairs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def manifest(tmp_path) -> Path:
    pairs(tmp_path)
    return tmp_path / "fields.csv"


@pytest.mark.parametrize(
    ("divider", "name"), [(",", "fields.csv"), ("\t", "fields.tsv"), (";", "fields.csv"), ("\t", "x.txt")]
)
def test_a_table_lists_the_files(manifest, divider, name):
    lines = ["note,Input,truth,Group", "one,low/a.tif,high/b.tif,s1", "", 'two, "low/c.tif",high/c.tif,s2,more']
    path = manifest.with_name(name)
    path.write_text("\ufeff" + "\n".join(lines).replace(",", divider), encoding="utf-8")
    triplets = read_manifest(path)
    assert triplets.faults == ()
    assert triplets.grouped
    assert (triplets[0].name, triplets[0].group, triplets[0].truth.label) == ("low/a", "s1", "high/b.tif")
    np.testing.assert_array_equal(triplets[0].truth.read(), noise(8, 9, seed=3))
    assert len(triplets) == 2


def test_without_a_column_the_file_is_the_group(manifest):
    manifest.write_text("degraded,truth,restored\nlow/a.tif,high/a.tif,high/b.tif\nlow/b.tif,high/b.tif,high/a.tif\n")
    triplets = read_manifest(manifest)
    assert not triplets.grouped
    assert [(t.group, t.restored.describe()) for t in triplets] == [("low/a", "high/b.tif"), ("low/b", "high/a.tif")]


def test_every_incomplete_line_is_named(manifest):
    lines = [
        "degraded,truth,group",
        "low/a.tif,,s1",
        "low/x.tif,high/y.tif,s1",
        "low/b.tif,high/b.tif",
        "low/c.tif,high/c.tif,s",
    ]
    manifest.write_text("\n".join(lines))
    triplets = read_manifest(manifest)
    assert [t.name for t in triplets] == ["low/c"]
    assert [(f.file, f.fault, f.remedy) for f in triplets.faults] == [
        ("line 2 of fields.csv", "has no truth", "fill it in, or remove the line"),
        ("low/x.tif", "does not exist", "correct line 3 of fields.csv, or remove the line"),
        ("high/y.tif", "does not exist", "correct line 3 of fields.csv, or remove the line"),
        ("line 4 of fields.csv", "has no group", "fill it in, or remove the line"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"fields\.csv is empty; its first line has to be degraded,truth"),
        (b"degraded,truth\n\n", r"fields\.csv has no lines below its header"),
        (b"low,truth\na,b", r"fields\.csv has no column degraded, but low, truth; its first line"),
        (b"degraded,high\na,b", r"fields\.csv has no column truth, but degraded, high"),
        (b"degraded,input,truth\na,b,c", r"fields\.csv has 2 columns for degraded; keep one"),
        (b"degraded,truth\n\xff\xfe,b", r"fields\.csv cannot be read as a table: .*; save it as CSV in UTF-8"),
        (b'degraded,truth\n"a,b', r"fields\.csv cannot be read as a table: "),
    ],
)
def test_what_is_no_such_table_is_refused(manifest, content, message):
    manifest.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_manifest(manifest)


def test_a_missing_table_is_refused(manifest):
    with pytest.raises(ValueError, match=r"fields\.csv cannot be read: No such file or directory; choose a CSV"):
        read_manifest(manifest)
