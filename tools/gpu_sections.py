"""The worker of tools/gpu_check.py: runs the sections it is given, in order, and prints a JSON line for each row.

After a section's rows comes {"finished": its name}, by which the parent knows how far a crashed worker got.
--list prints the names of all sections. --small-cases runs one case of every op and implementation, for memcheck.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from gpu_convolutions import convolutions
from gpu_images import images
from gpu_runtime import runtime
from gpu_timing import DEVICE, DRY, machine, row_of
from gpu_verbs import verbs
from gpu_work import Maker, kernels

import fastvae_kernels as k
from fastvae_kernels.cases import CASES
from fastvae_kernels.testing import assert_op_within

HOST_CALLS = 5 if DRY else 2000


def roof_rows() -> Iterator[dict[str, Any]]:
    yield {"section": "roofs", **machine()}


def host_microseconds(call: Any) -> float:
    """What one call costs the host, launches queueing up behind it."""
    call()
    if not DRY:
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(HOST_CALLS):
        call()
    return 1e6 * (time.perf_counter() - began) / HOST_CALLS


def overhead_rows() -> Iterator[dict[str, Any]]:
    """Host time of a `linear` and a `reparameterize` call beside a bare Triton launch and F.linear."""
    from fastvae_kernels.triton.sample_normal import sample_kernel

    x, weight = torch.randn(16, 64, device=DEVICE), torch.randn(64, 64, device=DEVICE)
    out = torch.empty(16, 64, device=DEVICE)

    def bare() -> None:
        sample_kernel[(1,)](out, 16, 64, 16, 1, 0, 0, 0, UNIFORM=False, ALIGNED=True, BLOCK=256, num_warps=4)

    calls = {
        "bare Triton launch": bare,
        "F.linear": lambda: F.linear(x, weight),
        "linear": lambda: k.linear(x, weight, impl="triton"),
        "reparameterize": lambda: k.reparameterize(x, x, seed=0, impl="triton"),
        "sample_normal": lambda: k.sample_normal(16, 64, seed=0, device=DEVICE, impl="triton"),
    }
    times = {name: host_microseconds(call) for name, call in calls.items()}
    yield {"section": "overhead", "host_microseconds": times, **machine()}


def image_rows_that_differ() -> list[str]:
    """Images of a bf16 batch, of sizes that no tile divides, against the same images alone."""
    n, channels, side = (3, 8, 5) if DRY else (33, 128, 37)
    x = torch.randn(n, channels, side, side, device=DEVICE).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=DEVICE).bfloat16() * channels**-0.5 / 3

    def results(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, statistics = k.conv2d_statistics(images, weight, padding=1, block=64, impl="triton")
        up = k.conv_transpose2d(images, weight, stride=2, padding=1, impl="triton")
        pixels, nan = k.conv_image(images, weight, padding=1, impl="triton")
        return k.conv2d(images, weight, padding=1, impl="triton"), y, statistics, up, pixels, nan

    names = "conv2d", "conv2d_statistics", "statistics", "conv_transpose2d", "conv_image", "nan"
    whole = results(x)
    wrong = []
    for row in (0, n // 2, n - 1):
        part = slice(row, row + 1)
        pairs = zip(names, results(x[part]), whole, strict=True)
        wrong += [f"{op} image {row}" for op, a, b in pairs if not torch.equal(a, b[part])]
    return wrong


def invariance_rows() -> Iterator[dict[str, Any]]:
    """Rows of a large bf16 batch against the same rows alone, bit for bit, through both ways of loading; images too."""
    wrong = []
    n, inputs, outputs = (96, 40, 48) if DRY else (8192, 784, 512)
    x = torch.randn(n, inputs, device=DEVICE).bfloat16()
    weight = torch.randn(outputs, inputs, device=DEVICE).bfloat16() * inputs**-0.5
    data = torch.rand(n, outputs, device=DEVICE)
    whole = k.linear(x, weight, impl="triton"), k.linear_score(x, weight, None, data, impl="triton")
    for row in (0, 1, n // 2 + 3, n - 1):
        part = slice(row, row + 1)
        alone = (
            k.linear(x[part], weight, impl="triton"),
            k.linear_score(x[part], weight, None, data[part], impl="triton"),
        )
        pairs = zip(("linear", "linear_score"), alone, whole, strict=True)
        wrong += [f"{op} row {row}" for op, a, b in pairs if not torch.equal(a, b[part])]
    wrong += image_rows_that_differ()
    yield {"section": "invariance", **machine(), **({"error": f"other bits: {wrong}"} if wrong else {})}


def work_rows(section: str, maker: Maker) -> Iterator[dict[str, Any]]:
    yield row_of(section, maker())


def sections() -> dict[str, Any]:
    """Every section by name, in order of value."""
    found: dict[str, Any] = {"roofs": roof_rows, "invariance": invariance_rows}
    makers = (*kernels(), *convolutions(), *images())
    found |= {f"kernel:{name}": lambda m=maker: work_rows("kernel", m) for name, maker in makers}
    found |= runtime()
    found["overhead"] = overhead_rows
    found |= {f"verb:{name}": lambda m=maker: work_rows("verb", m) for name, maker in verbs()}
    return found


def run(name: str, rows: Iterator[dict[str, Any]]) -> None:
    """Print a section's rows; an exception is a row too, unless it is the device's, which takes the process along."""
    try:
        for row in rows:
            print(json.dumps(row), flush=True)
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"section": name, "error": f"{type(error).__name__}: {error}"[:600]}), flush=True)
        if "CUDA error" in str(error):
            print(json.dumps({"finished": name}), flush=True)
            sys.exit(3)
    print(json.dumps({"finished": name}), flush=True)


def small_cases() -> int:
    """The first case of every op in every implementation, checked: something for memcheck to look at."""
    wrong = 0
    for op, cases in CASES.items():
        arguments = next(iter(cases.values()))(torch.float32, DEVICE)
        for impl in k.implementations(op):
            try:
                assert_op_within(op, impl, arguments, interpreted=DRY and impl == "triton")
            except Exception:
                traceback.print_exc()
                wrong += 1
    print(f"{len(CASES)} ops, {wrong} wrong")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--small-cases", action="store_true")
    options = parser.parse_args()
    if options.small_cases:
        return small_cases()
    known = sections()
    if options.list:
        print("\n".join(known))
        return 0
    for name in options.sections:
        run(name, known[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main())
