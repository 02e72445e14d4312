"""`fastvae_kernels.elbo_loss` beside eager autograd and torch.compile: forward and backward, time and memory.

python -m bench.elbo_loss checks that loss and gradients agree, then times value and gradients of a Bernoulli and of a
Gaussian with predicted variance on 1 and 2 threads, for batches of each of --rows, the peers taking turns, and measures
how far a process that makes one step of each on the most rows has grown at its peak. "fastvae inplace" lets gradients
take the memory of what they are gradients by, which is filled again between calls. A row for each is appended to
bench/results/elbo_loss.jsonl.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.environment import environment
from bench.timing import interleaved, quantiles
from fastvae_kernels import elbo_loss

OUT = Path("bench/results/elbo_loss.jsonl")
ROWS, WIDTH, LATENT = (16, 64, 4096), 784, 64
LIKELIHOODS = ("bernoulli", "gaussian")
OURS, PEERS = ("fastvae", "fastvae inplace"), ("eager", "torch.compile")
ROUNDS, MIN_ROUNDS, SECONDS = 40, 6, 6.0

Loss = Callable[..., Tensor]


def ours(
    output: Tensor, data: Tensor, mean: Tensor, logvar: Tensor, output_logvar: Tensor | None = None, **settings: Any
) -> Tensor:
    settings |= {"likelihood": "bernoulli" if output_logvar is None else "gaussian", "reduction": "sum"}
    return elbo_loss(output, data, mean, logvar, output_logvar=output_logvar, **settings).loss


def ours_inplace(
    output: Tensor, data: Tensor, mean: Tensor, logvar: Tensor, output_logvar: Tensor | None = None
) -> Tensor:
    """As behind a decoder: what it gives are no leaves."""
    output_logvar = None if output_logvar is None else output_logvar.view_as(output_logvar)
    return ours(output.view_as(output), data, mean, logvar, output_logvar, inplace=True)


def eager(output: Tensor, data: Tensor, mean: Tensor, logvar: Tensor, output_logvar: Tensor | None = None) -> Tensor:
    """As tutorials have it."""
    if output_logvar is None:
        reconstruction = F.binary_cross_entropy_with_logits(output, data, reduction="sum")
    else:
        square = (data - output).pow(2) * torch.exp(-output_logvar)
        reconstruction = 0.5 * torch.sum(math.log(2 * math.pi) + output_logvar + square)
    return reconstruction - 0.5 * torch.sum(1 + logvar - mean.pow(2) - logvar.exp())


def tensors(likelihood: str, rows: int) -> list[Tensor]:
    """Output, data, mean, logvar and perhaps the output's; all but data want gradients."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator).mul_(scale).requires_grad_()

    found = [normal(rows, WIDTH, scale=4.0), torch.rand(rows, WIDTH, generator=generator)]
    found += [normal(rows, LATENT), normal(rows, LATENT)]
    return [*found, normal(rows, WIDTH)] if likelihood == "gaussian" else found


def step(loss: Loss, given: list[Tensor]) -> tuple[Tensor, ...]:
    """One loss and its gradients, as they go on to the layers before."""
    value = loss(*given)
    return value.detach(), *torch.autograd.grad(value, [t for t in given if t.requires_grad])


@functools.cache
def losses() -> dict[str, Loss]:
    compiled = torch.compile(eager, dynamic=False)
    return {"fastvae": ours, "fastvae inplace": ours_inplace, "eager": eager, "torch.compile": compiled}


def check(likelihood: str, rows: int) -> None:
    """Loss and gradients of every peer are those of eager in float64, to within float32 sums of millions of terms."""
    given = tensors(likelihood, rows)
    truth = step(eager, [t.detach().double().requires_grad_(t.requires_grad) for t in given])
    for name, loss in losses().items():
        value, *gradients = step(loss, [t.detach().clone().requires_grad_(t.requires_grad) for t in given])
        if abs(value.item() / truth[0].item() - 1) > 1e-5:
            raise AssertionError(f"{name} {likelihood}: loss {value.item()}, expected {truth[0].item()}")
        for found, expected in zip(gradients, truth[1:], strict=True):
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def timed(likelihood: str, rows: int, threads: int) -> dict[str, Any]:
    """Microseconds of a step of each peer, and how many times ours the others take."""
    torch.set_num_threads(threads)
    given = tensors(likelihood, rows)
    kept = [t.detach().clone() for t in given]

    def fill_again() -> None:
        with torch.no_grad():
            for tensor, values in zip(given, kept, strict=True):
                tensor.copy_(values)

    calls = {name: functools.partial(step, loss, given) for name, loss in losses().items()}
    for call in calls.values():
        fill_again()
        call()
    times, _ = interleaved(calls, rounds=ROUNDS, min_rounds=MIN_ROUNDS, seconds=SECONDS, before=fill_again)
    middle = {name: quantiles(values, 0) for name, values in times.items()}
    paired = {own: {peer: _ratio(times[peer], times[own]) for peer in PEERS} for own in OURS}
    return {"rows": rows, "threads": threads, "rounds": len(times["fastvae"]), "microseconds": middle, "ratio": paired}


def _ratio(peer: list[float], own: list[float]) -> dict[str, float]:
    """The peer's times over ours of the same rounds."""
    return quantiles([a / b for a, b in zip(peer, own, strict=True)], 2)


CHILD = """
import re, sys, torch
from pathlib import Path
from bench import elbo_loss as bench
torch.set_num_threads(1)
name, likelihood, rows = sys.argv[1:]
given = bench.tensors(likelihood, int(rows))
bench.step(bench.losses()[name], [t[:8].detach().requires_grad_(t.requires_grad) for t in given])
status, loss = Path("/proc/self/status"), bench.losses()[name]
Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
before = int(re.search("VmRSS:\\s+(\\d+)", status.read_text())[1])
bench.step(loss, given)
print(int(re.search("VmHWM:\\s+(\\d+)", status.read_text())[1]) - before)
"""


def grown(name: str, likelihood: str, rows: int) -> float:
    """MB by which a new process grows at its peak over one step, tensors and code being there."""
    command = [sys.executable, "-c", CHILD, name, likelihood, str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(float(done.stdout) * 1024 / 1e6, 1)


def main() -> None:
    """Check, time, and measure memory; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for likelihood in LIKELIHOODS:
        memory = {name: grown(name, likelihood, max(options.rows)) for name in OURS + PEERS}
        common = {"date": time.strftime("%Y-%m-%d"), **environment(), "likelihood": likelihood}
        common |= {"width": WIDTH, "latent": LATENT}
        for rows in options.rows:
            torch.compiler.reset()  # which compiles a function anew for so many shapes only
            check(likelihood, rows)
            of_rows = {"memory_mb": memory} if rows == max(options.rows) else {}
            for row in [timed(likelihood, rows, threads) for threads in (1, 2)]:
                with options.out.open("a") as file:
                    file.write(json.dumps(common | of_rows | row) + "\n")
                times_of = {name: f"{value['p50']:.0f} µs" for name, value in row["microseconds"].items()}
                ratios = {f"{peer}/{own}": row["ratio"][own][peer]["p50"] for own in OURS for peer in PEERS}
                print(f"{likelihood:10} {rows} rows {row['threads']} threads  {times_of}  ratio {ratios}", flush=True)
        print(f"{likelihood:10} memory {memory} MB", flush=True)


if __name__ == "__main__":
    main()
