"""The ``.maskcal`` file: a mask network with its card, certificate and curves, and, if wanted, the restorer.

A zip of ``maskcal.json``, ``mask.safetensors`` and ``curves.safetensors``; a network that was trained, but not
calibrated, has no certificate and no curves. Names, sizes and hashes are checked before any part is used; nothing but
the restorer is ever unpacked to disk, see `napari_maskcal.packed`.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_maskcal.calibrate.certificate import Certificate
from napari_maskcal.calibrate.curves import AnyCurves, Curves, GridCurves
from napari_maskcal.models import MaskModel
from napari_maskcal.packed import LARGEST, PackedRestorer, packed, unpacked
from napari_maskcal.read.atomic import write_atomically
from napari_maskcal.read.names import shown
from napari_maskcal.restore.card import ModelCard, first_fault, nested
from napari_maskcal.restore.loaders.archives import check_entries, check_list
from napari_maskcal.restore.loaders.base import file_state
from napari_maskcal.restore.loaders.native import build_network, check_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from napari_maskcal.models import Restorer

_DESCRIPTION, _WEIGHTS, _CURVES, _RESTORER = "maskcal.json", "mask.safetensors", "curves.safetensors", "restorer"
_CERTIFICATE = "certificate"  # a part of maskcal.json with a hash of its own
_MASK = "mask"  # the hash of card and weights, where no certificate has it
_LARGEST_PART = {_DESCRIPTION: 64 * 2**20, _WEIGHTS: 2**30, _CURVES: 2**30, _RESTORER: LARGEST}
_NEEDED = {_DESCRIPTION, _WEIGHTS}
_OF_PLANES = {"dims": 2, "channels": 1, "degraded_channels": 1}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same content gives the same bytes


class Content(BaseModel):
    """The content of ``maskcal.json``, of a mask network that may not be calibrated yet.

    Fields that only a newer version knows are read, and kept in the cards and in the certificate; what changes a
    result raises `schema_version`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: Literal[1] = 1
    card: ModelCard
    certificate: Certificate | None = None
    restorer: PackedRestorer | None = None
    sha256: Annotated[dict[str, str], Field(min_length=2)]


class Description(Content):
    """The same of one that is calibrated."""

    certificate: Certificate


def mask_sha256(card: ModelCard, weights: bytes) -> str:
    """Return the hash that stands for a mask network: of its weights and of its card, whatever the order of that."""
    return hashlib.sha256(weights + _json_sha256(json.loads(card.model_dump_json())).encode()).hexdigest()


def mask_weights(network: nn.Module | None) -> bytes:
    """Return the network's weights as safetensors bytes; a map that is given with the image has none."""
    from safetensors.torch import save

    weights = {} if network is None else network.state_dict()
    return save({name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()})


def write_bundle(
    path: Path,
    network: nn.Module | None,
    card: ModelCard,
    certificate: Certificate | None,
    *,
    restorer: Restorer | None = None,
) -> None:
    """Write a bundle; an existing file is replaced only by a complete one.

    Without a certificate it holds a network that is still to be calibrated: nothing draws a mask with it.

    Parameters
    ----------
    restorer
        To be put into the bundle, so that one file is all that is handed on.

    Raises
    ------
    ValueError
        If the certificate is an exploration or has no curves, was made for another mask network or restorer, or on
        specimens that this one was trained on; if either network is one that a bundle cannot hold, or the file cannot
        be written.
    """
    _check_planes(card)
    weights = mask_weights(network)
    parts = {_WEIGHTS: weights}
    if certificate is not None:
        parts[_CURVES] = _checked_curves(certificate, card, weights)
    inside = None
    if restorer is not None:
        inside, parts[_RESTORER] = packed(restorer)
        _check_restorer(inside, certificate, path)
    description = _describe(card, certificate, inside, parts)
    text = description.model_dump_json(indent=1, exclude={"restorer"} if inside is None else None).encode()
    _parse_content(text, path)  # what could not be read again must take no file's place
    parts = {_DESCRIPTION: text, **parts}
    for name, content in parts.items():
        if len(content) > _LARGEST_PART[name]:
            raise ValueError(
                f"{path} cannot be written: {name} has {len(content) / 2**20:.0f} MiB, more than the "
                f"{_LARGEST_PART[name] / 2**20:.0f} that a bundle holds; take fewer fields, or fewer members"
            )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            # Weights hardly shrink, and those of a restorer may be large.
            method = zipfile.ZIP_STORED if name == _RESTORER else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, method)
    write_atomically(path, buffer.getvalue())


def _check_planes(card: ModelCard) -> None:
    """Refuse what would be written and could never be read again."""
    if any(spec.get(name, usual) != usual for spec in nested(card.network) for name, usual in _OF_PLANES.items()):
        raise ValueError(
            f"{card.name} is a network for volumes or colours, and a bundle holds those for planes of one channel; use "
            "it from Python"
        )


def _checked_curves(certificate: Certificate, card: ModelCard, weights: bytes) -> bytes:
    """Return a certificate's curves, once it is seen to be that of this network."""
    from safetensors.numpy import save

    if certificate.curves is None:
        raise ValueError("the certificate has no curves, so the bundle could not answer for other tolerances")
    if certificate.fingerprint.mask_sha256 != mask_sha256(card, weights):
        raise ValueError("the certificate was made for another mask network than the one to be written")
    certificate.verify()
    certificate.check_foreign(card)
    return save(_curve_arrays(certificate.curves))


def _check_restorer(inside: PackedRestorer, certificate: Certificate | None, source: Path) -> None:
    if certificate is not None and certificate.fingerprint.restorer_sha256 != inside.sha256:
        raise ValueError(f"{source}: the certificate was made for another restorer than {inside.file_name}")


def _describe(
    card: ModelCard, certificate: Certificate | None, inside: PackedRestorer | None, parts: dict[str, bytes]
) -> Content:
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
    if certificate is None:
        return Content(card=card, restorer=inside, sha256=hashes | {_MASK: mask_sha256(card, parts[_WEIGHTS])})
    hashes[_CERTIFICATE] = _json_sha256(json.loads(certificate.model_dump_json()))
    return Description(card=card, certificate=certificate, restorer=inside, sha256=hashes)


def holds_bundle(path: Path) -> bool:
    """Whether a file is a zip with a bundle's description in it, whatever its name."""
    try:
        check_list(path)
        with zipfile.ZipFile(path) as archive:
            return _DESCRIPTION in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def read_content(path: Path) -> Content:
    """Return a bundle's card and, with its curves, the certificate that it may have, without loading torch.

    Raises
    ------
    ValueError
        If the file is missing, truncated, a pickle, no bundle, of a newer version, or a hash is wrong.
    """
    return _read(path)[0]


def read_description(path: Path) -> Description:
    """Return the same of a bundle that is calibrated.

    Raises
    ------
    ValueError
        See `read_content`; also if it is not calibrated.
    """
    return calibrated(read_content(path), path)


def calibrated(content: Content, path: Path) -> Description:
    """Return `content`, or say in a ValueError that the bundle has no certificate yet."""
    if not isinstance(content, Description):
        raise ValueError(
            f"{path} holds a mask network that is not calibrated yet, so it promises nothing; calibrate it on "
            f"specimens that are new to it, with maskcal calibrate --mask-model {path.name}"
        )
    return content


def read_bundle(path: Path) -> MaskModel:
    """Return the mask model in a bundle; see `read_content` for errors."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    description, weights = _read(path)
    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise ValueError(f"{path}: {_WEIGHTS} cannot be read: {error}") from None
    network = build_network(description.card, tensors, source=str(path))
    return MaskModel(
        card=description.card,
        network=network,
        sha256=mask_sha256(description.card, weights),
        certificate=description.certificate,
    )


def known_content(path: Path) -> Content:
    """Return `read_content`; a file is read again only when it has changed."""
    return _known_content(path, file_state(path))


@lru_cache(maxsize=16)
def _known_content(path: Path, state: tuple[int, int]) -> Content:
    return read_content(path)


def restorer_in(path: Path) -> Path:
    """Return the restorer that a bundle brings, as a file of its own in the user's cache.

    Raises
    ------
    ValueError
        If it brings none, or is damaged; see `read_content`.
    """
    content = known_content(path)
    if content.restorer is None:
        raise ValueError(f"{path} holds no restorer; choose the file of the one that it was calibrated for")
    return unpacked(content.restorer, content.sha256[_RESTORER], lambda: restorer_bytes(path), source=path)


def restorer_bytes(path: Path) -> bytes:
    """Return the file of the restorer in a bundle that has one.

    Raises
    ------
    ValueError
        If it is damaged, or not the one that the bundle was saved with.
    """
    sha256 = known_content(path).sha256[_RESTORER]
    with _opened(path) as archive:
        content = archive.read(_RESTORER)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(
            f"{path} is damaged or was changed: the hash of its {_RESTORER} is not the one it was saved with"
        )
    return content


def _read(path: Path) -> tuple[Content, bytes]:
    check_file(path, suffix=".maskcal")
    parts, names = _read_parts(path)
    content = _parse_content(parts[_DESCRIPTION], path)
    if content.card.role != "mask":
        raise ValueError(f"{path} holds a {content.card.role} network, not a mask network")
    if (_CURVES in names) != isinstance(content, Description) or (_RESTORER in names) != (content.restorer is not None):
        raise _wrong_parts(path, names)
    if content.restorer is not None:
        if _RESTORER not in content.sha256:
            raise ValueError(f"{path} is damaged or was changed: it does not say the hash of its {_RESTORER}")
        content.restorer.check(content.sha256[_RESTORER], source=path)
        _check_restorer(content.restorer, content.certificate, path)
    for name in (_WEIGHTS, _CURVES):
        if name in parts and content.sha256.get(name) != hashlib.sha256(parts[name]).hexdigest():
            raise ValueError(f"{path} is damaged or was changed: the hash of {name} is not the one it was saved with")
    mask = mask_sha256(content.card, parts[_WEIGHTS])
    if isinstance(content, Description):
        return _with_curves(content, mask, parts[_CURVES], path), parts[_WEIGHTS]
    if content.sha256.get(_MASK) != mask:
        raise ValueError(f"{path} is damaged or was changed: its model card is not the one it was saved with")
    return content, parts[_WEIGHTS]


def _with_curves(description: Description, mask: str, curves: bytes, path: Path) -> Description:
    """Return the description with its certificate's curves, once both are seen to belong to the network."""
    if description.certificate.fingerprint.mask_sha256 != mask:
        raise ValueError(f"{path}: its certificate was made for another mask network, so its promise is void")
    certificate = description.certificate.model_copy(update={"curves": _parse_curves(curves, path)})
    try:
        certificate.verify()
        certificate.check_foreign(description.card)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return description.model_copy(update={"certificate": certificate})


def _read_parts(path: Path) -> tuple[dict[str, bytes], list[str]]:
    """Return all parts but the restorer, which may be large, and the names of all."""
    with _opened(path) as archive:
        names = archive.namelist()
        if not (set(names) >= _NEEDED and set(names) <= set(_LARGEST_PART) and len(set(names)) == len(names)):
            raise _wrong_parts(path, names)
        for info in archive.infolist():
            if info.file_size > _LARGEST_PART[info.filename]:
                raise ValueError(f"{path}: {info.filename} claims {info.file_size} bytes, more than is allowed")
            if info.filename == _RESTORER and info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{path}: its {_RESTORER} is compressed, so that it could be larger than the file")
        # Of many equal distances honest curves may shrink to next to nothing.
        check_entries([info for info in archive.infolist() if info.filename != _CURVES], path)
        return {name: archive.read(name) for name in names if name != _RESTORER}, names


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a bundle; whatever zipfile finds wrong with it, also while it is read, is a ValueError."""
    try:
        check_list(path)
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ValueError(f"{path} is not a .maskcal bundle, or is truncated: {error}") from None


def _wrong_parts(path: Path, names: Iterable[str]) -> ValueError:
    return ValueError(
        f"{path} is not a .maskcal bundle: it should hold {_DESCRIPTION}, {_WEIGHTS}, with a certificate {_CURVES}, "
        f"and {_RESTORER} if it says so; it holds {', '.join(shown(name) for name in list(names)[:6]) or 'nothing'}"
    )


def _parse_content(content: bytes, path: Path) -> Content:
    try:
        raw = json.loads(content)
        version, has_certificate = raw.get("schema_version"), raw.get(_CERTIFICATE) is not None
    except (ValueError, AttributeError, RecursionError):
        raise ValueError(f"{path}: {_DESCRIPTION} is not valid JSON") from None
    if isinstance(version, int) and version > 1:
        raise ValueError(f"{path} was written by a newer napari-maskcal (version {version} of the format); upgrade")
    try:
        found = (Description if has_certificate else Content).model_validate_json(content)
    except ValidationError as error:
        raise ValueError(f"{path}: {_DESCRIPTION} is not valid: {first_fault(error)}") from None
    if has_certificate and found.sha256.get(_CERTIFICATE) != _json_sha256(raw[_CERTIFICATE]):
        raise ValueError(f"{path} is damaged or was changed: its certificate is not the one it was saved with")
    return found


def _json_sha256(value: Any) -> str:
    """Return the hash of a JSON value, whatever its spacing and the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _curve_arrays(curves: AnyCurves) -> dict[str, NDArray[Any]]:
    if isinstance(curves, GridCurves):
        return {"grid": curves.grid.astype(np.float64), "distances": curves.walked.astype(np.float32)}
    return {"tolerances": curves.tolerances.astype(np.float64), "thresholds": curves.thresholds.astype(np.float32)}


def _parse_curves(content: bytes, path: Path) -> AnyCurves:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(content)
        along, rows = (arrays["grid"], arrays["distances"]) if "grid" in arrays else (
            arrays["tolerances"], arrays["thresholds"]
        )  # fmt: skip
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path}: {_CURVES} cannot be read: {error}") from None
    fits = along.ndim == 1 and rows.ndim == 2 and rows.shape[1] == len(along)
    # Asked so that NaN, which compares as false, does not pass.
    if not (fits and (along[1:] > along[:-1]).all() and (along > 0).all()):
        raise ValueError(f"{path}: {_CURVES} has tolerances or thresholds that are out of order")
    if "grid" in arrays:
        if not (np.isnan(rows) | (rows >= 0)).all():
            raise ValueError(f"{path}: {_CURVES} has distances below 0")
        return GridCurves(along, rows)
    if not (rows >= 0).all():
        raise ValueError(f"{path}: {_CURVES} has tolerances or thresholds that are out of order")
    if not (rows[:, 1:] >= rows[:, :-1]).all():
        raise ValueError(f"{path}: {_CURVES} has thresholds that fall where the tolerance grows")
    return Curves(along, rows)
