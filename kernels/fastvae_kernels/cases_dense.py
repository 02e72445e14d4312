"""Cases of the dense ops and of those around the latent."""

from typing import Any

import torch

from .case_maker import Case, Maker, tf32
from .ops import split_head

__all__ = ["bottleneck", "eight_bits", "head", "linear", "linear_prior", "linear_tf32", "quantize"]


def linear(
    n: int,
    inputs: int,
    outputs: int,
    activation: str = "identity",
    *,
    residual: bool = False,
    wide: bool = False,
    **options: Any,
) -> Case:
    """`wide` asks for an output of at least float32."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        return {
            "x": make.normal(n, inputs),
            "weight": make.weight(outputs, inputs),
            "bias": make.normal(outputs) if outputs % 2 else None,
            "residual": make.normal(n, outputs) if residual else None,
            "activation": activation,
            "out_dtype": torch.promote_types(dtype, torch.float32) if wide else None,
            **options,
        }

    return case


def linear_tf32(inner: Case, *, exact: bool) -> Case:
    """In TF32; if `exact`, of operands that rounding to it leaves as they are."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        arguments = inner(dtype, device)
        if exact:
            arguments |= {name: arguments[name].to(torch.bfloat16).to(dtype) for name in ("x", "weight")}
        return {**arguments, "precision": tf32(dtype)}

    return case


def eight_bits(inner: Case) -> Case:
    """x and weight in e4m3 with scales; in float64, which has no such product, just numbers of that kind.

    The output is in the default dtype or, where there is a residual, in that of the case.
    """

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        arguments = inner(dtype, device)
        for name, scale in (("x", "x_scale"), ("weight", "weight_scale")):
            q = (arguments[name].float() * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
            if dtype == torch.float64:
                arguments[name] = q.to(dtype) / 100
            else:
                scales = Maker(torch.float32, device).unit(len(q)) * 0.02
                arguments |= {name: q, scale: scales + 0.001}
        if arguments.get("residual") is not None:
            arguments["out_dtype"] = dtype
        return arguments

    return case


def linear_prior(
    n: int, inputs: int, outputs: int, activation: str = "identity", *, in_tf32: bool = False, **options: Any
) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        arguments = {"n": n, "weight": make.weight(outputs, inputs), "bias": make.normal(outputs)}
        return {**arguments, "activation": activation, "precision": tf32(dtype) if in_tf32 else "ieee", **options}

    return case


def quantize(n: int, k: int, scale: float) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        x = Maker(dtype, device).normal(n, k, scale=scale)
        x[n // 2] *= 1e-3
        x[-1, 1:] = 0
        if dtype == torch.bfloat16:  # Triton's interpreter reads its subnormals wrongly
            x[x.abs() < torch.finfo(dtype).tiny] = 0
        return {"x": x}

    return case


def head(
    n: int,
    inputs: int,
    latent: int,
    layout: str = "",
    *,
    mean: float | None = 0.0,
    logvar: float | None = 0.0,
    in_tf32: bool = False,
    **options: Any,
) -> Case:
    """`layout` for views of a merged head; `mean`, `logvar`: the centre of each bias, or None for no bias."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        merged = make.weight(2 * latent, inputs)
        parts = split_head(merged, layout or "chunked")
        weights = parts if layout else (part.clone() for part in parts)
        biases = (None if centre is None else make.normal(latent) + centre for centre in (mean, logvar))
        names = ("mean_weight", "logvar_weight", "mean_bias", "logvar_bias")
        head = dict(zip(names, (*weights, *biases), strict=True))
        return {"x": make.normal(n, inputs), **head, "precision": tf32(dtype) if in_tf32 else "ieee", **options}

    return case


def bottleneck(head: Case, outputs: int, activation: str = "identity", **options: Any) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make, arguments = Maker(dtype, device), head(dtype, device)
        weight = make.weight(outputs, len(arguments["mean_weight"]))
        bias = make.normal(outputs) if outputs % 2 else None
        return {**arguments, "weight": weight, "bias": bias, "activation": activation, **options}

    return case
