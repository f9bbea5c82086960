"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, then move it there: a reader never sees half a file.

    Raises
    ------
    ValueError
        If the place is not there or cannot be written; what was there stays.
    """
    try:
        _write_atomically(path, content)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {error.strerror or error}; make room, or choose another place"
        ) from error


def _write_atomically(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write into; it gets the name `path` when all is done, and vanishes on an error.

    Raises
    ------
    ValueError
        If `path` exists, or cannot be made.
    """
    if path.exists() or path.is_symlink():
        raise ValueError(f"output folder {path} exists; nothing was changed: choose another name or move it away")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise ValueError(f"output folder {path} cannot be made: {error.strerror}; choose another place") from error
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(path)
    except OSError as error:
        if error.errno not in _DISK_TROUBLE:
            raise
        raise ValueError(
            f"output folder {path} could not be written: {error.strerror or error}; make room or choose another place"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
