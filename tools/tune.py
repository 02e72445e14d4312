"""Find the fastest configurations of products, convolutions, attention and group norms on the GPU that is here.

python tools/tune.py [--op linear --outputs 512 --inputs 784 --precision bf16] tries the default choice and the
candidates predicted to be fastest for each layer, by default those of the reference model; convolutions are of 3x3
taps, and --inputs counts those of all nine. Attention is tuned for each number of channels that has a tile, group norms
are all at once, for they have one configuration. A candidate must first agree with the float64 result; then medians
over rotated inputs decide, and the default stays unless something beats it by more than the measured noise. Winners go
to kernels/fastvae_kernels/configs/<op>.json under the device's name, one by one, so that an interrupted search
resumes; --again measures what is already there. Beside the winner stands PyTorch's own op, where that is an
implementation: impl="conv2d=library" takes it. Run tools/aot.py afterwards. --dry-run prints the candidates with their
predicted times for --part and needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))

import torch
import triton

from fastvae_kernels.attention_tiling import attention_tiles
from fastvae_kernels.parts import PARTS, Part, part_of
from fastvae_kernels.testing import assert_within
from tools.tune_grid import LAYERS, PRECISIONS, TAPS, Layer, Timing, config_fields, is_gain, write
from tools.tune_images import IMAGE_OPS, attention_subject, norm_subject
from tools.tune_work import Subject, Work, layer_subject

ROOT = Path(__file__).resolve().parents[1]
ROTATED_BYTES = 2**28


def config_path(op: str) -> Path:
    """Where an op's tiles are filed."""
    return ROOT / "kernels" / "fastvae_kernels" / "configs" / f"{op}.json"


def why_wrong(work: Work[Any], config: Any) -> str:
    """Why a candidate is out: it does not run, or its result is outside the budget; "" if it is right."""
    try:
        assert_within(work.run(config), work.exact(), work.eager())
    except Exception as error:  # a candidate may fail in any way; the search goes on
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return ""


def timing(runs: list[Callable[[], object]]) -> Timing:
    """Device time of one run; each takes the next of several sets of operands, so that no cache knows them."""
    turn = cycle(runs)
    quantiles = [0.2, 0.5, 0.8]
    times = triton.testing.do_bench(lambda: next(turn)(), warmup=25, rep=100, quantiles=quantiles)
    return Timing(*(1e3 * value for value in times))


def tune(subject: Subject[Any]) -> Any:
    """Measure the candidates, print them, and return the one to file."""
    small, first = subject.work(True), subject.work(False)
    works = [first, *(subject.work(False) for _ in range(min(8, ROTATED_BYTES // first.bytes)))]
    default, *others = subject.candidates
    if reason := why_wrong(small, default):
        raise RuntimeError(f"{subject.name}: the default {default} is wrong: {reason}")

    def timed(config: Any) -> Timing:
        return timing([partial(work.run, config) for work in works])

    found = {default: timed(default)}
    for config in others:
        reason = why_wrong(small, config)
        if not reason:
            found[config] = timed(config)
        print_candidate(subject, config, found.get(config), reason)
    again = timed(default)
    best = min(found, key=lambda config: found[config].p50)
    winner = best if is_gain(found[default], again, found[best]) else default
    print(f"default {found[default].p50:.1f} us, again {again.p50:.1f} us; kept:")
    print_candidate(subject, winner, found[winner], "")
    if first.library:
        library = timing([work.library for work in works if work.library])
        print(f"library {library.p50:.1f} us, {found[winner].p50 / library.p50:.2f} times as fast as what was kept")
    return winner


def print_candidate(subject: Subject[Any], config: Any, measured: Timing | None, reason: str) -> None:
    found = f"measured {measured.p50:8.1f} us" if measured else ""
    text = f"predicted {subject.predicted(config):8.1f} us  {found}  {reason}"
    print(f"  {json.dumps(config_fields(config)):<150}{text}".rstrip(), flush=True)


def chosen(options: argparse.Namespace, part: Part) -> list[Subject[Any]]:
    """What was asked for; a precision that the part lacks is left out, and said to be."""
    found: list[Subject[Any]] = []
    for op in [options.op] if options.op else (*LAYERS, *IMAGE_OPS):
        for precision in {**PRECISIONS, **IMAGE_OPS}[op]:
            if options.precision not in (None, precision):
                continue
            if precision not in part.flops:
                print(f"left out {op} {precision}: {part.target} has none")
                continue
            found += _subjects(op, precision, part, options)
    return found


def _subjects(op: str, precision: str, part: Part, options: argparse.Namespace) -> list[Subject[Any]]:
    limit = options.limit
    if op == "group_norm":
        return [norm_subject(part, limit)]
    if op == "attention":
        tiles = attention_tiles(part.target)[precision]
        return [attention_subject(tile.channels, precision, part, limit) for tile in tiles]
    sizes = [(options.outputs, options.inputs)] if options.outputs else LAYERS[op]
    return [layer_subject(Layer(op, *size, precision), part, limit) for size in sizes]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--op", choices=(*LAYERS, *IMAGE_OPS))
    parser.add_argument("--outputs", type=int)
    parser.add_argument("--inputs", type=int)
    parser.add_argument("--precision", choices=PRECISIONS["linear"])
    parser.add_argument("--limit", type=int, default=80, help="candidates besides the default, by predicted time")
    parser.add_argument("--again", action="store_true", help="also layers measured before on this device")
    parser.add_argument("--dry-run", action="store_true", help="print the candidates, measure nothing")
    parser.add_argument("--part", choices=PARTS, default="sm_90", help="the part of a dry run without a GPU")
    options = parser.parse_args()
    if bool(options.outputs) != bool(options.inputs) or (options.outputs and options.op not in LAYERS):
        parser.error(f"--outputs and --inputs go together, with --op {', '.join(LAYERS)}")
    if options.op == "conv2d" and (options.inputs or 0) % TAPS:
        parser.error(f"--inputs of conv2d are those of {TAPS} taps: a multiple of {TAPS}; found {options.inputs}")
    return options


def main() -> int:
    """Tune one subject after the other and file the winners; see the module docstring."""
    options = arguments()
    here = torch.cuda.is_available()
    part = part_of(torch.device("cuda")) if here else PARTS[options.part]
    if options.dry_run:
        for subject in chosen(options, part):
            print(f"{subject.name} on {part.target}")
            for config in subject.candidates:
                print_candidate(subject, config, None, "")
        return 0
    if not here:
        print("no CUDA device; --dry-run lists the candidates without one", file=sys.stderr)
        return 1
    device = torch.cuda.get_device_name()
    for subject in chosen(options, part):
        path = config_path(subject.op)
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if subject.is_known(table, device) and not options.again:
            print(f"{subject.name}: measured before")
            continue
        print(f"{subject.name} on {device}")
        write(path, subject.record(table, device, tune(subject)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
