"""What the Train dock has done in a thread: no more steps than can be seen."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from napari_maskcal._widgets import training_work
from napari_maskcal._widgets.training_work import thinned
from napari_maskcal.restore.events import StepDone, Validated, Warned

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS = 1000


def steps(clock: list[float], *, every_s: float) -> Iterator[StepDone]:
    for step in range(1, STEPS + 1):
        clock[0] += every_s
        yield StepDone(step=step, steps=STEPS, loss=float(step), seconds_left=0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(training_work.time, "monotonic", lambda: now[0])
    return now


def test_fast_steps_are_told_a_few_times_a_second_with_the_mean_of_their_losses(clock):
    shown = list(thinned(steps(clock, every_s=0.01)))
    assert len(shown) <= 10 / 0.25 + 2
    assert (shown[0].step, shown[-1].step) == (1, STEPS)
    gaps = [after.step - before.step for before, after in pairwise(shown)]
    for own, gap in zip(shown[1:], gaps, strict=True):
        assert own.loss == pytest.approx(own.step - (gap - 1) / 2)


def test_slow_steps_are_all_told(clock):
    assert [own.loss for own in thinned(steps(clock, every_s=0.3))] == list(range(1, STEPS + 1))


def test_nothing_but_steps_is_ever_left_out(clock):
    others = [Warned(message="less memory"), Validated(step=2, masked_share=0.3, best=True), Warned(message="again")]
    step = StepDone(step=1, steps=9, loss=1.0, seconds_left=0)
    events = [step, others[0], step, others[1], step, others[2]]
    assert list(thinned(events)) == [step, *others]
