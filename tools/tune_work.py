"""What tools/tune.py tunes: layers as something to run with any configuration, and what they should give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

import fastvae_kernels
from fastvae_kernels.parts import Part
from fastvae_kernels.tiling import REFERENCE_ROWS, GemmConfig
from tools.tune_grid import TAPS, Layer, candidates, known, predicted, record

__all__ = ["DTYPES", "Subject", "Work", "layer_subject", "layer_work"]

CHECKED_ROWS = 4099
"""Rows a candidate is checked on: every tile's rows many times over, and a last tile that is not full."""

SEED = 7
DTYPES = {"bf16": torch.bfloat16, "fp8": torch.bfloat16, "tf32": torch.float32, "ieee": torch.float32}


Config = TypeVar("Config")


@dataclass(frozen=True)
class Work(Generic[Config]):
    """A layer on operands of its own.

    run: its result in a configuration. exact: in float64. eager: as the reference computes it, whose error makes the
    budget. bytes: of operands and result. library: its result by PyTorch's own op, where that is an implementation.
    """

    run: Callable[[Config], Tensor]
    exact: Callable[[], Tensor]
    eager: Callable[[], Tensor]
    bytes: int
    library: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Subject(Generic[Config]):
    """Something to tune.

    op: whose file the winner goes to. candidates: what is tried, the default first. predicted: microseconds. work: the
    subject on operands of its own, few for a check or as many as are timed. is_known: whether the device of this name
    has it in a table of configs/. record: the table with the winner.
    """

    name: str
    op: str
    candidates: list[Config]
    predicted: Callable[[Config], float]
    work: Callable[[bool], Work[Config]]
    is_known: Callable[[dict[str, Any], str], bool]
    record: Callable[[dict[str, Any], str, Config], dict[str, Any]]


def layer_subject(layer: Layer, part: Part, limit: int) -> Subject[GemmConfig]:
    """A layer, and `limit` candidates besides the default."""
    return Subject(
        name=str(layer),
        op=layer.op,
        candidates=candidates(layer, part, limit),
        predicted=partial(predicted, layer, part=part),
        work=lambda small: layer_work(layer, CHECKED_ROWS if small else REFERENCE_ROWS),
        is_known=partial(known, layer=layer),
        record=lambda table, device, config: record(table, device, layer, config),
    )


def layer_work(layer: Layer, rows: int) -> Work[GemmConfig]:
    """Fresh operands of usual size for a layer of this many rows, on the GPU if there is one."""
    works = {"linear": _linear, "linear_prior": _linear_prior, "linear_score": _linear_score, "conv2d": _conv2d}
    return works[layer.op](layer, rows)


def _normal(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return (torch.randn(*shape, device=device) * scale).to(dtype)


def _weights(layer: Layer) -> tuple[Tensor, Tensor]:
    dtype = DTYPES[layer.precision]
    weight = _normal(layer.outputs, layer.inputs, dtype=dtype, scale=layer.inputs**-0.5)
    return weight, _normal(layer.outputs, dtype=dtype)


def _quantized(layer: Layer, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """x, weight and their scales: 8-bit if the layer is, else as they are, without scales."""
    if layer.precision != "fp8":
        return x, weight, None, None
    (x, x_scale), (weight, weight_scale) = (fastvae_kernels.quantize_rows(t) for t in (x, weight))
    return x, weight, x_scale, weight_scale


def _wide(x: Tensor, scale: Tensor | None) -> Tensor:
    return x.double() if scale is None else x.double() * scale.double()[:, None]


def _mode(layer: Layer) -> str:
    return "tf32" if layer.precision == "tf32" else "ieee"


def _linear(layer: Layer, rows: int) -> Work[GemmConfig]:
    from fastvae_kernels.triton.linear import launch

    weight, bias = _weights(layer)
    x = _normal(rows, layer.inputs, dtype=weight.dtype)
    x, weight, x_scale, weight_scale = _quantized(layer, x, weight)
    out = x.new_empty(rows, layer.outputs, dtype=bias.dtype)
    mode = _mode(layer)

    def run(config: GemmConfig) -> Tensor:
        launch(x, weight, bias, None, x_scale, weight_scale, out, "relu", None, mode, config=config, tma=config.tma)
        return out

    def exact() -> Tensor:
        return F.relu(F.linear(_wide(x, x_scale), _wide(weight, weight_scale), bias.double()))

    def eager() -> Tensor:
        return fastvae_kernels.linear(
            x,
            weight,
            bias,
            activation="relu",
            precision=mode,
            x_scale=x_scale,
            weight_scale=weight_scale,
            impl="reference",
        )

    return Work(run, exact, eager, x.nbytes + weight.nbytes + out.nbytes)


def _linear_prior(layer: Layer, rows: int) -> Work[GemmConfig]:
    from fastvae_kernels.triton.linear import launch

    weight, bias = _weights(layer)
    out = weight.new_empty(rows, layer.outputs)
    mode = _mode(layer)

    def run(config: GemmConfig) -> Tensor:
        noise = (SEED, 0, 0)
        launch(None, weight, bias, None, None, None, out, "relu", None, mode, noise, config=config)
        return out

    def exact() -> Tensor:
        z = fastvae_kernels.sample_normal(rows, layer.inputs, seed=SEED, dtype=weight.dtype, device=weight.device)
        return F.relu(F.linear(z.double(), weight.double(), bias.double()))

    def eager() -> Tensor:
        return fastvae_kernels.linear_prior(
            rows, weight, bias, seed=SEED, activation="relu", precision=mode, impl="reference"
        )

    return Work(run, exact, eager, weight.nbytes + out.nbytes)


def _linear_score(layer: Layer, rows: int) -> Work[GemmConfig]:
    from fastvae_kernels.triton.linear_score import launch

    weight, bias = _weights(layer)
    x = _normal(rows, layer.inputs, dtype=weight.dtype)
    data = torch.rand_like(x[:, :1].expand(rows, layer.outputs).contiguous())
    x, weight, x_scale, weight_scale = _quantized(layer, x, weight)
    scales = (x_scale, weight_scale)
    out = torch.empty(rows, dtype=torch.float32, device=x.device)
    mode = _mode(layer)

    def run(config: GemmConfig) -> Tensor:
        rest = ("bernoulli", None, None, "identity", None, mode, *scales, out)
        launch(x, weight, bias, data, *rest, split=False, config=config, tma=config.tma)
        return out

    def exact() -> Tensor:
        logits = F.linear(_wide(x, x_scale), _wide(weight, weight_scale), bias.double())
        return F.binary_cross_entropy_with_logits(logits, data.double(), reduction="none").sum(1)

    def eager() -> Tensor:
        return fastvae_kernels.linear_score(
            x, weight, bias, data, precision=mode, x_scale=x_scale, weight_scale=weight_scale, impl="reference"
        )

    return Work(run, exact, eager, x.nbytes + weight.nbytes + data.nbytes + out.nbytes)


_WIDTHS = (64, 67)
"""Of images: of as many pixels as tiles are chosen for, and of others, whose rows end within a tile."""


def _conv2d(layer: Layer, rows: int) -> Work[GemmConfig]:
    """An image of about `rows` pixels, 3x3 taps, and as in image autoencoders a sum with the block's input."""
    from fastvae_kernels.triton.conv2d import conv_window, launch

    width = _WIDTHS[rows % _WIDTHS[0] > 0]
    dtype, channels, height = DTYPES[layer.precision], layer.inputs // TAPS, max(rows // width, 1)
    x = _normal(1, height, width, channels, dtype=dtype)
    weight = _normal(layer.outputs, 3, 3, channels, dtype=dtype, scale=layer.inputs**-0.5)
    bias, residual = _normal(layer.outputs, dtype=dtype), _normal(1, height, width, layer.outputs, dtype=dtype)
    out, scale = torch.empty_like(residual), None
    if layer.precision == "fp8":
        rows, scale = fastvae_kernels.quantize_rows(weight.flatten(1))
        x, weight = x.to(torch.float8_e4m3fn), rows.view(weight.shape)
    operands = [x.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), bias]
    added = residual.permute(0, 3, 1, 2)
    window = conv_window(operands[1], [1, 1], [1, 1, 1, 1], [1, 1])

    def run(config: GemmConfig) -> Tensor:
        launch(x, weight, bias, residual, out, None, window, 1, "identity", None, scale=scale, config=config)
        return out.permute(0, 3, 1, 2)

    def exact() -> Tensor:
        y = F.conv2d(operands[0].double(), operands[1].double(), padding=1)
        factors = 1.0 if scale is None else scale.double()[:, None, None]
        return y * factors + bias.double()[:, None, None] + added.double()

    def of(impl: str) -> Tensor:
        return fastvae_kernels.conv2d(*operands, residual=added, scale=scale, padding=1, impl=impl)

    moved = sum(t.nbytes for t in (x, weight, residual, out))
    return Work(run, exact, lambda: of("reference"), moved, lambda: of("library"))
