"""A distance that is somebody's own Python function."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.distance.fingerprint import code_sha256

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomDistance:
    """What a function says of each field's masked images; made by `from_callable`."""

    function: Callable[[NDArray[np.float64], NDArray[np.float64]], Any] = field(repr=False)
    name: str
    sentence_name: str
    monotone: bool = False
    differentiable: bool = False
    in_intensity_units: bool = False
    identity: str = ""

    def between(self, trust: NDArray[Any], restored: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
        """Return the distances of N fields; see `Distance.between`.

        Raises
        ------
        ValueError
            If the function fails, or gives something else than one finite number of at least 0.
        """
        restored, truth = (np.broadcast_to(image, (len(trust), *image.shape[1:])) for image in (restored, truth))
        return np.array([self._of(*pixels) for pixels in zip(trust, restored, truth, strict=True)], dtype=np.float64)

    def _of(self, trust: NDArray[Any], restored: NDArray[Any], truth: NDArray[Any]) -> float:
        masked = (np.multiply(trust, image, dtype=np.float64) for image in (restored, truth))
        try:
            given = self.function(*masked)
        except Exception as error:
            raise ValueError(f"the distance {self.name} failed: {type(error).__name__}: {error}") from error
        number = _as_number(given)
        if number is None or not 0 <= number < np.inf:
            raise ValueError(
                f"the distance {self.name} gave {_shortened(given)}; it has to be one finite number of at least 0"
            )
        return number


def from_callable(
    function: Callable[[NDArray[np.float64], NDArray[np.float64]], Any],
    *,
    name: str,
    monotone: bool = False,
    version: str = "",
) -> CustomDistance:
    """Make a distance of ``function(restored, truth)``.

    It is walked along a grid of thresholds, like all that are not made from one error a pixel.

    Parameters
    ----------
    function
        Gets one field's two images in float64, already multiplied by the trust mask, (Y, X) or (C, Y, X), in
        normalised intensities, and gives one number: 0 where they are the same.
    name
        What promises and certificates call it. A certificate does not hold the function: it cannot be had by name.
    monotone
        Whether trusting more can never lower it; kept as what you say, and not relied on.
    version
        Goes into `identity`. Change it when something changes that the function's own text does not show, such as
        another function that it calls: a certificate is void for another identity.

    Raises
    ------
    ValueError
        If it is no function, or the name is empty, too long, of more than one line, or that of a built-in distance.
    """
    from napari_maskcal.distance.registry import built_in

    if not callable(function):
        raise ValueError(f"the distance {name} is a {type(function).__name__}; it has to be a function of two images")
    if not re.fullmatch(r"\w[\w .+-]{0,59}", name) or name != name.strip():
        raise ValueError(f"{name!r} cannot name a distance; take up to 60 letters, digits, spaces, or any of . + - _")
    if built_in(name) is not None:
        raise ValueError(f"{name} is the name of a built-in distance; choose another")
    identity = ", ".join(filter(None, (f"version {version}" if version else "", code_sha256(function))))
    return CustomDistance(
        function=function, name=name, sentence_name=f"distance “{name}”", monotone=monotone, identity=identity
    )


def _as_number(given: Any) -> float | None:
    """Return a number of Python, numpy or torch as float; None if it is something else."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):  # such as a tensor with a gradient
        return None
    return float(array) if array.ndim == 0 and array.dtype.kind in "iuf" else None


def _shortened(given: Any) -> str:
    text = " ".join(repr(given).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
