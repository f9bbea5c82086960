"""What is wrong with which file, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One reason why a set of triplets cannot be used as it is.

    Attributes
    ----------
    file
        What messages call the file or layer: ``"low/a.tif"``.
    fault
        What is wrong, as the rest of a sentence that begins with the file: ``"is constant: every pixel is 7"``.
    remedy
        What to do: ``"leave it out of all folders"``.
    """

    file: str
    fault: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file} {self.fault}; {self.remedy}"


class FaultyTriplets(ValueError):
    """Raised before any work starts; its text is one line that names the first three of its `faults`."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        named = " | ".join(_one_line(str(fault)) for fault in self.faults[:_NAMED])
        more = f" | and {count - _NAMED} more" if count > _NAMED else ""
        super().__init__(f"{count} fault{'s' * (count != 1)} in the triplets: {named}{more}")

    def __reduce__(self) -> tuple[type[FaultyTriplets], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)  # else another process would be given the text in place of the faults


def table(faults: Iterable[Fault]) -> str:
    """Return an aligned table with a header, one line a fault; an empty text where there is none."""
    rows = [tuple(_one_line(cell) for cell in (fault.file, fault.fault, fault.remedy)) for fault in faults]
    if not rows:
        return ""
    rows.insert(0, ("FILE", "FAULT", "REMEDY"))
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{file:<{wide[0]}}  {fault:<{wide[1]}}  {remedy}" for file, fault, remedy in rows)


def unique(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Return each fault once, in the order of its first mention."""
    return tuple(dict.fromkeys(faults))


def fault_of(error: ValueError, *, file: str, names: Iterable[str] = (), remedy: str) -> Fault:
    """Return the fault that an error tells of `file`, which the message may begin with under one of `names`."""
    text = _one_line(str(error))
    for name in (file, *names):
        text = text.removeprefix(f"{name} ")
    fault, _, told = text.partition("; ")
    return Fault(file=file, fault=fault, remedy=told or remedy)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
