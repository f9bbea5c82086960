"""What a distance has to say of itself, so that no caller asks its name."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from typing import TypeGuard

    import numpy as np
    from numpy.typing import NDArray


class Distance(Protocol):
    """How far the trusted part of a restored image is from the same part of the truth.

    Attributes
    ----------
    name
        As users write it and certificates keep it; `parse_distance` turns it back into the distance, unless it was
        made from a function.
    sentence_name
        What the promise calls it, such as ``"mean absolute error"``.
    monotone
        Whether trusting more can never lower it. Only then is "the largest threshold that passes" safe, and
        exact; any other distance is walked along a fixed grid of thresholds.
    differentiable
        Whether it has a ``loss(trust, restored, truth)`` for torch tensors, to train with.
    in_intensity_units
        Whether it has the unit of the images, so that a tolerance may be a share of their range or a raw intensity.
    identity
        What else decides its value: versions, the hash of its weights; empty where the name says it all.
        Reading it may read the weights, and raises ValueError where they cannot be had.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - said above
    @property
    def sentence_name(self) -> str: ...  # noqa: D102
    @property
    def monotone(self) -> bool: ...  # noqa: D102
    @property
    def differentiable(self) -> bool: ...  # noqa: D102
    @property
    def in_intensity_units(self) -> bool: ...  # noqa: D102
    @property
    def identity(self) -> str: ...  # noqa: D102

    def between(self, trust: NDArray[Any], restored: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
        """Return the distances of ``trust * restored`` from ``trust * truth``, one for each of N fields.

        Parameters
        ----------
        trust
            (N, Y, X), from 0 to 1 (1 = believed), floating point or bool.
        restored, truth
            (N, Y, X), or (N, C, Y, X) with channels; an N of 1 stands for the same image N times.
        """
        ...


class PixelDistance(Distance, Protocol):
    """A monotone distance that is made from one error a pixel, so that its thresholds are known exactly."""

    def error(self, restored: NDArray[Any], truth: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the error at each pixel, at least 0, of `shape`; a leading channel axis is taken up."""
        ...

    def __call__(self, trust: NDArray[Any], error: NDArray[np.float64]) -> float:
        """Return the distance of one field from the errors of its pixels, both of the shape of `trust`."""
        ...


def is_distance(candidate: object) -> TypeGuard[Distance]:
    """Return whether an object, not a class, has all that a `Distance` has; it is not asked for any of it."""
    wanted = ("name", "sentence_name", "monotone", "differentiable", "in_intensity_units", "identity", "between")
    return not isinstance(candidate, type) and all(_has(candidate, name) for name in wanted)


def is_pixel_distance(distance: Distance) -> TypeGuard[PixelDistance]:
    """Return whether a distance is made from one error a pixel.

    Not `isinstance`: for a Protocol it reads each attribute, and `identity` may read weights.
    """
    return _has(distance, "error") and callable(distance)


def _has(candidate: object, name: str) -> bool:
    missing = object()
    return inspect.getattr_static(candidate, name, missing) is not missing


def each_field(
    distance: PixelDistance, trust: NDArray[Any], restored: NDArray[Any], truth: NDArray[Any]
) -> NDArray[np.float64]:
    """Do for N fields what a `PixelDistance` does for one: its `between`."""
    import numpy as np

    shape = trust.shape[1:]
    restored, truth = (np.broadcast_to(image, (len(trust), *image.shape[1:])) for image in (restored, truth))
    return np.array([
        distance(own, distance.error(a, b, shape)) for own, a, b in zip(trust, restored, truth, strict=True)
    ])  # fmt: skip


def shortest(value: float) -> str:
    """Return a number as a user would write it, with all the digits that make it that number."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(float(value))
