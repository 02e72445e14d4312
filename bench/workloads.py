"""The reference workload: the autoencoder 784-512-256-(2 x 32)-256-512-784, eagerly and as fused ops.

Each verb is given twice: as anybody writes it in PyTorch, and as calls of fused ops, made through a function that the
caller may replace to see which ops run on what.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastvae_kernels

ROWS = 65_536
WIDTHS = (784, 512, 256)
LATENT = 32

Layer = tuple[Tensor, Tensor]
Run = Callable[..., Any]


@dataclass(frozen=True)
class Mlp:
    """Weights [out, in] and biases [out] of every layer, and the precision float32 ones are multiplied in."""

    encoder: tuple[Layer, ...]
    mean: Layer
    logvar: Layer
    decoder: tuple[Layer, ...]
    precision: str = "ieee"


def make_mlp(device: str, dtype: torch.dtype, precision: str = "ieee") -> Mlp:
    """An untrained model; on the "meta" device, only its shapes."""
    generator = torch.Generator().manual_seed(0)

    def layer(inputs: int, outputs: int) -> Layer:
        if device == "meta":
            return torch.empty(outputs, inputs, dtype=dtype, device=device), torch.empty(
                outputs, dtype=dtype, device=device
            )
        weight = torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5
        bias = torch.randn(outputs, generator=generator) * 0.1
        return weight.to(device, dtype), bias.to(device, dtype)

    up = [LATENT, *reversed(WIDTHS)]
    return Mlp(
        encoder=tuple(layer(i, o) for i, o in pairwise(WIDTHS)),
        mean=layer(WIDTHS[-1], LATENT),
        logvar=layer(WIDTHS[-1], LATENT),
        decoder=tuple(layer(i, o) for i, o in pairwise(up)),
        precision=precision,
    )


def run_op(op: str, **arguments: Any) -> Any:
    """The op of fastvae_kernels of this name."""
    return getattr(fastvae_kernels, op)(**arguments)


def _linear(m: Mlp, x: Tensor, layer: Layer, activation: str, run: Run) -> Tensor:
    out: Tensor = run("linear", x=x, weight=layer[0], bias=layer[1], activation=activation, precision=m.precision)
    return out


def _hidden(m: Mlp, x: Tensor, run: Run) -> Tensor:
    for layer in m.encoder:
        x = _linear(m, x, layer, "relu", run)
    return x


def _around_latent(m: Mlp, h: Tensor, run: Run) -> tuple[Tensor, Tensor]:
    """The decoder's first activations at the posterior's mean, and the KL."""
    weight, bias = m.decoder[0]
    y, kl = run(
        "bottleneck",
        x=h,
        mean_weight=m.mean[0],
        mean_bias=m.mean[1],
        logvar_weight=m.logvar[0],
        logvar_bias=m.logvar[1],
        weight=weight,
        bias=bias,
        activation="relu",
        precision=m.precision,
    )
    return y, kl


def encode(m: Mlp, x: Tensor, run: Run = run_op) -> Tensor:
    """x [n, 784] -> the posterior's mean [n, 32]."""
    return _linear(m, _hidden(m, x, run), m.mean, "identity", run)


def generate(m: Mlp, x: Tensor, run: Run = run_op) -> Tensor:
    """As many samples [n, 784] as x has rows."""
    weight, bias = m.decoder[0]
    h = run("linear_prior", n=x.shape[0], weight=weight, bias=bias, seed=0, activation="relu", precision=m.precision)
    h = _linear(m, h, m.decoder[1], "relu", run)
    return _linear(m, h, m.decoder[2], "sigmoid", run)


def reconstruct(m: Mlp, x: Tensor, run: Run = run_op) -> Tensor:
    """x [n, 784] -> its reconstruction from the posterior's mean."""
    h = _linear(m, _around_latent(m, _hidden(m, x, run), run)[0], m.decoder[1], "relu", run)
    return _linear(m, h, m.decoder[2], "sigmoid", run)


def score(m: Mlp, x: Tensor, run: Run = run_op) -> Tensor:
    """x [n, 784] -> the negative ELBO at the posterior's mean [n], under a Bernoulli likelihood."""
    y, kl = _around_latent(m, _hidden(m, x, run), run)
    weight, bias = m.decoder[2]
    h = _linear(m, y, m.decoder[1], "relu", run)
    nll: Tensor = run("linear_score", x=h, weight=weight, bias=bias, data=x, precision=m.precision)
    return nll + kl


def _eager_hidden(layers: tuple[Layer, ...], x: Tensor) -> Tensor:
    for weight, bias in layers:
        x = F.relu(F.linear(x, weight, bias))
    return x


def eager_encode(m: Mlp, x: Tensor) -> Tensor:
    return F.linear(_eager_hidden(m.encoder, x), *m.mean)


def _eager_logits(m: Mlp, z: Tensor) -> Tensor:
    return F.linear(_eager_hidden(m.decoder[:-1], z), *m.decoder[-1])


def eager_generate(m: Mlp, x: Tensor) -> Tensor:
    z = torch.randn(x.shape[0], LATENT, dtype=x.dtype, device=x.device)
    return torch.sigmoid(_eager_logits(m, z))


def eager_reconstruct(m: Mlp, x: Tensor) -> Tensor:
    return torch.sigmoid(_eager_logits(m, eager_encode(m, x)))


def eager_score(m: Mlp, x: Tensor) -> Tensor:
    h = _eager_hidden(m.encoder, x)
    mean, logvar = F.linear(h, *m.mean), F.linear(h, *m.logvar)
    kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(1)
    logits = _eager_logits(m, mean)
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1) + kl


@dataclass(frozen=True)
class Verb:
    """A verb as fused ops and as eager PyTorch; both take a model and x [n, 784]."""

    fused: Callable[..., Tensor]
    eager: Callable[..., Tensor]


VERBS = {
    "encode": Verb(encode, eager_encode),
    "generate": Verb(generate, eager_generate),
    "reconstruct": Verb(reconstruct, eager_reconstruct),
    "score": Verb(score, eager_score),
}


@dataclass(frozen=True)
class Step:
    """One op of a verb: its name, its arguments, and what it returned."""

    op: str
    arguments: dict[str, Any]
    outputs: tuple[Tensor, ...]

    @property
    def shape(self) -> str:
        """rows x inputs x outputs of the product; bottleneck has its latent between them."""
        a = self.arguments
        weight = a["weight"]
        middle = f"{a['mean_weight'].shape[0]}x" if self.op == "bottleneck" else ""
        inputs = a["mean_weight"].shape[1] if self.op == "bottleneck" else weight.shape[1]
        return f"{self.outputs[0].shape[0]}x{inputs}x{middle}{weight.shape[0]}"


def steps(verb: str, rows: int, dtype: torch.dtype, precision: str = "ieee") -> list[Step]:
    """The ops that a verb runs on that many rows, on the meta device."""
    found: list[Step] = []

    def record(op: str, **arguments: Any) -> Any:
        result = run_op(op, **arguments)
        found.append(Step(op, arguments, result if isinstance(result, tuple) else (result,)))
        return result

    model = make_mlp("meta", dtype, precision)
    VERBS[verb].fused(model, torch.empty(rows, WIDTHS[0], dtype=dtype, device="meta"), record)
    return found
