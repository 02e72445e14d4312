"""The one command for a machine with a GPU: is every op right there, and how fast is it against what else and the roof.

python tools/gpu_check.py [--out FOLDER] needs torch, triton and numpy only and installs nothing. Correctness comes
first: every op and implementation against the float64 oracle, and the Philox words. Only then are the noise kernels
timed against eager PyTorch and torch.compile, with the share of the copy bandwidth measured in the same run. Each
measurement is a JSON line in FOLDER/gpu.jsonl. Exit status 1 if anything is wrong; nothing is timed then.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))

import torch
import triton
from torch import Tensor

import fastvae_kernels
from fastvae_kernels.cases import CASES, ROW_SHAPES
from fastvae_kernels.testing import EAGER, NORMAL_EPSILONS, assert_within, oracle, oracle_normals, widen

ROOT = Path(__file__).resolve().parents[1]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((4096, 32), (65536, 32), (65536, 128), (1048576, 64))
QUANTILES = (0.2, 0.5, 0.8)
COPIED_FLOATS = 2**28


def check_plain(op: str, case: str, dtype: torch.dtype, impl: str) -> None:
    """One deterministic op on one case against the float64 oracle."""
    arguments = CASES[op][case](dtype, torch.device("cuda"))
    actual = getattr(fastvae_kernels, op)(**arguments, impl=impl)
    eager = EAGER[op](**(widen(arguments, torch.float32) if actual.dtype != dtype else arguments))
    assert_within(actual, oracle(op, arguments), eager)


def check_noise(shape: tuple[int, int], dtype: torch.dtype, impl: str) -> None:
    """`sample_normal` against Python integers and floats, `reparameterize` against it; rows must not depend on n."""
    where: dict[str, Any] = {"seed": 2**64 - 5, "start": 2**32 - 2, "stream": 3}
    exact = oracle_normals(*shape, **where).cuda()
    normal = fastvae_kernels.sample_normal(*shape, **where, dtype=dtype, device="cuda", impl=impl)
    narrowing = torch.finfo(dtype).eps / 2 if dtype != torch.float32 else 0.0
    bound = exact.abs() * (NORMAL_EPSILONS * 2.0**-23 + narrowing) * 1.0001 + 2.0**-25
    if not bool(((normal.double() - exact).abs() <= bound).all()):
        raise AssertionError(f"sample_normal {shape} {dtype} is off by more than its stated error")
    n, dim = shape
    last = fastvae_kernels.sample_normal(
        1, dim, seed=where["seed"], start=where["start"] + n - 1, stream=3, dtype=dtype, device="cuda", impl=impl
    )
    if not torch.equal(last[0], normal[-1]):
        raise AssertionError(f"sample_normal {shape} {dtype}: the last row alone has other bits")
    mean, logvar = (torch.randn(shape, device="cuda").to(dtype) for _ in range(2))
    z, kl = fastvae_kernels.reparameterize(mean, logvar, **where, impl=impl)
    wide = mean.double(), logvar.double()
    exact_z = wide[0] + torch.exp(wide[1] / 2) * exact
    exact_kl = 0.5 * (wide[1].exp() - 1 - wide[1] + wide[0].square()).sum(1)
    eager_z = mean + torch.exp(logvar / 2) * exact.to(dtype)
    single = mean.float(), logvar.float()
    eager_kl = 0.5 * (single[1].exp() - 1 - single[1] + single[0].square()).sum(1)
    assert_within(z, exact_z, eager_z, extra=NORMAL_EPSILONS * 2.0**-23 * (exact_z - wide[0]).abs())
    assert_within(kl, exact_kl, eager_kl)


def check_everything() -> list[str]:
    """What is wrong, one line each."""
    checks: list[tuple[str, Callable[[], None]]] = []
    for op, cases in CASES.items():
        for impl in fastvae_kernels.implementations(op):
            for case in cases:
                for dtype in DTYPES:
                    name = f"{op} {case} {dtype} {impl}"
                    checks.append((name, lambda o=op, c=case, d=dtype, i=impl: check_plain(o, c, d, i)))
    for impl in fastvae_kernels.implementations("sample_normal"):
        for shape in ROW_SHAPES:
            for dtype in DTYPES:
                name = f"noise {shape} {dtype} {impl}"
                checks.append((name, lambda s=shape, d=dtype, i=impl: check_noise(s, d, i)))
    wrong = []
    for name, check in checks:
        try:
            check()
        except (AssertionError, RuntimeError, NotImplementedError) as error:
            traceback.print_exc()
            wrong.append(f"{name}: {error}")
    print(f"{len(checks)} checks, {len(wrong)} wrong", flush=True)
    return wrong


def microseconds(call: Callable[[], Any]) -> list[float]:
    """p20, p50 and p80 of a call's device time; `do_bench` clears the L2 before each run."""
    return [1e3 * value for value in triton.testing.do_bench(call, warmup=25, rep=200, quantiles=list(QUANTILES))]


def copy_bandwidth() -> float:
    """Bytes per second of a device-to-device copy, read plus written: the roof of ops that only move memory."""
    source = torch.randn(COPIED_FLOATS, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (microseconds(lambda: target.copy_(source))[1] * 1e-6)


def eager_reparameterize(mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """As anybody writes it; PyTorch's own noise."""
    z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    return z, -0.5 * torch.sum(1 + logvar - mean.square() - logvar.exp(), dim=1)


def rows(roof: float) -> list[dict[str, Any]]:
    """One measurement per op, shape and dtype, with its peers in the same run."""
    compiled = torch.compile(eager_reparameterize)
    found = []
    for n, dim in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            size = n * dim * dtype.itemsize
            draw = {"seed": 1, "dtype": dtype, "device": "cuda"}
            mean, logvar = (torch.randn(n, dim, device="cuda", dtype=dtype) for _ in range(2))
            found += [
                measurement(
                    "sample_normal",
                    (n, dim),
                    dtype,
                    size,
                    roof,
                    {
                        "triton": lambda n=n, dim=dim, draw=draw: fastvae_kernels.sample_normal(n, dim, **draw),
                        "torch.randn": lambda n=n, dim=dim, t=dtype: torch.randn(n, dim, device="cuda", dtype=t),
                    },
                ),
                measurement(
                    "reparameterize",
                    (n, dim),
                    dtype,
                    3 * size + 4 * n,
                    roof,
                    {
                        "triton": lambda m=mean, v=logvar: fastvae_kernels.reparameterize(m, v, seed=1),
                        "eager": lambda m=mean, v=logvar: eager_reparameterize(m, v),
                        "torch.compile": lambda m=mean, v=logvar: compiled(m, v),
                    },
                ),
            ]
    return found


def measurement(
    op: str,
    shape: tuple[int, int],
    dtype: torch.dtype,
    least_bytes: int,
    roof: float,
    calls: dict[str, Callable[[], Any]],
) -> dict[str, Any]:
    """Times of the peers, their ratios to triton, and triton's share of the roof."""
    times = {name: microseconds(call) for name, call in calls.items()}
    median = times["triton"][1]
    row = {
        "op": op,
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "microseconds": {n: dict(zip(("p20", "p50", "p80"), t, strict=True)) for n, t in times.items()},
        "ratio": {name: t[1] / median for name, t in times.items()},
        "bytes": least_bytes,
        "share_of_copy_bandwidth": least_bytes / (median * 1e-6) / roof,
    }
    ratios = ", ".join(f"{name} {value:.2f}x" for name, value in row["ratio"].items() if name != "triton")
    share = row["share_of_copy_bandwidth"]
    print(f"{op:16}{shape!s:16}{row['dtype']:10}{median:9.1f} µs  {share:5.0%} of copy  {ratios}", flush=True)
    return row


def environment(roof: float) -> dict[str, Any]:
    """Where the rows were measured."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "commit": commit or "unknown",
        "device": torch.cuda.get_device_name(),
        "copy_bytes_per_second": roof,
        "versions": {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()},
    }


def main() -> int:
    """Check, then measure; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device; tests/kernels runs the kernels under Triton's interpreter", file=sys.stderr)
        return 1
    if wrong := check_everything():
        print("\n".join(wrong), file=sys.stderr)
        return 1
    roof = copy_bandwidth()
    where = environment(roof)
    print(f"{where['device']}: copies at {roof / 1e12:.2f} TB/s", flush=True)
    with (options.out / "gpu.jsonl").open("a") as file:
        for row in rows(roof):
            file.write(json.dumps(where | row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
