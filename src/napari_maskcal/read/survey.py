"""The pass over all pixels before work starts: every fault of every field, and the content of each as a hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from napari_maskcal.read.checks import Duplicates, own_faults
from napari_maskcal.read.consistency import Consistency
from napari_maskcal.read.facts import Facts, facts_from_bytes, facts_to_bytes, measure
from napari_maskcal.read.faults import Fault, fault_of, unique
from napari_maskcal.read.names import as_compared
from napari_maskcal.read.opened import file_key, file_state
from napari_maskcal.read.parts import REMEDY

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from napari_maskcal.read.cache import Cache
    from napari_maskcal.read.parts import Part, Triplet, Triplets


_KIND = f"facts of {' '.join(Facts.__slots__)}"  # what an earlier version kept had other ones


class Cancel(Protocol):
    """What tells whether to stop."""

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """One field that was looked at.

    Attributes
    ----------
    triplet
        The field.
    facts
        Content of each part that could be read.
    faults
        What is wrong with it; empty: it can be used.
    """

    triplet: Triplet
    facts: Mapping[str, Facts]
    faults: tuple[Fault, ...] = ()

    @property
    def hashes(self) -> dict[str, str]:
        """`content_hash` of each part that could be read."""
        return {name: facts.sha256 for name, facts in self.facts.items()}

    @property
    def sha256(self) -> str:
        """One hash of all parts together."""
        return _together(self.hashes)

    @property
    def pair_sha256(self) -> str:
        """One hash of the degraded image and the truth: by it a field is known again, whatever restored it."""
        return _together({name: self.hashes[name] for name in ("degraded", "truth")})

    def known_as(self, names: Mapping[str, str]) -> str | None:
        """Return the name that `names` has for this field's `pair_sha256`; None where it has none."""
        return names.get(self.pair_sha256) if {"degraded", "truth"} <= set(self.hashes) else None


def _together(hashes: Mapping[str, str]) -> str:
    text = "\n".join(f"{name} {sha256}" for name, sha256 in sorted(hashes.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def survey(
    triplets: Triplets,
    *,
    cache: Cache | None = None,
    scale_factor: int = 1,
    needs_restored: bool = False,
    foreign_to: Collection[str] = (),
    cancel: Cancel | None = None,
) -> Iterator[Surveyed]:
    """Look at one field after the other, and yield what was seen.

    Parameters
    ----------
    triplets
        Read here, a plane at a time.
    cache
        Where the content of files is kept, so that next time an unchanged file is not opened.
    scale_factor
        How many times as many pixels a side the truth has.
    needs_restored
        Whether it is a fault to have no restored image.
    foreign_to
        `content_hash` of all images that were used to train.
    cancel
        Looked at before each field; once it is set, the stream simply ends.

    Yields
    ------
    Each field. Of two fields with the same content, the fault is the later one's.
    """
    consistency, duplicates = Consistency(triplets.items), Duplicates()
    foreign_to = frozenset(foreign_to)
    state = lru_cache(maxsize=8)(file_state)  # a stack is looked at once, not for each of its planes
    for triplet in triplets:
        if cancel is not None and cancel.cancelled:
            return
        facts, unreadable = _look(triplet.parts(), cache, state)
        own = own_faults(
            triplet, facts, scale_factor=scale_factor, needs_restored=needs_restored, foreign_to=foreign_to
        )
        faults = (*unreadable, *own, *consistency.faults(triplet), *duplicates.faults(triplet, facts))
        yield Surveyed(triplet=triplet, facts=facts, faults=unique(faults))


def all_faults(triplets: Triplets, surveyed: Sequence[Surveyed], *, minimal_groups: int = 0) -> tuple[Fault, ...]:
    """Return each fault of each file once, and whether there are too few groups.

    Parameters
    ----------
    triplets, surveyed
        The set, and what `survey` gave for it.
    minimal_groups
        How many groups, that is specimens, the work to come takes.
    """
    found = [fault for field in surveyed for fault in field.faults]
    return unique((*triplets.faults, *found, *_twins(triplets), *_too_few(surveyed, minimal_groups)))


def _twins(triplets: Triplets) -> Iterator[Fault]:
    """Find specimens whose names differ so little that they may be one, which must not count twice."""
    if not triplets.grouped:
        return
    spelled: dict[str, str] = {}
    for group in dict.fromkeys(triplet.group for triplet in triplets):
        if (first := spelled.setdefault(as_compared(group), group)) != group:
            told = f"of {group!r} and of {first!r} would count as two specimens"
            yield Fault(file="the fields", fault=told, remedy="spell a specimen's name in one way")


def _look(
    parts: Mapping[str, Part], cache: Cache | None, state: Callable[[Path], tuple[Any, ...]]
) -> tuple[dict[str, Facts], list[Fault]]:
    facts, faults = {}, []
    for name, part in parts.items():
        try:
            facts[name] = _kept_or_measured(part, cache, state)
        except ValueError as error:
            faults.append(fault_of(error, file=part.describe(), remedy=REMEDY))
    return facts, faults


def _kept_or_measured(part: Part, cache: Cache | None, state: Callable[[Path], tuple[Any, ...]]) -> Facts:
    path = part.image
    if cache is None or not isinstance(path, Path):
        return measure(part.read())
    key = file_key(_KIND, path, state(path), part.axes, part.index)
    if kept := cache.get(key):
        return facts_from_bytes(kept)
    facts = measure(part.read())
    if path.is_dir() or file_state(path) == state(path):
        cache.put(key, facts_to_bytes(facts))
    return facts


def _groups(groups: Collection[str]) -> str:
    return f"{len(groups)} group{'s' * (len(groups) != 1)}"


def _too_few(surveyed: Sequence[Surveyed], minimal_groups: int) -> list[Fault]:
    groups = {field.triplet.group for field in surveyed}
    usable = {field.triplet.group for field in surveyed if not field.faults}
    if not surveyed:
        told, remedy = "are none", "give files whose names are in all folders"
    elif len(groups) == 1 and len(surveyed) > 1 and minimal_groups > 1:
        told = f"are {len(surveyed)} of one group, {next(iter(groups))!r}, and {minimal_groups} groups are needed"
        remedy = "add fields of other specimens, or say how names tell specimens apart (T=\\d+: each plane is one)"
    elif len(groups) < minimal_groups:
        told = f"are of {_groups(groups)}, and {minimal_groups} are needed"
        remedy = "add fields of other specimens, or ask for less confidence"
    elif len(usable) < minimal_groups:
        told = f"without fault are of {_groups(usable)}, and {minimal_groups} are needed"
        remedy = "correct the faults"
    else:
        return []
    return [Fault(file="the fields", fault=told, remedy=remedy)]
