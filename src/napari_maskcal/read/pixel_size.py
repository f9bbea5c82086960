"""How large a pixel is: whether two images show things at the same magnification."""

from __future__ import annotations

import re
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNKNOWN = "pixel"  # the unit of images that do not say how large a pixel is
_ALIKE = 0.1  # of the size: the steps between a microscope's magnifications are larger, its calibration errors smaller
_UNIT = r"[^\W\d_]\w{0,31}"  # one name: pint would compute whatever expression a file has in its place
_Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PixelSize(BaseModel):
    """Size of a pixel along Y and X, in one unit that pint knows, such as ``"micrometer"``."""

    model_config = ConfigDict(frozen=True, extra="allow")

    y: _Length
    x: _Length
    unit: Annotated[str, Field(pattern=f"^{_UNIT}$")]

    def __str__(self) -> str:
        return f"{self.y:.4g} × {self.x:.4g} {self.unit}"

    def is_like(self, other: PixelSize) -> bool:
        """Whether both are the same to a tenth; they are not where nobody can tell, since a unit is no length."""
        ratio = self.times(other)
        pairs = ((self.y, other.y), (self.x, other.x))
        return ratio is not None and all(abs(ratio * own / their - 1) <= _ALIKE for own, their in pairs)

    def times(self, other: PixelSize) -> float | None:
        """Return how many of the other's unit one of this unit is; None where one of them is no length."""
        return 1.0 if self.unit == other.unit else _ratio(self.unit, other.unit)


def pixel_size(scale: Sequence[float], units: Sequence[str]) -> PixelSize | None:
    """Return the size of a pixel from scale and units along the axes of an image; None where it is not known."""
    (y, x), (unit, other) = (abs(float(one)) for one in scale[-2:]), units[-2:]
    known = unit == other != _UNKNOWN and re.fullmatch(_UNIT, unit) and all(isfinite(one) and one > 0 for one in (y, x))
    return PixelSize(y=y, x=x, unit=unit) if known else None


def _ratio(unit: str, other: str) -> float | None:
    """Return how many of the second unit one of the first is; None if one of them is no length."""
    import pint  # a quarter of a second

    known: Any = pint.get_application_registry()  # type: ignore[no-untyped-call]
    try:
        return float(known.Quantity(1.0, unit).to(other).magnitude)
    except (pint.PintError, AttributeError, TypeError, ValueError):
        return None
