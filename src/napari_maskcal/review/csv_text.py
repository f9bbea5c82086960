"""Tables for spreadsheets."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def csv_text(columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> str:
    """Return one line for each record under a header; what is None is left empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for record in records:
        writer.writerow(_no_formula(record[name]) for name in columns)
    return text.getvalue()


def _no_formula(value: Any) -> Any:
    """Return a text so that a spreadsheet does not compute it: names come from files, which come from anybody."""
    dangerous = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    return f"'{value}" if dangerous else value
