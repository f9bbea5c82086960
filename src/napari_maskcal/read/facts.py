"""What the pixels of one plane are, in a few numbers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.read.percentiles import percentiles

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Content of a plane.

    Attributes
    ----------
    sha256
        `content_hash` of the plane.
    minimum, maximum
        Of the pixels; NaN where not all are finite.
    low, high
        The percentiles between which intensities are normalised; NaN likewise.
    nonfinite
        Number of NaN and infinite pixels.
    first
        (y, x) of the first of them.
    """

    sha256: str
    minimum: float
    maximum: float
    low: float
    high: float
    nonfinite: int = 0
    first: tuple[int, int] | None = None

    @property
    def constant(self) -> bool:
        """Whether all pixels are the same number."""
        return self.minimum == self.maximum


def measure(plane: NDArray[Any]) -> Facts:
    """Return the facts of a (Y, X) plane that has pixels."""
    sha256 = content_hash(plane)
    minimum, maximum = float(plane.min()), float(plane.max())
    if np.isfinite(minimum) and np.isfinite(maximum):
        low, high = percentiles(plane)
        return Facts(sha256=sha256, minimum=minimum, maximum=maximum, low=low, high=high)
    wrong = ~np.isfinite(plane)
    y, x = np.unravel_index(int(wrong.argmax()), plane.shape)
    nan = float("nan")
    return Facts(
        sha256=sha256, minimum=nan, maximum=nan, low=nan, high=nan, nonfinite=int(np.count_nonzero(wrong)),
        first=(int(y), int(x)),
    )  # fmt: skip


def content_hash(plane: NDArray[Any]) -> str:
    """Return the SHA-256 of shape and values, the same on every computer, and for a copy in another dtype."""
    values = np.ascontiguousarray(plane, "<f8") + 0.0  # holds every value that images may have; -0 becomes 0
    digest = hashlib.sha256(f"{values.shape} ".encode())
    digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def facts_to_bytes(facts: Facts) -> bytes:
    """Return what `facts_from_bytes` reads."""
    return json.dumps(asdict(facts)).encode()


def facts_from_bytes(stored: bytes) -> Facts:
    """Return the facts that were stored."""
    values = json.loads(stored)
    return Facts(**values | {"first": tuple(values["first"]) if values["first"] else None})
