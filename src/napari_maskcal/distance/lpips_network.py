"""The network of LPIPS on a device, read once and shared."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from napari_maskcal.distance.lpips_weights import TRUNKS, digest, find_trunk, read_heads, read_trunk
from napari_maskcal.restore.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network that is ready: ``module(a, b)`` for images (N, 3, Y, X) from -1 to 1."""

    module: nn.Module
    device: torch.device
    identity: str


def load(network: str, weights: Path | None, device: str) -> Loaded:
    """Return the network `network` on `device`; equal ones are shared, until their file changes.

    Raises
    ------
    ValueError
        If the weights are not there or do not fit, or the device does not work.
    """
    path = find_trunk(network, weights)
    state = path.stat()
    return _load(network, path, (state.st_size, state.st_mtime_ns, state.st_ino), device)


@lru_cache(maxsize=4)
def _load(network: str, path: Path, _state: tuple[int, ...], device: str) -> Loaded:
    import torch

    from napari_maskcal.restore.device import pick_device

    place = pick_device(device)
    with torch.inference_mode(mode=False):  # a caller's would bar the parameters from training for good
        module = _without_weights(network)
        trunk, heads = _trunk_for(module, path, network), read_heads(network)
        module.load_state_dict({**_inside_lpips(module, trunk), **heads}, strict=False, assign=True)
        if missing := [name for name, tensor in module.state_dict().items() if tensor.is_meta]:
            raise ValueError(f"the heads that lpips ships for {TRUNKS[network].title} lack {missing[0]}; reinstall it")
        module.requires_grad_(requires_grad=False).eval()
        module.to(place, memory_format=torch.channels_last)
    return Loaded(module, place, f"lpips 0.1, trunk sha256:{digest(trunk)}, heads sha256:{digest(heads)}")


def _without_weights(network: str) -> Any:
    """Return the network without memory for its weights: of a trunk, only the few that LPIPS uses are ever held."""
    import_torchvision()
    import lpips
    import torch

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.filterwarnings("ignore", "The parameter 'pretrained'|Arguments other than a weight enum")
        module = lpips.LPIPS(pretrained=False, pnet_rand=True, net=network, verbose=False)
    return module


def _trunk_for(module: Any, path: Path, network: str) -> dict[str, Tensor]:
    """Return the trunk's tensors that `module` uses, by torchvision's names, in float32."""
    tensors, title = read_trunk(path, network), TRUNKS[network].title
    found = {}
    for name, own in module.net.state_dict().items():
        name = _in_torchvision(name)
        if name not in tensors:
            raise ValueError(f"{path} has no {name}: it is not a state dict of torchvision's {title}")
        if tensors[name].shape != own.shape:
            shapes = f"{tuple(tensors[name].shape)}, not {tuple(own.shape)}"
            raise ValueError(f"{path}: {name} has the shape {shapes}: it is not of torchvision's {title}")
        found[name] = tensors[name].detach().float()
        if not found[name].isfinite().all():
            raise ValueError(f"{path}: {name} has values that are NaN or infinite; download it again")
    return found


def _inside_lpips(module: Any, trunk: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"net.{name}": trunk[_in_torchvision(name)] for name in module.net.state_dict()}


def _in_torchvision(name: str) -> str:
    """Return torchvision's name for a tensor of the trunk: ``slice2.3.weight`` is ``features.3.weight``."""
    return f"features.{name.partition('.')[2]}"
