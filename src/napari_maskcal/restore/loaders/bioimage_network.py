"""The networks in bioimage.io packages, with what is done to each value before and behind them."""

from __future__ import annotations

import importlib.abc
import importlib.util
import io
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from napari_maskcal.restore.loaders.archives import check_entries
from napari_maskcal.restore.loaders.bioimage_steps import Affine, Clip, Pointwise
from napari_maskcal.restore.loaders.checkpoint import refused
from napari_maskcal.restore.loaders.torchscript import first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Packaged(nn.Module):
    """A network between the pointwise steps of its package.

    Parameters
    ----------
    network
        Maps one tensor to one.
    before, after
        See `napari_maskcal.restore.loaders.bioimage_steps.Steps`.
    batched
        Whether several images may go in at once.
    """

    def __init__(
        self, network: nn.Module, *, before: Sequence[Pointwise], after: Sequence[Pointwise], batched: bool
    ) -> None:
        super().__init__()
        self.network, self.before, self.after, self.batched = network, tuple(before), tuple(after), batched
        network.eval()
        for weight in network.parameters():  # TorchScript does not do it by itself
            weight.requires_grad_(False)

    def train(self, mode: bool = True) -> Packaged:
        """Stay as it is: it is never trained here."""
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, channels, Y, X), normalised, to (N, channels, factor Y, factor X); of volumes with Z."""
        prepared = _applied(self.before, image)
        if self.batched:
            answer = _only(self.network(prepared))
        else:
            answer = torch.cat([_only(self.network(prepared[i : i + 1])) for i in range(len(prepared))])
        return _applied(self.after, answer)


def script_network(content: bytes, *, where: str) -> nn.Module:
    """Return the TorchScript program in a file's content.

    Raises
    ------
    ValueError
        If it is none, or its archive is not one that torch writes.
    """
    buffer = io.BytesIO(content)
    try:
        with zipfile.ZipFile(buffer) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, EOFError) as error:
        raise ValueError(f"{where} cannot be read as TorchScript: {first_line(error)}") from None
    check_entries(infos, where)  # type: ignore[arg-type] # only for its messages
    buffer.seek(0)
    load: Any = torch.jit.load
    try:
        module: nn.Module = load(buffer, map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{where} cannot be read as TorchScript: {first_line(error)}") from None
    return module.float()


def state_network(maker: Any, content: bytes, *, strict: bool, where: str) -> nn.Module:
    """Return the network that a package's own code makes, with the weights in a file's content.

    Parameters
    ----------
    maker
        Called without arguments; gives the module.
    strict
        Whether each weight has to have its place.

    Raises
    ------
    ValueError
        If the code fails, or its network and the weights do not fit.
    """
    try:
        network = maker()
    except Exception as error:  # noqa: BLE001 - foreign code raises whatever it likes
        raise ValueError(f"{where}: its architecture cannot be made: {first_line(error)}") from None
    if not isinstance(network, nn.Module):
        raise ValueError(f"{where}: its architecture gives {type(network).__name__} and no network")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch has a class for each of a pickle's faults
        raise ValueError(refused(where, error)) from None
    try:
        network.load_state_dict(state, strict=strict)
    except Exception as error:  # noqa: BLE001 - it may be anything that was saved
        raise ValueError(f"{where}: its weights cannot be read: {first_line(error)}") from None
    return network.float()


def maker_in_source(source: bytes, name: str, *, sha256: str, where: str) -> Any:
    """Return what `name` is in a Python source that the user has agreed to; nothing is written to disk.

    Raises
    ------
    ValueError
        If the source is broken, or needs what is not installed.
    """
    own_name = f"_napari_maskcal_package_{sha256}"
    spec = importlib.util.spec_from_loader(own_name, _Source(source, where))
    if spec is None or spec.loader is None:
        raise ValueError(f"{where} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[own_name] = module  # dataclasses and annotations look there
    try:
        spec.loader.exec_module(module)
        return getattr(module, name)
    except Exception as error:  # noqa: BLE001 - foreign code raises whatever it likes
        del sys.modules[own_name]
        raise ValueError(f"{where} cannot be imported: {first_line(error)}") from None


def maker_in_library(library: str, name: str, *, where: str) -> Any:
    """Return what `name` is in an installed library.

    Raises
    ------
    ValueError
        If it is not there.
    """
    try:
        return getattr(importlib.import_module(library), name)
    except Exception as error:  # noqa: BLE001 - importing runs the library's code
        raise ValueError(f"{where} needs {name} of {library}: {first_line(error)}") from None


class _Source(importlib.abc.InspectLoader):
    """Gives a module its code from memory."""

    def __init__(self, source: bytes, where: str) -> None:
        self._source, self._where = source, where

    def get_source(self, fullname: str) -> str:
        return self._source.decode("utf-8")


def _applied(steps: Sequence[Pointwise], image: Tensor) -> Tensor:
    for step in steps:
        if isinstance(step, Affine):
            image = image * step.gain + step.offset
        elif isinstance(step, Clip):
            image = image.clamp(step.low, step.high)
        else:
            image = torch.sigmoid(image)
    return image


def _only(answer: Any) -> Tensor:
    """Return the one tensor of an answer, which some networks put into a list."""
    if isinstance(answer, list | tuple) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, torch.Tensor):
        raise ValueError(f"the package's network gives {type(answer).__name__} and not one image; it is no restorer")
    return answer
