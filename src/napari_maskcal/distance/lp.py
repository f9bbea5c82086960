"""L1, L2 and Lp: the power mean of the error over all pixels of a field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_maskcal.distance.base import each_field, shortest

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def error_magnitude(restored: NDArray[Any], truth: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return |restored - truth| per pixel, in float64; with a leading channel axis, the norm over channels."""
    error = np.subtract(restored, truth, dtype=np.float64)
    if error.ndim == len(shape) + 1:
        return np.asarray(np.sqrt(np.square(error).sum(axis=0)))
    return np.asarray(np.abs(error, out=error))


def power_of_two(error: NDArray[np.float64]) -> float:
    """Return the power of two above the largest error: in this unit no power of it overflows, and none is rounded."""
    return float(np.ldexp(1.0, np.frexp(error.max())[1]))


def safe_unit(error: NDArray[np.float64], p: float) -> float:
    """Return the unit in which p-th powers of these errors, and sums of them, stay inside float64's range: mostly 1."""
    largest = float(error.max())
    return 1.0 if p <= 2 and 1e-100 < largest < 1e100 else power_of_two(error)


@dataclass(frozen=True, slots=True)
class Lp:
    """(mean of |trust * (restored - truth)|^p) ^ (1/p), in the units of the images.

    The mean runs over all pixels of the field, masked ones too (they count 0), so the distance never falls
    when more pixels are trusted: it is monotone, and "the largest threshold that passes" is well defined.
    """

    p: float

    monotone: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    in_intensity_units: ClassVar[bool] = True
    identity: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """``"l1"``, ``"l1.5"``; different for any two p, however close."""
        return f"l{shortest(self.p)}"

    def error(self, restored: NDArray[Any], truth: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return |restored - truth| of each pixel; over channels, their norm."""
        return error_magnitude(restored, truth, shape)

    def between(self, trust: NDArray[Any], restored: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
        """Return the distances of N fields; see `Distance.between`."""
        return each_field(self, trust, restored, truth)

    def loss(self, trust: Tensor, restored: Tensor, truth: Tensor) -> Tensor:
        """Return mean |trust * (restored - truth)|^p, the distance to the power of p: it has a gradient at 0 too."""
        return (trust * (restored - truth)).abs().pow(self.p).mean()

    def __call__(self, trust: NDArray[Any], error: NDArray[np.float64]) -> float:
        """Return the distance of a field with pixelwise error magnitudes `error`, of the shape of `trust`."""
        trusted = trust * error
        if (unit := safe_unit(trusted, self.p)) != 1:
            trusted /= unit
        powers = trusted if self.p == 1 else np.square(trusted) if self.p == 2 else trusted**self.p
        return float(unit * powers.mean() ** (1 / self.p))

    @property
    def sentence_name(self) -> str:
        """What the promise calls it."""
        known = {1.0: "mean absolute error", 2.0: "root-mean-square error"}
        return known.get(self.p, f"L{shortest(self.p)} error")
