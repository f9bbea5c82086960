"""The layers of one run: how they are added, marked and kept honest."""

from collections.abc import Callable, Sequence
from typing import Any

from napari.layers import Image as ImageLayer

from napari_maskcal._widgets.layers import METADATA_KEY, display_range, placement, plane_at, result_layers, view_point
from napari_maskcal.calibrate.certificate import Certificate
from napari_maskcal.pipeline import Review
from napari_maskcal.restore.events import PlaneReviewed
from napari_maskcal.review.request import Choices


class Results:
    """What one run drew, and for which choices it was drawn."""

    def __init__(
        self,
        viewer: Any,
        layer: ImageLayer,
        first: PlaneReviewed,
        choices: Choices,
        *,
        beside: Sequence[ImageLayer] = (),
        input_changed: bool = False,
        when_outdated: Callable[[], None] = lambda: None,
    ) -> None:
        self.viewer, self.choices, self._when_outdated = viewer, choices, when_outdated
        self._input = layer
        self.review: Review = first.result
        self.layers = result_layers(layer, self.review)
        # the input's limits are stretched by its noise and would leave the restored image dim
        self.layers[0].contrast_limits = display_range(self.review.restored[self.review.place(first.index)])
        self.outdated = self.input_changed = input_changed
        self.partial = False
        self._note()
        for new in self.layers:
            viewer.add_layer(new)
        if layer in viewer.layers:
            viewer.layers.selection.active = layer
        for used in (layer, *beside):
            used.events.data.connect(self._note_changed_input)
        for name in ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels"):
            layer.events[name].connect(self._follow_input)

    @property
    def uncertain(self) -> Any:
        """The Labels layer."""
        return self.layers[2]

    @property
    def present(self) -> bool:
        """Whether the Labels layer is still in the viewer."""
        return self.uncertain in self.viewer.layers

    @property
    def whole(self) -> bool:
        """Whether all three layers are still in the viewer."""
        return all(layer in self.viewer.layers for layer in self.layers)

    def advance(self, event: PlaneReviewed) -> None:
        """Take in that one more plane is done, and draw it if it is the one in view."""
        self.review = event.result
        if plane_at(self.uncertain, view_point(self.viewer, self.uncertain)) == self.review.place(event.index):
            self._refresh()

    def finish(self, review: Review) -> None:
        """Take the run's last word: complete or partial."""
        self.review = review
        self.partial = not review.complete
        self._note()
        self._refresh()

    def redraw(self, review: Review, choices: Choices) -> None:
        """Show the same uncertainty under another threshold."""
        self.review, self.choices = review, choices
        self.uncertain.data = review.uncertain
        self.uncertain.editable = False
        self.outdated = self.input_changed
        self._note()

    def compare(self, choices: Choices, certificate: Certificate | None) -> None:
        """Say, in names and metadata, whether these results still belong to what is chosen.

        `certificate` is what the choices promise now, None if nothing: a file may be another one by now.
        """
        same = choices == self.choices and certificate is not None and self.promises_as(certificate)
        self._set_outdated(self.input_changed or not same)

    def promises_as(self, certificate: Certificate) -> bool:
        """Whether another certificate would draw and say what this run drew and says."""
        return _drawn_and_said(certificate) == _drawn_and_said(self.review.certificate)

    def retire(self) -> None:
        """Make room for newer results: these stay, hidden and marked."""
        self._set_outdated(True)
        for layer in self.layers:
            layer.visible = False

    def _note_changed_input(self, *_: Any) -> None:
        """Remember it for good: that the pixels were others can't be taken back by choosing the layer again."""
        self.input_changed = True
        self._set_outdated(True)
        self._when_outdated()

    def _follow_input(self, *_: Any) -> None:
        """Keep lying on the input when it is moved or its pixel size is mended."""
        for layer in self.layers:
            for name, value in placement(self._input, self.review).items():
                setattr(layer, name, value)

    def _set_outdated(self, outdated: bool) -> None:
        if outdated != self.outdated:
            self.outdated = outdated
            self._note()

    def _refresh(self) -> None:
        for layer in self.layers:
            if layer.visible:
                layer.refresh(extent=False, highlight=False, thumbnail=False)

    def _note(self) -> None:
        state = f" (partial: {self.review.planes_done} of {self.review.planes} planes)" if self.partial else ""
        state += " (outdated)" if self.outdated else ""
        summary = self.review.summary() | {"outdated": self.outdated}
        for layer in self.layers:
            layer.metadata = {**layer.metadata, METADATA_KEY: summary}
            plain = layer.name.split(" (partial")[0].split(" (outdated")[0]  # also a name that the user gave
            layer.name = plain + state


def _drawn_and_said(certificate: Certificate) -> tuple[Any, ...]:
    return (
        certificate.fingerprint, certificate.threshold, certificate.sentence, certificate.limits,
        certificate.exploration, certificate.created, certificate.history, certificate.note,
    )  # fmt: skip
