"""How specimens are split before a training."""

from __future__ import annotations

import pytest

from napari_maskcal.training_split import split_groups


def names(count: int) -> list[str]:
    return [f"mouse {i}" for i in range(count)]


def sizes(count: int, **options: object) -> tuple[int, int, int]:
    split = split_groups(names(count), **options)  # type: ignore[arg-type]
    return len(split.training), len(split.validation), len(split.calibration)


def test_no_group_is_in_two_parts_and_none_is_lost():
    split = split_groups(names(40), calibration=9)
    together = [*split.training, *split.validation, *split.calibration]
    assert sorted(together) == sorted(names(40))


@pytest.mark.parametrize(
    ("count", "calibration", "expected"),
    [
        (100, 9, (60, 15, 25)),
        (100, 0, (80, 20, 0)),
        (20, 9, (9, 2, 9)),
        (13, 9, (2, 2, 9)),  # two of each where that can be had
        (12, 9, (2, 1, 9)),
        (11, 9, (1, 1, 9)),
        (100, 50, (40, 10, 50)),  # a promise that takes more than a quarter of them gets it
        (2, 0, (1, 1, 0)),
        (4, 0, (2, 2, 0)),
    ],
)  # fmt: skip
def test_the_parts_are_as_large_as_they_can_be(count, calibration, expected):
    assert sizes(count, calibration=calibration) == expected


def test_the_seed_decides_and_the_order_of_the_names_does_not():
    groups = names(30)
    split = split_groups(groups, seed=1)
    assert split == split_groups(groups[::-1], seed=1)
    assert split != split_groups(groups, seed=2)


@pytest.mark.parametrize("count", [0, 7, 10])
def test_too_few_groups_are_counted_with_what_each_part_takes(count):
    with pytest.raises(ValueError, match=(
        rf"^training needs 1, validation 1 and calibration 9 groups for confidence 0\.9: 11 groups in all; there are "
        rf"{count}: give more specimens"
    )):  # fmt: skip
        split_groups(names(count), calibration=9, confidence=0.9)


def test_without_calibration_two_groups_do_and_one_does_not():
    assert sizes(2) == (1, 1, 0)
    with pytest.raises(ValueError, match=r"training needs 1 and validation 1: 2 groups in all; there are 1: give more"):
        split_groups(names(1))


def test_the_tolerance_is_to_be_left_out_only_where_that_helps():
    with pytest.raises(ValueError, match=r"there are 7: give more specimens, or leave the tolerance out"):
        split_groups(names(7), calibration=9)
    with pytest.raises(ValueError, match=r"there are 1: give more specimens, or say how names tell specimens apart"):
        split_groups(names(1), calibration=9)


def test_what_the_restorer_was_trained_on_only_trains():
    seen = {"mouse 3", "mouse 5"}
    for seed in range(20):
        split = split_groups(names(16), calibration=9, seed=seed, seen=seen)
        assert seen <= set(split.training)
    by_chance = [split_groups(names(16), calibration=9, seed=seed) for seed in range(20)]
    assert not all(seen <= set(split.training) for split in by_chance)


def test_it_counts_only_the_groups_that_are_new_to_the_restorer_where_newness_matters():
    assert sizes(11, calibration=9, seen={"mouse 0"}) == (1, 1, 9)
    with pytest.raises(ValueError, match=(
        r"^validation needs 1 and calibration 9 groups for confidence 0\.9: 10 groups in all that the restorer was not "
        r"trained on; there are 9"
    )):  # fmt: skip
        split_groups(names(11), calibration=9, seen={"mouse 0", "mouse 1"})
