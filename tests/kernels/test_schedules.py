"""Schedules: numbers at the steps where they change, and refusals."""

import pytest

from fastvae_kernels import ConstantSchedule, CyclicalSchedule, LinearSchedule


def test_constant() -> None:
    assert [ConstantSchedule(0.3)(step) for step in (0, 5, 10**9)] == [0.3] * 3


def test_linear_rises_and_stays() -> None:
    schedule = LinearSchedule(steps=4, end=3.0, begin=1.0)
    assert [schedule(step) for step in (0, 1, 2, 4, 400)] == [1.0, 1.5, 2.0, 3.0, 3.0]


def test_cyclical_rises_and_stays_in_every_cycle() -> None:
    schedule = CyclicalSchedule(steps=16, cycles=2, ramp=0.5, end=2.0)
    cycle = [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0]
    assert [schedule(step) for step in range(16)] == 2 * cycle
    assert schedule(16) == schedule(1000) == 2.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearSchedule(0), "steps must be at least 1; found 0"),
        (lambda: CyclicalSchedule(0), "steps must be at least 1; found 0"),
        (lambda: CyclicalSchedule(5, cycles=0), "cycles must be at least 1; found 0"),
        (lambda: CyclicalSchedule(5, ramp=0.0), r"ramp must be in \(0, 1\]; found 0.0"),
        (lambda: CyclicalSchedule(5, ramp=1.5), r"ramp must be in \(0, 1\]; found 1.5"),
    ],
)
def test_refusals(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
