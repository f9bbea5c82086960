"""Which file of one folder belongs to which of another, by their names alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOKEN = re.compile(r"[^\W\d_]+|\d+|/")  # letters, digits, or a folder's end


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Numbers of names that belong together.

    Attributes
    ----------
    partner
        Number in the first list -> number in the second.
    clashes
        For each list: the number of a name -> that of an earlier one in the same list that is as good a partner.
    unclear
        For each list: the numbers of all names that a clash leaves without a partner.
    """

    partner: dict[int, int]
    clashes: tuple[dict[int, int], dict[int, int]]
    unclear: tuple[set[int], set[int]]


def pair_names(first: Sequence[str], second: Sequence[str]) -> Pairing:
    """Pair names that are the same, or are so without what distinguishes all of one list from all of the other.

    Names are without their file endings. Only if no name is in both lists, the words of `first` that all its names
    have at the same place, and no name of `second` has there, are disregarded, and the other way about:
    ``"a_1_input"`` and ``"a_1_truth"`` belong together.
    """
    if set(first) & set(second):
        return _pair_keys(list(first), list(second))
    keys = _without_markers(first, second), _without_markers(second, first)
    return _pair_keys(*keys)


def _pair_keys(first: Sequence[object], second: Sequence[object]) -> Pairing:
    (numbers, clashes), (others, other_clashes) = _numbered(first), _numbered(second)
    unclear = {first[i] for i in clashes} | {second[i] for i in other_clashes}
    partner = {i: others[key] for key, i in numbers.items() if key and key in others and key not in unclear}
    sides = [{i for i, key in enumerate(keys) if key in unclear} for keys in (first, second)]
    return Pairing(partner=partner, clashes=(clashes, other_clashes), unclear=(sides[0], sides[1]))


def _numbered(keys: Sequence[object]) -> tuple[dict[object, int], dict[int, int]]:
    """Return the number of the first of each key, and for each later one that of the first."""
    numbers: dict[object, int] = {}
    later = {}
    for number, key in enumerate(keys):
        if key in numbers:
            later[number] = numbers[key]
        numbers.setdefault(key, number)
    return numbers, later


def _without_markers(names: Sequence[str], others: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the words of each name, less those that set all `names` apart from all `others`."""
    words, other_words = [_TOKEN.findall(n) for n in names], [_TOKEN.findall(n) for n in others]
    front = _markers(words, other_words)
    back = _markers([w[::-1] for w in words], [w[::-1] for w in other_words])
    return [
        tuple(word for i, word in enumerate(name) if i not in front and len(name) - 1 - i not in back)
        for name in words
    ]  # fmt: skip


def _markers(names: Sequence[Sequence[str]], others: Sequence[Sequence[str]]) -> set[int]:
    """Return the places where all `names` have one word that none of `others` has there."""
    found = set()
    for place, word in enumerate(names[0]):
        shared = all(len(name) > place and name[place] == word for name in names)
        foreign = all(len(name) <= place or name[place] != word for name in others)
        # The number of a folder's only field tells which field it is
        counts = word.isdigit() and min(len(names), len(others)) == 1
        if shared and foreign and word != "/" and not counts:
            found.add(place)
    return found
