"""Image autoencoders on a CPU: decode and encode beside what a user of diffusers would run without fastvae.

Run as ``python -m bench.images``: Stable Diffusion's autoencoder (``sd``) and TAESD (``taesd``), with random weights
that diffusers writes to a temporary folder. Verified, then timed, in turn, as ``python -m bench`` does; calls take
seconds, so rounds are few. On one thread unless told otherwise. ``python -m bench.report`` writes the rows into
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import torch

from bench.environment import OUT, environment
from bench.image_models import IMAGE_MODELS, SIZES, VERBS, ImageCase, image_cases
from bench.image_peers import DEFAULT_PEERS, IMAGE_BUDGET, IMAGE_PEERS
from bench.peers import OURS
from bench.runner import Effort, add_options, finish, prepare, run, timed

EFFORT = Effort(rounds=20, min_rounds=3, seconds=30.0)


def measure(case: ImageCase, effort: Effort, peers: Collection[str]) -> dict[str, Any]:
    """One row, as :func:`bench.runner.measure` makes them.

    Raises:
        AssertionError: fastvae's result is not eager diffusers'; nothing is timed.
    """
    calls, notes = prepare(case, peers, IMAGE_PEERS, IMAGE_BUDGET)
    return {"case": asdict(case)} | notes | timed(calls, effort)


def main(arguments: list[str] | None = None) -> int:
    """The command line of ``python -m bench.images``; 130 if it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m bench.images", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=[*IMAGE_MODELS], default=[*IMAGE_MODELS])
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=VERBS)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="pixels a side, multiples of 8")
    parser.add_argument("--rows", nargs="+", type=int, default=(1,), help="images of a call")
    parser.add_argument(
        "--peers", nargs="+", choices=[*IMAGE_PEERS], default=DEFAULT_PEERS, help=f"{OURS} always takes part"
    )
    add_options(parser, EFFORT, OUT / "images.jsonl")
    options = parser.parse_args(arguments)
    if wrong := [size for size in options.sizes if size < 8 or size % 8]:
        parser.error(f"--sizes: expected multiples of 8, found {wrong[0]}")
    torch.set_num_threads(options.threads)
    print(environment()["device"])
    effort = Effort(rounds=options.rounds, min_rounds=options.min_rounds, seconds=options.seconds)
    peers = tuple(dict.fromkeys((OURS, *options.peers)))
    selected = image_cases(options.models, options.verbs, options.sizes, options.rows)
    return finish(
        lambda: run(
            selected, options.out, lambda case: measure(case, effort, peers), kind=ImageCase, resume=options.resume
        ),
        options.out,
    )


if __name__ == "__main__":
    raise SystemExit(main())
