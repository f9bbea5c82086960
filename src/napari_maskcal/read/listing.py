"""The image files that a folder, a pattern or a file name stands for."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_maskcal.read.files import is_zarr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

READ = (".tif", ".tiff", ".png", ".npy")
NOT_READ = (
    ".bmp", ".gif", ".jpg", ".jpeg", ".jp2", ".webp", ".npz", ".mat", ".h5", ".hdf5", ".n5", ".ims", ".czi", ".nd2",
    ".lif", ".lsm", ".oib", ".oif", ".oir", ".vsi", ".dv", ".mrc", ".dcm", ".nii", ".stk", ".zip", ".gz",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Image files, sorted.

    Attributes
    ----------
    root
        The folder that all of them are in, however deep.
    files
        Those of a format that is read.
    others
        Images of other formats.
    single
        Whether one file was named, not a folder or pattern.
    """

    root: Path
    files: tuple[Path, ...]
    others: tuple[Path, ...] = ()
    single: bool = False

    def name(self, path: Path) -> str:
        """Return the path below the root without the file's ending: ``"day1/a"``."""
        return path.relative_to(self.root).with_name(stem_of(path)).as_posix()


def stem_of(path: Path) -> str:
    """Return the file's name without its ending, and without the ``.ome`` before it."""
    stem = path.stem
    return stem[:-4] if stem.lower().endswith(".ome") and len(stem) > 4 else stem


def list_images(source: str | Path, *, part: str) -> Listing:
    """Return the images in a folder and the folders in it, those that fit a pattern, or the one file.

    Raises
    ------
    ValueError
        If there is no such place, or no image in it.
    """
    path = Path(source).expanduser()
    try:
        if path.exists():
            listing = _single(path) if path.is_file() or is_zarr(path) else _sorted(path, _walk(path, set()))
        elif glob.has_magic(str(path)):
            listing = _sorted(_fixed_part(path), map(Path, glob.iglob(str(path), recursive=True)))
        else:
            raise ValueError(f"{part} {path} does not exist; choose a folder, a file, or a pattern such as 'low/*.tif'")
    except OSError as error:
        raise ValueError(f"{part} {path} cannot be listed: {error.strerror}; choose another folder") from error
    if not listing.files:
        seen = f", only others such as {listing.others[0].name}" if listing.others else ""
        raise ValueError(f"{part} {path} has no TIFF, OME-Zarr, PNG or NPY images{seen}; choose another folder")
    return listing


def _single(path: Path) -> Listing:
    return Listing(root=path.parent, files=(path,), single=True)


def _sorted(root: Path, paths: Iterable[Path]) -> Listing:
    seen = sorted(path for path in set(paths) if not path.name.startswith("."))
    files = tuple(p for p in seen if is_zarr(p) or (p.suffix.lower() in READ and not p.is_dir()))
    others = tuple(p for p in seen if p.suffix.lower() in NOT_READ and not is_zarr(p))
    return Listing(root=root, files=files, others=others)


def _walk(folder: Path, above: set[Path]) -> Iterator[Path]:
    """Yield files and OME-Zarr folders; a link to a folder above is not followed for ever."""
    above = above | {folder.resolve()}
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not is_zarr(entry):
            if entry.resolve() not in above:
                yield from _walk(entry, above)
        else:
            yield entry


def _fixed_part(pattern: Path) -> Path:
    """Return the folder before the first ``*``, ``?`` or ``[``."""
    fixed = pattern.parent
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return fixed
