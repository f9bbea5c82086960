"""An ONNX graph as a module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_PROVIDERS = {"cuda": "CUDAExecutionProvider"}


class OnnxNetwork(nn.Module):
    """Runs a graph where its input is: on CUDA by onnxruntime's provider, if that is installed, else on the processor.

    Parameters
    ----------
    open_session
        Makes an onnxruntime session for a list of providers.
    batched
        Whether several images may go in at once.
    """

    def __init__(self, open_session: Callable[[list[str]], Any], *, batched: bool) -> None:
        super().__init__()
        self._open, self._batched = open_session, batched
        self._sessions: dict[str, Any] = {}

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, channels, Y, X) to (N, channels, factor Y, factor X); of volumes with Z."""
        parts = [image] if self._batched else [image[i : i + 1] for i in range(len(image))]
        return torch.cat([self._run(part) for part in parts]).to(image.device)

    def _run(self, image: Tensor) -> Tensor:
        session = self._session(image.device)
        name = session.get_inputs()[0].name
        outputs = session.run(None, {name: image.contiguous().cpu().numpy()})
        return torch.from_numpy(outputs[0])

    def _session(self, device: torch.device) -> Any:
        if device.type not in self._sessions:
            import onnxruntime

            wanted = _PROVIDERS.get(device.type, "")
            extra = [wanted] if wanted in onnxruntime.get_available_providers() else []
            self._sessions[device.type] = self._open([*extra, "CPUExecutionProvider"])
        return self._sessions[device.type]
