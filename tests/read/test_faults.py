from __future__ import annotations

import pickle

from napari_maskcal.read.faults import Fault, FaultyTriplets, fault_of, table, unique


def faults(count: int) -> list[Fault]:
    return [
        Fault(file=f"low/{'x' * i}.tif", fault=f"is constant: every pixel is {i}", remedy="leave it")
        for i in range(count)
    ]


def test_the_error_is_one_line_with_the_number_and_the_first_three():
    error = FaultyTriplets(faults(5))
    assert str(error).startswith(
        "5 faults in the triplets: low/.tif is constant: every pixel is 0; leave it | low/x.tif"
    )
    assert "low/xx.tif" in str(error)
    assert "low/xxx.tif" not in str(error)
    assert str(error).endswith(" | and 2 more")
    assert error.faults == tuple(faults(5))
    assert str(FaultyTriplets(faults(1))).startswith("1 fault in")
    assert "more" not in str(FaultyTriplets(faults(3)))


def test_a_name_with_a_line_break_does_not_break_the_line():
    fault = Fault(file="a\nb.tif", fault="is bad", remedy="leave it")
    assert "\n" not in str(FaultyTriplets([fault]))
    assert len(table([fault]).splitlines()) == 2


def test_the_error_keeps_its_faults_on_the_way_from_another_process():
    assert pickle.loads(pickle.dumps(FaultyTriplets(faults(2)))).faults == tuple(faults(2))  # noqa: S301


def test_the_table_is_aligned_below_a_header():
    header, *lines = table(faults(3)).splitlines()
    assert header.split() == ["FILE", "FAULT", "REMEDY"]
    assert len(lines) == 3
    for word, column in (("is constant", header.index("FAULT")), ("leave it", header.index("REMEDY"))):
        assert {line.index(word) for line in lines} == {column}
    assert table([]) == ""


def test_each_fault_is_told_once_in_its_order():
    assert unique([*faults(2), *faults(3)]) == tuple(faults(3))


def test_an_error_becomes_a_fault_with_its_own_remedy_or_the_one_given():
    error = ValueError("/x/a.tif cannot be read: no;\nbuy a disk")
    assert fault_of(error, file="low/a.tif", names=("/x/a.tif",), remedy="repair it") == Fault(
        file="low/a.tif", fault="cannot be read: no", remedy="buy a disk"
    )
    assert fault_of(ValueError("low/a.tif is bad"), file="low/a.tif", remedy="repair it").remedy == "repair it"
