"""Triplets and models as the commands that need truth take them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

import click

from napari_maskcal.cli.options import is_default, restorer_for
from napari_maskcal.restore.kinds import GIVEN
from napari_maskcal.settings import (
    AXES,
    DEGRADED_FOLDER,
    GROUP,
    MANIFEST,
    RESTORED_FOLDER,
    TRUTH_FOLDER,
    UNCERTAINTY_FOLDER,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_maskcal.models import MaskModel, Restorer
    from napari_maskcal.read.cache import Cache
    from napari_maskcal.read.parts import Triplets

WHERE = (DEGRADED_FOLDER, TRUTH_FOLDER, RESTORED_FOLDER, UNCERTAINTY_FOLDER, MANIFEST, GROUP, AXES)
NO_CACHE = click.option("--no-cache", is_flag=True, help="Neither use nor keep what was found in these files before.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where the triplets are: folders, or a table."""

    degraded: str | None
    truth: str | None
    restored: str | None
    uncertainty: str | None
    manifest: str | None
    group: str | None
    axes: str | None

    @classmethod
    def taken_from(cls, chosen: dict[str, Any]) -> Where:
        """Return what is in the options of a command, and take it out of them.

        Raises
        ------
        click.UsageError
            If these are neither folders nor a table, or both.
        """
        where = cls(**{parameter.name: chosen.pop(parameter.name) for parameter in WHERE})
        folders = [where.degraded, where.truth, where.restored, where.uncertainty]
        if where.manifest is None and not (where.degraded and where.truth):
            raise click.UsageError("give --degraded and --truth, or a table of both with --manifest")
        if where.manifest is not None and any(folders):
            raise click.UsageError("give folders or --manifest, not both")
        if where.manifest is not None and where.group is not None:
            raise click.UsageError("--group is for folders; a table has a column 'group'")
        return where

    def read(self, cache: Cache | None) -> Triplets:
        """Return the triplets, none of them read yet."""
        from napari_maskcal.read.triplets import read_manifest, read_triplets

        if self.manifest is not None:
            return read_manifest(self.manifest, axes=self.axes, cache=cache)
        return read_triplets(
            self.degraded or "", self.truth or "", restored=self.restored, uncertainty=self.uncertainty,
            group=self.group, axes=self.axes, cache=cache,
        )  # fmt: skip


def open_cache(*, unused: bool) -> Cache | None:
    """Return where results are kept from one command to the next."""
    from napari_maskcal.read.cache import Cache

    return None if unused else Cache()


def load_models(triplets: Triplets, restorer: str, mask_model: str) -> tuple[Restorer, MaskModel]:
    """Return the models chosen; where none was, those images that the triplets bring take their place."""
    from napari_maskcal.models import load_mask_model, matched

    loaded = chosen_restorer(triplets, restorer_for(restorer, mask_model))
    mask = load_mask_model(_or_given(triplets, "mask_model", mask_model, "uncertainty"), loaded)
    return matched(loaded, mask), mask


def chosen_restorer(triplets: Triplets, restorer: str) -> Restorer:
    """Return the restorer chosen; where none was, the restored images that the triplets bring take its place."""
    from napari_maskcal.models import load_restorer

    return load_restorer(_or_given(triplets, "restorer", restorer, "restored"))


def _or_given(triplets: Triplets, option: str, choice: str, part: str) -> str:
    """Return `choice`, unless it is a mere default and all triplets have the part that it would make."""
    brought = len(triplets) > 0 and all(part in triplet.parts() for triplet in triplets)
    return GIVEN if is_default(option) and brought else choice


@contextmanager
def faults_as_table() -> Iterator[None]:
    """Print every fault of the triplets on stderr, before the line that ends the command."""
    from napari_maskcal.read.faults import FaultyTriplets, table

    try:
        yield
    except FaultyTriplets as error:
        click.echo(table(error.faults), err=True)
        raise


def check_new_file(path: Path, *, suffix: str) -> None:
    """Raise ValueError unless a file can be put at `path`: before the work, not after it."""
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path} does not end in {suffix}; name it so, or it will not be opened again")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}; make it, or choose another")
    if path.exists() and not path.stat().st_mode & 0o222:
        raise ValueError(f"{path} is write-protected; nothing was changed: choose another name, or allow writing")
    try:
        with NamedTemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {error.strerror or error}; nothing was changed: choose another place"
        ) from error
