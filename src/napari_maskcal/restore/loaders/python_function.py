"""Restorers that are Python: one's own function, and those that other packages announce."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from napari_maskcal.distance.fingerprint import code_sha256
from napari_maskcal.distance.plugins import needs_no_arguments, package_of
from napari_maskcal.restore.loaders.base import NotTrustedError, Said
from napari_maskcal.restore.loaders.trust import is_trusted, trust

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from napari_maskcal.models import Restorer
    from napari_maskcal.restore.card import Axes, Normalisation

GROUP = "napari_maskcal.restorers"


def restorer_of(
    function: Callable[[NDArray[np.float32]], NDArray[Any]],
    *,
    name: str,
    version: str = "",
    axes: Axes = "YX",
    takes: Normalisation | None = None,
) -> Restorer:
    """Return a restorer that is a function of one plane or volume; a trial run finds its scale, grid and reach.

    Parameters
    ----------
    function
        Gets a (Y, X) float32 plane, in the units of `takes`, and returns the restored one, (factor Y, factor X), in the
        same units; of volumes, (Z, Y, X) and the same. The same image has to give the same answer.
    name
        What the user reads.
    version
        Of all that the function depends on: weights, libraries. The hash that ties a certificate to the restorer is
        that of the function's code and of this text; what neither of them tells of, nobody can notice.
    axes
        ``"YX"`` for planes, ``"ZYX"`` for volumes.
    takes
        None: shares of the range of the plane, or of all planes of the volume.

    Raises
    ------
    ValueError
        If a trial run shows that it is no restorer.
    """
    from napari_maskcal.models import Restorer
    from napari_maskcal.restore.card import ModelCard
    from napari_maskcal.restore.loaders.adapted import OfArrays
    from napari_maskcal.restore.loaders.probe import probe
    from napari_maskcal.restore.loaders.registry import restorer_sha256

    network = OfArrays(function, name)
    card = ModelCard(
        name=name, role="restorer", network={"kind": "function"}, takes=takes,
        **asdict(probe(network, name=name, said=Said(channels=1, axes=axes))),
    )  # fmt: skip
    return Restorer(
        card=card, network=network, sha256=restorer_sha256(card, f"{code_sha256(function)} {version}")
    )  # fmt: skip


def announced() -> dict[str, list[EntryPoint]]:
    """Return the installed packages' restorers by their names, in lower case; nothing of theirs is imported."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name.lower(), []).append(entry)
    return found


def announced_as(name: str) -> tuple[EntryPoint, str] | None:
    """Return what is announced as `name`, with its package and version; None if there is nothing.

    Raises
    ------
    ValueError
        If two packages announce it; the message names them.
    """
    entries = announced().get(name.lower(), [])
    packages = sorted({package_of(entry) for entry in entries})
    if len(packages) > 1:
        raise ValueError(f"the restorer {name} is in {' and in '.join(packages)}; uninstall all but one of them")
    return (entries[0], packages[0]) if entries else None


def find_plugin(name: str, *, agreed: bool = False) -> Restorer | None:
    """Return the restorer that a package announces as `name`; None if there is none.

    An entry point leads to a `Restorer`, to what makes one, or to a function as `restorer_of` takes it.

    Parameters
    ----------
    agreed
        Keep that the user knows the package, as for files that can run code.

    Raises
    ------
    NotTrustedError
        If the user has not agreed to this version of the package.
    ValueError
        If two packages announce it, or it cannot be loaded; the message names the packages.
    """
    found = announced_as(name)
    if found is None:
        return None
    entry, package = found
    sha256 = hashlib.sha256(f"{package} {entry.value}".encode()).hexdigest()
    if agreed:
        trust(sha256, name=f"{entry.name} of {package}")
    if not is_trusted(sha256):
        raise NotTrustedError(entry.name, f"a restorer of {package}", sha256)
    try:
        return _loaded(entry, package)
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the restorer {name} of {package} cannot be loaded: {type(error).__name__}: {reason}; update or uninstall "
            "that package"
        ) from error


@lru_cache(maxsize=8)
def _loaded(entry: EntryPoint, package: str) -> Restorer:
    """Return what an entry point leads to; once, for a function is tried then."""
    return _made(entry.load(), entry, package)


def _made(found: Any, entry: EntryPoint, package: str) -> Restorer:
    from napari_maskcal.models import Restorer

    if isinstance(found, Restorer):
        return found
    if not callable(found):
        raise TypeError(f"{entry.value} is a {type(found).__name__}, neither a restorer nor a function")
    if needs_no_arguments(found):
        made = found()
        if not isinstance(made, Restorer):
            raise TypeError(f"{entry.value} gave a {type(made).__name__}, not a restorer")
        return made
    return restorer_of(found, name=entry.name, version=package)
