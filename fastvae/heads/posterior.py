"""What an encoder's features become: the posterior of a row's latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from fastvae.layers import Shape, Stack, check, stack_shape

Parametrization: TypeAlias = Literal["logvar", "softplus_std", "variance"]


@dataclass(frozen=True)
class GaussianHead:
    """From features to the mean and log-variance of a diagonal Gaussian.

    ``layout`` says how the two come out of the network:

    * ``separate``: ``mean`` and ``scale`` are two stacks over the same features;
    * ``chunked``: ``joint`` makes twice the channels, all means first;
    * ``interleaved``: ``joint`` makes twice the channels, mean and scale in turn.

    ``parametrization`` says what the scale half is: a log-variance; a standard deviation before softplus,
    ``softplus(raw) + eps``; or a variance, ``raw + eps``. The log-variance is clamped to
    [``logvar_min``, ``logvar_max``] where given.
    """

    kind: ClassVar[str] = "gaussian_head"
    layout: Literal["separate", "chunked", "interleaved"]
    mean: Stack = ()
    scale: Stack = ()
    joint: Stack = ()
    parametrization: Parametrization = "logvar"
    eps: float = 0.0
    logvar_min: float | None = None
    logvar_max: float | None = None

    def __post_init__(self) -> None:
        separate = self.layout == "separate"
        check(
            not self.joint if separate else not (self.mean or self.scale),
            f"gaussian_head: layout {self.layout!r} takes "
            + ("stacks mean and scale, not joint" if separate else "one stack, joint, not mean and scale"),
        )
        check(self.eps >= 0, f"gaussian_head: eps must not be negative, got {self.eps}")
        check(
            self.logvar_min is None or self.logvar_max is None or self.logvar_min <= self.logvar_max,
            f"gaussian_head: logvar_min {self.logvar_min} exceeds logvar_max {self.logvar_max}",
        )

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the mean (and of the log-variance) for features of ``shape``."""
        if self.layout == "separate":
            mean, scale = stack_shape(self.mean, shape), stack_shape(self.scale, shape)
            check(mean == scale, f"gaussian_head: mean has shape {mean} but scale has {scale}")
            return mean
        joint = stack_shape(self.joint, shape)
        check(
            joint[0] % 2 == 0,
            f"gaussian_head: joint must make an even number of channels, found shape {joint}",
        )
        return (joint[0] // 2, *joint[1:])

    def stacks(self) -> tuple[Stack, ...]:
        return (self.mean, self.scale) if self.layout == "separate" else (self.joint,)


@dataclass(frozen=True)
class PointHead:
    """The posterior of a deterministic encoder: all its probability at one point, which ``mean`` makes of the features.

    Its log-variance is minus infinity, so that every draw from it is the mean.
    """

    kind: ClassVar[str] = "point_head"
    mean: Stack = ()

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the mean for features of ``shape``."""
        return stack_shape(self.mean, shape)

    def stacks(self) -> tuple[Stack, ...]:
        return (self.mean,)
