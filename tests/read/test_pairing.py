from __future__ import annotations

import pytest

from napari_maskcal.read.pairing import pair_names


def paired(first: list[str], second: list[str]) -> list[tuple[str, str]]:
    return [(first[i], second[j]) for i, j in pair_names(first, second).partner.items()]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["a", "b"], ["a", "b"]),
        (["a_input", "b_input"], ["a_truth", "b_truth"]),
        (["a_input"], ["a_truth"]),
        (["cell_07_input"], ["cell_07_truth"]),
        (["low_1", "low_2"], ["high_1", "high_2"]),
        (["noisy1", "noisy2"], ["clean1", "clean2"]),
        (["1_ch1", "2_ch1"], ["1_ch2", "2_ch2"]),
        (["c1_10ms", "c2_10ms"], ["c1_100ms", "c2_100ms"]),
        (["s1/input/a", "s2/input/a"], ["s1/truth/a", "s2/truth/a"]),
        (["s1/input", "s2/input"], ["s1/truth", "s2/truth"]),
        (["exp1_cell1", "exp1_cell2"], ["exp2_cell1", "exp2_cell2"]),
        (["x_5_in", "y_5_in"], ["x_5_gt", "y_5_gt"]),
    ],
)
def test_names_that_belong_together_are_paired_in_their_order(first, second):
    assert paired(first, second) == list(zip(first, second, strict=True))
    assert paired(second, first) == list(zip(second, first, strict=True))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["a"], ["b"]),
        (["a_input"], ["b_truth"]),
        (["cell_07_input"], ["cell_08_truth"]),
        (["a_input", "b_input"], ["c_truth", "d_truth"]),
    ],
)
def test_names_that_do_not_are_not(first, second):
    assert paired(first, second) == []


def test_a_name_that_is_in_both_lists_forbids_to_look_at_words():
    assert paired(["a", "b_input"], ["a", "b_truth"]) == [("a", "a")]


def test_the_same_folder_is_told_from_another_of_the_same_file_name():
    assert paired(["s1/a_in", "s2/a_in"], ["s2/a_gt", "s1/a_gt"]) == [("s1/a_in", "s1/a_gt"), ("s2/a_in", "s2/a_gt")]


def test_what_only_one_list_has_stays_alone():
    assert paired(["5_a_in", "5_b_in"], ["5_a_gt", "5_b_gt", "6_c_gt"]) == [("5_a_in", "5_a_gt"), ("5_b_in", "5_b_gt")]


def test_of_two_that_are_as_good_none_is_taken():
    pairing = pair_names(["a", "a", "b"], ["a", "b"])
    assert pairing.partner == {2: 1}
    assert pairing.clashes == ({1: 0}, {})
    pairing = pair_names(["a-1_in", "a_1_in"], ["a_1_gt", "b_1_gt"])
    assert (pairing.partner, pairing.clashes, pairing.unclear) == ({}, ({1: 0}, {}), ({0, 1}, {0}))
