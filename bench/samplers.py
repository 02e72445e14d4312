"""Do samples look more like the data when latents come from a fitted mixture? Fréchet distances to held-out rows.

Run as ``python -m bench.samplers``. Of every embedded model, as many samples as there are held-out rows, from the prior
and from mixtures that ``fit_sampler`` fits to the training rows, are compared with those rows: the squared Fréchet
distance between Gaussians of both, in the leading principal components of the training rows. Its floor is the distance
of as many training rows, and that of their reconstructions is what latents of the right distribution would have. A row
for each model, means over seeds, goes to ``bench/results/samplers.jsonl``.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA

import fastvae
from bench import datasets
from bench.environment import OUT, environment

MODELS = ("digits", "mnist", "breast_cancer")
FEATURES = 20
SEEDS = range(5)
FITS: tuple[tuple[int, Literal["full", "diagonal"]], ...] = ((10, "diagonal"), (10, "full"), (50, "full"))

Features = NDArray[np.float64]


def frechet(a: Features, b: Features) -> float:
    """The squared Fréchet distance between Gaussians with the moments of a and b, each (rows, features)."""
    root = sqrtm(np.cov(a.T) @ np.cov(b.T))
    difference = a.mean(0) - b.mean(0)
    return float(difference @ difference + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * np.real(root)))


def study(name: str) -> dict[str, Any]:
    """Mean distances by where latents come from, over seeds of fits and samples."""
    data = datasets.load(name)
    flat = data.train.reshape(len(data.train), -1)
    spread = 1.0 if data.train.ndim > 2 else flat.std(0)  # a table's columns have units of their own
    pca = PCA(FEATURES, svd_solver="full").fit(flat / spread)

    def features(rows: Any) -> Features:
        return np.asarray(pca.transform(np.asarray(rows).reshape(len(rows), -1) / spread), np.float64)

    held_out, vae = features(data.held_out), fastvae.load(name)
    n = len(held_out)
    distances: dict[str, list[float]] = {}
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(len(data.train))[:n]
        x = data.train[order]
        rows = {"training rows": x, "reconstructions": vae.reconstruct(x), "prior": vae.generate(n, seed)}
        for components, covariance in FITS:
            fitted = vae.fit_sampler(data.train, components, seed, covariance=covariance)
            rows[f"{components} {covariance}"] = fitted.generate(n, seed)
        for source, samples in rows.items():
            distances.setdefault(source, []).append(frechet(features(samples), held_out))
    return {"rows": n, "features": FEATURES, "frechet": {s: round(float(np.mean(d)), 3) for s, d in distances.items()}}


def main() -> None:
    """Study, print and append a row for each model."""
    for name in MODELS:
        row = environment() | {"study": "samplers", "model": name, "seeds": len(SEEDS)} | study(name)
        print(json.dumps({"model": name, **row["frechet"]}), flush=True)
        with (OUT / "samplers.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
