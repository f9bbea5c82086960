"""What CAREamics, up to 0.3.5 at least, leaves out of the bioimage.io packages that it exports.

Sizes: it writes those of its example, though the U-Net takes all multiples of 2 to the power of its depth. Range of the
answer: it writes how to undo the normalisation of the degraded image, though a network that was trained with a target
answers in that of the target. The configuration that it attaches says it.
"""

from __future__ import annotations

from math import isclose
from typing import TYPE_CHECKING, Any

from napari_maskcal.restore.loaders.bioimage_steps import Affine
from napari_maskcal.restore.loaders.careamics_model import DEEPEST, trained_range

if TYPE_CHECKING:
    from pathlib import Path

    from napari_maskcal.restore.card import Normalisation

CONFIGURATION = "careamics.yaml"
_UNET = ("careamics.models.unet", "UNet")
_STEPS = {"ensure_dtype", "fixed_zero_mean_unit_variance"}
_SAME = 1e-3


def is_exported(description: dict[str, Any]) -> bool:
    """Whether a package is as CAREamics exports it: its U-Net alone, its steps alone, and its configuration."""
    try:
        (image,), (answer,) = description["inputs"], description["outputs"]
        steps = {step["id"] for step in [*image.get("preprocessing", []), *answer.get("postprocessing", [])]}
        attached = [entry["source"] for entry in description["attachments"]]
        (kind,), architecture = description["weights"], description["weights"]["pytorch_state_dict"]["architecture"]
        depth = architecture["kwargs"]["depth"]
        named = (architecture["import_from"], architecture["callable"])
        axes = [*image["axes"], *answer["axes"]]
        return (
            (kind, *named) == ("pytorch_state_dict", *_UNET)
            and type(depth) is int
            and 1 <= depth <= DEEPEST
            and steps <= _STEPS
            and CONFIGURATION in attached
            and all(isinstance(axis.get("id", ""), str) for axis in axes)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def completed(description: dict[str, Any]) -> dict[str, Any]:
    """Return the description of an exported package with the sizes that are taken, and no step behind the network.

    That of any other package is returned as it is.
    """
    if not is_exported(description):
        return description
    grid = 2 ** description["weights"]["pytorch_state_dict"]["architecture"]["kwargs"]["depth"]
    (image,), (answer,) = description["inputs"], description["outputs"]
    given = {axis.get("id"): axis.get("size") for axis in image["axes"]}

    def freed(axis: dict[str, Any]) -> dict[str, Any]:
        return axis | {"size": {"min": grid, "step": grid}} if isinstance(axis.get("size"), int) else axis

    def following(axis: dict[str, Any]) -> dict[str, Any]:
        name, size = axis.get("id"), axis.get("size")
        if not isinstance(size, int) or given.get(name) != size:
            return axis
        return axis | {"size": {"tensor_id": image.get("id", "input"), "axis_id": name}}

    image = image | {"axes": [freed(axis) for axis in image["axes"]]}
    answer = answer | {"axes": [following(axis) for axis in answer["axes"]], "postprocessing": []}
    return description | {"inputs": [image], "outputs": [answer]}


def to_answers_range(configuration: Any, taken: Normalisation, path: Path) -> Affine:
    """Return what brings the answer of an exported network into the range that its input was normalised with.

    Parameters
    ----------
    configuration
        That is attached to the package.
    taken
        How the package says that its input is normalised.

    Raises
    ------
    ValueError
        If the configuration does not say the ranges, or another one for the input.
    """
    data = configuration.get("data_config") if isinstance(configuration, dict) else None
    mean, spread = trained_range(data, "input", path)
    same = isclose(taken.span, spread, rel_tol=_SAME) and abs(taken.offset - mean) <= _SAME * spread
    if taken.kind != "fixed" or not same:
        raise ValueError(
            f"{path} normalises its input by {taken.offset:g} and {taken.span:g}, but its {CONFIGURATION} says that "
            f"it was trained with {mean:g} and {spread:g}; export it from CAREamics again"
        )
    offset, span = trained_range(data, "target", path)
    return Affine(span / taken.span, (offset - taken.offset) / taken.span)
