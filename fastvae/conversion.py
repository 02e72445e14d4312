"""From an encoder and a decoder as ``nn.Module``s to a checked model.

A translation is believed only when it gives the modules' own numbers: both run on the caller's example in float64, and
may differ by rounding alone. How much that is follows from the model: its plan in float32 differs from the same plan
in float64 by the rounding of the same computation with a unit 2**29 times as large, and rounding errors are, to first
order, proportional to the unit. See :func:`_budget`.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvae.errors import InputError, TranslationError
from fastvae.formats.modules import (
    SCALES,
    LikelihoodArgument,
    PriorArgument,
    Scale,
    Translation,
    dtype_of,
    pair_of,
    private_copy,
    translate,
    unchanged,
    with_prior,
)
from fastvae.heads import FixedGaussian, GaussianHead, Mixed
from fastvae.layers import Flatten, Linear, Reshape, Shape
from fastvae.model import Model, check_model
from fastvae.plan import build_plan
from fastvae.runtime.executor import Executor
from fastvae.spec_json import spec_to_json

logger = logging.getLogger("fastvae")

# Relative error of torch's softplus, which drops log1p(exp(-x)) above x = 20: 2.1e-9 of 20.
SOFTPLUS_UNIT = 2.0**-33
# How far one draw of rounding errors may lie below another: the largest of few numbers may be luckily small.
LUCK = 1024.0


def convert(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    likelihood: LikelihoodArgument,
    example_input: Tensor,
    example_latent: Tensor | None = None,
    parametrization: Scale = "logvar",
    prior: PriorArgument | None = None,
    name: str = "",
) -> Model:
    """The model that two modules are; see :func:`fastvae.from_modules`.

    Raises:
        InputError: an argument of the wrong kind, or modules whose outputs make no autoencoder.
        UnsupportedError: something in a module that no model can do.
        TranslationError: the model does not compute what the modules do.
        WeightMismatchError: weights that are NaN or Inf.
    """
    if not isinstance(parametrization, str) or parametrization not in SCALES:
        raise InputError(f"parametrization: expected one of {', '.join(SCALES)}, got {parametrization!r}")
    if not isinstance(name, str):
        raise InputError(f"name: expected text, got {name!r:.80}")
    example = _rows("example_input", example_input)
    if example.ndim not in (2, 4):
        raise InputError(
            "example_input: expected rows of a flat shape or of images, (rows, features) or (rows, channels, height, "
            f"width), got shape {tuple(example.shape)}"
        )
    latent = None if example_latent is None else _rows("example_latent", example_latent)
    modules = private_copy("encoder", encoder), private_copy("decoder", decoder)
    translation = translate(
        *modules, likelihood=likelihood, example=example, latent=latent, parametrization=parametrization, name=name
    )
    model = with_prior(translation.model, prior)
    check_model(model, source="from_modules")
    _verify(translation, modules, example, latent, parametrization)
    dtype = translation.dtype
    weights = {tensor: weight.to(getattr(torch, dtype), copy=True) for tensor, weight in model.weights.items()}
    return Model(replace(model.spec, dtype=dtype), weights)


def _rows(name: str, values: Any) -> Tensor:
    """The example in float64 on the CPU, with its one row twice if it has but one."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.dtype.itemsize <= 8:
        values = torch.from_numpy(np.array(values, np.float64, order="C"))  # of any strides and byte order
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise InputError(
            f"{name}: expected a tensor or array of floats, got {getattr(values, 'dtype', type(values).__name__)}"
        )
    if values.layout != torch.strided or values.is_nested or values.is_meta:
        raise InputError(f"{name}: expected a dense tensor that holds numbers, got a sparse, nested or meta one")
    if values.ndim < 2 or values.numel() == 0:
        raise InputError(f"{name}: expected at least one row, rows first, got shape {tuple(values.shape)}")
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{name}: expected finite numbers, found NaN or Inf")
    rows: Tensor = values.detach().cpu().double()
    return rows.expand(2, *rows.shape[1:]).clone() if len(rows) == 1 else rows


def _verify(
    translation: Translation,
    modules: tuple[nn.Module, nn.Module],
    example: Tensor,
    latent: Tensor | None,
    parametrization: Scale,
) -> None:
    """Compare the translation with the modules on the example.

    Raises:
        InputError: the modules do not give finite numbers for it, or variances that are not positive.
        TranslationError: they differ beyond rounding.
    """
    model, (encoder, decoder) = translation.model, modules
    output, unit = _outputs("encoder", encoder, example, converts=translation.converts[0])
    mean, second = pair_of(output, parametrization, "encoder")
    if second is None:
        mean, second = mean.double().chunk(2, dim=1)
    expected = {"mean": mean.double(), "log-variance": _logvar(second.double(), parametrization)}
    _compare("encoder", model, "encode", example, expected, unit)

    z = expected["mean"] if latent is None else latent
    output, unit = _outputs("decoder", decoder, z, converts=translation.converts[1])
    _verify_decoder(translation, [leaf.double() for leaf in translation.decoding.read(output)], z, unit)


def _verify_decoder(translation: Translation, outputs: list[Tensor], z: Tensor, unit: float) -> None:
    model, checks = translation.model, translation.decoding.checks
    for check, theirs in zip(checks, outputs, strict=True):
        if check.positive and not bool((check.of_theirs(theirs) > 0).all()):
            raise InputError(f"decoder: its {check.what} for the example is not positive")
    likelihood = model.spec.likelihood
    if isinstance(likelihood, Mixed):  # which is the caller's own description: nothing of it was translated
        model = _of_features(model, tuple(outputs[0].shape[1:]))
    expected = {check.what: check.of_theirs(theirs) for check, theirs in zip(checks, outputs, strict=True)}
    _compare("decoder", model, "parameters", z, expected, unit, [check.of_ours for check in checks])


def _of_features(model: Model, features: Shape) -> Model:
    """A model whose data are what the decoder makes for the likelihood; its encoder is never run."""
    latent = model.spec.latent_shape
    width = math.prod(latent)
    joint = (Flatten(), Linear("features", math.prod(features), 2 * width), Reshape((2 * latent[0], *latent[1:])))
    spec = replace(
        model.spec,
        input_shape=features,
        encoder=(),
        posterior=GaussianHead("chunked", joint=joint),
        likelihood=FixedGaussian(),
    )
    weights = {name: model.weights.get(name, torch.zeros(shape).double()) for name, shape in spec.tensors().items()}
    return Model(spec, weights)


def _outputs(name: str, module: nn.Module, rows: Tensor, *, converts: bool) -> tuple[Any, float]:
    """What a module makes of rows, in float64 or, where that fails, in its own dtype; and the unit roundoff."""
    own = dtype_of(module)
    with torch.no_grad():
        if not converts:
            try:
                return copy.deepcopy(module).double()(rows), torch.finfo(torch.float64).eps / 2
            except Exception as error:  # the caller's code raises what it likes; a tensor it makes may stay float32
                logger.debug("%s: does not run in float64: %s", name, error)
        try:
            return module(rows.to(own)), torch.finfo(own).eps / 2
        except Exception as error:  # the caller's code
            raise InputError(f"{name}: fails on the example: {error}") from error


def _logvar(second: Tensor, parametrization: Scale) -> Tensor:
    """The log-variance that an encoder's second output means, as its definition says."""
    if parametrization in ("std", "variance") and not bool((second > 0).all()):
        raise InputError(
            f"encoder: its second output, a {parametrization} by parametrization, is not positive for example_input"
        )
    match parametrization:
        case "logvar":
            return second
        case "logstd":
            return 2 * second
        case "std":
            return 2 * second.log()
        case "variance":
            return second.log()
        case _:
            return 2 * F.softplus(second, threshold=math.inf).log()


def _compare(
    owner: str,
    model: Model,
    verb: str,
    rows: Tensor,
    expected: dict[str, Tensor],
    unit: float,
    of_ours: list[Callable[[Tensor], Tensor]] | None = None,
) -> None:
    """Compare the outputs of a plan, each after its function, with what is expected.

    Raises:
        InputError: what is expected is not finite.
        TranslationError: they differ beyond rounding.
    """
    if "softplus" in spec_to_json(model.spec):
        unit = max(unit, SOFTPLUS_UNIT)
    wide, narrow = (_run(model, verb, rows, dtype) for dtype in (torch.float64, torch.float32))
    functions = of_ours or [unchanged] * len(expected)
    for (what, theirs), function, *runs in zip(expected.items(), functions, wide, narrow, strict=True):
        ours, rounded = map(function, runs)
        if not bool(torch.isfinite(theirs).all()):
            raise InputError(f"{owner}: its {what} for the example holds NaN or Inf")
        difference, budget = float((ours - theirs).abs().max()), _budget(ours, rounded, unit)
        if not difference <= budget:
            raise TranslationError(
                f"{owner}: the translated model's {what} differs from the module's by {difference:.2g} on the example, "
                f"where rounding explains {budget:.2g}; please report the module"
            )


def _run(model: Model, verb: str, rows: Tensor, dtype: torch.dtype) -> Iterable[Tensor]:
    plan = build_plan(model, verb, dtype=dtype)
    executor = Executor(plan, impl="reference", device=torch.device("cpu"), dtype=dtype)
    with torch.no_grad():
        return [output.double() for output in executor({plan.inputs[0]: rows.to(dtype)})]


def _budget(ours: Tensor, rounded: Tensor, unit: float) -> float:
    """Most that two computations of one thing, both with this unit roundoff, may differ by.

    ``rounded`` is ``ours`` computed in float32. Its error divided by float32's unit estimates how much the computation
    amplifies rounding; LUCK is for that being one draw. Where float32 happened to be exact, the results' own rounding
    remains. Entries that float32 cannot hold say nothing.
    """
    errors = (rounded - ours).abs()
    amplified = float(errors[torch.isfinite(errors)].max()) if bool(torch.isfinite(errors).any()) else 0.0
    return LUCK * unit * (amplified / (torch.finfo(torch.float32).eps / 2)) + 16 * unit * float(ours.abs().max())
