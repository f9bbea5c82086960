"""The Review dock: choose, run, and see what can be believed."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import napari
from napari.layers import Image as ImageLayer
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QLineEdit, QPushButton, QScrollArea, QVBoxLayout, QWidget

from napari_maskcal._widgets.activity import Activity
from napari_maskcal._widgets.docked import Docked
from napari_maskcal._widgets.fields import ProgressLine, one_line, wrapped_label
from napari_maskcal._widgets.layers import image_of, plane_at, view_point, visible_plane
from napari_maskcal._widgets.results import Results
from napari_maskcal._widgets.review_form import ReviewForm
from napari_maskcal._widgets.runner import Runner
from napari_maskcal.calibrate.certificate import Certificate
from napari_maskcal.pipeline import Review, check_channel, rethreshold, review
from napari_maskcal.read.image import Image
from napari_maskcal.restore.events import (
    Cancelled,
    CancelToken,
    Done,
    Event,
    Failed,
    PlaneReviewed,
    Started,
    TileDone,
    Warned,
)
from napari_maskcal.review.certificate_words import percent, promise_words
from napari_maskcal.review.overlay import COLOURS, NOT_COMPUTED, UNCERTAIN, masked_share
from napari_maskcal.review.request import Choices, Part, Request, resolve
from napari_maskcal.review.standing import outdated, withdrawn

MakeEvents = Callable[[CancelToken], Iterator[Event]]

_BANNER_STYLE = "background: #a04000; color: white; font-size: 13px; font-weight: bold; padding: 6px;"


class ReviewDock(Docked, ReviewForm):
    """Runs a restorer and a mask model on the active layer and draws the uncertain regions over it.

    Emits `runFinished` with the run's last event: `Done`, `Cancelled` or `Failed`.
    """

    runFinished = Signal(object)

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.results: Results | None = None
        self._under_way: tuple[ImageLayer, Choices] | None = None
        self._beside: list[ImageLayer] = []  # what other tools made, in use beside the input
        self._drawing = False
        self._changed_under_way = False
        self._warnings: list[str] = []
        self.activity = Activity()
        self.runner = Runner(self)
        self.runner.happened.connect(self._take)
        self.runner.ended.connect(self._finished)
        self._make_buttons()
        self._lay_out()
        self.choicesChanged.connect(self._show_state)
        self.viewer.dims.events.point.connect(self._show_share)
        self.viewer.layers.events.removed.connect(self._show_what_is_left)
        self.destroyed.connect(self.runner.abandon)
        self._take_bundles()
        self.follow_active()

    def _make_buttons(self) -> None:
        self.run_button, self.cancel_button = QPushButton("Run"), QPushButton("Cancel")
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.cancel)
        self.cancel_button.setEnabled(False)

    def _lay_out(self) -> None:
        self.progress = ProgressLine()
        self.message, self.limits, self.share = wrapped_label(), wrapped_label(), wrapped_label()
        self.promise = wrapped_label(style="font-size: 13px; font-weight: bold;")
        self.banner = wrapped_label(style=_BANNER_STYLE)
        for label in (self.banner, self.promise, self.limits, self.message):
            label.setTextFormat(Qt.TextFormat.PlainText)  # they tell names that others gave
        self.banner.hide()
        legend = wrapped_label(
            f"<span style='color:{COLOURS[UNCERTAIN]}'>■</span> uncertain &nbsp; "
            f"<span style='color:{COLOURS[NOT_COMPUTED]}'>■</span> not computed"
        )
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.addLayout(self.form)
        column.addLayout(buttons)
        for widget in (self.progress, self.message, self.banner, self.promise, self.share, legend, self.limits):
            column.addWidget(widget)
        column.addStretch(1)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(inside)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(scroll)
        self.setMinimumWidth(340)

    # ---- dropped files

    def _take_bundles(self) -> None:
        """Let a mask model be dropped anywhere on the dock."""
        self.setAcceptDrops(True)
        for line in self.findChildren(QLineEdit):
            line.setAcceptDrops(False)  # a line would take the file's address as its text

    def dragEnterEvent(self, event: Any) -> None:
        """Take a mask model."""
        self.mask_model.dragEnterEvent(event)

    def dropEvent(self, event: Any) -> None:
        """Choose the mask model that is dropped."""
        self.mask_model.dropEvent(event)

    # ---- running

    def run(self) -> None:
        """Start, unless something is wrong or already under way."""
        if self.runner.running:
            return
        self.look_again()
        request = resolve(self.value())
        if isinstance(request, list) or not isinstance(self._input, ImageLayer):
            self._show_state()  # a file may have gone since the button was enabled
            return
        try:
            make_events = self._prepare(request, self._input)
        except ValueError as error:
            self.message.setText(one_line(error))
            return
        self._under_way, self._drawing = (self._input, request.choices), False
        self._changed_under_way = False
        self._beside = [layer for layer in self.given_layers().values() if layer is not None]
        for layer in (self._input, *self._beside):
            layer.events.data.connect(self._note_change)
        self._warnings.clear()
        self.message.clear()
        self.progress.wait("loading the networks …")
        self.runner.start(make_events)
        self._show_state()

    def _note_change(self, *_: Any) -> None:
        """Remember that the pixels were replaced between Run and the first result."""
        self._changed_under_way = True

    def _prepare(self, request: Request, layer: ImageLayer) -> MakeEvents:
        """Return what makes the stream of a request; all that reads layers happens here, before the thread starts."""
        image = image_of(layer, request.axes)
        here = visible_plane(layer, view_point(self.viewer, layer), image.shape)
        channel = request.choices.channel
        if channel is not None:
            position = request.axes.index("C")
            here = (*here[:position], channel, *here[position + 1 :])
        if (drawn := self._reusable(request, here)) is not None:
            return lambda _: _rethreshold_events(drawn, request)
        planes = check_channel(image, channel).planes(channel=channel)
        if request.choices.region == "current plane":
            planes = [here]
        planes.sort(key=lambda index: index != here)  # the plane in view comes first
        device = self.device.value()
        parts = self.given_layers().items()
        given = {part: image_of(layer, request.axes) for part, layer in parts if layer is not None}
        return lambda cancel: _run_events(image, request, planes, device, cancel, given)

    def _reusable(self, request: Request, here: tuple[int, ...]) -> Review | None:
        """Return what is drawn if its uncertainty answers the request, so that no network has to run again."""
        done = self.results
        if done is None or not done.whole or done.input_changed or not done.review.complete:
            return None
        same_pixels = request.choices.differs_in_promise_only(done.choices)
        same_networks = request.certificate.fingerprint == done.review.certificate.fingerprint
        same_plane = request.choices.region == "all planes" or done.review.first == here
        return done.review if same_pixels and same_networks and same_plane else None

    def cancel(self) -> None:
        """Stop after the tile under way; what is done is kept and marked as partial."""
        if not self.runner.running:
            return
        self.runner.cancel()
        self.cancel_button.setEnabled(False)
        self.message.setText("stopping after this tile …")

    def _take(self, event: Event) -> None:
        """Turn an event of the run into what is seen. Runs on the GUI thread."""
        match event:
            case Started(tiles=tiles):
                self.progress.start(tiles)
                self.activity.start(tiles)
            case TileDone(done=done, total=total):
                self.progress.update_to(done, total)
                self.activity.update_to(done)
            case PlaneReviewed():
                self._draw(event)
            case Warned(message=message):
                self._warnings.append(message)
                self.message.setText(message)
            case Done(result=result) | Cancelled(result=result):
                self._conclude(result)
            case Failed(error=error, result=result):
                self._conclude(result)
                self.message.setText(one_line(error))

    def _draw(self, event: PlaneReviewed) -> None:
        """Add the layers with the first plane, so that a run that never comes so far leaves all as it was."""
        if not self._drawing and self._under_way is not None:
            if self.results is not None:
                self.results.retire()
            layer, choices = self._under_way
            self._drawing = True
            self.results = Results(
                self.viewer,
                layer,
                event,
                choices,
                beside=self._beside,
                input_changed=self._changed_under_way,
                when_outdated=self._show_promise,
            )
            self._show_state()  # the choices may have been changed since Run was pressed
        elif self.results is not None:
            self.results.advance(event)
        self._show_share()

    def _conclude(self, result: Review | None) -> None:
        if self._drawing and self.results is not None and result is not None:
            self.results.finish(result)
            done = f"{result.planes_done} of {result.planes} planes are done, the others are grey"
            self.message.setText("; ".join([*self._warnings, *([] if result.complete else [f"stopped: {done}"])]))
        elif result is not None and result.complete and self.results is not None and self._under_way is not None:
            self.results.redraw(result, self._under_way[1])
            self.message.clear()
        else:
            self.message.setText("stopped before the first plane was done: nothing was drawn")

    def _finished(self, last: Event | None) -> None:
        if self._under_way is not None:
            for layer in (self._under_way[0], *self._beside):
                layer.events.data.disconnect(self._note_change)
        self.progress.stop()
        self.activity.close()
        self._show_state()
        self._show_share()
        self.runFinished.emit(last)

    # ---- what is said

    def _show_state(self) -> None:
        problems = self.show_problems()
        self.run_button.setEnabled(not problems and not self.runner.running)
        self.run_button.setToolTip("; ".join(problem.message for problem in problems))
        self.cancel_button.setEnabled(self.runner.running)
        if self.results is not None:
            choices = self.value()
            request = resolve(choices) if choices == self.results.choices else None
            self.results.compare(choices, request.certificate if isinstance(request, Request) else None)
        self._show_promise()

    def _show_promise(self) -> None:
        """Say the promise, or, where it does not stand, what differs: never both."""
        warning = self._warning()
        self.banner.setText(warning)
        self.banner.setVisible(bool(warning))
        certificate = None if warning else self._shown_certificate()
        self.promise.setText(promise_words(certificate) if certificate is not None else "")
        self.limits.setText(certificate.limits if certificate is not None else "")

    def _warning(self) -> str:
        """Say why the promise is withdrawn, or why it is not that of the choices; empty while it stands."""
        choices, done = self.value(), self.results
        if (reason := withdrawn(choices)) or done is None or not done.present or not done.outdated:
            return reason
        return outdated(
            done.choices, choices, drawn=done.review.certificate, pinned=self._pinned, edited=done.input_changed
        )

    def _shown_certificate(self) -> Certificate | None:
        """Return the promise of what is drawn, or of what would be."""
        if self.results is not None and self.results.present:
            return self.results.review.certificate
        request = resolve(self.value())
        return request.certificate if isinstance(request, Request) else None

    def _show_share(self, *_: Any) -> None:
        if self.results is None or not self.results.present:
            self.share.clear()
            return
        layer = self.results.uncertain
        index = plane_at(layer, view_point(self.viewer, layer))
        share = masked_share(layer.data[index]) if index is not None else math.nan
        known = f"Marked uncertain: {percent(share)} of this plane."
        self.share.setText("This plane is not computed." if math.isnan(share) else known)

    def _show_what_is_left(self, *_: Any) -> None:
        self._show_promise()
        self._show_share()

    # ---- going away

    def let_go(self) -> None:
        """Stop the run, mark what it drew as partial, and listen to the viewer no more."""
        running = self.runner.running
        self.runner.abandon()
        if running and self._drawing and self.results is not None:
            self.results.finish(self.results.review)
        self.activity.close()
        self.release_viewer()
        self.viewer.dims.events.point.disconnect(self._show_share)
        self.viewer.layers.events.removed.disconnect(self._show_what_is_left)


def _run_events(
    image: Image,
    request: Request,
    planes: list[tuple[int, ...]],
    device: str,
    cancel: CancelToken,
    given: dict[Part, Image],
) -> Iterator[Event]:
    """Load the networks and review; runs in a thread, so torch is first imported here."""
    try:
        from napari_maskcal.models import load_mask_model, load_restorer

        restorer, mask_model = load_restorer(request.restorer), load_mask_model(request.mask_model)
    except Exception as error:  # noqa: BLE001 - an exception in a generator worker would be lost
        yield Failed(error=error)
        return
    yield from review(
        image,
        restorer,
        mask_model,
        request.certificate,
        restored=given.get("restored"),
        uncertainty=given.get("uncertainty"),
        planes=planes,
        device=device,
        cancel=cancel,
    )


def _rethreshold_events(done: Review, request: Request) -> Iterator[Event]:
    try:
        yield Done(result=rethreshold(done, request.certificate))
    except Exception as error:  # noqa: BLE001 - an exception in a generator worker would be lost
        yield Failed(error=error)
