"""What a format costs: the same network through each loader, against itself called directly in torch, in one run.

``throughput`` is the time of the network in torch divided by that of what the loader gives, over the same plane, the
two in turn so that a busy machine slows both alike (median of the rounds). At least 0.95 is the aim.

``first_output_s`` is the wall time of a new Python process that loads a file which is described already and restores
one small plane, ``trial_s`` that of the trial run before. ``difference`` is the largest between the two answers, in
shares of the plane's range. The allocator is set as ``maskcal`` sets it; ``--default-malloc`` leaves it as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from calibration import machine
from napari_maskcal import load_restorer
from napari_maskcal.models import model_path
from napari_maskcal.restore.allocator import keep_freed_memory
from napari_maskcal.restore.loaders.base import content_sha256
from napari_maskcal.restore.loaders.trust import trust

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE_PX, SMALL_PX = 1024, 128
FIRST_OUTPUT = f"""
import sys, time
started = time.perf_counter()
import torch
from napari_maskcal.models import load_restorer
network = load_restorer(sys.argv[1]).network
with torch.inference_mode():
    network(torch.rand(1, 1, {SMALL_PX}, {SMALL_PX}))
print(time.perf_counter() - started)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--default-malloc", action="store_true", help="leave the allocator as it is")
    options = parser.parse_args()
    tuned = not options.default_malloc and keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        # What the user has agreed to stays as it is.
        os.environ |= {"XDG_CONFIG_HOME": folder, "XDG_DATA_HOME": folder}
        rows = [measure(name, Path(folder), options.rounds) for name in FORMATS]
    result = {
        "machine": f"{machine()}, torch {torch.__version__}", "malloc": "tuned" if tuned else "default",
        "plane_px": SIZE_PX, "formats": rows,
    }  # fmt: skip
    if options.json:
        print(json.dumps(result))
        return
    print(result["machine"])
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


def measure(name: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Return the figures of one format."""
    write, network = FORMATS[name]
    path = folder / f"{name}.model"
    write(network, path)
    trust(content_sha256(path), name=name)
    started = time.perf_counter()
    loaded = load_restorer(path).network
    trial_s = time.perf_counter() - started
    assert loaded is not None
    image = torch.rand(1, 1, SIZE_PX, SIZE_PX)
    times: dict[str, list[float]] = {"direct": [], "loaded": []}
    with torch.inference_mode():
        difference = float((network(image) - loaded(image)).abs().max())
        for _ in range(rounds):
            for what, run in (("direct", network), ("loaded", loaded)):
                started = time.perf_counter()
                run(image)
                times[what].append(time.perf_counter() - started)
    first = subprocess.run(  # noqa: S603
        [sys.executable, "-c", FIRST_OUTPUT, str(path)], capture_output=True, text=True, check=True
    ).stdout
    return {
        "format": name, "throughput": round(median(times["direct"]) / median(times["loaded"]), 3),
        "first_output_s": round(float(first), 2), "trial_s": round(trial_s, 2),
        "difference": float(f"{difference:.1e}"),
    }  # fmt: skip


def as_torchscript(network: nn.Module, path: Path) -> None:
    """Write a traced program."""
    torch.jit.trace(network, torch.rand(1, 1, SMALL_PX, SMALL_PX)).save(str(path))


def as_export(network: nn.Module, path: Path) -> None:
    """Write an exported program for all sizes."""
    free = torch.export.Dim.AUTO
    shapes = ({0: free, 2: free, 3: free},)
    torch.export.save(
        torch.export.export(network, (torch.rand(2, 1, SMALL_PX, SMALL_PX),), dynamic_shapes=shapes), path
    )


def as_onnx(network: nn.Module, path: Path) -> None:
    """Write a graph for all sizes."""
    torch.onnx.export(
        network, (torch.rand(2, 1, SMALL_PX, SMALL_PX),), path, dynamic_shapes=({0: "n", 2: "y", 3: "x"},),
        external_data=False, verbose=False,
    )  # fmt: skip


def as_weights(network: nn.Module, path: Path) -> None:
    """Write weights alone."""
    save_file(network.state_dict(), path)


def as_checkpoint(network: nn.Module, path: Path) -> None:
    """Write a checkpoint of torch."""
    torch.save(network.state_dict(), path)


def as_own(network: nn.Module, path: Path) -> None:
    """Write the bundled restorer as it ships."""
    shutil.copyfile(model_path("demo", role="restorer"), path)


def as_package(network: nn.Module, path: Path) -> None:
    """Write a package of bioimage.io with a traced program."""
    script = path.with_suffix(".script")
    as_torchscript(network, script)
    sha256 = content_sha256(script)
    weights = {"torchscript": {"source": "weights.pt", "sha256": sha256, "pytorch_version": "2.6"}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(script, "weights.pt")
        archive.writestr("rdf.yaml", json.dumps(_described(weights)))


def _described(weights: dict[str, Any]) -> dict[str, Any]:
    """Return what a package says of a network of one channel that keeps the size of its planes."""
    sizes = {"raw": {"min": 16, "step": 4}, "clean": None}
    ports = {
        name: {
            "id": name, "data": {"type": "float32"}, "test_tensor": {"source": f"{name}.npy"},
            "axes": [
                {"type": "batch"}, {"type": "channel", "channel_names": ["signal"]},
                *({"type": "space", "id": a, "size": size or {"tensor_id": "raw", "axis_id": a}} for a in "yx"),
            ],
        }
        for name, size in sizes.items()
    }  # fmt: skip
    return {
        "format_version": "0.5.4", "type": "model", "name": "bundled restorer", "description": "the bundled restorer",
        "authors": [{"name": "The napari-maskcal developers"}], "cite": [], "license": "BSD-3-Clause",
        "inputs": [ports["raw"]], "outputs": [ports["clean"]], "weights": weights,
    }  # fmt: skip


def _demo() -> nn.Module:
    network = load_restorer().network
    assert network is not None
    return network


def _dncnn() -> nn.Module:
    """Return a small network of a kind that spandrel knows, with random weights."""
    from napari_maskcal.restore.torchvision_import import import_torchvision

    import_torchvision()  # which spandrel imports
    from spandrel.architectures.DnCNN import DnCNN

    torch.manual_seed(0)
    return DnCNN(in_nc=1, out_nc=1, nc=32, nb=8).eval()


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    FORMATS: dict[str, tuple[Callable[[nn.Module, Path], None], nn.Module]] = {
        "napari-maskcal": (as_own, _demo()), "torchscript": (as_torchscript, _demo()),
        "torch-export": (as_export, _demo()), "onnx": (as_onnx, _demo()), "bioimage.io": (as_package, _demo()),
        "safetensors by spandrel": (as_weights, _dncnn()), "pth by spandrel": (as_checkpoint, _dncnn()),
    }  # fmt: skip

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
