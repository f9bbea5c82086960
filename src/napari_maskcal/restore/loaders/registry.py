"""From a file that somebody else trained to a `Restorer`: found by content, agreed to, described, loaded."""

from __future__ import annotations

import hashlib
import json
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from napari_maskcal.restore.loaders.base import (
    LARGEST_FILE,
    Loader,
    NotDescribedError,
    NotTrustedError,
    Said,
    content_sha256,
)
from napari_maskcal.restore.loaders.description import is_untried, mark_tried, read_description, write_description
from napari_maskcal.restore.loaders.trust import is_trusted, trust

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_maskcal.models import Restorer
    from napari_maskcal.restore.card import ModelCard

_FOREIGN = ("bioimage", "exported", "torchscript", "onnx_model", "careamics_model", "spandrel_model")
"""Modules of this folder, in the order in which they are asked; none is imported before a foreign file is opened."""
_COMPUTES = ("network", "channels", "scale_factor", "stride_px", "halo_px", "min_size_px", "normalisation", "takes")
_OF_VOLUMES = ("axes", "stride_z", "halo_z", "min_size_z")  # of what is computed with; restorers of planes have none


def loaders() -> list[Loader]:
    """Return all loaders of foreign files."""
    return [import_module(f"napari_maskcal.restore.loaders.{name}").LOADER for name in _FOREIGN]


def loader_of(path: Path) -> Loader:
    """Return the loader that takes a file, by what is in it.

    Raises
    ------
    ValueError
        If none does: with the reason of each.
    """
    _check_there(path)
    reasons = [f"napari-maskcal: {_not_native(path)}"]
    for loader in loaders():
        reason = loader.refusal(path)
        if not reason:
            return loader
        reasons.append(f"{loader.name}: {reason}")
    raise ValueError(f"{path} is no network that can be read here. {'; '.join(reasons)}")


def card_of(path: Path, content: Callable[[Path], str] = content_sha256) -> tuple[ModelCard, str]:
    """Return what is known of a foreign restorer, and its hash, without loading it.

    Parameters
    ----------
    content
        Returns the SHA-256 of the file; for callers that know it already.

    Raises
    ------
    NotTrustedError, NotDescribedError
        If the user has not agreed to it, or it has to be described first.
    ValueError
        See `loader_of`.
    """
    loader, sha256 = loader_of(path), content(path)
    _check_trusted(path, loader, sha256)
    card = read_description(path, sha256, kind=loader.kind)
    if card is None:
        raise NotDescribedError(path)
    return card, restorer_sha256(card, sha256)


def open_restorer(path: Path) -> Restorer:
    """Return a foreign restorer; one that nobody has described yet is tried, and the result kept beside it.

    Raises
    ------
    NotTrustedError
        If the user has not agreed to it.
    ValueError
        If no loader takes it, or it is no restorer of images of one channel.
    ImportError
        If the library that it needs is missing.
    """
    from napari_maskcal.models import Restorer
    from napari_maskcal.restore.loaders.adapted import adapted

    loader, sha256 = loader_of(path), content_sha256(path)
    _check_trusted(path, loader, sha256)
    card = read_description(path, sha256, kind=loader.kind)
    network = loader.load(path).eval()
    described = describe(path, loader, network) if card is None else card
    _check_unchanged(path, sha256)
    if card is None:
        write_description(path, described, sha256)
    ready = adapted(network, described.network)
    if is_untried(path):
        check_agrees(ready, described, path)
        mark_tried(path)
    return Restorer(card=described, network=ready, sha256=restorer_sha256(described, sha256))


def agree(path: Path) -> None:
    """Keep that the user knows where a file comes from, if it is of a format that can run code, or a package."""
    from napari_maskcal.restore.loaders.python_function import announced_as, find_plugin

    if not path.exists() and announced_as(str(path)) is not None:
        find_plugin(str(path), agreed=True)
        return
    if loader_of(path).runs_code:
        trust(content_sha256(path), name=path.name)


def verified(path: Path) -> str:
    """Load a restorer, run it on a small image, and return in words what was seen.

    Raises
    ------
    ValueError
        If it cannot be loaded, or what is said of it does not hold any more.
    """
    from napari_maskcal.models import load_restorer

    restorer = load_restorer(path)
    check_agrees(restorer.network, restorer.card, path)
    described = "the file has the hash it was described with, and " if path.exists() else ""
    return f"{described}a trial run agrees with its card."


def check_agrees(network: Any, card: ModelCard, path: Path) -> None:
    """Raise ValueError if a trial run shows another grid or scale, or a longer reach, than a network's card says."""
    from napari_maskcal.restore.loaders.probe import LONGEST_S, probe

    started = time.monotonic()
    found = probe(network, name=str(path), said=Said(channels=1, axes=card.axes))
    remedy = "ask whoever made the bundle" if is_untried(path) else "remove its description"
    if found.halo_px is None and card.halo_px is not None and time.monotonic() - started > LONGEST_S:
        raise ValueError(
            f"{path}: a trial run took too long on this computer to confirm its card; try again when it is idle"
        )
    names = ["scale_factor", "stride_px", "halo_px", *(["stride_z", "halo_z"] if card.of_volumes else [])]
    told = {name: getattr(card, name) for name in names}
    if found.scale_factor != card.scale_factor or card.stride_px % found.stride_px or card.stride_z % found.stride_z:
        raise ValueError(f"{path}: a trial run does not agree with its card, which says {told}; {remedy}")
    for own, reached in ((card.halo_px, found.halo_px), (card.halo_z, found.halo_z)):
        if own is not None and (reached is None or reached > own):
            raise ValueError(f"{path}: a trial run reached farther than its card says, {told}; {remedy}")


def describe(path: Path, loader: Loader, network: Any) -> ModelCard:
    """Return the card of a network that was loaded: what its file says, and what a trial run shows."""
    from pydantic import ValidationError

    from napari_maskcal.restore.card import ModelCard, first_fault
    from napari_maskcal.restore.loaders.probe import probe

    said = loader.said(path)
    found = probe(network, name=str(path), said=said)
    factor = found.scale_factor
    if said.scale_factor not in (None, factor):
        raise ValueError(f"{path} says that it enlarges by {said.scale_factor}, but a trial run gave {factor}")
    try:
        return ModelCard(
            name=(said.name or path.stem)[:200],
            role="restorer",
            network={"kind": loader.kind, "channels": found.channels},
            axes=found.axes,
            scale_factor=factor,
            stride_px=found.stride_px,
            halo_px=found.halo_px,
            min_size_px=max(found.min_size_px, said.min_size_px or 1),
            stride_z=found.stride_z,
            halo_z=found.halo_z,
            min_size_z=max(found.min_size_z, said.min_size_z or 1),
            takes=said.normalisation,
            pixel_size=said.pixel_size,
            licence=said.licence,
            citation=said.citation,
        )
    except ValidationError as error:
        raise ValueError(f"{path} says of itself what no network has: {first_fault(error)}") from None


def restorer_sha256(card: ModelCard, content: str) -> str:
    """Return the hash that stands for a foreign restorer: of its file, and of all of its card that is computed with."""
    names = {*_COMPUTES, *(_OF_VOLUMES if card.of_volumes else ())}
    said = card.model_dump(mode="json", include=names)
    return hashlib.sha256(f"{content} {json.dumps(said, sort_keys=True)}".encode()).hexdigest()


def _not_native(path: Path) -> str:
    """Return why a file is not in this package's own format."""
    from napari_maskcal.restore.loaders.native import read_card

    try:
        read_card(path)
    except ValueError as error:
        return str(error).removeprefix(f"{path} ")
    return "it is"


def _check_there(path: Path) -> None:
    if not path.exists():
        raise ValueError(f"{path} does not exist; choose a file with a network")
    if not path.is_file() and not path.is_dir():  # whoever opens a pipe may wait for ever
        raise ValueError(f"{path} is neither a file nor a folder; choose a file with a network")
    if path.is_file() and path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} is {path.stat().st_size / 2**30:.1f} GiB, larger than any network this reads")


def _check_trusted(path: Path, loader: Loader, sha256: str) -> None:
    if loader.runs_code and not is_trusted(sha256):
        raise NotTrustedError(path, f"a {loader.name} file", sha256)


def _check_unchanged(path: Path, sha256: str) -> None:
    """Refuse a file that was replaced while it was loaded: the hash would be that of another network."""
    if content_sha256(path) != sha256:
        raise ValueError(f"{path} changed while it was opened; open it again when it is complete")
