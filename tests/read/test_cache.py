from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from napari_maskcal.read.cache import Cache, cache_folder


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "cache")


def test_what_was_put_is_found_also_by_the_next_process(cache):
    assert cache.get("a") is None
    cache.put("a", b"one")
    cache.put("a", b"two")
    cache.put_many({"b": b"", "c": bytes(range(256))})
    again = Cache(cache.path.parent)
    assert again.get_many(["a", "b", "c", "d"]) == {"a": b"two", "b": b"", "c": bytes(range(256))}
    assert cache.fault == again.fault == ""


def test_nothing_is_made_before_it_is_needed(cache):
    assert not cache.path.parent.exists()
    cache.put_many({})
    assert cache.get_many([]) == {}


def test_more_keys_than_a_statement_takes_are_found(cache):
    values = {f"key {i}": str(i).encode() for i in range(2345)}
    cache.put_many(values)
    assert cache.get_many(list(values)) == values


def test_the_folder_is_the_one_in_the_environment_or_the_systems(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKCAL_CACHE_DIR", str(tmp_path))
    assert Cache().path == tmp_path / "results.sqlite"
    monkeypatch.delenv("MASKCAL_CACHE_DIR")
    assert cache_folder().name == "napari-maskcal"


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\x00" + bytes(500)])
def test_a_damaged_file_costs_only_what_was_kept(cache, content):
    cache.path.parent.mkdir()
    cache.path.write_bytes(content)
    cache.put("a", b"one")
    assert cache.get("a") is None
    assert cache.fault.startswith(f"results are not kept: {cache.path} cannot be used (")
    assert cache.fault.endswith("; delete it, or set MASKCAL_CACHE_DIR")
    assert cache.path.read_bytes() == content


def test_a_place_that_cannot_be_written_to_is_no_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    cache = Cache(tmp_path / "file")
    cache.put("a", b"one")
    assert cache.get("a") is None
    assert "results are not kept" in cache.fault


def test_a_value_that_changed_on_the_disk_is_not_returned(cache):
    cache.put_many({"a": b"threshold 0.5", "b": b"threshold 0.7"})
    cache.close()
    with closing(sqlite3.connect(cache.path)) as file, file:
        file.execute("UPDATE entries SET value = replace(value, '0.5', '0.9') WHERE key = 'a'")
        file.execute(
            "UPDATE entries SET value = CAST(replace(CAST(value AS TEXT), '0.5', '0.9') AS BLOB) WHERE key = 'a'"
        )
    assert cache.get_many(["a", "b"]) == {"b": b"threshold 0.7"}
    with closing(sqlite3.connect(cache.path)) as file, file:  # the right value, under another key
        file.execute("UPDATE entries SET value = (SELECT value FROM entries WHERE key = 'b') WHERE key = 'a'")
    assert cache.get_many(["a", "b"]) == {"b": b"threshold 0.7"}


def test_the_oldest_make_room_for_the_newest(tmp_path):
    cache = Cache(tmp_path, limit_bytes=400_000)
    for i in range(100):
        cache.put(str(i), os.urandom(10_000))
    kept = sorted(int(key) for key in cache.get_many([str(i) for i in range(100)]))
    assert kept == list(range(kept[0], 100))
    assert 25 < len(kept) < 40
    assert cache.path.stat().st_size < 500_000
    cache.put("too large", bytes(300_000))
    assert cache.get("too large") is None
    assert cache.get("99") is not None


def test_threads_share_one(cache):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: cache.put(str(i), str(i).encode()), range(100)))
        assert list(pool.map(lambda i: cache.get(str(i)), range(100))) == [str(i).encode() for i in range(100)]
    assert cache.fault == ""


def test_two_processes_write_at_once(tmp_path):
    program = """
import sys, time
from pathlib import Path
from napari_maskcal.read.cache import Cache
print("ready", flush=True)
start = float(sys.stdin.readline())
for folder in range(30):
    while time.time() < start + 0.05 * folder:
        pass
    cache = Cache(Path(sys.argv[1]) / str(folder))
    for i in range(10):
        cache.put(f"{sys.argv[2]} {i}", b"x")
    print(cache.fault, end="")
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    pipe = subprocess.PIPE
    running = [subprocess.Popen([*command, name], stdin=pipe, stdout=pipe, text=True) for name in "ab"]  # noqa: S603
    assert [process.stdout.readline().strip() for process in running] == ["ready", "ready"]
    start = time.time() + 0.1
    for process in running:  # both make each file at the same time
        process.stdin.write(f"{start}\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0].strip() for process in running] == ["", ""]
    keys = [f"{name} {i}" for name in "ab" for i in range(10)]
    assert all(len(Cache(tmp_path / str(folder)).get_many(keys)) == 20 for folder in range(30))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
def test_a_forked_process_opens_its_own(cache):
    cache.put("a", b"one")
    program = f"""
import os, sys
from pathlib import Path
from napari_maskcal.read.cache import Cache
cache = Cache(Path({str(cache.path.parent)!r}))
cache.put("b", b"parent")
child = os.fork()
if child == 0:
    cache.put("c", b"child")
    os._exit(cache.get("b") != b"parent")
status = os.waitpid(child, 0)[1]
print(status, cache.get("c"), cache.fault)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    assert done.stdout.split() == ["0", "b'child'"]
    assert Path(cache.path).exists()
