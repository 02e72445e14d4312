"""Arguments that every implementation of an op is tried on: small, odd and awkward, and the shapes of real models.

Each op has named cases; a case is a function of dtype and device that gives keyword arguments of the public op.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .checks import ACTIVATIONS

__all__ = ["CASES", "ROW_SHAPES", "Case"]

Case = Callable[[torch.dtype, torch.device], dict[str, Any]]

ROW_SHAPES: tuple[tuple[int, int], ...] = ((1, 1), (1, 4), (2, 3), (3, 130), (5, 16), (17, 20), (33, 5), (70, 8))
"""(rows, dim) for the row-wise ops: one of each, dims on either side of 4 and of a tile, rows past a tile."""


class _Maker:
    """Normal tensors from a fixed seed."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(0)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale
        return values.to(self.device, self.dtype)

    def unit(self, *shape: int) -> Tensor:
        values = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return values.to(self.device, self.dtype)

    def mask(self, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=self.generator) < 0.7).to(self.device)


def _linear(n: int, inputs: int, outputs: int, activation: str = "identity", alpha: float | None = None) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = _Maker(dtype, device)
        weight = make.normal(outputs, inputs, scale=max(inputs, 1) ** -0.5)
        bias = make.normal(outputs) if outputs % 2 else None
        x = make.normal(n, inputs)
        return {"x": x, "weight": weight, "bias": bias, "activation": activation, "alpha": alpha}

    return case


def _conv(
    shape: tuple[int, ...], outputs: int, kernel: tuple[int, int], *, transpose: bool = False, **options: Any
) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = _Maker(dtype, device)
        channels, groups = shape[1], options.get("groups", 1)
        first, second = (channels, outputs // groups) if transpose else (outputs, channels // groups)
        weight = make.normal(first, second, *kernel, scale=(channels * kernel[0] * kernel[1]) ** -0.5)
        return {"x": make.normal(*shape), "weight": weight, "bias": make.normal(outputs), **options}

    return case


def _channels_last(inner: Case) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        arguments = inner(dtype, device)
        return {**arguments, "x": arguments["x"].contiguous(memory_format=torch.channels_last)}

    return case


def _affine(
    shape: tuple[int, ...], scale: tuple[int, ...] | None, shift: tuple[int, ...] | None, activation: str
) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = _Maker(dtype, device)
        return {
            "x": make.normal(*shape, scale=3.0),
            "scale": None if scale is None else make.normal(*scale),
            "shift": None if shift is None else make.normal(*shift),
            "activation": activation,
        }

    return case


def _logvar(shape: tuple[int, ...], parametrization: str, **options: Any) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = _Maker(dtype, device)
        raw = make.unit(*shape) + 0.01 if parametrization == "variance" else make.normal(*shape, scale=2.0)
        return {"raw": raw, "parametrization": parametrization, **options}

    return case


def _bernoulli(rows: int, shape: tuple[int, ...], masked: bool) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = _Maker(dtype, device)
        logits = make.normal(rows, *shape[1:], scale=4.0)
        return {"logits": logits, "x": make.unit(*shape), "mask": make.mask(*shape) if masked else None}

    return case


def _gaussian(rows: int, shape: tuple[int, ...], masked: bool, logvar: str) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = _Maker(dtype, device)
        shapes = {"row": (rows, *shape[1:]), "shared": shape[1:], "scalar": ()}
        return {
            "mean": make.normal(rows, *shape[1:]),
            "logvar": make.normal(*shapes[logvar]),
            "x": make.normal(*shape),
            "mask": make.mask(*shape) if masked else None,
        }

    return case


def _squared(rows: int, shape: tuple[int, ...]) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = _Maker(dtype, device)
        return {"output": make.normal(rows, *shape[1:]), "x": make.normal(*shape)}

    return case


def _linear_cases() -> Iterator[tuple[str, Case]]:
    for n, inputs, outputs in ((1, 1, 1), (3, 7, 5), (17, 33, 9), (64, 300, 31)):
        yield f"{n}x{inputs}x{outputs}", _linear(n, inputs, outputs)
    for activation in ACTIVATIONS:
        yield activation, _linear(9, 20, 13, activation)
    yield "leaky_relu_0.3", _linear(9, 20, 13, "leaky_relu", 0.3)
    yield "elu_0.5", _linear(9, 20, 13, "elu", 0.5)


_CONV = {
    "1x1": _conv((1, 1, 1, 1), 1, (1, 1)),
    "3x3": _conv((2, 3, 7, 9), 5, (3, 3), padding=(1, 1), activation="relu"),
    "stride": _conv((2, 4, 9, 8), 6, (4, 3), stride=(2, 3), padding=(1, 0), activation="silu"),
    "groups": _conv((3, 6, 5, 5), 4, (3, 3), groups=2, dilation=(2, 1), padding=(2, 0)),
}
_CONV_TRANSPOSE = {
    "1x1": _conv((1, 1, 1, 1), 1, (1, 1), transpose=True),
    "4x4": _conv((2, 3, 5, 6), 4, (4, 4), transpose=True, stride=(2, 2), padding=(1, 1), activation="relu"),
    "output_padding": _conv(
        (2, 4, 3, 5), 6, (3, 3), transpose=True, stride=(2, 3), padding=(1, 0), output_padding=(1, 2), groups=2
    ),
    "dilation": _conv((1, 2, 4, 4), 3, (3, 2), transpose=True, dilation=(2, 3), activation="sigmoid"),
}

CASES: dict[str, dict[str, Case]] = {
    "linear": dict(_linear_cases()),
    "conv2d": {**_CONV, "channels_last": _channels_last(_CONV["3x3"])},
    "conv_transpose2d": {**_CONV_TRANSPOSE, "channels_last": _channels_last(_CONV_TRANSPOSE["4x4"])},
    "affine": {
        **{activation: _affine((5, 7), (7,), (7,), activation) for activation in ACTIVATIONS},
        "copy": _affine((3, 4), None, None, "identity"),
        "per_channel": _affine((2, 3, 5, 4), (3,), (3,), "silu"),
        "elementwise": _affine((2, 3, 5, 4), (3, 5, 4), None, "identity"),
        "shift": _affine((2, 3, 5, 4), None, (3,), "relu"),
        "channels_last": _channels_last(_affine((2, 3, 5, 4), (3,), (3, 5, 4), "tanh")),
    },
    "logvar": {
        "logvar": _logvar((5, 7), "logvar", minimum=-1.0, maximum=1.5),
        "softplus_std": _logvar((5, 7), "softplus_std"),
        "softplus_std_eps": _logvar((3, 2, 4), "softplus_std", eps=1e-3, maximum=1.0),
        "variance": _logvar((5, 7), "variance"),
        "variance_eps": _logvar((9,), "variance", eps=1e-4, minimum=-3.0),
    },
    "bernoulli_nll": {
        "row": _bernoulli(1, (1, 1), masked=False),
        "odd": _bernoulli(7, (7, 33), masked=True),
        "samples": _bernoulli(12, (4, 3, 5), masked=True),
        "images": _bernoulli(6, (3, 2, 9, 8), masked=False),
    },
    "gaussian_nll": {
        "row": _gaussian(1, (1, 1), masked=False, logvar="row"),
        "odd": _gaussian(7, (7, 33), masked=True, logvar="row"),
        "shared": _gaussian(12, (4, 3, 5), masked=True, logvar="shared"),
        "scalar": _gaussian(6, (3, 2, 9, 8), masked=False, logvar="scalar"),
        "samples": _gaussian(12, (3, 21), masked=True, logvar="row"),
    },
    "squared_error": {
        "row": _squared(1, (1, 1)),
        "samples": _squared(12, (4, 33)),
        "images": _squared(3, (3, 2, 9, 8)),
    },
}
