"""L-infinity: the largest error in the trusted part, of the images or of their blurred versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_maskcal.distance.base import each_field, shortest
from napari_maskcal.distance.lp import error_magnitude

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LInfinity:
    """The maximum over all pixels of trust * |G restored - G truth|, in the units of the images.

    G is a Gaussian blur of both images before anything is masked (none by default): with it the error of a
    single noisy pixel counts less than one of the size of a structure. Since the blur does not depend on the
    trust, the distance stays monotone, and its threshold exact.

    Attributes
    ----------
    blur_px
        Standard deviation of the Gaussian, in pixels of the restored grid; 0 for none.
    """

    blur_px: float = 0.0

    monotone: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    in_intensity_units: ClassVar[bool] = True
    identity: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """``"linf"``, or with its blur ``"linf-blur2"``."""
        return f"linf-blur{shortest(self.blur_px)}" if self.blur_px else "linf"

    def error(self, restored: NDArray[Any], truth: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the error of each pixel after the blur; over channels, their norm."""
        if not self.blur_px:
            return error_magnitude(restored, truth, shape)
        from scipy.ndimage import gaussian_filter

        difference = np.subtract(restored, truth, dtype=np.float64)
        axes = tuple(range(-len(shape), 0))
        blurred = gaussian_filter(difference, self.blur_px, axes=axes)
        return error_magnitude(blurred, np.zeros_like(blurred), shape)

    def between(self, trust: NDArray[Any], restored: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
        """Return the distances of N fields; see `Distance.between`."""
        return each_field(self, trust, restored, truth)

    def __call__(self, trust: NDArray[Any], error: NDArray[np.float64]) -> float:
        """Return the distance of a field with pixelwise errors `error`, of the shape of `trust`."""
        return float((trust * error).max())

    @property
    def sentence_name(self) -> str:
        """What the promise calls it."""
        if self.blur_px:
            return f"largest error of any pixel after a blur of {shortest(self.blur_px)} pixels"
        return "largest error of any pixel"
