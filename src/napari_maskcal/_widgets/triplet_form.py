"""The part of a form that says where triplets are; the forms of the Calibration and the Train dock build on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import napari
from napari.layers import Image as ImageLayer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QLineEdit, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_maskcal._widgets.fields import Field, keep_narrow
from napari_maskcal._widgets.layer_chooser import LayerChooser
from napari_maskcal._widgets.layers import describe_layer
from napari_maskcal._widgets.places import GroupChooser, PlaceChooser
from napari_maskcal._widgets.specimens_line import SpecimensLine
from napari_maskcal.review.request import Problem
from napari_maskcal.settings import GROUP, MANIFEST, Parameter

_KINDS = {"folders": "folders", "a table (CSV)": "table", "layers of this window": "layers"}

Row = tuple[str, QWidget, str]
"""Title, content and tooltip of a field."""


class TripletForm(QWidget):
    """Fields for all choices, each with the reason below it when it can't be used.

    Emits `choicesChanged` whenever one of them has changed.

    Parameters
    ----------
    viewer
        Whose layers are offered.
    parts
        The parts of a triplet, each with the parameter that explains its folder.
    """

    choicesChanged = Signal()

    def __init__(self, viewer: napari.viewer.Viewer, parts: Mapping[str, Parameter]) -> None:
        super().__init__()
        self.viewer = viewer
        self._parts = parts
        self.kind = QComboBox()
        for title, kind in _KINDS.items():
            self.kind.addItem(title, kind)
        keep_narrow(self.kind)
        self.places = {part: PlaceChooser(f"Choose the folder of {part} images") for part in parts}
        self.manifest = PlaceChooser("Choose a table", pattern="Table (*.csv *.tsv *.txt)")
        self.layer_choosers = {part: LayerChooser(viewer) for part in parts}
        self.group = GroupChooser(GROUP.help)
        self.layer_groups = QLineEdit()
        self.layer_groups.setPlaceholderText("such as A, A, B or A: 2, B: 1")

    # ---- for the forms that build on it

    def value(self) -> Any:
        """Return all choices as they stand, right or wrong."""
        raise NotImplementedError

    @property
    def problems(self) -> list[Problem]:
        """All that stands in the way."""
        raise NotImplementedError

    def needed_parts(self) -> Sequence[str]:
        """Return which parts have to be given, for the models chosen."""
        raise NotImplementedError

    def specimens_told(self, choices: Any) -> str:
        """Say which specimens the files give; this is called in a thread."""
        raise NotImplementedError

    def further_shown(self) -> dict[str, bool]:
        """Return which of the other fields the choices ask for, where they don't always."""
        return {}

    # ---- what all of them do

    def layers(self) -> dict[str, ImageLayer | None]:
        """Return the layers chosen, by the name of the part."""
        return {part: chooser.value() for part, chooser in self.layer_choosers.items()}

    def sources(self) -> dict[str, Any]:
        """Return the attributes of `TripletChoices` as they stand."""
        kind = self.kind.currentData()
        layers = {part: describe_layer(layer) for part, layer in self.layers().items()}
        return {
            "kind": kind,
            **({part: chooser.value() for part, chooser in self.places.items()} if kind == "folders" else {}),
            "manifest": self.manifest.value() if kind == "table" else "",
            "layers": layers if kind == "layers" else {},
            "group": {"folders": self.group.value(), "table": "", "layers": self.layer_groups.text()}[kind],
        }

    def show_problems(self, *, quiet: bool = False) -> list[Problem]:
        """Write each reason below its field and return them all; `quiet`: nothing of what is not chosen yet."""
        problems = self.problems
        shown = [p for p in problems if not (quiet and p.message.startswith("choose the"))]
        faults = {problem.field: problem.message for problem in reversed(shown)}
        in_layers = self.kind.currentData() == "layers"
        for name, field in self.fields.items():
            if name.endswith("_layer"):
                field.set_fault(faults.get(name.removesuffix("_layer"), "") if in_layers else "")
            else:
                field.set_fault("" if in_layers and name in (*self._parts, "group") else faults.get(name, ""))
        if any(self.fields[name].fault for name in self._hidden):
            self.more.expand(animate=False)
        self.show_wanted()
        return problems

    def show_wanted(self) -> None:
        """Show the fields that the other choices ask for."""
        kind, needed = self.kind.currentData(), self.needed_parts()
        shown = {
            **{part: kind == "folders" and part in needed for part in self._parts},
            **{f"{part}_layer": kind == "layers" and part in needed for part in self._parts},
            "manifest": kind == "table",
            "group": kind == "folders",
            "group_layer": kind == "layers",
            **self.further_shown(),
        }
        for name, visible in shown.items():
            self.fields[name].set_visible(visible)

    def release_viewer(self) -> None:
        """Stop listening to the viewer."""
        self.preview.stop()
        for chooser in self.layer_choosers.values():
            chooser.release_viewer()

    def lay_out(self, words: str, rows: Mapping[str, Row], hidden: Mapping[str, Row], *, more: str) -> None:
        """Make the fields: where the triplets are (`words` explain them), `rows`, and `hidden` ones under `more`."""
        self.preview = SpecimensLine(self, self.value, self.specimens_told)
        form, below = _form_layout(), _form_layout()
        self.fields = {name: Field(form, *row) for name, row in self._source_rows(words).items()}
        form.addRow(self.preview.label)
        self.fields |= {name: Field(form, *row) for name, row in rows.items()}
        self.fields |= {name: Field(below, *row) for name, row in hidden.items()}
        self._hidden = tuple(hidden)
        inside = QWidget()
        inside.setLayout(below)
        self.more = QCollapsible(more)
        self.more.addWidget(inside)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(form)
        column.addWidget(self.more)

    def connect_sources(self) -> None:
        """Follow what is changed of where the triplets are."""
        sources: list[Any] = [*self.places.values(), *self.layer_choosers.values(), self.manifest, self.group]
        for source in sources:
            source.valueChanged.connect(self._source_changed)
        self.kind.currentIndexChanged.connect(self._source_changed)
        self.layer_groups.textChanged.connect(self._source_changed)

    def changed(self, *_: Any) -> None:
        """Follow a change of any choice."""
        self.show_wanted()
        self.choicesChanged.emit()

    def _source_changed(self, *_: Any) -> None:
        self.preview.ask()
        self.changed()

    def _source_rows(self, words: str) -> dict[str, Row]:
        return {
            "kind": ("Images from", self.kind, words),
            "manifest": ("Table", self.manifest, MANIFEST.help),
            **{part: (part.capitalize(), self.places[part], parameter.help) for part, parameter in self._parts.items()},
            **{
                f"{part}_layer": (part.capitalize(), chooser, "(fields, Y, X), or (Y, X) for one field.")
                for part, chooser in self.layer_choosers.items()
            },
            "group": ("Specimens", self.group, "Fields of one specimen are alike: a specimen counts once."),
            "group_layer": ("Specimens", self.layer_groups, "Of each field in turn; nothing: each is its own."),
        }


def _form_layout() -> QFormLayout:
    form = QFormLayout()
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return form
