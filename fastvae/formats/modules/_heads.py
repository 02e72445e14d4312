"""Mean and scale of a traced module as a head of a spec, and its logits as a spec holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from fastvae.errors import InputError, UnsupportedError
from fastvae.formats.modules._outputs import Scale
from fastvae.formats.modules._values import (
    Clamp,
    Function,
    Part,
    Scaling,
    Stacker,
    Value,
    common_dominator,
    reshaped,
    scaled,
    uniform,
)
from fastvae.heads import Parametrization
from fastvae.layers import Activation, Conv2d, ConvTranspose2d, Flatten, Linear, Reshape, Stack
from fastvae.spec import GaussianHead


@dataclass(frozen=True)
class Spread:
    """What a head makes its log-variance of: GaussianHead's settings for ``raw``."""

    raw: Value
    parametrization: Parametrization = "logvar"
    eps: float = 0.0
    minimum: float | None = None
    maximum: float | None = None

    def limited(self, minimum: float | None, maximum: float | None) -> Spread:
        """The same with its log-variance limited once more."""
        low = [limit for limit in (self.minimum, minimum) if limit is not None]
        high = [limit for limit in (self.maximum, maximum) if limit is not None]
        return replace(self, minimum=max(low, default=None), maximum=min(high, default=None))


def spread_of(value: Value, scale: Scale, name: str) -> Spread:
    """How the log-variance comes out of ``value``, which is what ``scale`` says.

    ======== ==================================================
    logvar   any, log(variance), 2 log(std)
    logstd   any, log(std)
    std      exp(any), sqrt(variance), softplus(any), softplus(any) + constant
    variance any that is positive; exp(any)
    ======== ==================================================

    Each of them, and what is inside of exp or log, may be limited (``clamp``).

    Args:
        name: for a layer that turns the logarithm of a standard deviation into that of a variance.

    Raises:
        UnsupportedError: a standard deviation of another form.
    """
    inner = value.operands[0] if value.operands else value
    if isinstance(value.operation, Clamp):
        limits = (_log_variance(limit, scale) for limit in (value.operation.minimum, value.operation.maximum))
        return spread_of(inner, scale, name).limited(*limits)
    if value.operation == Function("log") and scale in ("logvar", "logstd"):
        return spread_of(inner, "variance" if scale == "logvar" else "std", name)
    if value.operation == Function("exp") and scale in ("std", "variance"):
        return spread_of(inner, "logstd" if scale == "std" else "logvar", name)
    if value.operation == Function("sqrt") and scale == "std":
        return spread_of(inner, "variance", name)
    match scale:
        case "logvar":
            if is_scaled(value, 2.0, 0.0) and inner.operation == Function("log"):
                return spread_of(inner, "logstd", name)
            return Spread(value)
        case "logstd":
            two = torch.full((1,), 2.0, dtype=torch.float64)
            return spread_of(scaled(value, name, two, two * 0, value.where), "logvar", name)
        case "variance" | "softplus_std":
            return Spread(value, scale)
        case _:
            return _softplus_spread(value)


def _softplus_spread(value: Value) -> Spread:
    found = softplus_of(value)
    if found is None:
        raise UnsupportedError(
            f"{value.where} is not supported there: a standard deviation must end in exp, in sqrt, in softplus, or in "
            "softplus plus a constant"
        )
    return Spread(found[0], "softplus_std", found[1])


def softplus_of(value: Value) -> tuple[Value, float] | None:
    """What ``value`` is the softplus of, and the constant that is added; None if it is no such thing."""
    softplus, eps = value, 0.0
    if isinstance(value.operation, Scaling):
        shift = uniform(value.operation.shift)
        if shift is not None and shift >= 0 and is_scaled(value, 1.0, shift):
            (softplus,), eps = value.operands, shift
    return (softplus.operands[0], eps) if softplus.operation == Activation("softplus") else None


def is_scaled(value: Value, scale: float, shift: float) -> bool:
    operation = value.operation
    return isinstance(operation, Scaling) and (uniform(operation.scale), uniform(operation.shift)) == (scale, shift)


def _log_variance(limit: float | None, scale: Scale) -> float | None:
    """A limit of what ``scale`` says as one of the log-variance; none where it is no limit there."""
    if limit is None or scale == "logvar":
        return limit
    if scale == "logstd":
        return 2 * limit
    if scale == "softplus_std":
        return 2 * (limit if limit < -40 else math.log(max(limit, 0.0) + math.log1p(math.exp(-abs(limit)))))
    if limit <= 0:
        return None
    return math.log(limit) * (2 if scale == "std" else 1)


class HeadBuilder:
    """Makes heads of the values of one traced module.

    ``name`` is for layers that a head needs and the module does not have.
    """

    def __init__(self, source: Value, stacker: Stacker, name: str) -> None:
        self._source, self._stacker, self._name = source, stacker, name

    def stack(self, value: Value) -> Stack:
        """The layers from the module's input to ``value``."""
        return self._stacker.stack(value, self._source)

    def head(self, mean: Value, scale: Value, kind: Scale) -> tuple[Stack, GaussianHead]:
        """The stack that both share, and the head on it.

        Raises:
            UnsupportedError: mean and scale are parts of one tensor, but not its halves or every second channel;
                or something on the way is no layer.
        """
        spread = spread_of(scale, kind, f"{self._name}.logstd")
        settings: dict[str, Any] = {
            "parametrization": spread.parametrization,
            "eps": spread.eps,
            "logvar_min": spread.minimum,
            "logvar_max": spread.maximum,
        }
        joint = self._joint(mean, spread.raw)
        if joint is not None:
            layout, whole = joint
            stack = self._stacker.stack(whole, self._source)
            weighted = [i for i, layer in enumerate(stack) if isinstance(layer, Linear | Conv2d | ConvTranspose2d)]
            middle = weighted[-1] if weighted else len(stack)
            return stack[:middle], GaussianHead(layout, joint=stack[middle:], **settings)
        features = common_dominator(mean, spread.raw)
        stacks = [self._stacker.stack(value, features) for value in (mean, spread.raw)]
        return self.stack(features), GaussianHead("separate", stacks[0], stacks[1], **settings)

    def branches(self, values: list[Value]) -> tuple[Stack, list[Stack]]:
        """The stack that all ``values`` share, and the rest of the way to each."""
        features = values[0]
        for value in values[1:]:
            features = common_dominator(features, value)
        return self.stack(features), [self._stacker.stack(value, features) for value in values]

    def chunks(self, values: list[Value]) -> Value | None:
        """The tensor of which ``values`` are equal parts, one after another along its channels; None if they are none.

        Raises:
            UnsupportedError: they are parts of one tensor otherwise.
        """
        parts = [value.operation for value in values if isinstance(value.operation, Part)]
        if len(parts) < len(values) or len({value.operands for value in values}) > 1:
            return None
        (whole,) = values[0].operands
        share = whole.shape[0] // len(values)
        if [range(p.start, p.stop, p.step) for p in parts] != [
            range(i * share, (i + 1) * share) for i in range(len(values))
        ]:
            raise UnsupportedError(f"{values[0].where}: parameters must be equal parts, one after another, in order")
        return whole

    def _joint(self, mean: Value, raw: Value) -> tuple[Literal["chunked", "interleaved"], Value] | None:
        """The tensor that the two are parts of, scaled and reshaped as the parts are; None if they are no parts."""
        both = mean, raw
        if isinstance(mean.operation, Flatten | Reshape) and mean.operation == raw.operation:
            inner = self._joint(mean.operands[0], raw.operands[0])
            if inner is None or inner[0] != "chunked":
                return None
            return "chunked", reshaped(inner[1], (2 * mean.shape[0], *mean.shape[1:]), mean.where)
        plain = [value.operands[0] if isinstance(value.operation, Scaling) else value for value in both]
        parts = [value.operation for value in plain if isinstance(value.operation, Part)]
        if len(parts) < 2 or plain[0].operands != plain[1].operands:
            return None
        (whole,) = plain[0].operands
        size = whole.shape[0]
        ranges = [range(p.start, p.stop, p.step) for p in parts]
        if ranges == [range(0, size, 2), range(1, size, 2)] and size > 2:
            layout: Literal["chunked", "interleaved"] = "interleaved"
        elif ranges == [range(size // 2), range(size // 2, size)]:
            layout = "chunked"
        else:
            raise UnsupportedError(f"{mean.where}: mean and scale must be the first and second half, or alternate")
        return layout, self._scaled_like(whole, both, ranges)

    def _scaled_like(self, whole: Value, both: tuple[Value, Value], ranges: list[range]) -> Value:
        """``whole`` with each part's own scaling, done before it is split."""
        scalings = [value.operation for value in both if isinstance(value.operation, Scaling)]
        if not scalings:
            return whole
        per_channel = all(scaling.scale.ndim == 1 for scaling in scalings)
        shape = whole.shape[:1] if per_channel else whole.shape
        scale, shift = torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        for value, channels in zip(both, ranges, strict=True):
            if isinstance(value.operation, Scaling):
                for full, own in ((scale, value.operation.scale), (shift, value.operation.shift)):
                    full[list(channels)] = own if own.ndim == full.ndim else own.reshape(-1, *[1] * (full.ndim - 1))
        return scaled(whole, f"{self._name}.joint_scaling", scale, shift, whole.where)


def logits(value: Value, owner: str) -> Value:
    """The logits in a decoder's output: what its sigmoid is taken of or, where it ends in none, the output.

    Raises:
        InputError: it ends in something else that no logits end in, such as tanh.
    """
    if value.operation == Activation("sigmoid"):
        return value.operands[0]
    if isinstance(value.operation, Flatten | Reshape):
        (inner,) = value.operands
        return reshaped(logits(inner, owner), value.shape, value.where)
    last = value.operands[0] if isinstance(value.operation, Scaling) else value
    if last.operation in (Activation("sigmoid"), Activation("tanh"), Activation("softplus")):
        raise InputError(
            f"{owner}: probabilities must end in a sigmoid; what ends in none must be logits; "
            f"this one ends in {value.where.partition('operator ')[2] or value.where}"
        )
    return value
