"""What reading pictures costs beside computing: images a second of ``fastvae encode`` on a folder, and of its model.

Run as ``python -m bench.folder``: an autoencoder with random weights that diffusers writes, and JPEGs of made-up
pictures, both in a temporary folder. Three ways take turns, in batch-invariant mode: ``compute`` has the images decoded
in memory; ``pipeline`` is a bulk job, pictures hashed, decoded in threads ahead of the model, scaled, cropped, latents
written as shards; ``in turn`` has no hashes, reads nothing ahead and writes one file. Nothing is timed before the
shards have been compared with the latents of ``compute``, bit by bit. A row for each size goes to
``bench/results/folder.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import fastvae
from bench.environment import OUT, environment
from bench.image_models import IMAGE_MODELS, autoencoder
from bench.timing import interleaved, quantiles
from fastvae import bulk
from fastvae.cli.work import block_rows
from fastvae.files import ReadOptions, Source, open_source, read_ahead
from fastvae_kernels import sample_uniform

# Of a picture: that of ImageNet's most common one.
PICTURE = (375, 500)
COARSE = (48, 64)
WAYS = ("compute", "pipeline", "in turn")


def write_pictures(folder: Path, images: int) -> None:
    """So many JPEGs of smooth colours with some noise, which compress like photographs."""
    height, width = PICTURE
    for i in range(images):
        coarse = sample_uniform(3, COARSE[0] * COARSE[1], seed=0, stream=i).reshape(3, *COARSE).permute(1, 2, 0)
        smooth = Image.fromarray((coarse.numpy() * 255).astype(np.uint8)).resize((width, height))
        noise = sample_uniform(height, width * 3, seed=1, stream=i).reshape(height, width, 3).numpy() * 16
        pixels = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:05}.jpg", quality=90)


class Comparison:
    """The ways to the latents of a folder's pictures."""

    def __init__(self, vae: fastvae.VAE, source: Source, reading: ReadOptions, scratch: Path) -> None:
        self._vae, self._source, self._reading, self._scratch = vae, source, reading, scratch
        self._blocks = list(read_ahead(source, self._ranges()))
        self._runs = count()

    def _ranges(self) -> Iterator[tuple[int, int]]:
        size = block_rows(self._source)
        for low in range(0, len(self._source), size):
            yield low, min(low + size, len(self._source))

    def compute(self) -> list[Any]:
        """Means of decoded images, block by block."""
        return [self._vae.embed(values) for _, values in self._blocks]

    def pipeline(self) -> Path:
        """The folder of the job that the command line runs."""
        folder = self._scratch / f"run{next(self._runs)}"
        bulk.encode(self._vae, self._source.path, folder, output="mean", format="npy", reading=self._reading)
        return folder

    def in_turn(self) -> None:
        """The same, each block read when the one before is done with."""
        means = [self._vae.embed(self._source.block(low, high)) for low, high in self._ranges()]
        np.savez(self._scratch / "in_turn.npz", mean=np.concatenate(means))

    def verify(self) -> None:
        """Compare the shards with what ``compute`` gives; AssertionError if they differ."""
        found = np.concatenate([np.load(path) for path in sorted(self.pipeline().glob("*.npy"))])
        np.testing.assert_array_equal(found, np.concatenate(self.compute()))


def measure(name: str, size: int, images: int, rounds: int) -> dict[str, Any]:
    """One row: images a second of each way, and which share that is of ``compute``'s, round by round."""
    folder = Path(tempfile.mkdtemp())
    try:
        autoencoder(name, size).save_pretrained(folder / "model")
        (folder / "images").mkdir()
        write_pictures(folder / "images", images)
        vae = fastvae.load(folder / "model", device="cpu", threads=torch.get_num_threads(), batch_invariant=True)
        shape = vae.spec.resized(size, size).input_shape
        options = ReadOptions(image_shape=shape, crop="center", pixel_range=vae.spec.pixel_range or (0.0, 1.0))
        comparison = Comparison(vae, open_source(folder / "images", options), options, folder)
        comparison.verify()
        calls = {"compute": comparison.compute, "pipeline": comparison.pipeline, "in turn": comparison.in_turn}
        times, _ = interleaved(calls, rounds=rounds, min_rounds=rounds, seconds=0)
    finally:
        shutil.rmtree(folder)
    case = {"model": name, "size": size, "images": images, "picture": list(PICTURE)}
    speeds = {way: quantiles([1e6 * images / t for t in times[way]], 2) for way in WAYS}
    shares = {
        way: quantiles([alone / t for t, alone in zip(times[way], times["compute"], strict=True)], 3)
        for way in WAYS[1:]
    }
    return {**environment(), "case": case, "rounds": rounds, "images_per_second": speeds, "of_compute": shares}


def main(arguments: list[str] | None = None) -> int:
    """The command line of ``python -m bench.folder``."""
    parser = argparse.ArgumentParser(prog="python -m bench.folder", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=[*IMAGE_MODELS], default=["taesd"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[256], help="pixels a side, multiples of 8")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="threads of the model")
    parser.add_argument("--out", type=Path, default=OUT / "folder.jsonl", help="JSON lines to append to")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for name in options.models:
        for size in options.sizes:
            row = measure(name, size, options.images, options.rounds)
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            speeds = ", ".join(f"{way} {row['images_per_second'][way]['p50']:.2f}" for way in WAYS)
            print(f"{name} {size}: {speeds} images/s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
