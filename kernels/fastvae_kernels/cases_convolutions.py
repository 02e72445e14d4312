"""Cases of the convolutions."""

from typing import Any

import torch

from .case_maker import Case, Maker
from .cases_scores import scored

__all__ = ["CONV", "CONV_IMAGE", "CONV_SCORE", "CONV_STATISTICS", "CONV_TRANSPOSE"]


def _conv(
    shape: tuple[int, ...],
    outputs: int,
    kernel: tuple[int, int],
    *,
    transpose: bool = False,
    residual: tuple[int, int] | None = None,
    **options: Any,
) -> Case:
    """`shape` is x's; residual is the size of the output, if one is to be added."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        channels, groups = shape[1], options.get("groups", 1)
        first, second = (channels, outputs // groups) if transpose else (outputs, channels // groups)
        weight = make.normal(first, second, *kernel, scale=(channels * kernel[0] * kernel[1]) ** -0.5)
        tensors = {"x": make.normal(*shape), "weight": weight, "bias": make.normal(outputs)}
        if residual:
            tensors["residual"] = make.normal(shape[0], outputs, *residual)
        return {**tensors, **options}

    return case


def _score(inner: Case, shape: tuple[int, ...], likelihood: str, *, masked: bool = False) -> Case:
    """`shape` is the data's."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        arguments = inner(dtype, device)
        rows = len(arguments["x"])
        return {**arguments, **scored(Maker(dtype, device), rows, shape, likelihood, masked, "scalar")}

    return case


def _eight_bits(inner: Case) -> Case:
    """x and weight in e4m3, with a scale for each output; in float64, which has no such product, without.

    The output is in the default dtype or, where there is a residual, in that of the case.
    """

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        arguments = inner(dtype, device)
        for name in ("x", "weight"):
            q = (arguments[name].float() * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
            arguments[name] = q.to(dtype) / 100 if dtype == torch.float64 else q
        if dtype != torch.float64:
            scales = Maker(torch.float32, device).unit(len(arguments["weight"])) * 2e-4
            arguments |= {"scale": scales + 1e-5}
        if arguments.get("residual") is not None:
            arguments["out_dtype"] = dtype
        return arguments

    return case


CONV: dict[str, Case] = {
    "1x1": _conv((1, 1, 1, 1), 1, (1, 1)),
    "3x3": _conv((2, 3, 7, 9), 5, (3, 3), padding=(1, 1), activation="relu"),
    "stride": _conv((2, 4, 9, 8), 6, (4, 3), stride=(2, 3), padding=(1, 0), activation="silu"),
    "one_sided": _conv((2, 3, 8, 7), 5, (3, 3), stride=(2, 2), padding=(0, 0, 1, 1)),
    "groups": _conv((2, 6, 5, 5), 4, (3, 3), groups=2, dilation=(2, 1), padding=(2, 0)),
    "residual": _conv((3, 5, 4, 6), 7, (3, 3), residual=(4, 6), padding=(1, 1), activation="gelu"),
    "e4m3": _eight_bits(_conv((2, 3, 7, 9), 5, (3, 3), padding=(1, 1), activation="relu")),
    "e4m3_residual": _eight_bits(_conv((2, 16, 4, 6), 18, (1, 1), residual=(4, 6))),
    "pointwise": _conv((3, 9, 4, 5), 6, (1, 1), residual=(4, 5), activation="tanh"),
}
CONV_STATISTICS: dict[str, Case] = {
    "1x1": _conv((2, 5, 1, 1), 9, (1, 1), block=1),
    "3x3": _conv((2, 3, 7, 9), 5, (3, 3), padding=(1, 1), activation="silu", block=16),
    "residual": _conv((2, 6, 4, 6), 4, (3, 3), groups=2, residual=(2, 3), stride=(2, 2), padding=(0, 0, 1, 1), block=4),
    "e4m3": _eight_bits(_conv((2, 16, 5, 7), 9, (3, 3), residual=(5, 7), padding=(1, 1), block=8)),
}
CONV_TRANSPOSE: dict[str, Case] = {
    "1x1": _conv((1, 1, 1, 1), 1, (1, 1), transpose=True),
    "4x4": _conv((2, 3, 5, 6), 4, (4, 4), transpose=True, stride=(2, 2), padding=(1, 1), activation="relu"),
    "output_padding": _conv(
        (2, 4, 3, 5), 6, (3, 3), transpose=True, stride=(2, 1), padding=(1, 0), output_padding=(1, 0), groups=2
    ),
    "dilation": _conv((1, 2, 4, 4), 3, (3, 2), transpose=True, dilation=(2, 3), activation="sigmoid"),
    "apart": _conv(
        (2, 3, 2, 3), 4, (2, 3), transpose=True, residual=(5, 9), stride=(2, 1), dilation=(2, 3), activation="silu"
    ),
}
CONV_IMAGE: dict[str, Case] = {
    "1x1": _conv((2, 4, 1, 1), 3, (1, 1)),
    "3x3": _conv((2, 8, 5, 4), 3, (3, 3), padding=(1, 1)),
    "plain": _conv((1, 3, 6, 5), 1, (2, 2), stride=(2, 1), scale=1.0, shift=0.0, activation="sigmoid"),
}
CONV_SCORE: dict[str, Case] = {
    "1x1": _score(_conv((2, 4, 1, 1), 3, (1, 1)), (2, 3, 1, 1), "squared_error"),
    "bernoulli": _score(_conv((4, 3, 5, 4), 3, (3, 3), padding=(1, 1)), (2, 3, 5, 4), "bernoulli", masked=True),
    "gaussian": _score(
        _conv((2, 5, 9, 17), 2, (2, 2), stride=(1, 2), padding=(0, 0, 1, 1), activation="tanh"),
        (2, 2, 9, 9),
        "gaussian",
    ),
}
