"""The table of calibration fields, and the table of what is wrong with files."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtGui import QGuiApplication, QKeySequence
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from napari_maskcal.calibrate.certify import Measured
from napari_maskcal.read.faults import Fault

_NOWHERE = QModelIndex()
_MEANINGS = {
    "Error": "Of the whole restored field against its truth, with nothing masked.",
    "Threshold": "The largest uncertainty that could stay unmasked if this field were the only one; ∞: all of it.",
    "Masked %": "What the threshold in force masks of this field.",
}
_FAULT_HEIGHT_PX, _NUMBER_PX = 52, 74  # three lines; a title with the arrow of sorting
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter


class ColumnsModel(QAbstractTableModel):
    """Columns of equal length, sorted by any of them; numbers are written only when they come into view."""

    def __init__(self) -> None:
        super().__init__()
        self._titles: tuple[str, ...] = ()
        self._columns: list[Any] = []
        self._order: NDArray[np.intp] = np.zeros(0, np.intp)
        self._sorted_by: tuple[int, bool] | None = None

    def set_columns(self, titles: Sequence[str], columns: Sequence[Any]) -> None:
        """Show other rows."""
        self.beginResetModel()
        self._titles, self._columns = tuple(titles), [np.asarray(column) for column in columns]
        self._order = np.arange(len(self._columns[0]) if self._columns else 0)
        self.endResetModel()
        if self._sorted_by is not None and self._sorted_by[0] < len(self._columns):
            self._arrange(*self._sorted_by)

    def set_column(self, column: int, values: Any) -> None:
        """Show other values in one column of the same rows."""
        self._columns[column] = np.asarray(values)
        if self._sorted_by is not None and self._sorted_by[0] == column:
            self._arrange(*self._sorted_by)
        elif len(self._order):
            self.dataChanged.emit(self.index(0, column), self.index(len(self._order) - 1, column))

    def row_of(self, index: QModelIndex) -> int:
        """Return which of the rows, as they were given, is shown at `index`."""
        return int(self._order[index.row()])

    def texts(self) -> list[list[str]]:
        """Return all that is shown, with the titles."""
        shown = range(len(self._columns))
        return [list(self._titles), *([_written(self._columns[c][row]) for c in shown] for row in self._order)]

    def rowCount(self, parent: QModelIndex = _NOWHERE) -> int:
        """Return how many rows there are."""
        return 0 if parent.isValid() else len(self._order)

    def columnCount(self, parent: QModelIndex = _NOWHERE) -> int:
        """Return how many columns there are."""
        return 0 if parent.isValid() else len(self._columns)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return the text of a cell, its tooltip and its alignment."""
        if role not in (
            Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole, Qt.ItemDataRole.TextAlignmentRole
        ):  # fmt: skip
            return None
        value = self._columns[index.column()][self.row_of(index)]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _LEFT if isinstance(value, str) else _RIGHT
        return _written(value)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return the title of a column, and what it means."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.ToolTipRole:
            return _MEANINGS.get(self._titles[section])
        return self._titles[section] if role == Qt.ItemDataRole.DisplayRole else None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort the rows; those that are equal stay in their order."""
        if 0 <= column < len(self._columns):
            self._arrange(column, order == Qt.SortOrder.DescendingOrder)

    def _arrange(self, column: int, descending: bool) -> None:
        self._sorted_by = column, descending
        self.layoutAboutToBeChanged.emit()
        kept = [(index, self.row_of(index)) for index in self.persistentIndexList()]
        order = np.argsort(self._columns[column], kind="stable")
        self._order = order[::-1] if descending else order
        places = np.empty_like(self._order)
        places[self._order] = np.arange(len(self._order))
        self.changePersistentIndexList(
            [index for index, _ in kept], [self.index(int(places[row]), index.column()) for index, row in kept]
        )
        self.layoutChanged.emit()


class CopyingTable(QTableView):
    """A table that can be sorted, whose selected rows can be copied with their titles."""

    def __init__(self) -> None:
        super().__init__()
        self.columns = ColumnsModel()
        self.setModel(self.columns)
        self.setSortingEnabled(True)
        across: Any = self.horizontalHeader()
        down: Any = self.verticalHeader()
        across.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        down.hide()
        down.setDefaultSectionSize(22)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setWordWrap(False)
        self.setTextElideMode(Qt.TextElideMode.ElideLeft)  # names of files differ at their ends

    def stretch(self, *columns: int) -> None:
        """Let these columns share the room that the others leave."""
        header: Any = self.horizontalHeader()
        modes = QHeaderView.ResizeMode
        for column in range(self.columns.columnCount()):
            header.setSectionResizeMode(column, modes.Stretch if column in columns else modes.Interactive)

    def keyPressEvent(self, event: Any) -> None:
        """Copy, as everywhere."""
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copy(only_selected=True)
            return
        super().keyPressEvent(event)

    def copy(self, *, only_selected: bool = False) -> None:
        """Put the rows into the clipboard, with tabs between the cells: a spreadsheet takes them."""
        rows = self.columns.texts()
        if only_selected:
            chosen: Any = self.selectionModel()
            rows = [rows[0], *(rows[1 + row] for row in sorted(index.row() for index in chosen.selectedRows()))]
        clipboard: Any = QGuiApplication.clipboard()
        clipboard.setText("\n".join("\t".join(row) for row in rows))


class FieldsTable(CopyingTable):
    """Calibration fields, with what each of them asks for.

    Emits `fieldChosen` with the number of the field in a row that the user clicks or goes to with the keys.
    """

    fieldChosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        selection: Any = self.selectionModel()
        selection.currentRowChanged.connect(self._row_changed)
        self.clicked.connect(lambda index: self.fieldChosen.emit(self.columns.row_of(index)))
        self._pressed = False

    def set_fields(self, measured: Measured) -> None:
        """Show other fields, and nothing yet of what a promise masks of them."""
        names = [field.name for field in measured.fields]
        unknown = np.full(len(names), np.nan)
        group = "Specimen" if measured.grouped else "Image"
        titles = ("Field", group, "Error", "Threshold", "Masked %")
        self.columns.set_columns(titles, (names, measured.owners, measured.distances, unknown, unknown))
        self.setColumnHidden(1, names == measured.owners)
        self.stretch(0, 1)
        for column in (2, 3, 4):
            self.setColumnWidth(column, _NUMBER_PX)

    def set_answer(self, thresholds: NDArray[Any], shares: NDArray[np.float64]) -> None:
        """Show what the promise in force masks."""
        self.columns.set_column(3, thresholds)
        self.columns.set_column(4, 100 * shares)

    def keyPressEvent(self, event: Any) -> None:
        """Know that the row changes by a key: a click tells of itself."""
        self._pressed = True
        super().keyPressEvent(event)
        self._pressed = False

    def _row_changed(self, current: QModelIndex, _: QModelIndex) -> None:
        if self._pressed and current.isValid():
            self.fieldChosen.emit(self.columns.row_of(current))


class FaultsTable(CopyingTable):
    """Each fault of each file, with its remedy."""

    def __init__(self) -> None:
        super().__init__()
        down: Any = self.verticalHeader()
        down.setDefaultSectionSize(_FAULT_HEIGHT_PX)  # measuring each row would take long
        self.setWordWrap(True)

    def set_faults(self, faults: Sequence[Fault]) -> None:
        """Show these."""
        rows = [(fault.file, fault.fault, fault.remedy) for fault in faults]
        self.columns.set_columns(("File", "Fault", "Remedy"), list(zip(*rows, strict=True)) if rows else [[], [], []])
        self.stretch(0, 1, 2)


def _written(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    number = float(value)
    if np.isnan(number):
        return ""
    return "∞" if np.isinf(number) else f"{number:.3g}"
