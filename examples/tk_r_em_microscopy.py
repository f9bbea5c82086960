"""Restoration of electron micrographs by a network of tk_r_em (Lobato et al.), and what of it can be believed.

The weights and the simulated pairs are read from the package tk_r_em (GPL-3), which pip downloads; none of its code is
imported. TensorFlow, in an environment of its own in the cache, reads the network and tf2onnx writes it as ONNX.
napari-maskcal is given that file alone.

The package has 40 pairs, eight each of five kinds of microscopy, and a network for each kind. A promise at a
confidence of 0.90 takes nine specimens to calibrate on, and two more to train on, so none can be made for one kind
alone; the quarters of an image are one specimen and do not help. So one network, that for STEM at high resolution,
restores all kinds, as far as tried about as well as their own. The specimens are 39 images, without one whose truth is
the degraded image itself, and the promise is one for a mixture of the five kinds in equal parts: for images of one of
them it may hold in fewer cases than it says.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from napari_maskcal.restore.card import ModelCard
from napari_maskcal.restore.loaders.base import content_sha256
from napari_maskcal.restore.loaders.description import write_description
from package_files import BENCHMARKS, TENSORFLOW, middle, scratch_python, unpack_sdist
from worked_example import Example, main

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Plane = NDArray[np.float32]

VERSION = "1.0.4"
NETWORK = "sfr_hrstem"
HELD_OUT = 10
FIELD_PX = 128  # half of what there is along each axis: the network takes seconds for the whole
_PACKAGES = (*TENSORFLOW, "tf2onnx==1.17.0")
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
_INPUT, _OUTPUT = "input_gen", "gen_r_em_out"


def write_tk_r_em(folder: Path, cache: Path) -> Path:
    """Write the network as ONNX, with its description."""
    path = folder / f"{NETWORK}.onnx"
    _run_tensorflow(
        cache, "-m", "tf2onnx.convert", "--saved-model", _package(cache) / "models" / NETWORK,
        "--signature_def", "serving_default", "--opset", 17, "--inputs-as-nchw", _INPUT, "--outputs-as-nchw", _OUTPUT,
        "--output", path,
    )  # fmt: skip
    write_description(path, card(), content_sha256(path))
    return path


def card() -> ModelCard:
    """Return what a trial run would find out, which takes many minutes of so large a network.

    It brings the intensities of the whole image to a range of its own first. So every pixel depends on all, and images
    are never cut; and it is the same to it how they are prepared.
    """
    return ModelCard(
        name=NETWORK, role="restorer", network={"kind": "onnx", "channels": 1}, stride_px=2, halo_px=None,
        min_size_px=64, licence="GPL-3.0", citation="Lobato, Friedrich, Van Aert, arXiv 2303.17025 (2023)",
    )  # fmt: skip


def simulated_pairs(cache: Path, _: np.random.Generator) -> dict[str, tuple[Plane, Plane]]:
    """Return the middle of each simulated image, (degraded, truth), (128, 128) each, by kind and number.

    Without the one whose truth is the degraded image itself: nothing can be learned from it.
    """
    path = cache / f"tk_r_em-{VERSION}-pairs.npz"
    if not path.is_file():
        part = path.with_suffix(".part.npz")
        _run_tensorflow(cache, BENCHMARKS / "paper_tensorflow.py", "pairs", _package(cache), part)
        part.replace(path)
    with np.load(path, allow_pickle=False) as file:
        pairs = {
            f"{kind}_{i}": (middle(degraded, FIELD_PX), middle(truth, FIELD_PX))
            for kind in sorted(name.removesuffix("_x") for name in file if name.endswith("_x"))
            for i, (degraded, truth) in enumerate(zip(file[f"{kind}_x"][:, 0], file[f"{kind}_y"][:, 0], strict=True))
        }
    return {name: pair for name, pair in pairs.items() if not np.array_equal(*pair)}


def _package(cache: Path) -> Path:
    return unpack_sdist("tk_r_em", VERSION, cache / "packages") / "tk_r_em"


def _run_tensorflow(cache: Path, *words: object) -> None:
    """Run the Python that has TensorFlow; what it says is shown only where it fails."""
    call = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL, env=os.environ | _QUIET)
    try:
        python = scratch_python(cache / "tensorflow", _PACKAGES)
        call([str(word) for word in (python, *words)], stderr=subprocess.PIPE, text=True)
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        raise


EXAMPLE = Example(
    name="tk_r_em", about=__doc__, write_restorer=write_tk_r_em, read_pairs=simulated_pairs, takes=None,
    tolerance=0.02, held_out=HELD_OUT, steps=300,
)  # fmt: skip

if __name__ == "__main__":
    main(EXAMPLE)
