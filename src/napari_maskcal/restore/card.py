"""What a network says about itself, so that no caller has to ask its name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from napari_maskcal.read.names import as_compared
from napari_maskcal.read.percentiles import HIGH, LOW, percentiles
from napari_maskcal.restore.kinds import BUDGET_CELL_PX, VIEWS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

PositiveInt = Annotated[int, Field(ge=1, le=65536)]


class Normalisation(BaseModel):
    """Intensities become ``(plane - low) / (high - low)``, with two percentiles of the degraded plane itself.

    It is measured on the whole plane, never on a tile, so tiles agree; and on one plane only, so that a
    plane's result does not depend on which other planes were selected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low_percentile: float = Field(default=LOW, ge=0, lt=100)
    high_percentile: float = Field(default=HIGH, gt=0, le=100)

    def measure(self, plane: NDArray[Any], *, where: str = "the plane") -> tuple[float, float]:
        """Return the plane's (offset, range) in its own intensity units; `where` names it in the error.

        Raises
        ------
        ValueError
            If both percentiles have the same value: nothing in the plane to restore.
        """
        low, high = percentiles(plane, self.low_percentile, self.high_percentile)
        if not high > low:
            raise ValueError(
                f"{where} is constant: its percentiles {self.low_percentile:g} and {self.high_percentile:g} "
                f"are both {low:g}; leave such planes out"
            )
        return low, high - low


class ModelCard(BaseModel):
    """Everything a caller needs to know of a network.

    Attributes
    ----------
    name
        What the user reads.
    role
        ``"restorer"``: degraded -> restored. ``"mask"``: (degraded, restored) -> uncertainty.
    network
        The architecture's name and its arguments, such as ``{"kind": "unet", "widths": [16, 32, 64]}``.
    axes
        Axes of one input, in order. Only planes, ``"YX"``, so far.
    channels
        Channels of one input image.
    scale_factor
        How many restored pixels one degraded pixel becomes along each axis.
    stride_px
        Input sizes and tile starts have to be multiples of this.
    halo_px
        Radius of the receptive field on the network's own input grid, rounded up to `stride_px`.
        None: unbounded, so the plane is never cut.
    min_size_px
        The smallest plane the network takes along each axis.
    normalisation
        How intensities are prepared.
    licence, citation, trained_on
        For the reader; `trained_on` names the specimens, which calibration must not use again.
    trained_on_sha256
        Content hashes of the training images, so that they are known again under any name.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: Annotated[str, Field(min_length=1, max_length=200)]
    role: Literal["restorer", "mask"]
    network: dict[str, Any]
    axes: Literal["YX"] = "YX"
    channels: PositiveInt = 1
    scale_factor: Annotated[int, Field(ge=1, le=16)] = 1
    stride_px: PositiveInt
    halo_px: Annotated[int, Field(ge=0, le=65536)] | None
    min_size_px: PositiveInt
    normalisation: Normalisation = Normalisation()
    licence: str = ""
    citation: str = ""
    trained_on: tuple[str, ...] = ()
    trained_on_sha256: tuple[str, ...] = ()

    @property
    def context_px(self) -> int:
        """How far around a pixel an error budget adds up; 0 where the uncertainty is that of the pixel itself."""
        return _context_px(self.network)

    @property
    def asks_restorer(self) -> bool:
        """Whether a mask network runs the restorer again, for other views of the image."""
        return any(spec.get("kind") == VIEWS for spec in nested(self.network))

    def knows(self, groups: Iterable[str]) -> list[str]:
        """Return which of `groups` this network was trained on, also those of which only a folder has the name."""
        trained = {as_compared(name) for name in self.trained_on}
        return sorted(
            {group for group in groups if trained & {as_compared(part) for part in (group, *group.split("/"))}}
        )

    def named_in(self, names: Iterable[str]) -> list[str]:
        """Return which of the trained specimens file names tell of, where no groups were named: ``mouse1_07.tif``."""
        texts = [as_compared(name) for name in names]
        patterns = {name: rf"(?<![^\W_]){re.escape(as_compared(name))}(?![^\W_])" for name in self.trained_on}
        return sorted(name for name, pattern in patterns.items() if any(re.search(pattern, text) for text in texts))

    @property
    def names_no_specimens(self) -> bool:
        """Whether it was trained on images that are known by their content alone."""
        return bool(self.trained_on_sha256) and not self.trained_on

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_known(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write no empty list: the hash of a mask network covers its card, and earlier cards had none."""
        content: dict[str, Any] = write(self)
        if not self.trained_on_sha256:
            content.pop("trained_on_sha256", None)
        return content


def nested(spec: Any) -> Iterator[dict[str, Any]]:
    """Yield an architecture and all that it is made of."""
    if not isinstance(spec, dict):
        return
    yield spec
    members = spec.get("members")
    for inner in (spec.get("of"), *(members if isinstance(members, list | tuple) else ())):
        yield from nested(inner)


def _context_px(spec: Any) -> int:
    """Return the reach of the error budgets in an architecture, wherever they are nested."""
    if not isinstance(spec, dict):
        return 0
    members = spec.get("members")
    inner = [spec.get("of"), *(members if isinstance(members, list | tuple) else [])]
    radius = spec.get("radius_cells")
    own = BUDGET_CELL_PX * (radius + 1) if spec.get("kind") == "budget" and isinstance(radius, int) else 0
    return own + max(map(_context_px, inner))


def parse_card(text: str, *, source: str) -> ModelCard:
    """Return the card in a JSON text.

    Raises
    ------
    ValueError
        In one line, if the text is not a model card; `source` names the file it came from.
    """
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{source} has no valid model card: {first_fault(error)}") from error


def first_fault(error: ValidationError) -> str:
    """One line for the first of pydantic's complaints."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])
