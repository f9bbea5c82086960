"""The layers of one run: how they are added, marked and kept honest."""

from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from numpy.typing import NDArray

from napari_maskcal._widgets.layers import METADATA_KEY, display_range, result_layers
from napari_maskcal.pipeline import Review
from napari_maskcal.review.request import Choices


class Results:
    """What the latest run drew, and for which choices it was drawn."""

    def __init__(self, viewer: Any, layer: ImageLayer, review: Review, choices: Choices) -> None:
        self.viewer, self.choices, self.review = viewer, choices, review
        self.layers = result_layers(layer, review)
        self.outdated = self.partial = self._seen_a_plane = False
        self._note()
        for new in self.layers:
            viewer.add_layer(new)
        viewer.layers.selection.active = layer

    @property
    def uncertain(self) -> Any:
        """The Labels layer."""
        return self.layers[2]

    @property
    def present(self) -> bool:
        """Whether the Labels layer is still in the viewer."""
        return self.uncertain in self.viewer.layers

    def refresh(self, plane: NDArray[np.float32]) -> None:
        """Draw what the run has written since; `plane` is the restored plane it has just finished."""
        if not self._seen_a_plane:
            # the input's limits are stretched by its noise and would leave the restored image dim
            self.layers[0].contrast_limits = display_range(plane)
            self._seen_a_plane = True
        for layer in self.layers:
            if layer.visible:
                layer.refresh(extent=False, highlight=False, thumbnail=False)

    def finish(self, review: Review) -> None:
        """Take the run's last word: complete or partial."""
        self.review = review
        self.partial = not review.complete
        self._note()
        for layer in self.layers:
            layer.refresh()

    def redraw(self, review: Review, choices: Choices) -> None:
        """Show the same uncertainty under another threshold."""
        self.review, self.choices = review, choices
        self.uncertain.data = review.uncertain
        self.uncertain.editable = False
        self.outdated = False
        self._note()

    def mark_outdated(self, outdated: bool) -> None:
        """Say, in names and metadata, whether these results still belong to what is chosen."""
        if outdated != self.outdated:
            self.outdated = outdated
            self._note()

    def remove(self) -> None:
        """Take the layers out again: nothing was computed."""
        for layer in self.layers:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)

    def retire(self) -> None:
        """Make room for newer results: these stay, hidden and marked."""
        self.mark_outdated(True)
        for layer in self.layers:
            layer.visible = False

    def _note(self) -> None:
        state = f" (partial: {self.review.planes_done} of {self.review.planes} planes)" if self.partial else ""
        state += " (outdated)" if self.outdated else ""
        for layer, name in zip(self.layers, ("restored", "uncertainty", "uncertain"), strict=True):
            layer.metadata = {**layer.metadata, METADATA_KEY: self.review.summary() | {"outdated": self.outdated}}
            if layer.name.split(" (")[0].split(" [")[0] == name:  # a name that the user gave stays
                layer.name = name + state
