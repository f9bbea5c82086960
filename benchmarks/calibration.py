"""What calibration costs: its arithmetic against bisection and a grid, the LPIPS walk, memory, and the whole.

``arithmetic``: seconds of processor time, one thread, for the exact thresholds of all fields, with float32
uncertainties and float64 errors that are there already. ``bisection`` takes 40 steps over all fields at once, in
chunks that fit memory, and ``bisection_by_field`` over each by itself; the powers of the errors are made beforehand.
``grid`` evaluates 1,000 thresholds, on a few fields, scaled to all. ``curve`` gives 480 tolerances of each field.
Aims: 10 times faster than bisection, 100 times faster than the grid, the curve no more than 3 single answers.

``lpips``: the walk along the grid of thresholds against as many bare LPIPS calls, in turn; aim 1.3. Without
``--lpips-weights`` the weights are random, which take the same time.

``memory``: largest resident memory of a calibration from files, one process each; aim: 10 times the fields take no
more than 1.2 times as much.

``whole``: a calibration from files, and how much of it the arithmetic is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.grid import walk
from napari_maskcal.calibrate.ladder import rung_above, rungs
from napari_maskcal.calibrate.measure import measure_fields
from napari_maskcal.calibrate.threshold import curve_of_error, image_threshold, lp_threshold, trust_mask
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.restore.allocator import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_maskcal.calibrate.sums import MaskKind
    from napari_maskcal.distance.lp import Lp
    from napari_maskcal.distance.lpips_ import Lpips
    from napari_maskcal.models import MaskModel, Restorer

BISECTIONS, GRID, TOLERANCES = 40, 1000, 480
CHUNK_PIXELS = 2**22
SHARES = (0.3, 0.6, 0.9)  # of the median distance of a whole field


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--fields", type=int, default=200, help="fields of 512 x 512 for the arithmetic")
    parser.add_argument("--grid-fields", type=int, default=3, help="of those, how many the grid is timed on")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the arithmetic; the median counts")
    parser.add_argument("--default-malloc", action="store_true", help="without the allocator settings of `maskcal`")
    parser.add_argument("--lpips-weights", type=Path, help="AlexNet weights, a torchvision state dict")
    parser.add_argument("--only", choices=("arithmetic", "lpips", "memory", "whole"), help="measure this alone")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    kept = False if options.default_malloc else keep_freed_memory()
    if options.peak_of is not None:
        print(json.dumps(peak_of(options.peak_of)))
        return
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "arithmetic": lambda: measure_arithmetic(options.fields, options.grid_fields, options.repeats),
        "lpips": lambda: measure_lpips(options.lpips_weights),
        "memory": lambda: measure_memory(default_malloc=options.default_malloc),
        "whole": measure_whole,
    }
    result: dict[str, Any] = {"malloc": "tuned" if kept else "default", "machine": machine()}
    for name in [options.only] if options.only else measures:
        result[name] = measures[name]()
        if not options.json:
            print(json.dumps({name: result[name]}, indent=1), flush=True)
    print(json.dumps(result) if options.json else f"{result['machine']}, malloc {result['malloc']}")


def machine() -> str:
    """Return what this ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    model = ", ".join(sorted(names)) or platform.machine()
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}"


# Arithmetic


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Flat pixels of many fields, and what the ways of measuring share."""

    u: NDArray[np.float32]
    error: NDArray[np.float64]

    @classmethod
    def random(cls, count: int, *, pixels: int = 512 * 512) -> Fields:
        """Return fields whose errors are about as large as their uncertainty says, some much worse than others."""
        rng = np.random.default_rng(0)
        u = np.empty((count, pixels), np.float32)
        error = np.empty((count, pixels))
        for i in range(count):
            u[i] = rng.gamma(2, 0.02, pixels) + 0.001
            error[i] = np.abs(rng.normal(size=pixels)) * u[i] * rng.lognormal(0, 0.3)
        return cls(u=u, error=error)

    def __len__(self) -> int:
        return len(self.u)

    def tolerance(self, rule: Lp, share: float) -> float:
        """Return this share of the median distance of a field."""
        whole = np.ones((), bool)
        return share * float(np.median([rule(whole, error) for error in self.error]))


def measure_arithmetic(count: int, grid_fields: int, repeats: int) -> dict[str, Any]:
    """Compare the ways of finding thresholds, for each distance, mask and tolerance."""
    fields = Fields.random(count)
    rows = [
        compare(fields, parse_distance(distance), mask, share, grid_fields, repeats)
        for distance in ("l1", "l2")
        for mask in ("soft", "binary")
        for share in SHARES
    ]
    return {
        "fields": f"{count} of 512 x 512",
        "smallest_speedup_over_bisection": min(row["speedup_over_bisection"] for row in rows),
        "smallest_speedup_over_bisection_by_field": min(row["speedup_over_bisection_by_field"] for row in rows),
        "smallest_speedup_over_grid": min(row["speedup_over_grid"] for row in rows),
        "largest_curve_to_single": max(row["curve_to_single"] for row in rows),
        "largest_relative_difference": max(row["difference"] for row in rows),
        "all_binary_masks_equal": all(row["same_masks"] for row in rows if row["mask"] == "binary"),
        "rows": rows,
    }


def compare(fields: Fields, rule: Any, mask: MaskKind, share: float, grid_fields: int, repeats: int) -> dict[str, Any]:
    """Time all ways on the same arrays in turn."""
    tolerance = fields.tolerance(rule, share)
    powers = fields.error if rule.p == 1 else fields.error**rule.p
    few = slice(0, grid_fields)
    ways: dict[str, Callable[[], Any]] = {
        "exact": lambda: exact(fields, rule, tolerance, mask),
        "curve": lambda: curves(fields, rule, mask),
        "bisection": lambda: bisect(fields.u, powers, rule.p, tolerance, mask),
        "bisection_by_field": lambda: by_field(fields.u, powers, rule.p, tolerance, mask),
        "grid": lambda: scan(fields.u[few], powers[few], rule.p, tolerance, mask),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    exact(fields, rule, tolerance, mask)  # the first pass asks for memory
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.process_time()
            found[name] = way()
            seconds[name].append(time.process_time() - started)
    typical = {name: median(values) for name, values in seconds.items()}
    typical["grid"] *= len(fields) / grid_fields
    return {
        "distance": rule.name,
        "mask": mask,
        "tolerance_share": share,
        "single_ms_per_field": round(1000 * typical["exact"] / len(fields), 2),
        "curve_to_single": round(typical["curve"] / typical["exact"], 2),
        "speedup_over_bisection": round(typical["bisection"] / typical["exact"], 1),
        "speedup_over_bisection_by_field": round(typical["bisection_by_field"] / typical["exact"], 1),
        "speedup_over_grid": round(typical["grid"] / typical["exact"], 1),
        **agreement(fields, found["exact"], found["bisection"], mask),
    }


def exact(fields: Fields, rule: Lp, tolerance: float, mask: MaskKind) -> NDArray[np.float64]:
    """Do what `image_threshold` does once it has the error: the threshold, and its evaluation."""
    found = np.empty(len(fields))
    for i, (u, error) in enumerate(zip(fields.u, fields.error, strict=True)):
        found[i] = lp_threshold(u, error, rule, tolerance, mask)
        if rule(trust_mask(u, found[i], mask), error) > tolerance:  # has to be lowered
            found[i] = image_threshold(u, error, np.zeros_like(error), rule, tolerance, mask)
    return found


def curves(fields: Fields, rule: Lp, mask: MaskKind) -> None:
    """Do what is done for each calibration field once the error is known."""
    for u, error in zip(fields.u, fields.error, strict=True):
        first = rung_above(rule(np.ones((), bool), error)) + 2 - TOLERANCES
        curve_of_error(u, error, rule, rungs(first, TOLERANCES), mask)


def bisect(u: NDArray[Any], powers: NDArray[Any], p: float, tolerance: float, mask: MaskKind) -> NDArray[np.float64]:
    """Halve the interval of all fields at once."""
    low, high = np.zeros(len(u)), u.max(axis=1).astype(np.float64)
    at_once = max(1, CHUNK_PIXELS // u.shape[1])
    buffers = np.empty((2, at_once, u.shape[1]))
    passing = np.zeros(len(u), bool)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        for first in range(0, len(u), at_once):
            some = slice(first, first + at_once)
            passing[some] = mean_power(u[some], powers[some], middle[some], p, mask, buffers) <= tolerance**p
        low, high = np.where(passing, middle, low), np.where(passing, high, middle)
    whole = np.array([row.mean() for row in powers]) <= tolerance**p
    return np.where(whole, np.inf, low)


def by_field(u: NDArray[Any], powers: NDArray[Any], p: float, tolerance: float, mask: MaskKind) -> NDArray[np.float64]:
    """Do the same for one field after the other, whose pixels stay closer to the processor."""
    return np.concatenate([bisect(u[i : i + 1], powers[i : i + 1], p, tolerance, mask) for i in range(len(u))])


def mean_power(
    u: NDArray[Any], powers: NDArray[Any], t: NDArray[Any], p: float, mask: MaskKind, buffers: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the mean of (trust |e|)^p of some fields, without asking for memory."""
    trust, product = (buffer[: len(u)] for buffer in buffers)
    if mask == "binary":
        np.multiply(u <= t[:, None], powers, out=product)
    else:
        np.divide(t[:, None], u, out=trust)
        np.minimum(trust, 1, out=trust)
        if p == 2:
            np.multiply(trust, trust, out=trust)
        np.multiply(trust, powers, out=product)
    return np.asarray(product.mean(axis=1))


def scan(u: NDArray[Any], powers: NDArray[Any], p: float, tolerance: float, mask: MaskKind) -> NDArray[np.float64]:
    """Evaluate each threshold of an even grid, as published interval calibrations do."""
    buffers = np.empty((2, *u.shape))
    found = np.zeros(len(u))
    for t in np.linspace(0, u.max(), GRID):
        passing = mean_power(u, powers, np.full(len(u), t), p, mask, buffers) <= tolerance**p
        found = np.where(passing, t, found)
    return found


def agreement(fields: Fields, ours: NDArray[Any], bisection: NDArray[Any], mask: MaskKind) -> dict[str, Any]:
    """Return how far the closed form is from bisection; of binary masks, whether they are the same."""
    finite = np.isfinite(bisection)
    if (np.isfinite(ours) != finite).any():
        return {"difference": float("inf"), "same_masks": False}
    if mask == "soft":
        difference = np.abs(ours[finite] - bisection[finite]) / bisection[finite]
        return {"difference": float(difference.max(initial=0)), "same_masks": None}
    same = [np.array_equal(u <= a, u <= b) for u, a, b in zip(fields.u, ours, bisection, strict=True)]
    return {"difference": 0.0, "same_masks": all(same)}


# LPIPS


class Counted:
    """A distance that counts how many it was asked for, and after each request does as many bare ones.

    In turn, so that a busy machine slows both alike.
    """

    def __init__(self, distance: Lpips, bare: BareLpips) -> None:
        self.distance, self.bare, self.count = distance, bare, 0
        self.name = distance.name

    def between(self, trust: NDArray[Any], restored: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
        """Count and compute."""
        self.count += len(trust)
        found = self.distance.between(trust, restored, truth)
        self.bare.run(len(trust))
        return found


class BareLpips:
    """The network alone on images that are ready, in batches of four, as the distance takes them."""

    def __init__(self, module: Any, size: int) -> None:
        import torch

        self.module, self.seconds, self.wall = module, 0.0, 0.0
        images = torch.rand(2, 4, 3, size, size) * 2 - 1
        self.images = [image.contiguous(memory_format=torch.channels_last) for image in images]

    def run(self, count: int) -> None:
        """Compute `count` distances and add the time; of a batch that is not full, its share."""
        import torch

        batches = -(-count // 4)
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in range(batches):
                self.module(*self.images)
        spent = time.perf_counter() - started
        self.wall += spent
        self.seconds += spent * count / (4 * batches)


def measure_lpips(weights: Path | None, *, count: int = 64, size: int = 256) -> dict[str, Any]:
    """Time the walk and as many bare calls, in turn."""
    from napari_maskcal.distance.lpips_ import Lpips
    from napari_maskcal.distance.lpips_network import load

    with tempfile.TemporaryDirectory() as folder:
        path = weights or random_alexnet(Path(folder) / "alexnet.safetensors")
        distance = Lpips(network="alex", weights=path, device="cpu")
        fields = lpips_fields(count, size)
        restored, truth = (np.stack(images) for images in list(zip(*fields[:8], strict=True))[2:])
        whole = distance.between(np.ones((8, size, size)), restored, truth)
        tolerance = float(np.median(whole)) / 2
        bare = BareLpips(load("alex", path, "cpu").module, size)
        bare.run(8)  # the first chooses kernels
        bare.seconds = bare.wall = 0.0
        counted = Counted(distance, bare)
        walked = timed(lambda: list(walk(fields, counted, mask="binary", stop_above=2 * tolerance))) - bare.wall
    return {
        "walk_to_bare": round(walked / bare.seconds, 3),
        "walk_s": round(walked, 2),
        "bare_s": round(bare.seconds, 2),
        "fields": f"{count} of {size} x {size}",
        "distances": counted.count,
        "weights": str(weights) if weights else "random (the time is the same)",
    }


def random_alexnet(path: Path) -> Path:
    """Write a state dict of torchvision's AlexNet."""
    import torch
    from safetensors.torch import save_file

    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    torch.manual_seed(0)
    tensors = {}
    for place, shape in shapes.items():
        tensors[f"features.{place}.weight"] = torch.randn(shape) * (2 / np.prod(shape[1:])) ** 0.5
        tensors[f"features.{place}.bias"] = torch.zeros(shape[0])
    save_file(tensors, path)
    return path


def lpips_fields(count: int, size: int) -> list[tuple[str, NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Return smooth images with noise that their uncertainties know of."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(1)
    fields = []
    for i in range(count):
        truth = gaussian_filter(rng.normal(size=(size, size)), 3).astype(np.float32) * 2 + np.float32(0.5)
        u = (gaussian_filter(rng.gamma(1, 0.1, (size, size)), 2) + 0.01).astype(np.float32)
        restored = truth + (u * rng.normal(size=u.shape) * rng.lognormal(0, 0.3)).astype(np.float32)
        fields.append((f"field {i}", u, restored, truth))
    return fields


# From files


def write_pairs(folder: Path, count: int, *, size: int = 256) -> None:
    """Write pairs of noisy and clean images."""
    import tifffile

    rng = np.random.default_rng(2)
    y, x = np.mgrid[:size, :size]
    for name in ("degraded", "truth"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        clean = 200 + 100 * np.sin(x / rng.uniform(5, 30) + i) * np.cos(y / rng.uniform(5, 30))
        tifffile.imwrite(folder / "truth" / f"{i:05}.tif", clean.astype(np.uint16))
        tifffile.imwrite(folder / "degraded" / f"{i:05}.tif", rng.poisson(clean).astype(np.uint16))


def small_models() -> tuple[Restorer, MaskModel]:
    """Return a small random restorer and the residual as its uncertainty."""
    import torch

    from napari_maskcal.mask.untrained import residual_mask
    from napari_maskcal.models import Restorer
    from napari_maskcal.restore.card import ModelCard
    from napari_maskcal.restore.unet import UNet

    torch.manual_seed(0)
    network = UNet((4, 8, 8), residual=True).eval()
    card = ModelCard(
        name="small random restorer", role="restorer", network={"kind": "unet", "widths": [4, 8, 8], "residual": True},
        stride_px=network.stride_px, halo_px=network.halo_px, min_size_px=16,
    )  # fmt: skip
    restorer = Restorer(card=card, network=network, sha256="random")
    return restorer, residual_mask(restorer)


def calibrate_folder(folder: Path) -> Any:
    """Calibrate on all pairs of a folder, with no cache."""
    from napari_maskcal.calibration import calibrate
    from napari_maskcal.read.triplets import read_triplets

    restorer, mask_model = small_models()
    triplets = read_triplets(folder / "degraded", folder / "truth")
    return calibrate(triplets, mask_model, restorer, tolerance=0.05, device="cpu")


def peak_of(folder: Path) -> dict[str, Any]:
    """Calibrate, and return how much memory this process has ever had."""
    certificate = calibrate_folder(folder)
    return {"fields": certificate.n_fields, "peak_mib": round(peak_kib() / 1024, 1)}


def peak_kib() -> int:
    """Return the largest resident memory; Linux's ru_maxrss begins with that of the process that started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_memory(counts: Sequence[int] = (200, 2000), *, default_malloc: bool) -> dict[str, Any]:
    """Calibrate on few and on many files, in a process each."""
    peaks = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            write_pairs(Path(folder) / "pairs", count)
            command = [sys.executable, __file__, "--peak-of", str(Path(folder) / "pairs")]
            command += ["--default-malloc"] if default_malloc else []
            done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - of ours
            peaks.append(json.loads(done.stdout)["peak_mib"])
    growth = round(peaks[1] / peaks[0], 3)
    return {"growth": growth, "peak_mib": dict(zip(counts, peaks, strict=True)), "fields_of": "256 x 256"}


def measure_whole(*, count: int = 200, size: int = 512) -> dict[str, Any]:
    """Time a calibration from files, then its parts by themselves."""
    from napari_maskcal.calibration_fields import fields_of
    from napari_maskcal.calibration_plan import Plan
    from napari_maskcal.read.survey import survey
    from napari_maskcal.read.triplets import read_triplets
    from napari_maskcal.restore.events import CancelToken

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "pairs"
        write_pairs(folder, count, size=size)
        calibrate_folder(folder)  # the first finds the files and the kernels
        total = timed(lambda: calibrate_folder(folder))
        triplets = read_triplets(folder / "degraded", folder / "truth")
        reading = timed(lambda: [part.read() for triplet in triplets for part in triplet.parts().values()])
        surveying = timed(lambda: list(survey(triplets)))
        restorer, mask_model = small_models()
        plan = Plan(triplets=triplets, restorer=restorer, mask_model=mask_model, distance=parse_distance("l1"))
        planes = fields_of(plan, list(survey(triplets)), device="cpu", cancel=CancelToken(), warned=[])
        arithmetic = 0.0
        for fields in planes:
            arithmetic += timed(lambda fields=fields: list(measure_fields(fields, plan.distance, mask="binary")))
    return {
        "arithmetic_share": round(arithmetic / total, 3),
        "total_s": round(total, 2),
        "arithmetic_s": round(arithmetic, 2),
        "reading_once_s": round(reading, 2),
        "survey_s": round(surveying, 2),
        "fields": f"{count} of {size} x {size}, small random U-Net, residual",
    }


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
