"""Where the weights of LPIPS come from: files that are there already. Nothing is downloaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Trunk:
    """A network whose features LPIPS compares.

    Attributes
    ----------
    title
        As the promise writes it.
    file
        The name of torchvision's weights in its download cache.
    smallest_px
        The shortest side that its poolings leave a pixel of.
    pixels_at_once
        In one batch: more are no faster on a processor, and take memory.
    """

    title: str
    file: str
    smallest_px: int
    pixels_at_once: int


TRUNKS = {
    "alex": Trunk(title="AlexNet", file="alexnet-owt-7be5be79.pth", smallest_px=31, pixels_at_once=2**18),
    "vgg": Trunk(title="VGG-16", file="vgg16-397923af.pth", smallest_px=16, pixels_at_once=2**16),
}


def find_trunk(network: str, named: Path | None) -> Path:
    """Return the file with the trunk's weights: the `named` one, or torchvision's own if it was downloaded before.

    Raises
    ------
    ValueError
        If it is not there; the message says where to get it and where to put it.
    """
    import torch

    trunk = TRUNKS[network]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / trunk.file if named is None else named.expanduser()
    if path.is_file():
        return path
    url = f"https://download.pytorch.org/models/{trunk.file}"
    if named is not None:
        raise ValueError(f"there is no file {path} with the weights of {trunk.title}; they can be had from {url}")
    raise ValueError(
        f"LPIPS needs {trunk.file}, the weights of {trunk.title}, which are not in {folder}; download {url} to there, "
        f"or name a file: lpips-{network}:FILE"
    )


def read_trunk(path: Path, network: str) -> dict[str, Tensor]:
    """Return the tensors of a torchvision state dict, ``features.0.weight`` and so on, from .safetensors or .pth.

    Raises
    ------
    ValueError
        If the file cannot be read, or holds something else.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix.lower() == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(f"{path} cannot be read: {reason}; download it again") from error
    if not isinstance(tensors, dict):
        raise ValueError(f"{path} holds a {type(tensors).__name__}, not a state dict of {TRUNKS[network].title}")
    return tensors


def read_heads(network: str) -> dict[str, Tensor]:
    """Return the weights that `lpips` ships, version 0.1: one linear layer for each depth of the trunk."""
    import torch

    spec = find_spec("lpips")
    if spec is None or spec.origin is None:
        raise ValueError("LPIPS needs the package lpips; install it: pip install lpips")
    path = Path(spec.origin).parent / "weights" / "v0.1" / f"{network}.pth"
    heads: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return heads


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 of float32 tensors and their names: the same for each file format."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].cpu().contiguous()
        found.update(f"{name} {tuple(values.shape)} ".encode())
        found.update(values.numpy().astype("<f4").tobytes())
    return found.hexdigest()
