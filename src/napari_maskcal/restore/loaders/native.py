"""The package's own weight format: safetensors, with the model card in the header.

No pickle is ever opened, whatever its suffix.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from napari_maskcal.restore.card import ModelCard, parse_card
from napari_maskcal.restore.loaders.torchscript import first_line

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from napari_maskcal.models import Restorer

CARD_KEY = "napari_maskcal"
_LARGEST_FILE = 4 * 2**30
_LENGTH_BYTES = 8  # of the header's length, which a safetensors file begins with
_LONGEST_SPEC = 10_000  # characters; thousands of layers take seconds to build, even where they take no memory
_LARGEST_HEADER = 100 * 2**20  # that safetensors itself allows


def is_native(path: Path) -> bool:
    """Whether a file is in this format, going by its header; also where the rest of it is damaged."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(8)
        header = file.read(min(int.from_bytes(start, "little"), _LARGEST_HEADER)) if len(start) == 8 else b""
    return header[:1] == b"{" and f'"{CARD_KEY}"'.encode() in header


def read_card(path: Path) -> ModelCard:
    """Return the card of a restorer file from its header, without loading torch.

    Raises
    ------
    ValueError
        If the file is missing, truncated, a pickle, or has no card.
    """
    from safetensors import SafetensorError, safe_open

    check_file(path, suffix=".safetensors")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    return _card_in(metadata, path)


def _card_in(metadata: dict[str, str], path: Path) -> ModelCard:
    """Return the card that a header has; see `read_card` for errors."""
    if CARD_KEY not in metadata:
        raise ValueError(f"{path} has weights but no napari-maskcal model card; save it with write_restorer")
    card = parse_card(metadata[CARD_KEY], source=str(path))
    if card.role != "restorer":
        raise ValueError(f"{path} holds a {card.role} network, not a restorer")
    return card


def read_restorer(path: Path) -> Restorer:
    """Return the restorer in `path`; see `read_card` for errors."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from napari_maskcal.models import Restorer

    check_file(path, suffix=".safetensors")
    content = path.read_bytes()  # once: card, weights and hash are of one and the same file
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise _damaged(path, error) from None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    card = _card_in(header.get("__metadata__") or {}, path)
    network = build_network(card, tensors, source=str(path))
    return Restorer(card=card, network=network, sha256=hashlib.sha256(content).hexdigest())


def write_restorer(path: Path, network: nn.Module, card: ModelCard) -> None:
    """Write a restorer and its card; an existing file is replaced only by a complete one."""
    from safetensors.torch import save

    from napari_maskcal.read.atomic import write_atomically

    content = save(_plain(network), metadata={CARD_KEY: card.model_dump_json()})
    write_atomically(path, content)


def check_file(path: Path, *, suffix: str) -> None:
    """Raise ValueError if `path` is no file, or by its first bytes a format that can run code."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {what}; choose a {suffix} file")
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{path} is {path.stat().st_size / 2**30:.1f} GiB, larger than any network this reads")
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES + 1)
    if start[_LENGTH_BYTES:] == b"{" and int.from_bytes(start[:_LENGTH_BYTES], "little") <= path.stat().st_size:
        return  # safetensors: the length that it begins with may begin as a pickle does
    if start[:1] == b"\x80" or (start[:4] == b"PK\x03\x04" and suffix != ".maskcal"):
        raise ValueError(
            f"{path} is a pickle or a PyTorch archive, which can run code, and is not opened; "
            f"convert it to {suffix} first"
        )


def build_network(card: ModelCard, tensors: dict[str, Tensor], *, source: str) -> Any:
    """Return the card's architecture with the weights in `tensors`; None for a map that comes with the image.

    Raises
    ------
    ValueError
        If the architecture is unknown, the weights don't fit it, or one of them is not finite.
    """
    import torch

    from napari_maskcal.restore.kinds import GIVEN, check_kind, make_network

    kind = card.network.get("kind")
    if card.role == "mask" and kind == GIVEN:
        return _no_network(card, tensors, source=source)
    try:
        check_kind(kind, role=card.role)
    except ValueError as error:
        raise ValueError(f"{source} has {first_line(error)}") from None
    if len(str(card.network)) > _LONGEST_SPEC:
        raise ValueError(f"{source}: its card names a network of more parts than can be built here")
    try:
        with torch.device("meta"):  # no memory is taken for sizes that the card only claims
            network = make_network(card.network, role=card.role)
        network.load_state_dict(tensors, assign=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{source}: the weights do not fit the model card: {first_line(error)}") from None
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{source}: weight {name} is {tensor.dtype}; networks are calibrated and run in float32")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{source}: weight {name} has values that are NaN or infinite")
    _check_geometry(card, network, source=source)
    return network.requires_grad_(False).eval()


def _no_network(card: ModelCard, tensors: dict[str, Tensor], *, source: str) -> None:
    if tensors or len(card.network) > 1:
        raise ValueError(f"{source}: a map that is given with the image has no weights and no arguments")


def _check_geometry(card: ModelCard, network: Any, *, source: str) -> None:
    """Refuse a card that claims less than the network needs: its tiles would not be exact."""
    if card.stride_px % network.stride_px:
        raise ValueError(
            f"{source}: the card's stride_px is {card.stride_px}, but the network's is {network.stride_px}"
        )
    if card.halo_px is not None and card.halo_px < network.halo_px:
        raise ValueError(f"{source}: the card's halo_px is {card.halo_px}, but the network reaches {network.halo_px}")
    if card.role == "restorer" and card.of_volumes != (network.dims == 3):
        raise ValueError(f"{source}: the card's axes are {card.axes}, but the network has {network.dims} dimensions")
    thin = card.halo_z is not None and card.halo_z < network.halo_px
    if card.of_volumes and (card.stride_z % network.stride_px or thin):
        raise ValueError(
            f"{source}: the card's stride_z is {card.stride_z} and its halo_z {card.halo_z}, but the network's are "
            f"{network.stride_px} and {network.halo_px}"
        )
    if card.scale_factor != 1 or card.channels != 1:
        raise ValueError(
            f"{source}: the card's scale_factor is {card.scale_factor} and its channels {card.channels}; "
            "networks of this format map one channel to one of the same size"
        )


def _plain(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in network.state_dict().items()}


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not a safetensors file, or is truncated: {first_line(error)}")
