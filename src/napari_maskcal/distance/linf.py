"""L-infinity: the largest error in the trusted part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LInfinity:
    """The maximum over all pixels of |trust * (restored - truth)|, in the units of the images."""

    name: str = "linf"
    monotone: bool = True

    def __call__(self, trust: NDArray[Any], error: NDArray[np.float64]) -> float:
        """Return the distance of a field with pixelwise error magnitudes `error`, of the shape of `trust`."""
        return float((trust * error).max())

    @property
    def sentence_name(self) -> str:
        """What the promise calls it."""
        return "largest error of any pixel"
