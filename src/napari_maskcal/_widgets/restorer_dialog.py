"""What a trial run showed of a restorer, and the question that it leaves: how intensities are prepared."""

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QVBoxLayout,
    QWidget,
)

from napari_maskcal._widgets.fields import wrapped_label
from napari_maskcal.read.pixel_size import PixelSize
from napari_maskcal.restore.card import ModelCard, Normalisation
from napari_maskcal.review.restorer_words import network_lines

_TITLES = {
    "percentile": "as shares of the plane's range (percentiles {low:g} to {high:g})",
    "mean_std": "less the mean, over the standard deviation",
    "range": "from the smallest to the largest value",
    "fixed": "fixed numbers",
}
_HINTS = {
    "percentile": "The darkest {dark:g} % of the pixels come to 0 or below, the brightest {bright:g} % to 1 or above.",
    "mean_std": "The mean of the plane becomes 0, and a typical difference from it 1.",
    "range": "The darkest pixel becomes 0 and the brightest 1, so one hot pixel changes the whole plane.",
    "fixed": "Less 0 and over 1 leaves intensities as they are; over 255 or 65535 brings 8 or 16 bits to 0 … 1.",
}
_SAID = "What the file says of it is proposed."
_UNSAID = "The file does not say; whoever trained the network knows. Proposed is the usual way."
_SAID_EARLIER = "This is how it is used now."
_AFTER = (
    "Your answer is kept beside the file. With another one this is another restorer, "
    "for which mask models have to be calibrated anew."
)
_MICROMETRE = "micrometer"
_PIXELS = "Only to warn you when an image was taken at another magnification."
_LARGEST, _DECIMALS, _SMALLEST_SPAN = 1e9, 6, 1e-6
_WIDTH_PX = 520


class RestorerDialog(QDialog):
    """Shows how a restorer is used, as a trial run found it, and asks what no trial run can find.

    Proposed is what `card` has; `takes` and `pixel_size` return what is chosen. To leave the dialog is to keep the
    proposal, which `again` is what was said earlier.
    """

    def __init__(self, name: str, card: ModelCard, parent: QWidget | None = None, *, again: bool = False) -> None:
        super().__init__(parent)
        self._card, self._again = card, again
        self._proposed = card.takes or card.normalisation
        self.setWindowTitle("How this restorer is used")
        self.setMinimumWidth(_WIDTH_PX)
        self._make_question()
        self._lay_out(name)
        self.preparation.currentIndexChanged.connect(self._show_hint)
        self._show_hint()

    def takes(self) -> Normalisation | None:
        """Return how intensities are prepared; None: in the unit of tolerances, as in this package's own networks."""
        chosen = self._chosen()
        if chosen == self._proposed:
            return self._card.takes
        return None if chosen == self._card.normalisation else chosen

    def pixel_size(self) -> PixelSize | None:
        """Return the size of the pixels that it was trained at; None where that is not known."""
        size = self.pixels.value()
        if size == self._shown_size:  # untouched: also what the box cannot show stays as it is
            return self._card.pixel_size
        return PixelSize(y=size, x=size, unit=_MICROMETRE) if size else None

    def _chosen(self) -> Normalisation:
        chosen = self._preparations[self.preparation.currentIndex()]
        numbers = (self.offset.value(), self.span.value())
        if chosen.kind != "fixed" or numbers == self._numbers:  # untouched: not rounded by being shown
            return chosen
        return Normalisation(kind="fixed", offset=numbers[0], span=numbers[1])

    def _make_question(self) -> None:
        proposed = self._proposed
        usual = (self._card.normalisation, *(Normalisation(kind=kind) for kind in ("mean_std", "range", "fixed")))
        self._preparations = [proposed if one.kind == proposed.kind != "percentile" else one for one in usual]
        if proposed not in self._preparations:
            self._preparations.insert(1, proposed)
        self.preparation = QComboBox()
        for one in self._preparations:
            title = _TITLES[one.kind].format(low=one.low_percentile, high=one.high_percentile)
            self.preparation.addItem(title)
        self.preparation.setCurrentIndex(self._preparations.index(proposed))
        (fixed,) = (one for one in self._preparations if one.kind == "fixed")
        self.offset, self.span = _number(-_LARGEST, fixed.offset), _number(_SMALLEST_SPAN, fixed.span)
        self._numbers = (self.offset.value(), self.span.value())
        said = self._card.pixel_size
        square = said is not None and said.y == said.x and said.unit == _MICROMETRE
        self.pixels = _number(0, said.x if said is not None and square else 0)
        self.pixels.setSuffix(" µm")
        self.pixels.setSpecialValueText("not known" if said is None or square else str(said))
        self._shown_size = self.pixels.value()

    def _lay_out(self, name: str) -> None:
        heading = _plain(f"How {name} is used" if self._again else f"{name} can be used", style="font-weight: bold;")
        found = QFormLayout()
        found.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for label, words in network_lines(self._card):
            found.addRow(QLabel(label), _plain(words))
        self.hint = _plain()
        buttons = QDialogButtonBox()
        self.ok_button = buttons.addButton(QDialogButtonBox.StandardButton.Ok)
        leave = "Leave it as it is" if self._again else "Keep the proposal"
        self.cancel_button = buttons.addButton(leave, QDialogButtonBox.ButtonRole.RejectRole)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        column = QVBoxLayout(self)
        column.addWidget(heading)
        column.addWidget(_plain("A trial run on small images showed how:"))
        column.addLayout(found)
        column.addSpacing(12)
        column.addWidget(_plain("How were intensities prepared when it was trained?", style="font-weight: bold;"))
        known = _SAID if self._card.takes else _UNSAID
        column.addWidget(_plain(_SAID_EARLIER if self._again else known))
        column.addWidget(self.preparation)
        column.addWidget(self._numbers_row())
        column.addWidget(self.hint)
        column.addWidget(_plain(_AFTER))
        column.addSpacing(12)
        column.addWidget(
            _plain("How large were the pixels of the images it was trained on?", style="font-weight: bold;")
        )
        column.addWidget(self.pixels)
        column.addWidget(_plain(_PIXELS))
        column.addSpacing(12)
        column.addWidget(buttons)

    def _numbers_row(self) -> QWidget:
        self.numbers = QWidget()
        row = QHBoxLayout(self.numbers)
        row.setContentsMargins(0, 0, 0, 0)
        for title, box in (("less", self.offset), ("over", self.span)):
            row.addWidget(QLabel(title))
            row.addWidget(box, 1)
        return self.numbers

    def _show_hint(self, *_: object) -> None:
        """Say what the chosen preparation does, and show the numbers of the one that has some."""
        one = self._preparations[self.preparation.currentIndex()]
        self.hint.setText(_HINTS[one.kind].format(dark=one.low_percentile, bright=round(100 - one.high_percentile, 6)))
        self.numbers.setVisible(one.kind == "fixed")


class _Number(QDoubleSpinBox):
    """Shows no more decimals than a number has."""

    def textFromValue(self, value: float) -> str:
        text, point = str(super().textFromValue(value)), str(self.locale().decimalPoint())
        return text.rstrip("0").rstrip(point) if point in text else text


def _number(smallest: float, value: float) -> QDoubleSpinBox:
    box = _Number()
    box.setDecimals(_DECIMALS)
    box.setRange(smallest, _LARGEST)
    box.setValue(value)
    return box


def _plain(text: str = "", style: str = "") -> QLabel:
    """Return a wrapped label that shows names of files as they are written."""
    label = wrapped_label(style=style)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setText(text)
    return label
