"""A chooser of image layers, kept in step with the viewer."""

from typing import Any

import napari
from napari.layers import Image as ImageLayer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox

from napari_maskcal._widgets.layers import is_result


class LayerChooser(QComboBox):
    """One of the viewer's image layers, or none; results of this package are left out."""

    valueChanged = Signal()

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._layers: list[ImageLayer] = []
        # a long name must not widen the dock
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(18)
        self._chosen: ImageLayer | None = None
        self.activated.connect(self._activated)
        self._changes = [viewer.layers.events.inserted, viewer.layers.events.removed]
        for change in self._changes:
            change.connect(self._refill)
        self._refill()

    def value(self) -> ImageLayer | None:
        """Return the chosen layer."""
        return self._chosen

    def setValue(self, layer: ImageLayer | None) -> None:
        """Choose a layer of the viewer, or none."""
        if layer is not None and layer not in self._layers:
            raise ValueError(f"{layer.name} is not an image layer of this viewer that could be chosen")
        changed = layer != self._chosen
        self._chosen = layer
        self.setCurrentIndex(0 if layer is None else 1 + self._layers.index(layer))
        if changed:
            self.valueChanged.emit()

    def release_viewer(self) -> None:
        """Stop listening to the viewer."""
        for change in self._changes:
            change.disconnect(self._refill)
        self._forget()

    def _refill(self, *_: Any) -> None:
        """Offer what is there now; a chosen layer that has gone leaves nothing chosen."""
        self._forget()
        self._layers = [
            layer for layer in self._viewer.layers if isinstance(layer, ImageLayer) and not is_result(layer)
        ]
        for layer in self._layers:
            layer.events.name.connect(self._show_names)
        self.clear()
        self.addItem("choose a layer…")
        self.addItems([layer.name for layer in self._layers])
        self.setValue(self._chosen if self._chosen in self._layers else None)

    def _forget(self) -> None:
        for layer in self._layers:
            layer.events.name.disconnect(self._show_names)
        self._layers = []

    def _show_names(self, *_: Any) -> None:
        for i, layer in enumerate(self._layers, start=1):
            self.setItemText(i, layer.name)

    def _activated(self, index: int) -> None:
        self.setValue(self._layers[index - 1] if index > 0 else None)
