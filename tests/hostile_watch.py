"""Opens hostile files in a process of its own, and tells what Python was asked to do meanwhile.

Run as a script it makes and opens the files that it is told of, and prints what came of each as a line of JSON. Before
it watches, it opens an honest file of every format: what libraries do for themselves, such as writing into their
caches, they have done by then. `fault:file` plants a fault first.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostile_faults import FAULTS
from hostile_files import SLIPS, everything, honest_files

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY = 3 * 2**30  # bytes that opening a file may ask for, above what the libraries have
SECONDS = 20
CACHES = "caches"  # the folder for all that libraries write for themselves

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ALARMING = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill", "os.mkdir", "os.remove",
    "os.rmdir", "os.rename", "os.symlink", "os.link", "os.chmod", "os.chown", "os.truncate", "os.utime", "os.putenv",
    "shutil.", "tempfile.", "subprocess.", "pty.", "socket.", "urllib.", "http.", "ftplib.", "webbrowser.", "pickle.",
    "marshal.load", "ctypes.dlopen", "import",
)  # fmt: skip


class Watch:
    """What Python is asked to do between two points of time, as its audit hook sees it."""

    def __init__(self) -> None:
        self.seen: list[str] | None = None
        sys.addaudithook(self.note)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is None:
            return
        if event.startswith(_ALARMING) or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        ):
            self.seen.append(f"{event} {arguments[:2]}"[:200])


def listing(root: Path) -> dict[str, tuple[int, int]]:
    """Return all that lies below a folder, with what changes when it is written to."""
    found = {}
    for folder, names, files in os.walk(root):
        for name in names + files:
            found[os.path.join(folder, name)] = os.lstat(os.path.join(folder, name))
    found |= {path: os.lstat(path) for path in SLIPS if os.path.isabs(path) and os.path.lexists(path)}
    return {
        name: (state.st_size, 0 if stat.S_ISDIR(state.st_mode) else state.st_mtime_ns) for name, state in found.items()
    }


def ways() -> dict[str, Callable[[Path], Any]]:
    from napari_maskcal.bundle import read_bundle
    from napari_maskcal.models import load_restorer
    from napari_maskcal.review.request import restorer_facts

    return {"load_restorer": load_restorer, "restorer_facts": restorer_facts, "read_bundle": read_bundle}


def attempt(way: Callable[[Path], Any], path: Path, watch: Watch, root: Path) -> dict[str, Any]:
    """Open a file in one way and return what happened."""
    before, start, said, kinds = listing(root), time.perf_counter(), "", []
    memory = reset_peak()
    watch.seen = []
    try:
        way(path)
    except BaseException as error:  # noqa: BLE001 - also what only a wrong exit would be
        said, kinds = str(error), [one.__name__ for one in type(error).__mro__]
    events, watch.seen = watch.seen, None
    taken = in_memory("VmHWM") - memory
    after = listing(root)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    seconds = time.perf_counter() - start
    return {"said": said, "kinds": kinds, "events": events, "changed": changed, "seconds": seconds, "memory": taken}


def reset_peak() -> int:
    """Forget the process's largest size so far, and return its size now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return in_memory("VmRSS")


def in_memory(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(which))


def own_places(folder: Path) -> None:
    """Let what this package keeps for the user stand in a folder."""
    os.environ["XDG_CONFIG_HOME"], os.environ["XDG_DATA_HOME"] = str(folder / "config"), str(folder / "data")


def warm_up(folder: Path, watch: Watch) -> None:
    """Open an honest file of every format, in every way."""
    from napari_maskcal.restore.loaders.base import content_sha256
    from napari_maskcal.restore.loaders.trust import trust

    folder.mkdir()
    own_places(folder)
    for name, make in honest_files().items():
        path = folder / name
        make(path)
        trust(content_sha256(path), name=name)
        for way in ways().values():
            attempt(way, path, watch, folder)


def run(root: Path, names: list[str]) -> None:
    """Make and open files, each in all ways, and print what came of it."""
    import torch

    from napari_maskcal.restore.loaders.base import content_sha256
    from napari_maskcal.restore.loaders.trust import trust

    watch, hostile_files, all_ways = Watch(), everything(), ways()
    warm_up(root / f"honest-{os.getpid()}", watch)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for told in names:
        fault, _, name = told.rpartition(":")
        hostile, path = hostile_files[name], root / name / name
        path.parent.mkdir()
        own_places(path.parent)
        hostile.make(path)
        if hostile.trusted:
            trust(content_sha256(path), name=name)
        for way, function in all_ways.items():
            if hostile.opens and way != "load_restorer":
                continue
            print(json.dumps({"begins": way, "name": told}), flush=True)
            signal.alarm(3 if fault else SECONDS)  # ends the process, whatever it is in
            torch.manual_seed(0)
            with FAULTS[fault][0]() if fault else nullcontext():
                found = attempt(function, path, watch, root)
            signal.alarm(0)
            print(json.dumps({"name": told, "way": way, **found}), flush=True)
        shutil.rmtree(path.parent)


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2:])
