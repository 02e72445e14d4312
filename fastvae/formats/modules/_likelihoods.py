"""What the caller says of the likelihood, and what a decoder returns, as the likelihood of a spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastvae.errors import InputError, UnsupportedError
from fastvae.formats.modules._asked import NAMED, Asked, row_tensor
from fastvae.formats.modules._endings import Reading, odds, positive, rates, shares, unchanged
from fastvae.formats.modules._heads import HeadBuilder
from fastvae.formats.modules._outputs import Part, Slot, needed, pair_of, parts_of, returned
from fastvae.formats.modules._values import Value
from fastvae.formats.modules._weights import Constant
from fastvae.heads import (
    Bernoulli,
    FixedGaussian,
    Likelihood,
    Mixed,
    Parametric,
    PerDimension,
    PerDimensionGaussian,
    Predicted,
    PredictedGaussian,
)
from fastvae.layers import Shape, Stack, stack_tensors

OWNER = "decoder"
PLACE = Slot("location", ("location", "loc", "mean", "mu"))
LOGITS = Slot("location", ("probs",), ("logits",))
COUNTS = Slot("location", ("mean", "mu", "rate"), ("log_mean", "log_rate"))
LOCATIONS = {
    "bernoulli": LOGITS,
    "continuous_bernoulli": LOGITS,
    "categorical": LOGITS,
    "multinomial": LOGITS,
    "laplace": PLACE,
    "student_t": PLACE,
    "poisson": COUNTS,
    "negative_binomial": COUNTS,
}
FURTHER = {
    "scale": Slot("scale", ("scale",), ("log_scale",)),
    "df": Slot("df", ("df",), ("log_df",)),
    "dispersion": Slot("dispersion", ("dispersion", "theta"), ("log_dispersion", "log_theta")),
    "zero_inflation": Slot("zero_inflation", ("zero_probs",), ("zero_logits",)),
}
# Without these there is no density.
NEEDED = {"student_t": "df", "negative_binomial": "dispersion"}


@dataclass(frozen=True)
class Check:
    """One parameter that differs from row to row: where model and module must agree, in what comes of both numbers.

    ``positive`` says that the module's must be, or it means nothing.
    """

    what: str
    of_ours: Callable[[Tensor], Tensor] = unchanged
    of_theirs: Callable[[Tensor], Tensor] = unchanged
    positive: bool = False


@dataclass(frozen=True)
class Decoding:
    """What a decoder is in a spec; ``read`` finds the tensors of ``checks`` in what the module returns.

    ``tensors`` are those that the likelihood needs besides the layers', in float64.
    """

    stack: Stack
    likelihood: Likelihood
    checks: tuple[Check, ...]
    read: Callable[[Any], Sequence[Any]]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def decoding(output: Any, asked: Asked, builder: HeadBuilder, shape: Shape, state: Mapping[str, Tensor]) -> Decoding:
    """The decoder's stack and likelihood.

    Args:
        output: what the decoder was traced to return.
        shape: of a row of data.
        state: parameters and buffers of both modules, behind ``encoder.`` and ``decoder.``.

    Raises:
        InputError: an output that does not fit the likelihood.
        UnsupportedError: an output that no spec can say.
    """
    template, tensors = asked.template, _given(asked, shape, state)
    if asked.kind == "gaussian":
        return _gaussian(output, template, tensors, builder, shape)
    if isinstance(template, Mixed):
        value = needed(parts_of(output, (Slot("features"),), OWNER)["features"].leaf, OWNER)
        return Decoding(builder.stack(value), template, (Check("output"),), lambda found: [found], tensors)
    if asked.kind == "bernoulli":
        part = parts_of(output, (LOGITS,), OWNER)["location"]
        value = needed(part.leaf, OWNER)
        _check_shape(value, shape)
        reading = odds(value, part.said, OWNER)
        check = Check("output", reading.of_ours, reading.of_theirs)
        return Decoding(builder.stack(reading.raw), Bernoulli(), (check,), partial(_leaves, slots=(LOGITS,)), tensors)
    return _parametric(output, asked, builder, shape, tensors)


def _given(asked: Asked, shape: Shape, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that the caller's own description names, from the modules, and the one that is given."""
    if asked.log_variances is not None:
        return {PerDimensionGaussian().name: asked.log_variances}
    if asked.template is None:
        return {}
    found = {}
    layers = stack_tensors(tuple(layer for stack in asked.template.stacks() for layer in stack))
    for name, size in (layers | asked.template.tensors(shape, 0)).items():
        tensor = next((state[path] for path in (name, f"decoder.{name}", f"encoder.{name}") if path in state), None)
        if tensor is None:
            raise InputError(f"likelihood: neither module has a parameter or buffer {name!r}, whose shape is {size}")
        found[name] = row_tensor(tensor, size, f"likelihood: the tensor {name!r}")
    return found


def _check_shape(value: Value, shape: Shape, what: str = "") -> None:
    if value.shape != shape:
        raise InputError(
            f"{OWNER}: expected {what}rows of the encoder's input shape, {shape}, found {value.shape}; "
            "if only the shape differs, append torch.nn.Unflatten or Flatten"
        )


def _gaussian(
    output: Any, template: Likelihood | None, tensors: dict[str, Tensor], builder: HeadBuilder, shape: Shape
) -> Decoding:
    first, second = pair_of(output, "logvar", OWNER)
    mean = needed(first, OWNER)
    _check_shape(mean, shape)
    read = partial(_pair, count=1)
    if second is None:
        return Decoding(builder.stack(mean), template or FixedGaussian(), (Check("output"),), read, tensors)
    if template is not None:
        raise InputError(
            f"likelihood: for a decoder that returns a mean and a log-variance it must be 'gaussian', not "
            f"{template.kind}"
        )
    if isinstance(second, Constant):
        tensors = {PerDimensionGaussian().name: row_tensor(second.tensor, shape, "decoder: log-variances")}
        return Decoding(builder.stack(mean), PerDimensionGaussian(), (Check("output"),), read, tensors)
    logvar = needed(second, OWNER)
    if logvar.shape != shape:
        raise InputError(f"decoder: mean has rows of shape {shape}, logvar of {logvar.shape}")
    stack, head = builder.head(mean, logvar, "logvar")
    checks = Check("output"), Check("log-variance")
    return Decoding(stack, PredictedGaussian(head), checks, partial(_pair, count=2), tensors)


def _pair(output: Any, count: int) -> Sequence[Any]:
    return pair_of(output, "logvar", OWNER)[:count]


def _leaves(output: Any, slots: Sequence[Slot]) -> Sequence[Any]:
    """The tensors of a decoder's output that differ from row to row."""
    parts = parts_of(output, slots, OWNER)
    return [parts[slot.name].leaf for slot in slots if slot.name in parts]


def _parametric(output: Any, asked: Asked, builder: HeadBuilder, shape: Shape, tensors: dict[str, Tensor]) -> Decoding:
    """A likelihood of a location and further parameters, each fixed, learned for each entry, or returned."""
    wanted = _wanted(asked, output)
    slots = (LOCATIONS[asked.kind], *(FURTHER[name] for name in wanted))
    parts = parts_of(output, slots, OWNER)
    location = _location(parts["location"], asked, shape)
    sources: dict[str, Any] = {}
    readings = {"location": location}
    for name in wanted:
        if name not in parts:
            _check_optional(name, asked)
        elif isinstance(parts[name].leaf, Constant) and asked.template is None:
            sources[name] = PerDimension(f"likelihood.{name}")
            tensors[f"likelihood.{name}"] = _logarithms(parts[name], name, shape)
        else:
            readings[name] = _further(parts[name], name, asked, shape)
            sources[name] = Predicted(**readings[name].settings)  # type: ignore[arg-type]
    stack, own = _stacks([reading.raw for reading in readings.values()], builder)
    for name, layers in zip(list(readings)[1:], own[1:], strict=True):
        sources[name] = replace(sources[name], stack=layers)
    fields = {**location.settings, **sources, "location": own[0]}
    made = NAMED[asked.kind](**fields) if asked.template is None else replace(asked.template, **fields)
    checks = tuple(
        Check("output" if name == "location" else name, reading.of_ours, reading.of_theirs, _is_positive(name, reading))
        for name, reading in readings.items()
    )
    used = tuple(slot for slot in slots if slot.name in readings)
    return Decoding(stack, made, checks, partial(_used, slots=slots, used=used), tensors)


def _used(output: Any, slots: Sequence[Slot], used: Sequence[Slot]) -> Sequence[Any]:
    parts = parts_of(output, slots, OWNER)
    return [parts[slot.name].leaf for slot in used]


def _is_positive(name: str, reading: Reading) -> bool:
    return name in ("scale", "dispersion") and reading.of_ours is torch.exp


def _wanted(asked: Asked, output: Any) -> tuple[str, ...]:
    """Which further parameters the decoder may return; with the caller's own description, must.

    Raises:
        InputError: it returns one under its name that the description has from elsewhere.
    """
    known: tuple[str, ...] = NAMED[asked.kind].further
    if not isinstance(asked.template, Parametric):
        return known
    wanted = tuple(name for name, source in asked.template.sources() if isinstance(source, Predicted))
    for name in known:
        if name not in wanted and returned(output, FURTHER[name]):
            raise InputError(
                f"likelihood: the decoder returns {name}, which {type(asked.template).__name__} has from elsewhere; "
                f"pass {name}=Predicted()"
            )
    return wanted


def _check_optional(name: str, asked: Asked) -> None:
    if asked.template is not None:
        raise InputError(f"decoder: the likelihood says that {name} is predicted, but it is not among the outputs")
    if NEEDED.get(asked.kind) == name:
        kind = NAMED[asked.kind].__name__
        raise InputError(
            f"decoder: for likelihood={asked.kind!r} it must return {name} as well, or likelihood say where it comes "
            f"from: fastvae.heads.{kind}({name}=Fixed(...)), or PerDimension of the name of a parameter"
        )


def _location(part: Part, asked: Asked, shape: Shape) -> Reading:
    value = needed(part.leaf, OWNER)
    _check_shape(value, shape)
    if asked.kind in ("laplace", "student_t"):
        return Reading(value)
    if asked.kind == "continuous_bernoulli":
        return odds(value, part.said, OWNER)
    if asked.kind in ("categorical", "multinomial"):
        return shares(value, part.said, OWNER)
    return rates(value, part.said, OWNER, asked.template)


def _further(part: Part, name: str, asked: Asked, shape: Shape) -> Reading:
    value = needed(part.leaf, OWNER)
    _check_shape(value, shape, f"{name} in ")
    if name == "zero_inflation":
        return odds(value, part.said, OWNER)
    if name == "df":
        raise UnsupportedError("decoder: degrees of freedom that differ from row to row are not supported")
    source = getattr(asked.template, name, None)
    if not isinstance(source, Predicted):
        return positive(value, part.said, f"{OWNER}: {name}")
    return positive(value, part.said, f"{OWNER}: {name}", source.form, source.eps)


def _logarithms(part: Part, name: str, shape: Shape) -> Tensor:
    """A parameter that is the same for every row, as its logarithm of a row's shape."""
    if name == "zero_inflation":
        raise UnsupportedError("decoder: a zero_inflation that is the same for every row is not supported")
    tensor = row_tensor(part.leaf.tensor, shape, f"decoder: {name}")
    if part.said == "raw":
        return tensor
    if not bool((tensor > 0).all()):
        raise InputError(f"decoder: {name} must be positive, found {float(tensor.min()):g}")
    return tensor.log()


def _stacks(values: list[Value], builder: HeadBuilder) -> tuple[Stack, list[Stack]]:
    """The stack that all share, and each one's own; none of its own where the shared one makes all, one after another.

    Raises:
        UnsupportedError: they are parts of one tensor in another order, or twice the same.
    """
    if len(values) == 1:
        return builder.stack(values[0]), [()]
    whole = builder.chunks(values)
    if whole is not None:
        return builder.stack(whole), [() for _ in values]
    shared, own = builder.branches(values)
    if not any(own):
        raise UnsupportedError(f"{values[0].where}: every parameter must be computed on its own, found one twice")
    return shared, own
