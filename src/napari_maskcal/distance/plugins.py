"""Distances that other packages bring, by the entry points ``napari_maskcal.distances``."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, cast

from napari_maskcal.distance.base import Distance, is_distance
from napari_maskcal.distance.custom import from_callable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GROUP = "napari_maskcal.distances"


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginDistance:
    """A distance under the name that its package announces, with the package and its version in the identity."""

    name: str
    package: str
    inner: Distance = field(repr=False)

    @property
    def sentence_name(self) -> str:
        """What the promise calls it."""
        return self.inner.sentence_name

    @property
    def monotone(self) -> bool:
        """What the package says; it is walked along a grid all the same."""
        return self.inner.monotone

    @property
    def differentiable(self) -> bool:
        """Whether the package says so, and has a `loss`."""
        return self.inner.differentiable and hasattr(self.inner, "loss")

    @property
    def in_intensity_units(self) -> bool:
        """What the package says."""
        return self.inner.in_intensity_units

    @property
    def identity(self) -> str:
        """The package, its version, and what the distance says itself."""
        return ", ".join(filter(None, (self.package, self.inner.identity)))

    def between(self, trust: NDArray[Any], restored: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
        """Return the distances of N fields; see `Distance.between`."""
        return self.inner.between(trust, restored, truth)

    def loss(self, trust: Any, restored: Any, truth: Any) -> Any:
        """Return the package's own loss, of torch tensors."""
        return cast("Any", self.inner).loss(trust, restored, truth)


def announced() -> dict[str, list[EntryPoint]]:
    """Return the installed packages' distances by their names, in lower case; nothing of theirs is imported."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name.lower(), []).append(entry)
    return found


def package_of(entry: EntryPoint) -> str:
    """Return the package and version that an entry point comes from."""
    return "an unknown package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


@lru_cache(maxsize=32)
def find_plugin(name: str) -> PluginDistance | None:
    """Return the distance that a package announces as `name`; None if there is none.

    Raises
    ------
    ValueError
        If two packages announce it, or it cannot be loaded; the message names the packages.
    """
    entries = announced().get(name.lower(), [])
    if not entries:
        return None
    packages = sorted({package_of(entry) for entry in entries})
    if len(packages) > 1:
        raise ValueError(f"the distance {name} is in {' and in '.join(packages)}; uninstall all but one of them")
    try:
        return PluginDistance(name=entries[0].name, package=packages[0], inner=_made(entries[0].load(), entries[0]))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the distance {name} of {packages[0]} cannot be loaded: {type(error).__name__}: {reason}; "
            "update or uninstall that package"
        ) from error


def _made(found: Any, entry: EntryPoint) -> Distance:
    """Return what an entry point leads to: a distance, what a class or factory gives, or a function of two images."""
    if is_distance(found):
        return found
    if not callable(found):
        raise TypeError(f"{entry.value} is a {type(found).__name__}, neither a distance nor a function")
    if not needs_no_arguments(found):
        return from_callable(found, name=entry.name)
    made = found()
    if not is_distance(made):
        raise TypeError(f"{entry.value} gave a {type(made).__name__}, not a distance")
    return made


def needs_no_arguments(function: Any) -> bool:
    """Whether something can be called as it is: a factory, and not a function of images."""
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):  # wants some, or does not say
        return isinstance(function, type)
    return True
