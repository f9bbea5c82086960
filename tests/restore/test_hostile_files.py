from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
import torch

import hostile_watch
from hostile_faults import FAULTS
from hostile_files import MARKER, Hostile, everything, honest_files, pickled
from hostile_watch import CACHES, SECONDS
from napari_maskcal.restore.loaders import registry
from napari_maskcal.restore.loaders.adapted import adapted
from napari_maskcal.restore.loaders.description import description_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("sizes in memory are asked of Linux", allow_module_level=True)
if missing := [name for name in ("onnx", "onnxruntime", "spandrel", "bioimageio") if find_spec(name) is None]:
    pytest.skip(f"{missing[0]} is not installed", allow_module_level=True)

FILES = everything()
MEMORY = 200 * 2**20  # bytes that opening any of the files may take; none has more than a few millions
LONGEST = 500  # characters
Result = dict[str, Any]
Found = dict[str, dict[str, Result]]


def opened(root: Path, names: list[str]) -> Found:
    """Open files in a process of its own, and where one ends it, the others in another; what came of each, by way."""
    found: Found = {name: {} for name in names}
    for folder in ("work", "home", CACHES):
        (root / folder).mkdir()
    caches = {name: str(root / CACHES) for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME")}
    settings = {"HOME": str(root / "home"), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **caches}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | settings
    while names:
        command = [sys.executable, "-W", "ignore", hostile_watch.__file__, str(root), *names]
        process = subprocess.run(  # noqa: S603
            command, cwd=root / "work", env=environment, capture_output=True, text=True, check=False, timeout=600
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
        found[last["name"]][last["begins"]] = {"ended": process.returncode}
        names = names[names.index(last["name"]) + 1 :]
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Found]:
    root = tmp_path_factory.mktemp("hostile")
    return root, opened(root, list(FILES))


def faults(hostile: Hostile, results: dict[str, Result], root: Path) -> Iterator[str]:
    """Yield all that is wrong with how a file was opened."""
    main = "read_bundle" if hostile.name.endswith(".maskcal") else "load_restorer"
    for way, result in results.items():
        if "ended" in result:
            yield f"{way} ended the process, or took more than {SECONDS} s"
            continue
        if result["memory"] > MEMORY:
            yield f"{way} took {result['memory'] / 2**20:.0f} MiB of memory"
        yield from (f"{way}: {fault}" for fault in deeds(hostile, result, root / hostile.name))
        if hostile.opens:
            if result["said"]:
                yield f"{way} refused it: {result['said']}"
            continue
        if hostile.late and way == "restorer_facts" and not result["kinds"]:
            continue
        if not set(result["kinds"]) & {"ValueError", "ImportError"}:
            yield f"{way}: not refused, {result['kinds'][:1]} {result['said']}"
        yield from (f"{way}: {fault}" for fault in unreadable(result, root / hostile.name / hostile.name, root))
    said = results.get(main, {}).get("said", "")
    if not re.search(hostile.says, said):
        yield f"nothing of {hostile.says!r} in {said!r}"


def deeds(hostile: Hostile, result: Result, folder: Path) -> Iterator[str]:
    """Yield what was done that must not be: written, started, asked of the net, imported, unpickled."""
    own = [str(folder / hostile.name) + ".maskcal.json", str(folder / "data")] if hostile.opens else []
    allowed = (*own, *([str(folder / MARKER)] if hostile.runs else []))
    for name in result["changed"]:
        if not name.startswith(tuple(allowed)):
            yield f"changed {name}"
    if not hostile.opens and not hostile.runs:  # the description that is kept is seen above
        yield from result["events"]


def unreadable(result: Result, path: Path, root: Path) -> Iterator[str]:
    said = result["said"]
    short = said.replace(str(path), path.name)
    if not said.isprintable() or len(short) > LONGEST:
        yield f"not one line, {len(short)} characters: {short[:LONGEST]!r}"
    if str(root) not in said and "ImportError" not in result["kinds"]:  # of a library, whatever the file
        yield f"does not name the file: {short}"


def test_there_are_many_files():
    assert len(FILES) >= 60


@pytest.mark.parametrize("hostile", [pytest.param(one, id=name) for name, one in FILES.items()])
def test_a_hostile_file_is_refused_in_one_line_and_does_nothing(found, hostile: Hostile):
    root, all_found = found
    results = all_found[hostile.name]
    assert set(results) == ({"load_restorer"} if hostile.opens else {"load_restorer", "restorer_facts", "read_bundle"})
    assert list(faults(hostile, results, root)) == []


def test_libraries_kept_nothing_of_the_files_and_told_nobody(found):
    """onnxruntime would keep a number of this computer, and what it is to send."""
    root, _ = found
    kept = [path for folder in ("home", CACHES) for path in (root / folder).rglob("*") if path.is_file()]
    assert kept == []


# ---- what takes its time


@pytest.fixture
def own_places(monkeypatch, tmp_path):
    for which in ("CONFIG", "DATA"):
        monkeypatch.setenv(f"XDG_{which}_HOME", str(tmp_path / which))


@pytest.mark.parametrize("name", ["graph.onnx", "script.pt", "folder"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.usefixtures("own_places")
def test_a_file_that_is_replaced_while_it_is_loaded_is_refused(tmp_path, monkeypatch, name):
    """Its hash would stand for a network that it is not of."""
    path = tmp_path / name
    honest_files()[name](path)
    registry.agree(path)
    describe = registry.describe

    def replacing(*args: Any) -> Any:
        card = describe(*args)
        part = path / "rdf.yaml" if path.is_dir() else path
        part.write_bytes(part.read_bytes() + b"\n")
        return card

    monkeypatch.setattr(registry, "describe", replacing)
    with pytest.raises(ValueError, match=f"{name} changed while it was opened"):
        registry.open_restorer(path)
    assert not description_path(path).exists()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8])
def test_a_restorer_that_was_described_is_refused_all_the_same_once_it_gives_no_float32(dtype, channels):
    class Network(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.to(dtype)

    with pytest.raises(ValueError, match=f"gives {str(dtype)[6:]}, and not float32; export it"):
        adapted(Network(), {"channels": channels})(torch.rand(1, 1, 8, 8))


# ---- the test itself can fail


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Found]:
    root = tmp_path_factory.mktemp("planted")
    return root, opened(root, [f"{fault}:{name}" for fault, (_, name, _) in FAULTS.items()])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_loader_with_a_fault_is_noticed(planted, fault):
    root, all_found = planted
    _, name, word = FAULTS[fault]
    noticed = list(faults(FILES[name], all_found[f"{fault}:{name}"], root))
    assert any(word in one for one in noticed), noticed


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
