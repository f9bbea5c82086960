"""What tiling costs: the engine against the two bare forward passes, in one run.

``overhead`` is the time of tiled restoration + mask over one plane, divided by the time of the bare forward
passes over the same plane times the halo ratio of the plan. Bare is the faster of the whole plane at once and
of as many tile-shaped passes as hold the same pixels, in the engine's layout and dtype. Below 1.15 on two
cores is the aim.

``demo_s`` is the wall time of ``maskcal demo --out`` on the bundled stack, window and screenshot included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from napari_maskcal import load_mask_model, load_restorer
from napari_maskcal.read.image import Image, from_array
from napari_maskcal.restore.allocator import keep_freed_memory
from napari_maskcal.restore.engine import Effort, Pair, process
from napari_maskcal.restore.tiles import Plan, plan_tiles
from napari_maskcal.sample_data import sample_image


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; each measures all three, the median counts")
    parser.add_argument("--size", type=int, default=2048, help="plane of SIZE x SIZE pixels")
    parser.add_argument("--tuned", action="store_true", help="with the allocator settings of `maskcal run`")
    parser.add_argument("--no-demo", action="store_true", help="leave the demo out")
    options = parser.parse_args()
    kept = keep_freed_memory() if options.tuned else False
    result = {"malloc": "tuned" if kept else "default"} | measure_overhead(options.size, options.repeats)
    if not options.no_demo:
        result |= measure_demo()
    if options.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:24} {value}" for name, value in result.items()))


def measure_overhead(size: int, repeats: int) -> dict[str, object]:
    """Time engine, whole-plane and tile-shaped passes in turn, so that a busy machine slows all alike."""
    image = from_array(np.resize(sample_image().data[10], (size, size)), axes="YX")
    restorer, mask_model = load_restorer(), load_mask_model()
    pair = Pair(restorer, mask_model).eval()
    effort = Effort.on(torch.device("cpu"))
    plan = plan_tiles(
        (size, size), max_tile_px=effort.max_tile_px, halo_px=pair.halo_px, stride_px=pair.stride_px
    )  # fmt: skip

    def engine() -> None:
        for _ in process(image, [()], restorer, mask_model, device="cpu"):
            pass

    bare = {"whole": lambda: forward(pair, image, (size, size), 1), "tiles": lambda: bare_tiles(pair, image, plan)}
    runs = {"engine": engine, **bare}
    for run in runs.values():
        run()  # the first pass chooses kernels
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    typical = {name: median(values) for name, values in seconds.items()}
    fastest = min(typical["whole"], typical["tiles"])
    ratios = [
        e / (min(w, t) * plan.halo_ratio)
        for e, w, t in zip(seconds["engine"], seconds["whole"], seconds["tiles"], strict=True)
    ]
    return {
        "overhead": round(median(ratios), 3),
        "overhead_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "halo_ratio": round(plan.halo_ratio, 3),
        "tiles": f"{len(plan.tiles)} of {plan.tile_shape[0]} x {plan.tile_shape[1]}",
        "engine_s": round(typical["engine"], 3),
        "bare_whole_s": round(typical["whole"], 3),
        "bare_tiles_s": round(typical["tiles"], 3),
        "bare": "whole" if fastest == typical["whole"] else "tiles",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }


def bare_tiles(pair: Pair, image: Image, plan: Plan) -> None:
    """As many tile-shaped passes as hold the plane's pixels, the last one counted as a fraction."""
    pixels, tile = plan.shape[0] * plan.shape[1], plan.tile_shape[0] * plan.tile_shape[1]
    forward(pair, image, plan.tile_shape, pixels // tile)
    rest = round((pixels % tile) / plan.tile_shape[1] / pair.stride_px) * pair.stride_px
    if rest >= pair.min_size_px:
        forward(pair, image, (rest, plan.tile_shape[1]), 1)


@torch.inference_mode()
def forward(pair: Pair, image: Image, shape: tuple[int, int], times: int) -> None:
    """Run both networks `times` on one input that is ready in memory."""
    pair.to(memory_format=torch.channels_last)
    pixels = torch.from_numpy(image.data[: shape[0], : shape[1]].astype(np.float32) / 1000)
    pixels = pixels[None, None].to(memory_format=torch.channels_last)
    for _ in range(times):
        pair(pixels)


def measure_demo() -> dict[str, object]:
    """Time the whole demo, as a user waits for it."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "napari_maskcal", "demo", "--out", str(Path(folder) / "demo")]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - a command of ours
        seconds = time.perf_counter() - started
    return {"demo_s": round(seconds, 1), "demo_planes": int(sample_image().shape[0])}


if __name__ == "__main__":
    main()
