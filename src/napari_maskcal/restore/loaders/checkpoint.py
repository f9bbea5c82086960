"""Files with weights alone, of torch or safetensors: recognised without torch, read so that nothing in them runs."""

from __future__ import annotations

import mmap
import pickletools
import re
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, Literal

from napari_maskcal.read.names import shown
from napari_maskcal.restore.loaders.archives import entries, names_below_top
from napari_maskcal.restore.loaders.native import is_native
from napari_maskcal.restore.loaders.torchscript import first_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

Format = Literal["torch", "legacy", "safetensors", ""]

_INDEX = "data.pkl"  # of a torch zip: names and shapes, and whatever else was saved; the numbers lie beside it
_LARGEST_INDEX = 64 * 2**20
_MOST_AXES = 16  # of a weight
_SHORTEST_SAFETENSORS = 10
_MARK = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # which a legacy file of torch begins with
_PICKLES_BEFORE_WEIGHTS = 4  # of a legacy file: a mark, a version, the machine, and what was saved
_TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE")
_INTEGERS = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4")
_NAMED = re.compile(r"GLOBAL ([\w.]+)")
# Where a checkpoint keeps its weights, if not at the top; in the order in which spandrel looks.
_WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")


def weights_format(path: Path) -> Format:
    """Return how the weights in a file are kept; empty if it is no such file, or one that has a program or a card.

    Raises
    ------
    ValueError
        If it is a zip that is damaged or harmful.
    """
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        start = file.read(_SHORTEST_SAFETENSORS)
    # Asked first: the length that a safetensors file begins with may begin as a pickle does.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8:
        return "" if is_native(path) else "safetensors"
    if start[:1] == b"\x80":
        return "legacy"
    if (names := entries(path)) is None:
        return ""
    below = names_below_top(names)
    has_program = any(name.startswith("code/") for name in below) or "constants.pkl" in below
    return "torch" if _INDEX in below and not has_program else ""


def mentions(path: Path, *words: str) -> bool:
    """Whether what was saved in a torch zip has all these texts in it; nothing is unpickled."""
    if weights_format(path) != "torch":
        return False
    index = _index(path)
    return all(word.encode() in index for word in words)


def read_checkpoint(path: Path) -> Any:
    """Return what was saved in a file with weights: tensors, numbers and texts, in lists and dicts.

    The weights of a torch zip stay in the file until they are used.

    Raises
    ------
    ValueError
        If it holds anything else, claims more than is in it, or is damaged.
    """
    kind = weights_format(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind == "torch":
        _check_stored(path)
        _check_index(path, _index(path))
    elif kind == "legacy":
        _check_legacy(path)
    else:
        raise ValueError(f"{path} is no file of weights; choose a .pth, .ckpt or .safetensors file")
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "torch")
    except Exception as error:  # noqa: BLE001 - the unpickler raises whatever a damaged file leads it to
        raise ValueError(refused(path, error)) from None


def state_of(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the weights in what `read_checkpoint` gave, by name; floating ones in float32.

    Raises
    ------
    ValueError
        If there are none, one of them is not plain or not finite, or they claim more than the file has.
    """
    state = content
    if isinstance(state, dict):
        inner = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), dict)), state)
        alone = next(iter(inner.values()), None) if len(inner) == 1 else None
        state = alone if isinstance(alone, dict) else inner
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path} holds no weights by name; save the state dict of the network")
    return checked(state, path)


def checked(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Return weights in float32 that were found to be plain, finite, and no more than the file can have.

    Raises
    ------
    ValueError
        See `state_of`.
    """
    import torch

    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise ValueError(f"{path}: {shown(str(name))} among its weights is a {type(tensor).__name__}, not a tensor")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
            raise ValueError(f"{path}: weight {shown(name)} is sparse, quantised or complex; save it as plain float32")
        if tensor.ndim > _MOST_AXES:  # torch takes for ever with a million
            raise ValueError(f"{path}: weight {shown(name)} has {tensor.ndim} axes; no network's has so many")
        plain[name] = tensor.detach()
    claimed, size = sum(tensor.nbytes for tensor in plain.values()), path.stat().st_size
    if claimed > 4 * size + 2**20:  # some networks use a tensor under several names
        raise ValueError(f"{path} claims {claimed} bytes of weights, but the file has {size}")
    for name, tensor in plain.items():
        if tensor.is_floating_point():
            plain[name] = tensor.float()
            if not torch.isfinite(plain[name]).all():
                raise ValueError(f"{path}: weight {shown(name)} has values that are NaN or infinite")
    return plain


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a safetensors file, or is truncated: {first_line(error)}") from None
    return tensors


def refused(path: Path | str, error: Exception) -> str:
    """Return one line for a complaint of torch, which itself tells how to switch the check off."""
    text = str(error)
    if named := _NAMED.search(text):
        what = f"it names {named.group(1)}"
    elif "weights_only" in text or "Weights only" in text:
        what = "it is no plain list of them"
    else:
        return f"{path} cannot be read as weights; it is truncated or damaged: {first_line(error)}"
    return (
        f"{path} holds more than weights ({what}), which could run code, and is not opened; save the network's "
        "state dict alone, best as .safetensors"
    )


def _index(path: Path) -> bytes:
    """Return the pickle in a torch zip, as bytes."""
    with zipfile.ZipFile(path) as archive:
        info = next(info for info in archive.infolist() if info.filename.partition("/")[2] == _INDEX)
        if info.file_size > _LARGEST_INDEX:
            raise ValueError(f"{path} has a list of weights of {info.file_size} bytes, larger than any network's")
        try:
            return archive.read(info)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, UnicodeError) as error:
            raise ValueError(f"{path} is a zip that is truncated or damaged: {first_line(error)}") from None


def _check_stored(path: Path) -> None:
    """Refuse packed entries: the numbers are used where they lie in the file."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{path}: its entry {shown(info.filename)} is compressed, which torch does not do")


def _check_index(path: Path, index: bytes) -> None:
    # The one function that torch lets a pickle call whose memory has nothing to do with the size of the file.
    if b"bytearray" in index:
        raise ValueError(f"{path} holds more than weights (it makes a bytearray) and is not opened")


def _check_legacy(path: Path) -> None:
    """Refuse a pickle that claims more numbers than its file has bytes, before torch takes the memory for them."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        claimed = 0
        try:
            if _MARK not in content[:32]:
                raise ValueError
            for _ in range(_PICKLES_BEFORE_WEIGHTS):
                claimed += _claimed(content)
        except (ValueError, IndexError, UnicodeError, OverflowError):
            raise ValueError(f"{path} is a pickle, but no checkpoint of torch, or it is truncated") from None
        if claimed > len(content):
            raise ValueError(f"{path} claims {claimed} weights, but the file has {len(content)} bytes")
        _check_index(path, content[: min(content.tell(), _LARGEST_INDEX)])


def _claimed(content: Any) -> int:
    """Return how many numbers the storages of one pickle are said to hold, and move behind it.

    Each is named by a text of digits and its size, and may be named again.
    """
    sizes: dict[str, int] = {}
    key, last = "", 0
    for code, argument, _ in pickletools.genops(content):
        if code.name in _TEXTS and str(argument).isdigit():
            key = str(argument)
        elif code.name in _INTEGERS:
            last = int(argument or 0)
        elif code.name == "BINPERSID":
            sizes[key or f"unnamed {len(sizes)}"] = last
            key = ""
    return sum(sizes.values())
