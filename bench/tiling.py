"""Peak memory of image autoencoders under ``max_memory``: predicted, measured, and what the result differs by.

Run as ``python -m bench.tiling``: Stable Diffusion's autoencoder with random weights, each setting in a process of
its own, first without ``max_memory``. The prediction is of what fastvae takes; what the process has once its
libraries have run a small model is measured and added; and loading takes a file twice. The measured peak is of the
process's whole life, loading included. Rows go to ``bench/results/tiling.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastvae
from bench.environment import OUT, environment
from bench.image_models import IMAGE_MODELS, VERBS, ImageCase, autoencoder, image_input

# max_memory for each size of images.
SETTINGS = {256: ("800MB", "600MB"), 512: ("1GB", "750MB"), 1024: ("2GB",)}


class Predictions(logging.Handler):
    """Keeps the last peak that fastvae predicted, in bytes."""

    peak: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.peak = getattr(record, "peak_bytes", self.peak)


def resident(field: str) -> int:
    """Resident bytes of this process: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def run(folder: Path, verb: str, max_memory: str | None, threads: int) -> dict[str, Any]:
    """One call in this process, on ``input.npy`` in ``folder``; its result is left there, or compared with."""
    torch.set_num_threads(threads)
    fastvae.load("digits", device="cpu").generate(1)  # libraries are imported, and have been used once
    predictions = Predictions(logging.INFO)
    logging.getLogger("fastvae").addHandler(predictions)
    logging.getLogger("fastvae").setLevel(logging.INFO)
    before = resident("VmRSS")
    vae = fastvae.load(folder, device="cpu", max_memory=max_memory)
    x = np.load(folder / "input.npy")
    started = time.perf_counter()
    result = vae.decode(x) if verb == "decode" else vae.embed(x)
    seconds = time.perf_counter() - started
    peak = resident("VmHWM")
    row: dict[str, Any] = {"libraries_bytes": before, "measured_bytes": peak, "seconds": round(seconds, 1)}
    whole = folder / "whole.npy"
    if max_memory is None:
        np.save(whole, result)
        return row
    assert predictions.peak is not None
    loading = 2 * sum(path.stat().st_size for path in folder.glob("*.safetensors"))  # as a file, and as weights
    predicted = before + max(predictions.peak, loading)
    difference = float(np.abs(result - np.load(whole)).max())
    return row | {"predicted_bytes": predicted, "ratio": round(peak / predicted, 3), "difference": difference}


def measure(case: ImageCase, settings: tuple[str, ...], threads: int) -> list[dict[str, Any]]:
    """A row for each of ``settings`` of max_memory, and before them one without."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        autoencoder(case.model, case.size).save_pretrained(folder)
        np.save(folder / "input.npy", image_input(case).numpy())
        for setting in (None, *settings):
            command = [sys.executable, "-m", "bench.tiling", "--run", name, "--verb", case.verb]
            command += ["--threads", str(threads), *(["--max-memory", setting] if setting else [])]
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append({"case": str(case), "max_memory": setting, **json.loads(found.stdout.splitlines()[-1])})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main(arguments: list[str] | None = None) -> None:
    """The command line of ``python -m bench.tiling``."""
    parser = argparse.ArgumentParser(prog="python -m bench.tiling", description=__doc__)
    parser.add_argument("--model", choices=[*IMAGE_MODELS], default="sd")
    parser.add_argument("--verb", choices=VERBS, default="decode")
    parser.add_argument("--sizes", nargs="+", type=int, choices=[*SETTINGS], default=[*SETTINGS])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-memory", nargs="+", help="instead of those for each size")
    parser.add_argument("--run", type=Path, help="run one call in this process, on a folder that was prepared")
    parser.add_argument("--out", type=Path, default=OUT / "tiling.jsonl", help="rows are appended")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.run is not None:
        setting = options.max_memory[0] if options.max_memory else None
        print(json.dumps(run(options.run, options.verb, setting, options.threads)))
        return
    for size in options.sizes:
        settings = tuple(options.max_memory or SETTINGS[size])
        case = ImageCase(options.model, options.verb, size, 1)
        rows = measure(case, settings, options.threads)
        with options.out.open("a") as file:
            file.writelines(json.dumps(environment() | row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
