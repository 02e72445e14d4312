"""What a module returns: which tensor is the mean, and which says how wide.

The same function reads the containers that a module returns when it runs and when it is traced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from fastvae.errors import InputError, UnsupportedError
from fastvae.formats.modules._values import Value, part
from fastvae.formats.modules._weights import Constant

Scale: TypeAlias = Literal["logvar", "logstd", "std", "variance", "softplus_std"]
SCALES: tuple[str, ...] = get_args(Scale)
MEAN_NAMES = ("mean", "mu")
SCALE_NAMES = {
    "logvar": ("logvar", "log_var"),
    "logstd": ("logstd", "log_std"),
    "std": ("std", "sigma"),
    "variance": ("variance", "var"),
    "softplus_std": ("scale", "raw"),
}


def pair_of(output: Any, scale: Scale, owner: str) -> tuple[Any, Any | None]:
    """Mean and scale in what a module returned; no scale where it is one tensor.

    Raises:
        InputError: neither two tensors, nor one, nor named ones; or named like another parametrization.
    """
    if not isinstance(output, Mapping | tuple | list) and not hasattr(output, "__dataclass_fields__"):
        return output, None
    if isinstance(output, Value | Constant):
        return output, None
    named = output if isinstance(output, Mapping) else _Attributes(output)
    mean, spread = _first(named, MEAN_NAMES), _first(named, SCALE_NAMES[scale])
    if mean is not None and spread is not None:
        return mean, spread
    other = next((kind for kind in SCALES if _first(named, SCALE_NAMES[kind]) is not None), None)
    if isinstance(output, tuple | list) and len(output) in (1, 2) and other is None:
        return output[0], output[1] if len(output) == 2 else None
    means, spreads = (" or ".join(map(repr, names)) for names in (MEAN_NAMES, SCALE_NAMES[scale]))
    hint = f"; is its second output a {other}? then pass parametrization={other!r}" if other else ""
    raise InputError(
        f"{owner}: expected (mean, {scale}), or {means} and {spreads} in a mapping, or one tensor with both halves; "
        f"found {_described(output)}{hint}"
    )


@dataclass(frozen=True)
class Slot:
    """One parameter of a likelihood, and what an output is called that is it, or (``raw``) its logarithm or logits."""

    name: str
    natural: tuple[str, ...] = ()
    raw: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """An output for one parameter, and what its name says of it; nothing where it has none."""

    leaf: Any
    said: Literal["natural", "raw"] | None = None


def parts_of(output: Any, slots: Sequence[Slot], owner: str) -> dict[str, Part]:
    """What a decoder returned, by parameter: one tensor, several in the order of ``slots``, or named ones.

    Raises:
        InputError: more tensors than there are parameters, names of which none is the first parameter's, or two for
            one parameter.
    """
    if not isinstance(output, Mapping | tuple | list) and not hasattr(output, "__dataclass_fields__"):
        return {slots[0].name: Part(output)}
    if isinstance(output, Value | Constant):
        return {slots[0].name: Part(output)}
    named, found = output if isinstance(output, Mapping) else _Attributes(output), {}
    for slot in slots:
        given = [(key, "natural") for key in slot.natural if named.get(key) is not None]
        given += [(key, "raw") for key in slot.raw if named.get(key) is not None]
        if len(given) > 1:
            raise InputError(f"{owner}: it returns both {given[0][0]!r} and {given[1][0]!r}, which are one parameter")
        if given:
            found[slot.name] = Part(named.get(given[0][0]), given[0][1])  # type: ignore[arg-type]
    if slots[0].name in found:
        return found
    if isinstance(output, tuple | list) and not found and 1 <= len(output) <= len(slots):
        return {slot.name: Part(leaf) for slot, leaf in zip(slots, output, strict=False)}
    names = "; ".join(" or ".join(map(repr, (*slot.natural, *slot.raw))) for slot in slots)
    order = ", ".join(slot.name for slot in slots)
    raise InputError(
        f"{owner}: expected {f'({order}), or ' if len(slots) > 1 else 'one tensor, or '}a mapping with {names}; "
        f"found {_described(output)}"
    )


def returned(output: Any, slot: Slot) -> bool:
    """Whether a decoder returned something under a name of ``slot``."""
    named = output if isinstance(output, Mapping) else _Attributes(output)
    return _first(named, (*slot.natural, *slot.raw)) is not None


class _Attributes:
    """The attributes of a named tuple or data class, looked up as in a mapping."""

    def __init__(self, owner: object) -> None:
        self._owner = owner

    def get(self, name: str) -> Any:
        return getattr(self._owner, name, None)


def _first(named: Any, names: tuple[str, ...]) -> Any | None:
    return next((named.get(name) for name in names if named.get(name) is not None), None)


def _described(output: Any) -> str:
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} with {', '.join(map(repr, output))}"
    return f"a {kind} of {len(output)}" if isinstance(output, tuple | list) else f"a {kind}"


def needed(leaf: object, owner: str) -> Value:
    """A part of a traced output that the model needs.

    Raises:
        UnsupportedError: it could not be translated.
        InputError: it is no tensor, or one that does not depend on the module's input.
    """
    if isinstance(leaf, UnsupportedError):
        raise leaf
    if not isinstance(leaf, Value):
        found = "a constant" if isinstance(leaf, Constant) else type(leaf).__name__
        raise InputError(f"{owner}: expected tensors computed from its input, found {found}")
    return leaf


def halves(value: Value, owner: str) -> tuple[Value, Value]:
    """Mean and scale of a tensor that holds both, all means first.

    Raises:
        InputError: its first axis cannot be halved.
    """
    if not value.shape or value.shape[0] % 2:
        raise InputError(f"{owner}: one tensor must hold mean and scale, found rows of shape {value.shape}, not even")
    middle, end = value.shape[0] // 2, value.shape[0]
    return part(value, 0, middle, 1, value.where), part(value, middle, end, 1, value.where)
