"""The calibration field that is looked at, as one set of layers that is used again for each."""

from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer
from napari.layers import Shapes as ShapesLayer
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from napari_maskcal._widgets.calibration_work import SeenField
from napari_maskcal._widgets.layers import METADATA_KEY, display_range
from napari_maskcal.review.overlay import COLOURS, OPACITY, TRUSTED, mark_uncertain

_PREFIX, _OUTDATED = "calibration field: ", "outdated field: "  # napari cuts a long name in its middle


class FieldLayers:
    """Degraded, truth, restored, |error| and the uncertain regions of one field."""

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.seen: SeenField | None = None
        self._outdated = False
        self._layers: dict[str, Layer] = {}

    def show(self, seen: SeenField, threshold: float, *, beside: ImageLayer | None = None) -> None:
        """Draw a field, in place of the one before, and where the layer lies that it was taken from, if any."""
        active, first = self.viewer.layers.selection.active, not self._present()
        self.seen = seen
        factor = seen.restored.shape[0] / seen.degraded.shape[0]
        placed = _placement(seen, factor, beside)
        limits = display_range(np.stack([seen.restored, seen.truth]))
        error = np.abs(seen.restored.astype(np.float64) - seen.truth).astype(np.float32)
        self._image("degraded", seen.degraded, limits, _placement(seen, 1.0, beside))
        self._image("truth", seen.truth, limits, placed)
        self._image("restored", seen.restored, limits, placed)
        self._image("error", error, (0.0, max(float(np.percentile(error, 99.8)), 1e-9)), placed)
        self._marks(threshold, placed)
        self._outline(seen, placed)
        if first:
            self.viewer.reset_view()
        if active in self.viewer.layers:
            self.viewer.layers.selection.active = active

    def mark(self, threshold: float) -> None:
        """Mark the same field at another threshold."""
        if self.seen is not None and "uncertain" in self._present():
            self._layers["uncertain"].data = mark_uncertain(self.seen.uncertainty, threshold)
            self._layers["uncertain"].editable = False

    def set_outdated(self, outdated: bool) -> None:
        """Say whether the field still belongs to what is chosen."""
        self._outdated = outdated
        if self.seen is not None:  # what is retired stays so
            for name, layer in self._present().items():
                layer.name = self._title(name)

    def retire(self) -> None:
        """Say that what is drawn belongs to an earlier calibration."""
        self.set_outdated(True)
        self.seen, self._outdated = None, False

    def _title(self, name: str) -> str:
        return (_OUTDATED if self._outdated else _PREFIX) + name

    def _present(self) -> dict[str, Layer]:
        """Return the layers that the user has not removed."""
        return {name: layer for name, layer in self._layers.items() if layer in self.viewer.layers}

    def _image(self, name: str, data: Any, limits: tuple[float, float], placed: dict[str, Any]) -> None:
        if (layer := self._renewed(name, data, placed)) is None:
            layer = ImageLayer(
                data, name=self._title(name), contrast_limits=limits, colormap="magma" if name == "error" else "gray",
                visible=name != "error", blending="translucent", **placed,
            )  # fmt: skip
            self._add(name, layer)
        layer.contrast_limits = limits

    def _marks(self, threshold: float, placed: dict[str, Any]) -> None:
        if self.seen is None:
            return
        marks = mark_uncertain(self.seen.uncertainty, threshold)
        if (layer := self._renewed("uncertain", marks, placed)) is None:
            colours: dict[int | None, str] = {None: "transparent", TRUSTED: "transparent", **COLOURS}
            colormap = DirectLabelColormap(color_dict=colours)
            layer = LabelsLayer(marks, name=self._title("uncertain"), opacity=OPACITY, colormap=colormap, **placed)
            self._add("uncertain", layer)
        layer.editable = False

    def _outline(self, seen: SeenField, placed: dict[str, Any]) -> None:
        """Draw the edge of a field that is a block of its plane."""
        low = np.array(seen.corner) - 0.5
        box, width = _rectangle(low, low + seen.size), max(seen.restored.shape) / 200
        if seen.size == seen.restored.shape:
            if (old := self._present().get("outline")) is not None:
                self.viewer.layers.remove(old)
            return
        # Adding a layer takes most of a second, other data in it a few milliseconds.
        if (layer := self._renewed("outline", ([box], "rectangle"), placed)) is None:
            layer = ShapesLayer(
                [box], shape_type="rectangle", name=self._title("outline"), face_color="transparent",
                edge_color="#56B4E9", edge_width=width, **placed,
            )  # fmt: skip
            self._add("outline", layer)
        layer.edge_width = width
        layer.editable = False

    def _renewed(self, name: str, data: Any, placed: dict[str, Any]) -> Any:
        """Put other pixels into a layer that is still there, and return it."""
        layer = self._present().get(name)
        if layer is not None:
            layer.data = data
            layer.name = self._title(name)
            for attribute, value in placed.items():
                if attribute == "units" or not np.array_equal(getattr(layer, attribute), value):
                    setattr(layer, attribute, value)  # which takes as long as new pixels
            self._note(layer)
        return layer

    def _add(self, name: str, layer: Layer) -> None:
        self._layers[name] = layer
        self._note(layer)
        self.viewer.add_layer(layer)

    def _note(self, layer: Layer) -> None:
        told = {"calibration_field": self.seen.name if self.seen is not None else ""}
        layer.metadata = {**layer.metadata, METADATA_KEY: told}


def _rectangle(low: NDArray[Any], high: NDArray[Any]) -> NDArray[Any]:
    """Return the corners, in turn."""
    return np.array([low, (low[0], high[1]), high, (high[0], low[1])])


def _placement(seen: SeenField, factor: float, beside: ImageLayer | None) -> dict[str, Any]:
    """Return where pixels lie of which `factor` along each axis make one degraded pixel."""
    header = seen.triplet.degraded.header
    size, origin, units = np.asarray(header.scale[-2:]), np.zeros(2), header.units[-2:]
    if beside is not None:
        size, origin, units = beside.scale[-2:], beside.translate[-2:], beside.units[-2:]
    return {"scale": size / factor, "translate": origin + size * (1 / factor - 1) / 2, "units": units}
