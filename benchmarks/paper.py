"""Masks at the same promise: every uncertainty on every task at every distance, on real images.

Each method gives each held-out field a map. The groups of a task (source photos, specimens) are split at random, many
times, into those that calibrate a binary mask, by the rule of the package, and those that it is tested on; reported
are means over the splits. No method, no choice and no network has seen a held-out group; only the tolerances are
percentiles of the held-out distances.

``--quick`` runs the task ``fluorescence`` (without measured pairs ``superresolution``), without the variants that were
tried and not kept. Packages with images and pretrained networks are downloaded by pip and apt-get into the cache; what
was made once is read from there. A run that was stopped goes on with the first task and distance that is not finished.

Written: paper.json (a list of rows), paper.csv, paper.md, one picture for each task, and paper_run.json with the
command, seed, machine and date. ``infer_s`` is seconds for one field of 128 x 128 pixels, ``train_s`` seconds of
training beside the restorer's own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from calibration import machine
from napari_maskcal import __version__
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.read.atomic import write_atomically
from napari_maskcal.restore.allocator import keep_freed_memory
from paper_methods import DEFAULT, METHODS, TRIALS, VARIANTS, Workshop
from paper_outputs import draw, summary, write_all, write_json
from paper_rows import Bench, shown
from paper_tasks import TASKS, VERSION, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paper_rows import Row
    from paper_tasks import Task

ROOT = Path(__file__).resolve().parent.parent
QUICK, QUICK_WITHOUT_DATA = "fluorescence", "superresolution"
DISTANCES = ("l1", "l2", "lpips")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was asked for."""

    tasks: tuple[str, ...]
    distances: tuple[str, ...]
    methods: tuple[str, ...]
    data: Path
    cache: Path
    out: Path
    seed: int


def main() -> None:
    """Run and write."""
    options = _parse()
    run = _asked(options)
    keep_freed_memory()
    started, rows = time.perf_counter(), []
    distances = {name: found for name in run.distances if (found := _distance(name, run.cache)) is not None}
    facts = _facts(run)
    for name in run.tasks:
        rows += _rows_of_task(name, distances, run)
        if (about := _finished(run, name, "facts")).is_file():
            facts["tasks"][name] = json.loads(about.read_text())
        facts["seconds"] = round(time.perf_counter() - started)
        write_all(rows, facts, run.cache / "results")  # a table that is not whole takes nobody's place
        if options.json is not None:
            write_json(rows, options.json)
    write_all(rows, facts, run.out)
    print("\n".join(summary(rows)))
    say(f"done after {time.perf_counter() - started:.0f} s: {run.out / 'paper.md'}")


def _asked(options: argparse.Namespace) -> Run:
    data = _data_folder(options.data)
    quick = (QUICK if _has_pairs(data) else QUICK_WITHOUT_DATA,)
    tasks = quick if options.quick else _chosen(options.tasks, tuple(TASKS), "task")
    distances = _chosen(options.distances, DISTANCES, "distance")
    usual = tuple(name for name in METHODS if name not in TRIALS and not (options.quick and name in VARIANTS))
    methods = _chosen(options.methods, tuple(METHODS), "method") if options.methods else usual
    # A part must not take the place of the whole table.
    is_whole = (set(tasks), set(distances), set(methods)) == (set(TASKS), set(DISTANCES), set(METHODS) - set(TRIALS))
    results = ROOT / "docs" / "results" if is_whole else options.cache / "results"
    return Run(
        tasks=tasks, distances=distances, methods=methods, data=data, cache=options.cache,
        out=options.out or results, seed=options.seed,
    )  # fmt: skip


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"the task {QUICK} alone")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    parser.add_argument("--tasks", default=",".join(TASKS), help="default: %(default)s")
    parser.add_argument("--distances", default=",".join(DISTANCES), help="default: %(default)s")
    parser.add_argument("--methods", help=f"default: all but {','.join(TRIALS)}, of {','.join(METHODS)}")
    parser.add_argument("--data", type=Path, help="measured pairs; default: shared/data in or beside the checkout")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "napari-maskcal-paper")
    parser.add_argument("--out", type=Path, help="default: docs/results if all is run, else results in the cache")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _chosen(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise SystemExit(f"there is no {what} {', '.join(unknown) or 'named'}; there are {', '.join(known)}")
    return names


def _data_folder(given: Path | None) -> Path:
    places = [given] if given is not None else [ROOT / "shared" / "data", ROOT.parent / "shared" / "data"]
    found = next(filter(_has_pairs, places), None)
    if found is None:
        say(f"there are no measured pairs in {places[-1]}; without them the fluorescence tasks are left out (--data)")
    return found or places[-1]


def _has_pairs(data: Path) -> bool:
    return (data / "manifest.csv").is_file()


def _distance(name: str, cache: Path) -> Any:
    """Return the distance; None, with a line, where the weights of LPIPS cannot be had."""
    if name != "lpips":
        return parse_distance(name)
    path = cache / "weights" / "alexnet.safetensors"
    if not path.is_file():
        script = ROOT / "scripts" / "fetch_lpips_weights.py"
        if subprocess.run([sys.executable, script, path.parent], check=False).returncode:  # noqa: S603
            say("the weights of LPIPS cannot be had; that distance is left out")
            return None
    return parse_distance(f"lpips-alex:{path}")


def _rows_of_task(name: str, distances: dict[str, Any], run: Run) -> list[Row]:
    """Return the rows of one task, read back where an earlier run with the same code finished them."""
    places = {key: _finished(run, name, key) for key in distances}
    wanted = [*places.values(), _finished(run, name, "facts"), run.out / f"{name}.png"]
    if not all(place.is_file() for place in wanted):
        if name.startswith("fluorescence") and not _has_pairs(run.data):
            say(f"{name}: left out, there are no measured pairs in {run.data}")
            return []
        started = time.perf_counter()
        task = TASKS[name](run.cache, run.data, run.seed)
        say(f"{name}: ready after {time.perf_counter() - started:.0f} s")
        write_atomically(_finished(run, name, "facts"), json.dumps(task.facts()).encode())
        _measure(task, {key: distances[key] for key in distances if not places[key].is_file()}, places, run)
    return [row for place in places.values() for row in json.loads(place.read_text())]


def _measure(task: Task, distances: dict[str, Any], places: dict[str, Path], run: Run) -> None:
    workshop = Workshop(cache=run.cache / "methods", seed=run.seed, say=say)
    for key, distance in distances.items():
        bench = Bench.of(task, distance, seed=run.seed)
        rows = [row | {"seed": run.seed} for row in bench.rows(workshop, run.methods)]
        write_atomically(places[key], json.dumps(rows).encode())
    picture = run.out / f"{task.name}.png"
    if "l1" in distances or not picture.is_file():
        draw(shown(Bench.of(task, parse_distance("l1"), seed=run.seed), workshop, _pictured(run.methods)), picture)


def _pictured(methods: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys((DEFAULT, "residual_smooth")) if name in methods] or list(methods[:1])


def _finished(run: Run, task: str, distance: str) -> Path:
    """Return where the rows of a task and distance are kept, by all that decides them."""
    folder = run.cache / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    key = json.dumps([VERSION, run.seed, run.methods, _code_digest()])
    return folder / f"{task}-{distance}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"


@cache
def _code_digest() -> str:
    """Return the hash of the code as it was when the run began."""
    package = ROOT / "src" / "napari_maskcal"
    files = [
        *sorted((ROOT / "benchmarks").glob("paper_*.py")),
        *(path for folder in ("mask", "calibrate", "distance") for path in sorted((package / folder).glob("*.py"))),
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _facts(run: Run) -> dict[str, Any]:
    return {
        "command": shlex.join(["python", "benchmarks/paper.py", *sys.argv[1:]]),
        "seed": run.seed,
        "machine": f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "napari-maskcal": __version__, "python": platform.python_version(), "torch": torch.__version__,
            "numpy": np.__version__, "tasks": VERSION,
        },
        "infer_s": "seconds for one field of 128 x 128 pixels",
        "train_s": "seconds of training beside the restorer's own",
        "tasks": {},
    }  # fmt: skip


if __name__ == "__main__":
    main()
