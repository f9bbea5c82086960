from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hostile_files import MARKER, SECONDS, Hostile, everything, pickled

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# Weights are opened by libraries that write into caches of their own, which the watch takes for the file's doing.
pytestmark = pytest.mark.skip(reason="unfinished: what torch writes for itself has to be told from what a file does")

FILES = everything()
_DTYPE = "the trial run does not ask for float32"
_LONG = "names in a bundle are shown as they are, however long"
_KIND = "a description may be of another kind than the file's format"
KNOWN = {
    **{f"gives-{dtype}.pt": _DTYPE for dtype in ("integer", "bytes", "double", "half", "complex", "truths")},
    **{f"{name}.maskcal": _LONG for name in ("line-break", "long-hashes")},
    **{f"card-{name}.onnx": _KIND for name in ("other-kind", "views")},
}
Found = dict[str, dict[str, dict[str, Any]]]


def opened(root: Path, names: list[str]) -> Found:
    """Open files in a process of its own, and where one ends it, the others in another; what came of each, by way."""
    found: Found = {name: {} for name in names}
    while names:
        place = root / "work"
        place.mkdir(exist_ok=True)
        settings = {"HOME": str(root / "home"), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [
            sys.executable,
            "-W",
            "ignore",
            str(Path(__file__).parents[1] / "hostile_files.py"),
            str(root),
            *names,
        ]
        process = subprocess.run(  # noqa: S603
            command, cwd=place, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=600
        )
        lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
        for line in lines:
            if "way" in line:
                found[line["name"]][line["way"]] = line
        if process.returncode == 0:
            return found
        if not lines or "begins" not in lines[-1]:
            raise RuntimeError(process.stderr[-2000:])
        last = lines[-1]
        found[last["name"]][last["begins"]] = {"ended": process.returncode, "stderr": process.stderr[-300:]}
        names = names[names.index(last["name"]) + 1 :]
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Found]:
    root = tmp_path_factory.mktemp("hostile")
    return root, opened(root, list(FILES))


def test_there_are_many_files():
    assert len(FILES) >= 60


@pytest.mark.parametrize("protocol", range(6))
def test_the_trap_in_the_pickles_works(tmp_path, protocol):
    place = tmp_path / "file"
    for shell in (True, False):
        content = pickled(place, protocol=protocol, shell=shell)
        assert not (tmp_path / MARKER).exists()
        made = pickle.loads(content)  # noqa: S301
        if not shell:
            made.close()
        (tmp_path / MARKER).unlink()


def every() -> list[Any]:
    marks = {name: pytest.mark.xfail(reason=reason, strict=True) for name, reason in KNOWN.items()}
    return [pytest.param(one, id=name, marks=marks.get(name, ())) for name, one in FILES.items()]


@pytest.mark.parametrize("hostile", every())
def test_a_hostile_file_is_refused_in_one_line_and_does_nothing(found, hostile: Hostile):
    root, all_found = found
    path = root / hostile.name / hostile.name
    main = "read_bundle" if hostile.name.endswith(".maskcal") else "load_restorer"
    assert main in all_found[hostile.name]
    for way, result in all_found[hostile.name].items():
        assert "ended" not in result, f"{way} ended the process, or took more than {SECONDS} s"
        if hostile.opens:
            assert not result["said"], way
            assert set(result["changed"]) <= {str(path) + ".maskcal.json", *made_own(root, hostile)}
            continue
        assert set(result["kinds"]) & {"ValueError", "ImportError"}, f"{way}: {result['kinds'][:1]} {result['said']}"
        check_readable(result["said"], way, path, root)
        if hostile.trusted:
            assert set(result["changed"]) <= {str(path.with_name(MARKER))}, way  # which is what trust is about
        else:
            assert not result["changed"], way
            assert not result["events"], way
    assert re.search(hostile.says, all_found[hostile.name][main].get("said", ""))


def check_readable(said: str, way: str, path: Path, root: Path) -> None:
    assert said.isprintable(), way
    assert len(said.replace(str(path), path.name)) < 500, way
    assert str(path) in said or str(root) in said, way


def made_own(root: Path, hostile: Hostile) -> list[str]:
    own = root / hostile.name / "data"
    return [str(own), *map(str, own.rglob("*"))]
