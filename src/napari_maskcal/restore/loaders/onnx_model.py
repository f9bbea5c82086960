"""ONNX: a graph of standard operators, run by onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_maskcal.restore.loaders.base import Said, needed
from napari_maskcal.restore.loaders.torchscript import first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn

_LENGTHS = {1: 8, 5: 4}  # of protobuf's fixed wire types
_GRAPH, _OPSETS = 7, 8  # fields of a ModelProto
_ELSEWHERE = b"\n\x08location\x12"  # the key of a tensor's external_data


class Onnx:
    """See `napari_maskcal.restore.loaders.base.Loader`."""

    name, kind, extra, runs_code = "ONNX", "onnx", "onnx", False

    def refusal(self, path: Path) -> str:
        """Return why `path` is no ONNX model, or empty."""
        if not path.is_file():
            return "no file"
        fields = _top_fields(path)
        return "" if fields is not None and {_GRAPH, _OPSETS} <= fields else "no graph in it"

    def said(self, path: Path) -> Said:
        """Return the channels that the graph takes.

        Raises
        ------
        ValueError
            If it takes more than one image, or images of one size only.
        """
        session = _session(path, ["CPUExecutionProvider"])
        inputs = session.get_inputs()
        if len(inputs) != 1:
            named = ", ".join(one.name for one in inputs)
            raise ValueError(f"{path} takes {len(inputs)} inputs ({named}); a restorer takes one image")
        shape = inputs[0].shape
        if len(shape) != 4:
            raise ValueError(f"{path} takes arrays of {len(shape)} axes; a restorer of planes takes (N, C, Y, X)")
        if fixed := [n for n in shape[2:] if isinstance(n, int)]:
            raise ValueError(
                f"{path} takes planes of {fixed[0]} pixels along an axis only; export it with dynamic axes for Y and X"
            )
        return Said(channels=shape[1] if isinstance(shape[1], int) else None)

    def load(self, path: Path) -> nn.Module:
        """Return the graph as a module that runs where its input is."""
        from napari_maskcal.restore.loaders.onnx_session import OnnxNetwork

        self.said(path)
        return OnnxNetwork(lambda providers: _session(path, providers), batched=_is_batched(path))


def _is_batched(path: Path) -> bool:
    """Whether the graph takes several images at once."""
    first = _session(path, ["CPUExecutionProvider"]).get_inputs()[0].shape[0]
    return not isinstance(first, int)


def _session(path: Path, providers: list[str]) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise needed("onnxruntime", extra="onnx", file_format="ONNX") from None
    content = path.read_bytes()
    if _ELSEWHERE in content:
        raise ValueError(
            f"{path} keeps its weights in another file, which could be exchanged unnoticed; save it as one file"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # noqa: BLE001 - onnxruntime has a class for each of its states
        raise ValueError(f"{path} cannot be read as ONNX: {first_line(error)}") from None


def _top_fields(path: Path) -> set[int] | None:
    """Return the numbers of a protobuf message's fields, their contents skipped; None if it is no such message."""
    size = path.stat().st_size
    with path.open("rb") as file:

        def numbers() -> Iterator[int]:
            while file.tell() < size:
                tag = _varint(file)
                wire = tag & 7
                if wire == 0:
                    _varint(file)
                else:
                    skipped = _varint(file) if wire == 2 else _LENGTHS[wire]
                    if file.tell() + skipped > size:
                        raise ValueError
                    file.seek(skipped, 1)
                yield tag >> 3

        try:
            return set(numbers())
        except (ValueError, KeyError, IndexError):
            return None


def _varint(file: Any) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = int(file.read(1)[0])
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError


LOADER = Onnx()
