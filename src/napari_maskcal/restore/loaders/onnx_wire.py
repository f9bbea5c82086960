"""What stands in an ONNX file, read from protobuf's bytes: no more than is asked for, and no library."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_VARINT, _BYTES = 0, 2  # wire types
_LENGTHS = {1: 8, 5: 4}  # of the fixed ones
_GRAPH, _OPSETS = 7, 8  # fields of a model
_MOST_FIELDS = 1_000_000
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {4: "operator", 5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "elsewhere"},
}
"""Messages that hold what is looked for, and as which fields: of onnx.proto, version 1 to 13."""


def is_model(path: Path) -> bool:
    """Whether a file is a protobuf message with the fields that every ONNX model has; contents are skipped."""
    try:
        with path.open("rb") as file:
            found = {number for number, _, _ in _fields(file, 0, path.stat().st_size)}
    except ValueError:
        return False
    return {_GRAPH, _OPSETS} <= found


def parts(content: bytes, kind: str) -> Iterator[bytes]:
    """Yield every ``"operator"`` name, or ``"elsewhere"``: what a tensor says of the other file that it is kept in.

    Graphs in graphs, functions, and constants in attributes are looked into as well.

    Raises
    ------
    ValueError
        If the content is no protobuf message, or has more parts than a network has.
    """
    file = io.BytesIO(content)
    waiting, count = [("model", 0, len(content))], 0
    while waiting:
        message, start, stop = waiting.pop()
        for number, begin, end in _fields(file, start, stop):
            count += 1
            if count > _MOST_FIELDS:
                raise ValueError("it has more parts than a network has")
            inside = _INSIDE[message].get(number)
            if inside == kind:
                yield content[begin:end]
            elif inside in _INSIDE:
                waiting.append((inside, begin, end))


def _fields(file: IO[bytes], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and stop of each field of the message that is between two places of a file."""
    for _ in range(_MOST_FIELDS):
        if start == stop:
            return
        file.seek(start)
        tag = _varint(file) & 0xFFFFFFFF  # as protobuf itself cuts it off
        wire, begin = tag & 7, file.tell()
        if wire == _VARINT:
            _varint(file)
            start = file.tell()
        elif wire == _BYTES:
            size = _varint(file)
            begin = file.tell()
            start = begin + size
        elif wire in _LENGTHS:
            start = begin + _LENGTHS[wire]
        else:
            raise ValueError(f"field {tag >> 3} is of an unknown kind")
        if start > stop:
            raise ValueError(f"field {tag >> 3} ends behind its message")
        yield tag >> 3, begin, start
    raise ValueError("it has more parts than a network has")


def _varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("a number does not end")
