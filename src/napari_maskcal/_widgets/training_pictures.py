"""Pictures of one validation field, side by side and as wide as the dock allows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QImage, QPainter
from qtpy.QtWidgets import QGridLayout, QLabel, QSizePolicy, QWidget

from napari_maskcal._widgets.fields import wrapped_label
from napari_maskcal.review.certificate_words import percent
from napari_maskcal.review.training_preview import pictures

_TITLES = {"degraded": "degraded", "marked": "masked", "error": "true error"}
_LARGEST_PX = 220  # of a side


class Picture(QWidget):
    """One image, whole, as large as there is room."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._image: QImage | None = None
        self.setAccessibleName(title)
        policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setSizePolicy(policy)

    def setPixels(self, pixels: NDArray[np.uint8]) -> None:
        """Show other pixels, (Y, X, 3)."""
        height, width = pixels.shape[:2]
        # A copy: QImage would go on pointing to the bytes when they are gone.
        self._image = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
        self._fit()
        self.update()

    def sizeHint(self) -> QSize:
        """Return a size for a dock of the usual width."""
        return QSize(120, 120)

    def resizeEvent(self, event: Any) -> None:
        """Keep the image's proportions."""
        super().resizeEvent(event)
        self._fit()

    def paintEvent(self, _: Any) -> None:
        """Draw the image in the middle."""
        if self._image is None:
            return
        scale = min(self.width() / self._image.width(), self.height() / self._image.height())
        width, height = scale * self._image.width(), scale * self._image.height()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.drawImage(
            QRectF((self.width() - width) / 2, (self.height() - height) / 2, width, height), self._image
        )  # fmt: skip
        painter.end()

    def _fit(self) -> None:
        if self._image is not None:
            wanted = round(self.width() * self._image.height() / self._image.width())
            self.setFixedHeight(max(1, min(wanted, _LARGEST_PX)))


class PreviewStrip(QWidget):
    """Degraded, restored with the mask in the overlay's colour, and the true error of one validation field."""

    def __init__(self) -> None:
        super().__init__()
        self.title = wrapped_label()
        self.pictures = {name: Picture(title) for name, title in _TITLES.items()}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.title, 0, 0, 1, len(_TITLES))
        for column, (name, title) in enumerate(_TITLES.items()):
            caption = QLabel(title)
            caption.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            caption.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            grid.addWidget(self.pictures[name], 1, column)
            grid.addWidget(caption, 2, column)
            grid.setColumnStretch(column, 1)
        self.hide()

    def show_preview(self, preview: Any) -> None:
        """Show a `Preview`, or nothing."""
        self.setVisible(preview is not None)
        if preview is None:
            return
        seen = pictures(preview)
        for name, picture in self.pictures.items():
            picture.setPixels(getattr(seen, name))
        self.title.setToolTip(preview.name)  # of a table's line it is a whole path
        name, white = preview.name.rpartition("/")[2], percent(round(seen.white_error, 3))
        self.title.setText(
            f"{name}, a validation field: {percent(seen.masked_share)} of it masked. The true error is white from "
            f"{white} of the intensity range on."
        )
