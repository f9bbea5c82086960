"""What a network says about itself, so that no caller has to ask its name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from napari_maskcal.read.names import as_compared, shown
from napari_maskcal.read.percentiles import HIGH, LOW, percentiles
from napari_maskcal.read.pixel_size import PixelSize
from napari_maskcal.restore.kinds import BUDGET_CELL_PX, VIEWS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

Axes = Literal["YX", "ZYX"]
PositiveInt = Annotated[int, Field(ge=1, le=65536)]


class Normalisation(BaseModel):
    """Intensities become ``(plane - offset) / span``, with two numbers of the degraded image itself, or fixed ones.

    They are measured on a whole plane or stack, never on a tile, so tiles agree; and never on the selected planes, so
    that a plane's result does not depend on which others were selected.

    Attributes
    ----------
    kind
        ``"percentile"``: from one percentile to the other. ``"range"``: from the smallest value to the largest.
        ``"mean_std"``: mean and standard deviation. ``"fixed"``: `offset` and `span`.
    scope
        On what they are measured: the ``"plane"`` by itself, or all of the ``"stack"`` of planes along Z that it is in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["percentile", "range", "mean_std", "fixed"] = "percentile"
    low_percentile: float = Field(default=LOW, ge=0, lt=100)
    high_percentile: float = Field(default=HIGH, gt=0, le=100)
    offset: float = Field(default=0.0, allow_inf_nan=False)
    span: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    scope: Literal["plane", "stack"] = "plane"

    @property
    def needs_stack(self) -> bool:
        """Whether other planes than the one to be restored have to be looked at."""
        return self.scope == "stack" and self.kind != "fixed"

    def measure(self, plane: NDArray[Any], *, where: str = "the plane") -> tuple[float, float]:
        """Return the plane's (offset, span) in its own intensity units; `where` names it in the error.

        Raises
        ------
        ValueError
            If the span is 0: nothing in the plane to restore.
        """
        if self.kind == "fixed":
            return self.offset, self.span
        if self.kind == "mean_std":
            first, second = float(plane.mean(dtype=np.float64)), float(plane.std(dtype=np.float64))
        elif self.kind == "range":
            first, second = float(plane.min()), float(plane.max())
        else:
            first, second = percentiles(plane, self.low_percentile, self.high_percentile)
        return self.units(first, second, where=where)

    def units(self, first: float, second: float, *, where: str, rest: str = "such planes") -> tuple[float, float]:
        """Return (offset, span) for the two numbers that were measured: mean and deviation, or low and high.

        Raises
        ------
        ValueError
            If the span is 0; `where` is constant, and the `rest` is what should be left out.
        """
        if self.kind == "mean_std":
            offset, span, told = first, second, f"its standard deviation is {second:g}"
        elif self.kind == "range":
            offset, span, told = first, second - first, f"all its values are {first:g}"
        else:
            offset, span = first, second - first
            told = f"its percentiles {self.low_percentile:g} and {self.high_percentile:g} are both {first:g}"
        if not span > 0:
            raise ValueError(f"{where} is constant: {told}; leave {rest} out")
        return offset, span

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_used(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write what the kind depends on: the hash of a mask network covers this, and earlier ones had no kinds."""
        content: dict[str, Any] = write(self)
        used = {"percentile": ("low_percentile", "high_percentile"), "fixed": ("kind", "offset", "span")}
        names = [*used.get(self.kind, ("kind",)), *(["scope"] if self.scope != "plane" else [])]
        return {name: content[name] for name in names if name in content}


class ModelCard(BaseModel):
    """Everything a caller needs to know of a network.

    Fields that only a newer version knows are kept, and are part of the mask network's hash.

    Attributes
    ----------
    name
        What the user reads.
    role
        ``"restorer"``: degraded -> restored. ``"mask"``: (degraded, restored) -> uncertainty.
    network
        The architecture's name and its arguments, such as ``{"kind": "unet", "widths": [16, 32, 64]}``.
    axes
        Axes of one input, in order: planes, ``"YX"``, or of a restorer also volumes, ``"ZYX"``, which keep their size.
    channels
        Channels of one input image.
    scale_factor
        How many restored pixels one degraded pixel becomes along each axis.
    stride_px
        Input sizes and tile starts have to be multiples of this along Y and X.
    halo_px
        Radius of the receptive field on the network's own input grid, rounded up to `stride_px`.
        None: unbounded, so the plane, or the volume, is never cut.
    min_size_px
        The smallest plane the network takes along each axis.
    stride_z, halo_z, min_size_z
        The same along Z, in planes; for volumes alone.
    normalisation
        How intensities are brought to shares of the plane's range: the unit of the uncertainty and of tolerances.
    takes
        How a restorer of others wants its input, if otherwise than in that unit. See `taken`.
    dtype
        What the network is calibrated and run in.
    pixel_size
        Of the degraded images that it was trained on, where that is known.
    licence, citation, trained_on
        For the reader; `trained_on` names the specimens, which calibration must not use again.
    trained_on_sha256
        Content hashes of the training images, so that they are known again under any name.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: Annotated[str, Field(min_length=1, max_length=200)]
    role: Literal["restorer", "mask"]
    network: dict[str, Any]
    axes: Axes = "YX"
    channels: PositiveInt = 1
    scale_factor: Annotated[int, Field(ge=1, le=16)] = 1
    stride_px: PositiveInt
    halo_px: Annotated[int, Field(ge=0, le=65536)] | None
    min_size_px: PositiveInt
    stride_z: PositiveInt = 1
    halo_z: Annotated[int, Field(ge=0, le=65536)] | None = 0
    min_size_z: PositiveInt = 1
    normalisation: Normalisation = Normalisation()
    takes: Normalisation | None = None
    dtype: Literal["float32"] = "float32"
    pixel_size: PixelSize | None = None
    licence: str = ""
    citation: str = ""
    trained_on: tuple[str, ...] = ()
    trained_on_sha256: tuple[str, ...] = ()

    @field_validator("normalisation")
    @classmethod
    def _is_a_range(cls, normalisation: Normalisation) -> Normalisation:
        if normalisation.kind != "percentile" or normalisation.scope != "plane":
            raise ValueError(
                "tolerances are shares of a range between percentiles of a plane; what a restorer takes is in `takes`"
            )
        return normalisation

    @model_validator(mode="after")
    def _volumes_are_restored_in_their_own_size(self) -> ModelCard:
        if self.of_volumes and (self.role != "restorer" or self.scale_factor != 1):
            raise ValueError("only a restorer that keeps the size of its image is one of volumes, ZYX")
        return self

    @property
    def of_volumes(self) -> bool:
        """Whether it takes volumes, and not one plane at a time."""
        return self.axes == "ZYX"

    @property
    def taken(self) -> Normalisation:
        """How the restorer's input is prepared: a volume in one way for all its planes."""
        taken = self.takes or self.normalisation
        return taken.model_copy(update={"scope": "stack"}) if self.of_volumes and taken.kind != "fixed" else taken

    @property
    def needs_stack(self) -> bool:
        """Whether a plane is restored otherwise, depending on the planes above and below it."""
        return self.of_volumes or self.taken.needs_stack

    def prepared(
        self, plane: NDArray[Any], offset: float, span: float, *, where: str, stack: tuple[float, float] | None = None
    ) -> tuple[float, float] | None:
        """Return the (gain, shift) from a normalised plane to what the network takes; None where that is the same.

        Parameters
        ----------
        plane
            As it was measured; `offset` and `span` are those of `normalisation`.
        stack
            What `takes` measured on the plane's stack, where it needs that.

        Raises
        ------
        ValueError
            If it needs that, and it is not given.
        """
        if self.takes is None:
            return None
        if self.takes.needs_stack and stack is None:
            raise ValueError(
                f"{self.name} takes intensities in the range of a whole stack, and {where} is a plane by itself; "
                "restore the stack by pipeline.run"
            )
        own_offset, own_span = stack or self.takes.measure(plane, where=where)
        return span / own_span, (offset - own_offset) / own_span

    @property
    def context_px(self) -> int:
        """How far around a pixel an error budget adds up; 0 where the uncertainty is that of the pixel itself."""
        budgets = (spec.get("radius_cells") for spec in nested(self.network) if spec.get("kind") == "budget")
        return sum(BUDGET_CELL_PX * (radius + 1) for radius in budgets if isinstance(radius, int))

    @property
    def asks_restorer(self) -> bool:
        """Whether a mask network runs the restorer again, for other views of the image."""
        return any(spec.get("kind") == VIEWS for spec in nested(self.network))

    def doubt(self, found: PixelSize | None, *, name: str) -> str:
        """Say that an image shows things at another magnification than the network was trained at, or nothing.

        A promise made on such images holds all the same; the restorer may err more, and the masks be larger.
        """
        if found is None or self.pixel_size is None or self.pixel_size.is_like(found):
            return ""
        if self.pixel_size.times(found) is None:
            return f"{name} has pixels of {found}, and {self.name} was trained at {self.pixel_size}: one is no length"
        return (
            f"{name} has pixels of {found}, but {self.name} was trained at {self.pixel_size}: it may restore badly, "
            "and much may be marked"
        )

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
        """Write nothing empty, and nothing of volumes in a card of planes."""
        content: dict[str, Any] = write(self)
        for name in ("trained_on_sha256", "takes", "pixel_size"):
            if not content.get(name):
                content.pop(name, None)
        if not self.of_volumes:
            for name in ("stride_z", "halo_z", "min_size_z"):
                content.pop(name, None)
        return content


def nested(spec: Any) -> Iterator[dict[str, Any]]:
    """Yield an architecture and all that it is made of."""
    if not isinstance(spec, dict):
        return
    yield spec
    members = spec.get("members")
    for inner in (spec.get("of"), *(members if isinstance(members, list | tuple) else ())):
        yield from nested(inner)


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
    where = shown(".".join(str(part) for part in fault["loc"]))[1:-1]
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])
