"""Between napari layers and this package's images: what goes in, and where results lie."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from napari_maskcal.pipeline import Review
from napari_maskcal.read.image import Image, from_array, propose_axes
from napari_maskcal.read.pixel_size import pixel_size
from napari_maskcal.review.overlay import COLOURS, OPACITY, TRUSTED
from napari_maskcal.review.request import Source

METADATA_KEY = "napari_maskcal"
_AXIS_NAMES = {
    **dict.fromkeys(("t", "time", "frame", "frames"), "T"),
    **dict.fromkeys(("c", "ch", "channel", "channels"), "C"),
    **dict.fromkeys(("z", "depth", "plane", "slice"), "Z"),
    "y": "Y",
    "x": "X",
}


def describe_layer(layer: Layer | None) -> Source | None:
    """Return what can be said of a layer without its pixels."""
    if layer is None:
        return None
    return Source(
        key=str(layer.unique_id),
        name=layer.name,
        kind=layer.__class__.__name__.lower(),  # not type(): plugins are handed proxies
        rgb=bool(getattr(layer, "rgb", False)),
        shape=tuple(full_resolution(layer).shape) if isinstance(layer, ImageLayer | LabelsLayer) else (),
        dtype=str(full_resolution(layer).dtype) if isinstance(layer, ImageLayer) else "",
        pixel_size=pixel_size(layer.scale, [str(unit) for unit in layer.units]),
    )


def full_resolution(layer: Layer) -> Any:
    """Return a layer's data, the finest level of a pyramid."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def named_axes(layer: Layer) -> tuple[str, bool]:
    """Return the layer's axes as letters, and whether the layer itself says so.

    napari's own labels for unnamed axes are "-3", "-2", "-1"; for these the usual order is proposed.
    """
    letters = [_AXIS_NAMES.get(str(label).lower(), "?") for label in layer.axis_labels]
    if "?" not in letters and len(set(letters)) == len(letters):
        return "".join(letters), True
    return propose_axes(layer.ndim), False


def image_of(layer: ImageLayer, axes: str) -> Image:
    """Return the layer's pixels with their axes, pixel size and units."""
    return from_array(
        full_resolution(layer),
        axes=axes,
        scale=tuple(float(s) for s in layer.scale),
        units=tuple(str(unit) for unit in layer.units),
        name=layer.name,
    )


def arrays_of(layers: Mapping[str, ImageLayer | None]) -> dict[str, Image]:
    """Return the pixels of layers of (fields, Y, X) or (Y, X), for a thread that must not see the layers."""
    return {part: image_of(layer, "TYX"[-layer.ndim :]) for part, layer in layers.items() if layer is not None}


def view_point(viewer: Any, layer: Layer) -> tuple[float, ...]:
    """Return where the viewer's sliders stand, in the units of the layer: the viewer's may be smaller."""
    point = viewer.dims.point[-layer.ndim :]
    units = getattr(viewer.layers.extent, "units", None)
    if units is None:
        return tuple(point)
    pairs = zip(units[-layer.ndim :], layer.units, strict=True)
    factors = [(1 * theirs).to(own).magnitude if theirs.is_compatible_with(own) else 1.0 for theirs, own in pairs]
    return tuple(value * factor for value, factor in zip(point, factors, strict=True))


def visible_plane(layer: Layer, point: tuple[float, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the index, along the leading axes, of the plane of an array of `shape` that lies at a world point."""
    position = layer.world_to_data(point[-layer.ndim :])[:-2]
    return tuple(
        min(max(math.floor(value + 0.5), 0), n - 1) for value, n in zip(position, shape[:-2], strict=True)
    )  # fmt: skip


def plane_at(layer: Layer, point: tuple[float, ...]) -> tuple[int, ...] | None:
    """Return the index of a result's plane at a world point; None outside of it."""
    position = [math.floor(value + 0.5) for value in layer.world_to_data(point[-layer.ndim :])[:-2]]
    inside = all(0 <= i < n for i, n in zip(position, layer.data.shape[:-2], strict=True))
    return tuple(position) if inside else None


def placement(layer: ImageLayer, review: Review) -> dict[str, Any]:
    """Return the seven properties that put a result where it belongs in the input's world.

    A result pixel i lies at input pixel ``(i + 1/2) / factor - 1/2`` along Y and X, and at ``i + first`` along
    the leading axes, so that a single plane or channel appears only where it was taken from.
    """
    factor = review.scale_factor
    shrink = np.array([1.0] * len(review.first) + [1 / factor] * 2)
    origin = np.array([*review.first, *[(1 / factor - 1) / 2] * 2], dtype=float)
    linear = Affine(scale=layer.scale, rotate=layer.rotate, shear=layer.shear).linear_matrix
    return {
        "scale": np.asarray(layer.scale) * shrink,
        "translate": np.asarray(layer.translate) + linear @ origin,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def result_layers(layer: ImageLayer, review: Review) -> tuple[ImageLayer, ImageLayer, LabelsLayer]:
    """Return new layers over the arrays of a review: restored, uncertainty (hidden) and uncertain."""
    placed = placement(layer, review)
    colours: dict[int | None, str] = {None: "transparent", TRUSTED: "transparent", **COLOURS}
    restored = ImageLayer(
        review.restored,
        name="restored",
        colormap=layer.colormap,
        contrast_limits=layer.contrast_limits,
        gamma=layer.gamma,
        blending="translucent",
        **placed,
    )
    uncertainty = ImageLayer(
        review.uncertainty,
        name="uncertainty",
        colormap="magma",
        contrast_limits=(0.0, _brightest(review)),
        visible=False,
        **placed,
    )
    uncertain = LabelsLayer(
        review.uncertain,
        name="uncertain",
        opacity=OPACITY,
        colormap=DirectLabelColormap(color_dict=colours),
        **placed,
    )
    uncertain.editable = False
    return restored, uncertainty, uncertain


def display_range(plane: NDArray[np.float32]) -> tuple[float, float]:
    """Return contrast limits that show a restored plane whole but for a few extreme pixels."""
    low, high = (float(value) for value in np.percentile(plane, (0.1, 99.95)))
    return (low, high) if high > low else (low, low + 1.0)


def _brightest(review: Review) -> float:
    """Top of the uncertainty's display range: twice the threshold, so that the threshold is mid-scale."""
    threshold = review.certificate.threshold
    return 2 * threshold if 0 < threshold < math.inf else 1.0


def is_result(layer: Layer | None) -> bool:
    """Whether a layer was drawn by this package."""
    return layer is not None and METADATA_KEY in layer.metadata
