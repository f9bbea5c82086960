"""``maskcal demo``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from napari_maskcal.cli.options import JSON, check_promise, options
from napari_maskcal.cli.run import tell
from napari_maskcal.settings import CONFIDENCE, DEVICE, TOLERANCE

_ON_VIRTUAL_SCREEN = "MASKCAL_ON_VIRTUAL_SCREEN"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write the results into this new folder and close.")
@options(TOLERANCE, CONFIDENCE, DEVICE)
@JSON
def demo(out: Path | None, tolerance: float | None, confidence: float | None, device: str, as_json: bool) -> None:
    """Open napari with the bundled stack, restored, and its uncertain regions drawn over it."""
    check_promise(tolerance, confidence)
    headless = sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if headless:
        _start_again_on_a_virtual_screen(out)
    from napari_maskcal._widgets.demo import show_demo, write_demo

    if out is None and not os.environ.get(_ON_VIRTUAL_SCREEN):
        show_demo(tolerance=tolerance, confidence=confidence, device=device)
        return
    out = out or _free_name(Path("maskcal-demo"))
    tell(write_demo(out, tolerance=tolerance, confidence=confidence, device=device), out, as_json=as_json)


def _start_again_on_a_virtual_screen(out: Path | None) -> None:
    """Replace this process by itself under xvfb-run; never returns."""
    if out is not None and out.exists():
        raise ValueError(f"output folder {out} exists; nothing was changed: choose another name or move it away")
    xvfb = shutil.which("xvfb-run")
    if xvfb is None:
        raise ValueError("there is no display; run this on a desktop, or install a virtual one: apt-get install xvfb")
    environment = os.environ | {_ON_VIRTUAL_SCREEN: "1", "QT_QPA_PLATFORM": "xcb"}
    command = [xvfb, "-a", "-s", "-screen 0 1600x1000x24", sys.executable, "-m", "napari_maskcal", *sys.argv[1:]]
    os.execve(xvfb, command, environment)  # noqa: S606 - the program and its arguments are ours


def _free_name(path: Path) -> Path:
    """Return `path`, or the first of path-2, path-3, ... that does not exist."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
