"""Find a distance by the name a user writes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from napari_maskcal.distance.base import Distance, PixelDistance
from napari_maskcal.distance.linf import LInfinity
from napari_maskcal.distance.lp import Lp
from napari_maskcal.distance.lpips_ import Lpips
from napari_maskcal.distance.ssim import Ssim

__all__ = [
    "Distance",
    "PixelDistance",
    "built_in",
    "is_built_in",
    "known_distances",
    "name_of",
    "on_device",
    "parse_distance",
]

_BUILT_IN = {
    "l1": "mean absolute error",
    "l2": "root-mean-square error",
    "lP": "power mean of the error, with P from 1 to 64, such as l3 or l1.5",
    "linf": "largest error of any pixel",
    "linf-blurS": "the same after a Gaussian blur of S pixels, such as linf-blur2",
    "ssim": "1 - SSIM: structure that is lost",
    "lpips-alex": "LPIPS, as people see it, by AlexNet; lpips-alex:FILE names its weights",
    "lpips-vgg": "LPIPS by VGG-16; lpips-vgg:FILE names its weights",
}


def parse_distance(name: str | Distance) -> Distance:
    """Return the distance called `name`, one of `known_distances`; a distance is given back as it is.

    Names of built-in distances come first. Nothing heavy is imported, and no weights are read, before its first use.

    Raises
    ------
    ValueError
        If there is none of that name, or the package that brings it cannot be loaded.
    """
    if not isinstance(name, str):
        return name
    if (found := built_in(name)) is not None:
        return found
    from napari_maskcal.distance.plugins import find_plugin

    if (brought := find_plugin(name)) is not None:
        return brought
    raise ValueError(
        f"there is no distance {name!r}; known are {', '.join(known_distances())}; P is from 1 to 64, as in l3, and S "
        "in pixels, as in linf-blur2"
    )


def built_in(name: str) -> Distance | None:
    """Return the distance of this package called `name`; None if there is none."""
    lowered = name.lower()
    if lowered in ("linf", "l-infinity"):
        return LInfinity()
    if lowered == "ssim":
        return Ssim()
    if match := re.fullmatch(r"lpips(?:-(alex|vgg))?(?::(.+))?", name, re.IGNORECASE):
        return Lpips(network=(match[1] or "alex").lower(), weights=Path(match[2]) if match[2] else None)
    if (match := re.fullmatch(r"linf-blur(\d+(?:\.\d+)?)", lowered)) and 0 < float(match[1]) <= 100:
        return LInfinity(float(match[1]))
    if (match := re.fullmatch(r"l(\d+(?:\.\d+)?)", lowered)) and 1 <= float(match[1]) <= 64:
        return Lp(float(match[1]))
    return None


def is_built_in(distance: Distance) -> bool:
    """Whether a distance is one of this package's, whose name and identity decide its value."""
    return isinstance(distance, Lp | LInfinity | Ssim | Lpips)


def on_device(distance: Distance, device: str) -> Distance:
    """Return `distance` as it runs on a device, where it is a network."""
    return replace(distance, device=device) if isinstance(distance, Lpips) else distance


def name_of(distance: Distance) -> str:
    """Return the name that a certificate keeps: without the place of weights, which its identity knows by content."""
    return f"lpips-{distance.network}" if isinstance(distance, Lpips) else distance.name


def known_distances() -> dict[str, str]:
    """Return the names that can be written, each with a line of help; other packages' come last, and are not loaded."""
    from napari_maskcal.distance.plugins import announced, package_of

    return _BUILT_IN | {
        entries[0].name: f"from {' and from '.join(sorted({package_of(entry) for entry in entries}))}"
        for entries in announced().values()
        if built_in(entries[0].name) is None
    }
