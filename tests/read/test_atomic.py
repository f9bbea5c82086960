from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from napari_maskcal.read.atomic import new_folder, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

can_mount = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="a small disk needs root on Linux",
)


def on_a_full_disk(program: str, disk: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python program while a disk of 64 KiB is mounted at `disk`; then list what is left there."""
    disk.mkdir(exist_ok=True)
    mounted = f"mount -t tmpfs -o size=64k none {disk}"
    script = f"{mounted} && {{ {sys.executable} -c '{program}'; find {disk} -mindepth 1; }}"
    command = ["unshare", "--mount", "sh", "-c", script]  # the mount is gone with the process
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603


def test_a_file_is_written_in_full_over_the_old_one(tmp_path):
    path = tmp_path / "result"
    for content in (b"old", b"new" * 10**5):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, interruption):
    path = tmp_path / "result"
    path.write_bytes(b"old")

    def stop(*_):
        assert len(list(tmp_path.iterdir())) == 2  # the new content lies beside the old one
        raise interruption

    monkeypatch.setattr("pathlib.Path.replace", stop)
    with pytest.raises((KeyboardInterrupt, ValueError), match=r"^$|result cannot be written: No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_folder_has_its_name_only_when_all_is_done(tmp_path):
    path = tmp_path / "a" / "results"
    with new_folder(path) as draft:
        (draft / "image.tif").write_bytes(b"pixels")
        assert not path.exists()
    assert [p.name for p in path.iterdir()] == ["image.tif"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_takes_the_draft_away_and_passes_through(tmp_path, error):
    def write_half() -> None:
        with new_folder(tmp_path / "results") as draft:
            (draft / "half").write_bytes(b"pixels")
            raise error

    with pytest.raises(error):
        write_half()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "empty folder", "dangling link"])
def test_what_exists_is_never_touched(tmp_path, kind):
    path = tmp_path / "results"
    if kind == "file":
        path.write_text("mine")
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.mkdir()
        if kind == "folder":
            (path / "mine").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"results exists; nothing was changed"), new_folder(path):
        pytest.fail("the folder was given out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_made_is_refused_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("mine")
    path = tmp_path / "file" / "results"
    with pytest.raises(ValueError, match=r"results cannot be made: .+; choose another place"), new_folder(path):
        pytest.fail("the folder was given out")
    assert (tmp_path / "file").read_text() == "mine"


@can_mount
def test_on_a_full_disk_a_folder_is_refused_with_the_reason_and_nothing_stays(tmp_path):
    program = f"""
from pathlib import Path
from napari_maskcal.read.atomic import new_folder
with new_folder(Path("{tmp_path / "disk" / "results"}")) as draft:
    (draft / "fits").write_bytes(bytes(1000))
    (draft / "image.tif").write_bytes(bytes(10**6))
"""
    done = on_a_full_disk(program, tmp_path / "disk")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ValueError: output folder")
    assert "results could not be written: No space left on device; make room or choose another place" in last
    assert done.stdout == ""


@can_mount
def test_on_a_full_disk_a_file_stays_as_it_was(tmp_path):
    program = f"""
from pathlib import Path
from napari_maskcal.read.atomic import write_atomically
path = Path("{tmp_path / "disk" / "mask.maskcal"}")
write_atomically(path, b"old")
try:
    write_atomically(path, bytes(10**6))
finally:
    print(path.read_bytes())
"""
    done = on_a_full_disk(program, tmp_path / "disk")
    assert "No space left on device" in done.stderr
    assert done.stdout.splitlines() == ["b'old'", str(tmp_path / "disk" / "mask.maskcal")]


@can_mount
def test_room_that_is_not_there_is_refused_before_it_is_used(tmp_path):
    program = f"""
import tempfile
tempfile.tempdir = "{tmp_path / "disk"}"
from napari_maskcal.read.scratch import allocate
allocate((2**15, 2**15, 1), "uint16")
"""
    done = on_a_full_disk(program, tmp_path / "disk")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ValueError: the result needs 2.0 GiB in {tmp_path / 'disk'}: No space left on device")
    assert "TMPDIR" in last
    assert done.stdout == ""
