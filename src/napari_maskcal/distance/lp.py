"""L1, L2 and Lp: the power mean of the error over all pixels of a field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def error_magnitude(restored: NDArray[Any], truth: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return |restored - truth| per pixel, in float64; with a leading channel axis, the norm over channels."""
    error = np.subtract(restored, truth, dtype=np.float64)
    if error.ndim == len(shape) + 1:
        return np.asarray(np.sqrt(np.square(error).sum(axis=0)))
    return np.asarray(np.abs(error))


def power_of_two(error: NDArray[np.float64]) -> float:
    """Return the power of two above the largest error: in this unit no power of it overflows, and none is rounded."""
    return float(np.ldexp(1.0, np.frexp(error.max())[1]))


@dataclass(frozen=True, slots=True)
class Lp:
    """(mean of |trust * (restored - truth)|^p) ^ (1/p), in the units of the images.

    The mean runs over all pixels of the field, masked ones too (they count 0), so the distance never falls
    when more pixels are trusted: it is monotone, and "the largest threshold that passes" is well defined.
    """

    p: float
    name: str
    monotone: bool = True

    def __call__(self, trust: NDArray[Any], error: NDArray[np.float64]) -> float:
        """Return the distance of a field with pixelwise error magnitudes `error`, of the shape of `trust`."""
        trusted = trust * error
        unit = power_of_two(trusted)
        return float(unit * np.mean((trusted / unit) ** self.p) ** (1 / self.p))

    @property
    def sentence_name(self) -> str:
        """What the promise calls it."""
        known = {1.0: "mean absolute error", 2.0: "root-mean-square error"}
        return known.get(self.p, f"L{self.p:g} error")
