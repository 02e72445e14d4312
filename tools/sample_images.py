"""Draws what an image autoencoder makes of two photographs: originals above their reconstructions, as one PNG.

Run as ``python -m tools.sample_images CHECKPOINT [--out docs/taef2.png] [--size 192]``, with any checkpoint whose model
takes images of any size; docs/taef2.png is that of TAEF2's encoder and decoder as their author publishes them. The
photographs are scikit-learn's sample images, cropped to squares and scaled; both are CC BY 2.0, as its README says: by
danielbuechele (china.jpg) and vultilion (flower.jpg). Prints the PSNR and the size of the latents.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import fastvae
from fastvae.atomic import atomic_write

OUT, SIZE, GAP = Path("docs/taef2.png"), 192, 4


def photographs(size: int) -> NDArray[np.float32]:
    """The sample images' middles as (2, 3, size, size) in [0, 1]."""
    from sklearn.datasets import load_sample_images

    squares = []
    for pixels in load_sample_images().images:
        picture = Image.fromarray(pixels)
        side = min(picture.size)
        left, top = ((of - side) // 2 for of in picture.size)
        square = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
        squares.append(np.asarray(square, np.float32).transpose(2, 0, 1) / 255)
    return np.stack(squares)


def reconstructed(vae: fastvae.VAE, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """``images`` of [0, 1] encoded and decoded, clipped to [0, 1]."""
    low, high = vae.spec.pixel_range or (0.0, 1.0)
    found = vae.reconstruct(images * np.float32(high - low) + np.float32(low))
    return np.asarray(np.clip((found - low) / (high - low), 0, 1), np.float32)


def drawn(lines: list[NDArray[np.float32]]) -> bytes:
    """A PNG with a line for each array of images (n, 3, height, width) in [0, 1], white between them."""
    count, _, height, width = lines[0].shape
    canvas = np.full((len(lines) * (height + GAP) - GAP, count * (width + GAP) - GAP, 3), 255, np.uint8)
    for line, images in enumerate(lines):
        for column, image in enumerate(images):
            top, left = line * (height + GAP), column * (width + GAP)
            canvas[top : top + height, left : left + width] = np.rint(image.transpose(1, 2, 0) * 255)
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def psnr(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio of images in [0, 1], in dB."""
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def main(arguments: list[str] | None = None) -> int:
    """The command line of ``python -m tools.sample_images``."""
    parser = argparse.ArgumentParser(prog="python -m tools.sample_images", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--size", type=int, default=SIZE, help="pixels a side of each image")
    options = parser.parse_args(arguments)
    with fastvae.load(options.checkpoint) as vae:
        originals = photographs(options.size)
        copies = reconstructed(vae, originals)
        latents = vae.spec.resized(options.size, options.size).latent_shape
    with atomic_write(options.out) as file:
        file.write(drawn([originals, copies]))
    print(f"{options.out}: {psnr(originals, copies):.1f} dB, latents {'x'.join(map(str, latents))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
