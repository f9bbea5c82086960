from __future__ import annotations

import numpy as np
import pytest

from napari_maskcal.calibrate.ladder import STEPS_PER_DECADE, rung_above, rung_below, rungs

LADDER = rungs(-12 * STEPS_PER_DECADE, 24 * STEPS_PER_DECADE)


def test_every_number_of_two_digits_is_on_the_ladder_exactly_as_it_is_typed():
    typed = {float(f"{digits}e{exponent}") for digits in range(10, 100) for exponent in range(-13, 11)}
    assert typed <= set(LADDER.tolist())
    assert 0.0433 not in LADDER


def test_steps_are_small():
    steps = LADDER[1:] / LADDER[:-1]
    assert steps.min() > 1.009
    assert steps.max() < 1.0251


@pytest.mark.parametrize("decade", range(-9, 9))
def test_the_rungs_beside_a_number_enclose_it(decade):
    rng = np.random.default_rng(decade + 9)
    numbers = [*(10.0 ** (decade + rng.random(50))), 10.0**decade, float(f"4.3e{decade}")]
    for number in [beside for n in numbers for beside in (n, np.nextafter(n, 0), np.nextafter(n, np.inf))]:
        above, below = rung_above(number), rung_below(number)
        assert rungs(above - 1, 1)[0] < number <= rungs(above, 1)[0]
        assert rungs(below, 1)[0] <= number < rungs(below + 1, 1)[0]
        assert (above == below) == (number in LADDER)


def test_the_first_rung_is_one():
    assert rungs(0, 3).tolist() == [1, 1.02, 1.04]
    assert rungs(-2, 3).tolist() == [0.98, 0.99, 1]
