"""Schedules of a loss's weight or capacity: a number for each step, counted from 0, with no state to keep.

`elbo_loss(..., beta=schedule(step))` with schedule = LinearSchedule(steps=1000, end=4.0), say.
"""

from dataclasses import dataclass

__all__ = ["ConstantSchedule", "CyclicalSchedule", "LinearSchedule"]


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1; found {steps}")


@dataclass(frozen=True)
class ConstantSchedule:
    """`value` at every step."""

    value: float = 1.0

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class LinearSchedule:
    """From `begin` at step 0 to `end` at step `steps`, in a line, and `end` from then on.

    A warm-up of beta (Sønderby et al. 2016), or the growth of a capacity (Burgess et al. 2018). Raises ValueError for
    fewer than one step.
    """

    steps: int
    end: float = 1.0
    begin: float = 0.0

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def __call__(self, step: int) -> float:
        share = min(max(step / self.steps, 0.0), 1.0)
        return self.begin + (self.end - self.begin) * share


@dataclass(frozen=True)
class CyclicalSchedule:
    """`cycles` times from 0 to `end` within `steps` steps, and `end` from then on (Fu et al. 2019).

    A cycle is steps / cycles long; it rises in a line for the share `ramp` of that, and stays at `end` for the rest.
    Raises ValueError for fewer than one step or cycle, and for a ramp outside (0, 1].
    """

    steps: int
    cycles: int = 4
    ramp: float = 0.5
    end: float = 1.0

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        if self.cycles < 1:
            raise ValueError(f"cycles must be at least 1; found {self.cycles}")
        if not 0 < self.ramp <= 1:
            raise ValueError(f"ramp must be in (0, 1]; found {self.ramp}")

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.end
        within = max(step, 0) * self.cycles / self.steps % 1
        return self.end * min(within / self.ramp, 1.0)
