"""One plot in a dock; importing this imports matplotlib."""

from typing import Any

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from napari.utils.theme import get_theme
from qtpy.QtWidgets import QSizePolicy

_HEIGHT_PX, _LEFT_PX, _BOTTOM_PX, _TOP_PX = 160, 64, 38, 8
_FONT_PT = 8


class Plot(FigureCanvasQTAgg):
    """One pair of axes in the colours of napari's theme."""

    def __init__(self, theme: str) -> None:
        super().__init__(Figure())  # type: ignore[no-untyped-call]
        self.axes = self.figure.subplots()
        self._theme = theme
        self.setFixedHeight(_HEIGHT_PX)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.paint()

    def wheelEvent(self, event: Any) -> None:
        """Leave the wheel to the page, which scrolls."""
        event.ignore()

    def resizeEvent(self, event: Any) -> None:
        """Keep room for the labels; a layout worked out anew for each drawing would take too long."""
        super().resizeEvent(event)  # type: ignore[no-untyped-call]
        left = min(_LEFT_PX / max(self.width(), 1), 0.4)
        bottom, top = _BOTTOM_PX / _HEIGHT_PX, 1 - _TOP_PX / _HEIGHT_PX
        self.figure.subplots_adjust(left=left, right=0.97, bottom=bottom, top=top)

    def set_theme(self, theme: str) -> None:
        """Draw in the colours of one of napari's themes."""
        self._theme = theme
        self.paint()

    def paint(self) -> None:
        """Colour frame and text, and draw."""
        colours = get_theme(self._theme)
        ground, text = colours.background.as_hex(), colours.text.as_hex()
        self.figure.set_facecolor(ground)
        self.axes.set_facecolor(ground)
        self.axes.tick_params(colors=text, labelsize=_FONT_PT)
        for name, spine in self.axes.spines.items():
            spine.set_color(text)
            spine.set_visible(name in ("left", "bottom"))
        legend = self.axes.get_legend()
        for words in (self.axes.xaxis.label, self.axes.yaxis.label, *(legend.get_texts() if legend else ())):
            words.set_color(text)
            words.set_fontsize(_FONT_PT)
        self.draw_idle()  # type: ignore[no-untyped-call]
