"""The second page of the Train dock: what a training comes to while it runs, and what came of it."""

from typing import Any

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_maskcal._widgets.fields import wrapped_label
from napari_maskcal._widgets.later import Later
from napari_maskcal._widgets.training_pictures import PreviewStrip
from napari_maskcal.restore.events import Event, StepDone, TrainingStarted, Validated
from napari_maskcal.review.training_words import resumed_words, validated_words

# One plot takes 40 ms to draw, and the networks want the processor too.
_REDRAW_AFTER_MS, _REDRAW_AT_MOST_MS = 100, 500


class TrainingPage(QWidget):
    """Masked share now and at best, its plot and that of the loss, and the mask on one validation field."""

    def __init__(self, theme: str) -> None:
        super().__init__()
        self.plots: list[Any] = []
        self._theme = theme
        self.clear_counts()
        self.later = Later(self, self._draw, after_ms=_REDRAW_AFTER_MS, at_most_ms=_REDRAW_AT_MOST_MS)
        self._lay_out()
        self.begin()

    def clear_counts(self) -> None:
        """Forget all numbers."""
        self.steps, self.best_step = 0, 0
        self.at: list[int] = []
        self.losses: list[float] = []
        self.validated: list[tuple[int, float]] = []

    def begin(self) -> None:
        """Forget an earlier training."""
        self.clear_counts()
        self.hint.setText("Nothing is trained yet: choose the images, and press Train.")
        for label in (self.share, self.resumed):
            label.clear()
            label.hide()
        self.preview.show_preview(None)
        for plot in self.plots:
            plot.hide()
        self.hint.show()

    def take(self, event: Event) -> None:
        """Show what an event of a training tells."""
        match event:
            case TrainingStarted(steps=steps, resumed_at=step):
                self.begin()
                self.steps = steps
                self._say(self.resumed, resumed_words(step, steps))
                self.hint.hide()
            case StepDone(step=step, loss=loss):
                self.at.append(step)
                self.losses.append(loss)
            case Validated():
                self._take_validation(event)
            case _:
                return
        self.later.ask()

    def set_theme(self, theme: str) -> None:
        """Draw in the colours of another of napari's themes."""
        self._theme = theme
        for plot in self.plots:
            plot.set_theme(theme)

    def showEvent(self, event: Any) -> None:
        """Draw what has changed while another page was in front."""
        super().showEvent(event)
        self.later.ask()

    def _lay_out(self) -> None:
        self.hint, self.resumed = wrapped_label(), wrapped_label()
        self.share = wrapped_label(style="font-weight: bold;")
        self.preview = PreviewStrip()
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(0, 0, 0, 0)
        for widget in (self.hint, self.resumed, self.share, self.preview):
            self.column.addWidget(widget)
        self.column.addStretch(1)

    def _take_validation(self, event: Validated) -> None:
        self.validated.append((event.step, event.masked_share))
        if event.best or not self.best_step:
            self.best_step = event.step
        best = dict(self.validated)[self.best_step]
        told = validated_words(event.step, event.masked_share, best_step=self.best_step, best_share=best)
        self._say(self.share, told)
        self.preview.show_preview(event.preview)

    @staticmethod
    def _say(label: Any, text: str) -> None:
        label.setText(text)
        label.setVisible(bool(text))

    def _draw(self) -> None:
        """Draw the plots if they can be seen."""
        if not self.isVisible() or not self.losses:
            return
        from napari_maskcal.review.training_figures import draw_losses, draw_validations

        if not self.plots:
            self._make_plots()
        shares, loss = self.plots
        draw_validations(shares.axes, self.validated, steps=self.steps, best_step=self.best_step)
        draw_losses(loss.axes, self.at, self.losses, steps=self.steps)
        for plot, known in ((shares, self.validated), (loss, self.losses)):
            plot.setVisible(bool(known))
            plot.paint()

    def _make_plots(self) -> None:
        from napari_maskcal._widgets.plot import Plot

        self.plots = [Plot(self._theme) for _ in range(2)]
        for plot in self.plots:
            self.column.insertWidget(self.column.count() - 1, plot)
