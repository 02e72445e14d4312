"""What tools/gpu_check.py measures: every kernel, at the shapes of the reference model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from gpu_timing import DEVICE, DRY, DTYPES, Work
from torch import Tensor

import fastvae_kernels as k
from bench.workloads import LATENT, ROWS, WIDTHS
from fastvae_kernels.cost import op_cost
from fastvae_kernels.parts import part_of
from fastvae_kernels.tiling import gemm_config, precision_key, predicted_seconds

Maker = Callable[[], Work]
IMPL = "triton"
COUNT = 64 if DRY else ROWS
EDGE = 16 if DRY else 512
SIZES = ((COUNT, 32),) if DRY else ((COUNT, 32), (COUNT, 128), (16 * COUNT, 64), (64 * COUNT, 32))
ACTIVATIONS = {"identity": lambda y: y, "relu": F.relu, "sigmoid": torch.sigmoid, "gelu": F.gelu}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile at its best; on a CPU, the function itself."""
    return function if DRY else torch.compile(function, mode="max-autotune")


def normal(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """Fresh random numbers: never time on zeros."""
    return (torch.randn(*shape, device=DEVICE) * scale).to(dtype)


def edges(call: Callable[[slice, str], Any], rows: int) -> list[tuple[Tensor, Tensor]]:
    """The first and the last rows of a result beside the reference's for those rows alone."""
    pairs = []
    for part in (slice(0, EDGE), slice(rows - EDGE, rows)):
        ours, reference = call(slice(0, rows), "triton"), call(part, "reference")
        ours = ours if isinstance(ours, tuple) else (ours,)
        reference = reference if isinstance(reference, tuple) else (reference,)
        pairs += [(a[..., part, :] if a.dim() > 1 else a[part], b) for a, b in zip(ours, reference, strict=True)]
    return pairs


def layer(inputs: int, outputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A weight and a bias of usual size."""
    return normal(outputs, inputs, dtype=dtype, scale=inputs**-0.5), normal(outputs, dtype=dtype, scale=0.1)


def gemm(op: str, outputs: int, inputs: int, precision: str) -> dict[str, Any]:
    """The prediction for a product, and the configuration that its row is measured with."""
    key = "fp8" if precision == "fp8" else precision_key(DTYPES[precision], precision)
    config = gemm_config(op, outputs, inputs, key, DEVICE)
    seconds = predicted_seconds(config, COUNT, outputs, inputs, key, part_of(DEVICE))
    return {"predicted_seconds": seconds, "details": {"config": str(config)}}


def linear_work(inputs: int, outputs: int, precision: str, activation: str, residual: bool = False) -> Work:
    """`linear` with its epilogue against cuBLAS and a separate epilogue."""
    dtype = DTYPES[precision]
    tf32 = {"precision": "tf32"} if precision == "tf32" else {}
    x = normal(COUNT, inputs, dtype=dtype)
    weight, bias = layer(inputs, outputs, dtype)
    extra = normal(COUNT, outputs, dtype=dtype) if residual else None
    act = ACTIVATIONS[activation]

    def fused(part: slice = slice(None), impl: str = IMPL) -> Tensor:
        added = None if extra is None else extra[part]
        return k.linear(x[part], weight, bias, residual=added, activation=activation, impl=impl, **tf32)

    def eager() -> Tensor:
        y = act(F.linear(x, weight, bias))
        return y if extra is None else y + extra

    cost = op_cost("linear", [x, weight, bias, extra], [x.new_empty(COUNT, outputs, device="meta")])
    name = f"{COUNT}x{inputs}x{outputs}"
    how = gemm("linear", outputs, inputs, precision)
    how["details"] |= {"activation": activation, "residual": residual}
    peers = {"eager": eager}
    return Work("linear", name, precision, fused, peers, lambda: edges(fused, COUNT), cost.flops, cost.bytes, **how)


def fp8_work(inputs: int, outputs: int) -> Work:
    """`linear` of 8-bit operands against the same layer in bf16."""
    x = normal(COUNT, inputs, dtype=torch.bfloat16)
    weight, bias = layer(inputs, outputs, torch.bfloat16)
    (qx, sx), (qw, sw) = k.quantize_rows(x), k.quantize_rows(weight)

    def fused(part: slice = slice(None), impl: str = IMPL) -> Tensor:
        return k.linear(qx[part], qw, bias, x_scale=sx[part], weight_scale=sw, activation="relu", impl=impl)

    cost = op_cost("linear", [qx, qw, bias, sx, sw], [torch.empty(COUNT, outputs, dtype=torch.bfloat16, device="meta")])
    peers = {"eager bf16": lambda: F.relu(F.linear(x, weight, bias))}
    how = gemm("linear", outputs, inputs, "fp8")
    name = f"{COUNT}x{inputs}x{outputs}"
    return Work("linear", name, "fp8", fused, peers, lambda: edges(fused, COUNT), cost.flops, cost.bytes, **how)


def prior_work(outputs: int, precision: str) -> Work:
    """`linear_prior` against drawing latents with torch.randn and a separate epilogue."""
    dtype = DTYPES[precision]
    weight, bias = layer(LATENT, outputs, dtype)

    def fused(part: slice = slice(0, COUNT), impl: str = IMPL) -> Tensor:
        rows = part.stop - part.start
        return k.linear_prior(rows, weight, bias, seed=1, start=part.start, activation="relu", impl=impl)

    def eager() -> Tensor:
        return F.relu(F.linear(torch.randn(COUNT, LATENT, device=DEVICE, dtype=dtype), weight, bias))

    cost = op_cost("linear_prior", [weight, bias], [weight.new_empty(COUNT, outputs, device="meta")])
    name = f"{COUNT}x{LATENT}x{outputs}"
    how = gemm("linear_prior", outputs, LATENT, precision)
    peers = {"eager": eager}
    return Work(
        "linear_prior",
        name,
        precision,
        fused,
        peers,
        lambda: edges(fused, COUNT),
        cost.flops,
        cost.bytes,
        **how,
    )


def score_work(precision: str) -> Work:
    """`linear_score` of the decoder's last layer against logits in memory and their binary cross-entropy."""
    dtype = DTYPES[precision]
    x, data = normal(COUNT, WIDTHS[1], dtype=dtype), torch.rand(COUNT, WIDTHS[0], device=DEVICE).to(dtype)
    weight, bias = layer(WIDTHS[1], WIDTHS[0], dtype)

    def fused(part: slice = slice(None), impl: str = IMPL) -> Tensor:
        return k.linear_score(x[part], weight, bias, data[part], impl=impl)

    def eager() -> Tensor:
        logits = F.linear(x, weight, bias)
        return F.binary_cross_entropy_with_logits(logits, data, reduction="none").sum(1)

    cost = op_cost("linear_score", [x, weight, bias, data], [x.new_empty(COUNT, dtype=torch.float32, device="meta")])
    name = f"{COUNT}x{WIDTHS[1]}x{WIDTHS[0]}"
    how = gemm("linear_score", WIDTHS[0], WIDTHS[1], precision)
    peers = {"eager": eager}
    return Work(
        "linear_score",
        name,
        precision,
        fused,
        peers,
        lambda: edges(fused, COUNT),
        cost.flops,
        cost.bytes,
        **how,
    )


def head_work(op: str, precision: str) -> Work:
    """`gaussian_head` or `bottleneck` against the layers one by one."""
    dtype = DTYPES[precision]
    x = normal(COUNT, WIDTHS[2], dtype=dtype)
    mean, logvar, out = (
        layer(WIDTHS[2], LATENT, dtype),
        layer(WIDTHS[2], LATENT, dtype),
        layer(LATENT, WIDTHS[2], dtype),
    )
    last = (*out,) if op == "bottleneck" else ()
    more = {"activation": "relu"} if op == "bottleneck" else {}

    def fused(part: slice = slice(0, COUNT), impl: str = IMPL) -> tuple[Tensor, ...]:
        result: tuple[Tensor, ...] = getattr(k, op)(
            x[part], *mean, *logvar, *last, seed=1, start=part.start, impl=impl, **more
        )
        return result

    def eager() -> tuple[Tensor, Tensor]:
        mu, spread = F.linear(x, *mean), F.linear(x, *logvar)
        z = mu + torch.exp(0.5 * spread) * torch.randn_like(mu)
        kl = -0.5 * (1 + spread - mu.square() - spread.exp()).sum(1)
        return (F.relu(F.linear(z, *out)) if last else z), kl

    results = [x.new_empty(COUNT, WIDTHS[2] if last else LATENT, device="meta"), torch.empty(COUNT, device="meta")]
    cost = op_cost(op, [x, *mean, *logvar, *last], results)
    name = f"{COUNT}x{WIDTHS[2]}x{LATENT}" + (f"x{WIDTHS[2]}" if last else "")
    peers = {"eager": eager}
    return Work(op, name, precision, fused, peers, lambda: edges(fused, COUNT), cost.flops, cost.bytes)


def reparameterize_work(rows: int, dim: int, precision: str) -> Work:
    """`reparameterize` against eager and torch.compile."""
    mean, logvar = normal(rows, dim, dtype=DTYPES[precision]), normal(rows, dim, dtype=DTYPES[precision])

    def fused(part: slice = slice(0, rows), impl: str = IMPL) -> tuple[Tensor, Tensor]:
        return k.reparameterize(mean[part], logvar[part], seed=1, start=part.start, impl=impl)

    def eager(mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return z, -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(1)

    fast = compiled(eager)
    cost = op_cost("reparameterize", [mean, logvar], [mean, torch.empty(rows, device="meta")])
    peers = {"eager": lambda: eager(mean, logvar), "torch.compile": lambda: fast(mean, logvar)}
    shape = f"{rows}x{dim}"
    return Work("reparameterize", shape, precision, fused, peers, lambda: edges(fused, rows), cost.flops, cost.bytes)


def noise_work(rows: int, dim: int, precision: str) -> Work:
    """`sample_normal` against torch.randn."""
    dtype = DTYPES[precision]

    def fused(part: slice = slice(0, rows), impl: str = IMPL) -> Tensor:
        where = {"seed": 1, "start": part.start, "dtype": dtype, "device": DEVICE, "impl": impl}
        return k.sample_normal(part.stop - part.start, dim, **where)

    peers = {"eager": lambda: torch.randn(rows, dim, dtype=dtype, device=DEVICE)}
    size = rows * dim
    shape = f"{rows}x{dim}"
    return Work(
        "sample_normal", shape, precision, fused, peers, lambda: edges(fused, rows), size, size * dtype.itemsize
    )


def elbo_work(precision: str) -> Work:
    """`elbo` of tensors in memory against eager and torch.compile."""
    dtype = DTYPES[precision]
    logits, data = (
        normal(COUNT, WIDTHS[0], dtype=dtype, scale=3.0),
        torch.rand(COUNT, WIDTHS[0], device=DEVICE).to(dtype),
    )
    mean, logvar = normal(COUNT, LATENT, dtype=dtype), normal(COUNT, LATENT, dtype=dtype)

    def fused(part: slice = slice(None), impl: str = IMPL) -> tuple[Tensor, ...]:
        return k.elbo(logits[part], data[part], mean[part], logvar[part], impl=impl)

    def eager(logits: Tensor, data: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
        nll = F.binary_cross_entropy_with_logits(logits.float(), data.float(), reduction="none").sum(1)
        return nll - 0.5 * (1 + logvar.float() - mean.float().square() - logvar.float().exp()).sum(1)

    fast = compiled(eager)
    inputs = (logits, data, mean, logvar)
    cost = op_cost("elbo", inputs, [torch.empty(COUNT, device="meta") for _ in range(3)])
    peers = {"eager": lambda: eager(*inputs), "torch.compile": lambda: fast(*inputs)}
    shape = f"{COUNT}x{WIDTHS[0]}"
    return Work("elbo", shape, precision, fused, peers, lambda: edges(fused, COUNT), cost.flops, cost.bytes)


def elbo_loss_work(precision: str) -> Work:
    """`elbo_loss` forward and backward against eager autograd and torch.compile."""
    dtype = DTYPES[precision]
    logits = normal(COUNT, WIDTHS[0], dtype=dtype, scale=3.0)
    data = torch.rand(COUNT, WIDTHS[0], device=DEVICE).to(dtype)
    mean, logvar = normal(COUNT, LATENT, dtype=dtype), normal(COUNT, LATENT, dtype=dtype)
    inputs = (logits, data, mean, logvar)

    def differentiated(loss: Callable[..., Tensor], part: slice = slice(None)) -> tuple[Tensor, ...]:
        """Value by row and gradients, of a loss that is a sum of rows."""
        output, x, m, v = (t[part].detach() for t in inputs)
        leaves = [t.requires_grad_() for t in (output, m, v)]
        value = loss(output, x, m, v)
        return (value.detach(), *torch.autograd.grad(value.sum(), leaves))

    def fused(part: slice = slice(None), impl: str = IMPL) -> tuple[Tensor, ...]:
        return differentiated(lambda *given: k.elbo_loss(*given, reduction="none", impl=impl).loss, part)

    def eager(logits: Tensor, data: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
        nll = F.binary_cross_entropy_with_logits(logits.float(), data.float(), reduction="none").sum(1)
        return nll - 0.5 * (1 + logvar.float() - mean.float().square() - logvar.float().exp()).sum(1)

    fast = compiled(eager)
    size = sum(t.numel() * t.element_size() for t in inputs)
    written = size - data.numel() * data.element_size()
    peers = {"eager": lambda: differentiated(eager), "torch.compile": lambda: differentiated(fast)}
    shape, flops = f"{COUNT}x{WIDTHS[0]}", 2 * logits.numel()
    return Work("elbo_loss", shape, precision, fused, peers, lambda: edges(fused, COUNT), flops, 2 * size + written)


def kernels() -> Iterator[tuple[str, Maker]]:
    """Every kernel measurement by name, the most telling first."""
    for inputs, outputs, activation in (
        (784, 512, "relu"),
        (512, 784, "sigmoid"),
        (512, 256, "relu"),
        (256, 512, "gelu"),
    ):
        yield f"linear-{inputs}-{outputs}", lambda i=inputs, o=outputs, a=activation: linear_work(i, o, "bf16", a)
    yield "linear_score", lambda: score_work("bf16")
    yield "bottleneck", lambda: head_work("bottleneck", "bf16")
    yield "linear_prior", lambda: prior_work(WIDTHS[2], "bf16")
    for rows, dim in SIZES:
        yield f"reparameterize-{rows}-{dim}", lambda n=rows, d=dim: reparameterize_work(n, d, "ieee")
    yield "gaussian_head", lambda: head_work("gaussian_head", "bf16")
    yield "elbo", lambda: elbo_work("bf16")
    yield "elbo_loss", lambda: elbo_loss_work("bf16")
    yield "linear-fp8", lambda: fp8_work(784, 512)
    yield "linear-tf32", lambda: linear_work(784, 512, "tf32", "relu")
    yield "linear-ieee", lambda: linear_work(784, 512, "ieee", "relu")
    yield "linear-residual", lambda: linear_work(512, 512, "bf16", "gelu", residual=True)
    yield "linear-narrow", lambda: linear_work(256, 32, "bf16", "identity")
    yield "linear_score-ieee", lambda: score_work("ieee")
    yield "sample_normal", lambda: noise_work(SIZES[-1][0], 64, "ieee")
    yield "reparameterize-bf16", lambda: reparameterize_work(SIZES[-1][0], 64, "bf16")
