from __future__ import annotations

from dataclasses import replace

import pytest

from napari_maskcal.mask import collapse
from napari_maskcal.mask.train import CollapsedError, Validation
from napari_maskcal.mask.weight import search_weight
from napari_maskcal.restore.events import CancelToken, Warned
from training_fields import QUICK, training_fields

RECIPE = replace(QUICK, loss="paper", steps=500, weight=77.0)
MEAN_ERROR = 0.12  # half of each field has errors of 0.3, whose mean absolute value is 0.24


def searched(validation, **options):
    """Run the search to its end; returns the recipe and what was said."""
    said = []

    def take():
        return (yield from search_weight(training_fields(), RECIPE, validation=validation, steps=4, **options))

    stream = take()
    while True:
        try:
            said.append(next(stream))
        except StopIteration as end:
            return end.value, [event.message for event in said if isinstance(event, Warned)]


def shares(*found: float):
    left = [share for share in found for _ in range(2)]  # validated after 3 steps and after 4
    return lambda network: Validation(masked_share=left.pop(0))


@pytest.fixture
def nothing_collapses(monkeypatch) -> None:
    """Four steps hardly change a network; here only the choice matters."""
    monkeypatch.setattr(collapse, "_SAME", 0.0)


@pytest.mark.usefixtures("nothing_collapses")
def test_the_weight_that_masks_least_is_taken_and_all_else_stays():
    recipe, said = searched(shares(0.6, 0.5, 0.3, 0.4))
    assert recipe == replace(RECIPE, weight=recipe.weight)
    assert recipe.weight == pytest.approx(3 / MEAN_ERROR, rel=0.1)
    assert len(said) == 4
    assert said[2] == f"the paper's loss with weight {recipe.weight:g} masks 30.0% of the validation fields"
    other, _ = searched(shares(0.1, 0.5, 0.3, 0.4))
    assert other.weight == pytest.approx(recipe.weight / 10, rel=0.01)


def test_a_weight_that_collapses_is_said_and_left_out(monkeypatch):

    def refuse(network, batch, *, weight):
        if weight < 20:
            raise CollapsedError(f"the loss weight {weight:g} is too low")

    monkeypatch.setattr("napari_maskcal.mask.train.refuse_collapse", refuse)
    found = iter([0.1, 0.1, 0.4, 0.4, 0.5, 0.5])  # of those that collapse, one validation each
    recipe, said = searched(lambda network: Validation(masked_share=next(found)))
    assert recipe.weight == pytest.approx(3 / MEAN_ERROR, rel=0.1)
    assert ["too low" in line for line in said] == [True, True, False, False]


def test_a_search_in_which_all_collapse_says_so_and_what_to_do(monkeypatch):
    monkeypatch.setattr(collapse, "_SAME", 10.0)
    with pytest.raises(
        CollapsedError, match=r"collapsed with each of 2 weights around .*; take the loss quantile, which"
    ):
        searched(lambda network: Validation(masked_share=0.5), ladder=(1.0, 2.0))


@pytest.mark.usefixtures("nothing_collapses")
def test_a_cancelled_search_gives_what_it_has():
    cancel = CancelToken()

    def validate(network):
        cancel.cancel()
        return Validation(masked_share=0.5)

    recipe, said = searched(validate, cancel=cancel)
    assert recipe.weight == pytest.approx(0.3 / MEAN_ERROR, rel=0.1)
    assert len(said) == 1
    recipe, said = searched(validate, cancel=cancel)
    assert (recipe, said) == (RECIPE, [])


def test_a_restoration_without_error_has_no_weight():
    fields = [replace(field, truth=field.restored) for field in training_fields()]
    with pytest.raises(ValueError, match="the distance l1 between restored and truth is 0: nothing to learn"):
        next(search_weight(fields, RECIPE, validation=lambda network: Validation(masked_share=0.5)))
