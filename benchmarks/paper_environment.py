"""A Python of its own for libraries that do not go with those of the package."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TENSORFLOW = ("tensorflow-cpu==2.21.0", "h5py==3.14.0")
"""TensorFlow with the h5py that it goes with."""


def scratch_python(folder: Path, packages: Sequence[str]) -> Path:
    """Return a Python with these packages, installed into a folder if they are not there yet."""
    python, done = folder / "bin" / "python", folder / "complete"
    wanted = "\n".join(packages)
    if not (done.is_file() and done.read_text() == wanted):
        print(f"installing {', '.join(packages)} into {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)  # noqa: S603
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)  # noqa: S603
        done.write_text(wanted)
    return python
