"""ONNX: a graph of standard operators, run by onnxruntime."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from napari_maskcal.restore.loaders.base import Said, needed
from napari_maskcal.restore.loaders.onnx_wire import is_model, parts
from napari_maskcal.restore.loaders.torchscript import first_line

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from napari_maskcal.restore.card import Axes

_CHANNELS = (1, 3)
_AXES: dict[int, Axes] = {4: "YX", 5: "ZYX"}
"""By how many axes an array has."""
_FLOAT32 = "tensor(float)"


class Onnx:
    """See `napari_maskcal.restore.loaders.base.Loader`."""

    name, kind, extra, runs_code = "ONNX", "onnx", "onnx", False

    def refusal(self, path: Path) -> str:
        """Return why `path` is no ONNX model, or empty."""
        if not path.is_file():
            return "no file"
        return "" if is_model(path) else "no graph in it"

    def said(self, path: Path) -> Said:
        """Return the axes and channels that the graph takes.

        Raises
        ------
        ValueError
            If it takes or gives more than one image, images of one size only, or no float32.
        """
        return _said(_session(path, path.read_bytes(), ["CPUExecutionProvider"]), path)

    def load(self, path: Path) -> nn.Module:
        """Return the graph as a module that runs where its input is."""
        from napari_maskcal.restore.loaders.onnx_session import OnnxNetwork

        content = path.read_bytes()  # kept: a session for another device must not read another file of this name
        session = _session(path, content, ["CPUExecutionProvider"])
        _said(session, path)
        batched = not isinstance(session.get_inputs()[0].shape[0], int)
        return OnnxNetwork(lambda providers: _session(path, content, providers), batched=batched)


def _said(session: Any, path: Path) -> Said:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for ports, what, does in ((inputs, "inputs", "takes"), (outputs, "outputs", "gives")):
        if len(ports) != 1:
            named = ", ".join(port.name[:40] for port in ports[:4])
            raise ValueError(f"{path} {does} {len(ports)} {what} ({named}); a restorer {does} one image")
        if ports[0].type != _FLOAT32:
            raise ValueError(f"{path} {does} {ports[0].type[:80]}; export it for float32, tensor(float)")
    shape = inputs[0].shape
    axes = _AXES.get(len(shape))
    if axes is None:
        raise ValueError(
            f"{path} takes arrays of {len(shape)} axes; a restorer takes planes, (N, C, Y, X), or volumes, "
            "(N, C, Z, Y, X)"
        )
    if fixed := [n for n in shape[2:] if isinstance(n, int)]:
        raise ValueError(
            f"{path} takes images of {fixed[0]} pixels along an axis only; export it with dynamic axes for "
            f"{' and '.join(axes)}"
        )
    channels = shape[1] if isinstance(shape[1], int) else None
    if channels not in (None, *_CHANNELS):
        raise ValueError(f"{path} takes images of {channels} channels; a restorer takes 1, or 3 for colours")
    return Said(axes=axes, channels=channels)


def _session(path: Path, content: bytes, providers: list[str]) -> Any:
    # From version 1.29 on it tells its maker of every model that is opened, unless this is set before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise needed("onnxruntime", extra="onnx", file_format="ONNX") from None
    _check(path, content)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # It would look for a format of its own, in which what was checked may stand elsewhere.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # noqa: BLE001 - onnxruntime has a class for each of its states
        raise ValueError(f"{path} cannot be read as ONNX: {first_line(error)}") from None


def _check(path: Path, content: bytes) -> None:
    """Refuse a graph that reads other files, or that may run for ever."""
    try:
        reads_others, loops = any(True for _ in parts(content, "elsewhere")), b"Loop" in parts(content, "operator")
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as ONNX: {error}") from None
    if reads_others:
        raise ValueError(
            f"{path} keeps its weights in another file, which could be exchanged unnoticed; save it as one file"
        )
    if loops:
        raise ValueError(f"{path} has a loop, of which nobody knows how long it runs; export it with loops unrolled")


LOADER = Onnx()
