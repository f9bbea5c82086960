"""What may be wrong with the pixels of a field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_maskcal.read.consistency import by
from napari_maskcal.read.faults import Fault
from napari_maskcal.read.percentiles import HIGH, LOW

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from napari_maskcal.read.facts import Facts
    from napari_maskcal.read.parts import Part, Triplet

_LEAVE_OUT = "leave the field out"
_LARGEST_FLOAT32 = 3.4e38
_LARGEST_RATIO = 30.0  # of intensity ranges: noise widens a range several times, another unit hundreds of times


def own_faults(
    triplet: Triplet,
    facts: Mapping[str, Facts],
    *,
    scale_factor: int,
    needs_restored: bool,
    foreign_to: Collection[str],
) -> list[Fault]:
    """Return what is wrong with a field taken by itself."""
    parts = triplet.parts()
    faults = [fault for name, fact in facts.items() for fault in _values(name, parts[name], fact)]
    faults += _shapes(triplet, scale_factor) + _identical(triplet, facts) + _unequal_units(triplet, facts)
    if needs_restored and triplet.restored is None:
        told = "has no restored image"
        faults.append(Fault(file=triplet.degraded.describe(), fault=told, remedy="add it, or choose a restorer"))
    faults += [
        Fault(file=parts[name].describe(), fault="was used to train", remedy="leave all fields of its specimen out")
        for name, fact in facts.items()
        if fact.sha256 in foreign_to
    ]
    return faults


def _values(name: str, part: Part, facts: Facts) -> list[Fault]:
    """NaN, constant, or not above 0 where that is needed."""
    if facts.nonfinite:
        told = f"has {facts.nonfinite} NaN or infinite values, the first at (y, x) = {facts.first}"
        return [Fault(file=part.describe(), fault=told, remedy=f"replace them, or {_LEAVE_OUT}")]
    if name == "uncertainty" and facts.minimum <= 0:
        told = f"has values that are not above 0, the smallest is {facts.minimum:g}"
        return [Fault(file=part.describe(), fault=told, remedy="add a small number to all maps")]
    if name == "uncertainty" and facts.maximum > _LARGEST_FLOAT32:
        told = f"has values too large for float32, the largest is {facts.maximum:g}"
        return [Fault(file=part.describe(), fault=told, remedy="scale all maps down")]
    if name == "degraded" and facts.low == facts.high and not facts.constant:
        told = f"has nothing to restore: its percentiles {LOW:g} and {HIGH:g} are both {facts.low:g}"
        return [Fault(file=part.describe(), fault=told, remedy=_LEAVE_OUT)]
    if name != "uncertainty" and facts.constant:
        told = f"is constant: every pixel is {facts.minimum:g}"
        return [Fault(file=part.describe(), fault=told, remedy=_LEAVE_OUT)]
    return []


def _shapes(triplet: Triplet, scale_factor: int) -> list[Fault]:
    degraded = triplet.degraded
    height, width = degraded.shape
    wanted = (height * scale_factor, width * scale_factor)
    enlarged = f", which a restorer enlarges {scale_factor} times" if scale_factor > 1 else ""
    told = f"but {degraded.label} is {by(degraded.shape)}{enlarged}"
    remedy = f"bring it to {by(wanted)}, or {_LEAVE_OUT}"
    return [
        Fault(file=part.label, fault=f"is {by(part.shape)} pixels, {told}", remedy=remedy)
        for part in (triplet.truth, triplet.restored, triplet.uncertainty)
        if part is not None and part.shape != wanted
    ]  # fmt: skip


def _identical(triplet: Triplet, facts: Mapping[str, Facts]) -> list[Fault]:
    """Find a truth that is the restored or the degraded image: any restorer would seem perfect."""
    truth = facts.get("truth")
    return [
        Fault(
            file=triplet.truth.describe(),
            fault=f"has the same pixels as {part.describe()}",
            remedy="give the true image, or leave the field out",
        )
        for name, part in triplet.parts().items()
        if name in ("degraded", "restored") and truth and name in facts and facts[name].sha256 == truth.sha256
        if not truth.constant
    ]


def _unequal_units(triplet: Triplet, facts: Mapping[str, Facts]) -> list[Fault]:
    """Find images whose intensities cannot be those of the degraded one: shares of its range would mean nothing."""
    faults = []
    degraded = facts.get("degraded")
    for name in ("truth", "restored"):
        other, part = facts.get(name), triplet.parts().get(name)
        if degraded is None or other is None or part is None:
            continue
        here, there = degraded.high - degraded.low, other.high - other.low
        if min(here, there) > 0 and max(here, there) > _LARGEST_RATIO * min(here, there):
            told = f"has intensities over a range of {there:.3g}, but {triplet.degraded.describe()} of {here:.3g}"
            faults.append(Fault(file=part.describe(), fault=told, remedy="bring both to one intensity unit"))
    return faults


class Duplicates:
    """Finds the same content in two fields."""

    def __init__(self) -> None:
        self._degraded: dict[str, Triplet] = {}
        self._truths: dict[str, Triplet] = {}

    def faults(self, triplet: Triplet, facts: Mapping[str, Facts]) -> list[Fault]:
        """Return the faults of `triplet` against those seen before."""
        telling = {name: fact.sha256 for name, fact in facts.items() if not fact.constant}
        if "degraded" in telling:
            earlier = self._degraded.setdefault(telling["degraded"], triplet)
            if earlier is not triplet:
                return [_twice(triplet.degraded, earlier.degraded)]
        if "truth" in telling:
            earlier = self._truths.setdefault(telling["truth"], triplet)
            if earlier.group != triplet.group:
                return [_dependent(triplet, earlier)]
        return []


def _twice(part: Part, earlier: Part) -> Fault:
    told = f"has the same pixels as {earlier.describe()}"
    return Fault(file=part.describe(), fault=told, remedy="leave one of the two out")


def _dependent(triplet: Triplet, earlier: Triplet) -> Fault:
    groups = f"{earlier.group!r} and {triplet.group!r}"
    return Fault(
        file=triplet.truth.describe(),
        fault=f"has the same pixels as {earlier.truth.describe()}, of another group: {groups}",
        remedy="put fields with one truth into one group, or leave one out",
    )
