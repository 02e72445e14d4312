"""What a decoder's output ends in, and so what the numbers before that are: logits, log-rates, raw scales.

A spec says activations like these by its likelihood; the layers of a stack are all that comes before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from fastvae.errors import InputError
from fastvae.formats.modules._heads import is_scaled, logits, softplus_of
from fastvae.formats.modules._values import Function, Scaling, Value, reshaped, uniform
from fastvae.heads import Counts, Form, Likelihood, Link
from fastvae.layers import Activation, Flatten, Reshape

# What a name says of an output: that it is the parameter itself, or its logarithm, log-odds or logits. None is no name.
Said: TypeAlias = Literal["natural", "raw"] | None
ENDINGS = {
    Function("exp"): "exp",
    Activation("softplus"): "softplus",
    Function("softmax"): "softmax",
    Function("log_softmax"): "log_softmax",
}
ELEMENTWISE = ("exp", "softplus")
LINKS: dict[str, Link] = {"exp": "exp", "softplus": "softplus", "softmax": "softmax", "log_softmax": "softmax"}


def unchanged(numbers: Tensor) -> Tensor:
    return numbers


@dataclass(frozen=True)
class Reading:
    """How an output of the decoder is read.

    Attributes:
        raw: what a stack has to make.
        of_ours: what makes the module's output of the parameter as plans have it, where that can be told from it.
        of_theirs: what is done to the module's output before the two are compared.
        settings: fields of the likelihood, or of a source, that follow.
    """

    raw: Value
    of_ours: Callable[[Tensor], Tensor] = unchanged
    of_theirs: Callable[[Tensor], Tensor] = unchanged
    settings: Mapping[str, object] = field(default_factory=dict)


def odds(value: Value, said: Said, owner: str) -> Reading:
    """Probabilities that end in a sigmoid, or log-odds.

    Raises:
        InputError: it ends in something else.
    """
    raw = value if said == "raw" else logits(value, owner)
    if raw is not value:
        return Reading(raw, torch.sigmoid)
    if said == "natural":
        raise InputError(f"{owner}: probabilities must end in a sigmoid; these are made by {value.where}")
    return Reading(raw)


def shares(value: Value, said: Said, owner: str) -> Reading:
    """Probabilities of categories that end in a softmax, or their logits; compared as shares."""
    raw, end = _ending(value)
    if end in ("softmax", "log_softmax"):
        return Reading(raw, _log_softmax if end == "log_softmax" else _softmax)
    if said == "natural":
        raise InputError(f"{owner}: probabilities of categories must end in a softmax; these are made by {value.where}")
    return Reading(value, _log_softmax, _log_softmax)


def rates(value: Value, said: Said, owner: str, wanted: Likelihood | None) -> Reading:
    """Means of counts that end in exp, softplus or softmax, or what one of these is still to be taken of.

    Args:
        wanted: the likelihood that the caller described, whose link is to be followed; None to find it out.

    Raises:
        InputError: they end otherwise, or not as ``wanted`` says.
    """
    value, total = _total(value)
    raw, end = _ending(value)
    found = LINKS.get(end)
    link = wanted.link if isinstance(wanted, Counts) else found or "exp"
    last = value.operands[0] if isinstance(value.operation, Scaling) else value
    bent = said is None and isinstance(last.operation, Activation | Function)
    if found is None and (said == "natural" or bent):
        raise InputError(
            f"{owner}: means of counts must end in exp, softplus or softmax, or be their logarithms; these end in "
            f"{value.where.partition('operator ')[2] or value.where}"
        )
    if found not in (None, link):
        raise InputError(f"{owner}: it ends in {end}, but the likelihood says link={link!r}; pass link={found!r}")
    size = total
    if isinstance(wanted, Counts):
        size = wanted.library_size
        if total not in (1.0, size):
            raise InputError(f"{owner}: it makes shares of {total:g}, but the likelihood says library_size={size:g}")
    settings = {"link": link, "library_size": size}
    if link == "softmax":
        if end == "softmax":
            return Reading(raw, lambda ours: total * _softmax(ours), settings=settings)
        return Reading(raw, _log_softmax, _log_softmax, settings)
    if found is not None:
        return Reading(raw, torch.exp, settings=settings)
    return Reading(value, unchanged, _log_softplus if link == "softplus" else unchanged, settings)


def positive(value: Value, said: Said, owner: str, form: Form | None = None, eps: float = 0.0) -> Reading:
    """A scale or a dispersion, by default itself, or its logarithm.

    Args:
        form, eps: what the caller says that the output holds, where no name does.

    Raises:
        InputError: it ends in what makes a positive number, and is said to be a logarithm.
    """
    end = _ending(value)[1]
    if said is None and form == "log" and end in ELEMENTWISE:
        raise InputError(
            f"{owner}: it ends in {end}, as the parameter itself does, but the likelihood says form='log'; pass "
            "form='identity', or return it under its name"
        )
    if said is None and (form == "softplus" or (form == "identity" and eps > 0)):
        added = unchanged if form == "identity" else _softplus
        return Reading(value, torch.exp, lambda theirs: added(theirs) + eps, {"form": form, "eps": eps})
    is_log = said == "raw" or (said is None and form == "log")
    raw, made, eps = _stripped(value, is_log)
    return Reading(raw, unchanged if is_log else torch.exp, settings={"form": made, "eps": eps})


def _stripped(value: Value, is_log: bool) -> tuple[Value, Form, float]:
    """What ``form`` and ``eps`` make the parameter of."""
    if is_log:
        if value.operation == Function("log"):
            return _stripped(value.operands[0], False)
        return value, "log", 0.0
    raw, end = _ending(value)
    if end == "exp":
        return _stripped(raw, True)
    softplus = softplus_of(value)
    if softplus is not None:
        return softplus[0], "softplus", softplus[1]
    return (raw, "softplus", 0.0) if end == "softplus" else (value, "identity", 0.0)


def _ending(value: Value) -> tuple[Value, str]:
    """What is before the last function of ENDINGS, if there is one, and its name; through a change of shape as well."""
    if isinstance(value.operation, Flatten | Reshape):
        inner, end = _ending(value.operands[0])
        return (reshaped(inner, value.shape, value.where), end) if end in ELEMENTWISE else (value, "")
    end = ENDINGS.get(value.operation, "") if isinstance(value.operation, Activation | Function) else ""
    return (value.operands[0], end) if end else (value, "")


def _total(value: Value) -> tuple[Value, float]:
    """Shares and their total, where ``value`` is a softmax times one number."""
    if isinstance(value.operation, Scaling) and value.operands[0].operation == Function("softmax"):
        total = uniform(value.operation.scale)
        if total is not None and total > 0 and is_scaled(value, total, 0.0):
            return value.operands[0], total
    return value, 1.0


def _softmax(numbers: Tensor) -> Tensor:
    return torch.softmax(numbers, 1)


def _log_softmax(numbers: Tensor) -> Tensor:
    return torch.log_softmax(numbers, 1)


def _softplus(numbers: Tensor) -> Tensor:
    return F.softplus(numbers, threshold=math.inf)


def _log_softplus(numbers: Tensor) -> Tensor:
    return _softplus(numbers).log()
