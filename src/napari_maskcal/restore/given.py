"""Restored images and uncertainty maps that somebody else made: they come with the image, plane by plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_maskcal.models import MaskModel, Restorer
    from napari_maskcal.read.image import Image

Index = tuple[int, ...]
_WHAT = {"restored": "restored image", "uncertainty": "uncertainty map"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What comes with the image instead of from a network.

    Attributes
    ----------
    restored
        In the intensity units of the image, of its shape.
    uncertainty
        Above 0, in any unit, on the grid of the restored image.
    """

    restored: Image | None = None
    uncertainty: Image | None = None

    def check_in_memory(self, indices: Sequence[Index]) -> None:
        """Check the planes at once where that is cheap; see `Image.check_in_memory`."""
        for image in (self.restored, self.uncertainty):
            if image is not None:
                image.check_in_memory(list(indices))


NOTHING_GIVEN = Given()


def check_given(image: Image, restorer: Restorer, mask_model: MaskModel, given: Given) -> None:
    """Raise ValueError unless just what the networks do not make is given, in the right shape."""
    check_asked(restorer, mask_model)
    factor = restorer.card.scale_factor
    for part, model, made in (
        ("restored", restorer, given.restored),
        ("uncertainty", mask_model, given.uncertainty),
    ):  # fmt: skip
        what = _WHAT[part]
        if model.network is None and made is None:
            raise ValueError(f"{model.card.name} makes no {what} itself: give one, {part}=..., with {image.name}")
        if model.network is not None and made is not None:
            raise ValueError(f"{made.name} was given, but {model.card.name} makes its own {what}; leave out either")
        if made is not None and (fault := grid_fault(image.shape, made.shape, part=part, factor=factor)):
            raise ValueError(f"{made.name} {fault}")
        if made is not None and made.axes != image.axes:
            raise ValueError(f"{made.name} has axes {made.axes}, but {image.name} has {image.axes}; name them alike")


def check_asked(restorer: Restorer, mask_model: MaskModel) -> None:
    """Raise ValueError if the mask network asks a restorer that is not there, or that takes no planes."""
    if not mask_model.card.asks_restorer or restorer.can_be_asked:
        return
    told = f"{mask_model.card.name} asks the restorer again, for turned views of the plane, and {restorer.card.name}"
    if restorer.network is None:
        raise ValueError(f"{told} cannot be asked; choose the restorer itself")
    raise ValueError(f"{told} restores whole volumes; choose another uncertainty, such as a trained mask network")


def grid_fault(shape: tuple[int, ...], found: tuple[int, ...], *, part: str, factor: int = 1) -> str:
    """Return why a map of shape `found` does not fit an image of `shape` or its restored grid; empty if it does."""
    expected = (*shape[:-2], *(factor * n for n in shape[-2:]))
    if found == expected:
        return ""
    rule = {
        "restored": "a restored image that is given has to lie on the grid of the degraded one",
        "uncertainty": "an uncertainty map has to lie on the grid of the restored image",
    }[part]
    return f"has shape {found}, not {expected}: {rule}"


def read_uncertainty(image: Image, index: Index) -> NDArray[np.float32]:
    """Return a plane of an uncertainty map that was given, (Y, X), never less uncertain than it says.

    Raises
    ------
    ValueError
        If it has values that are not above 0, not finite, or too large for float32; the message counts them.
    """
    plane = image.read_plane(index)
    if count := int(np.count_nonzero(~(plane > 0))):
        raise ValueError(
            f"{image.describe(index)}: the uncertainty has {count} values that are 0 or less; a pixel is never quite "
            "certain: add a small number to the whole map"
        )
    rounded = never_less_uncertain(plane)
    if count := int(np.count_nonzero(np.isinf(rounded))):
        raise ValueError(
            f"{image.describe(index)}: the uncertainty has {count} values too large for float32; scale it down"
        )
    return rounded


def never_less_uncertain(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return the smallest float32 numbers that are not below `values`, which are above 0.

    A value that the nearest float32 lies below could come to lie at or below the threshold, and be believed by
    mistake. Below float32's normal range, where some processors round to 0, it is the smallest normal number.
    """
    exact = values.astype(np.float64)  # holds integers of 32 bits as well
    with np.errstate(over="ignore", under="ignore"):
        nearest = exact.astype(np.float32)
    up = np.where(nearest < exact, np.nextafter(nearest, np.float32(np.inf)), nearest)
    return np.maximum(up, np.finfo(np.float32).tiny)
