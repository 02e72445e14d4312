"""What are embeddings worth? A linear classifier and k-means on them, beside PCA and raw pixels.

Run as ``python -m bench.representation [digits] [mnist]``. Everything is fitted on the training rows and judged on
held-out ones. Logistic regression works on standardised features; k-means on features as they are, ten classes, over
SEEDS seeds of ten starts each. Rows of results go to ``bench/results/representation.jsonl``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastvae
from bench import datasets
from bench.environment import OUT, environment
from fastvae.representation import diagnose

DATA = ("digits", "mnist")
SEEDS = 10


def study(name: str, seeds: int = SEEDS) -> dict[str, Any]:
    """Accuracy and adjusted Rand index (mean and standard deviation over seeds) of each kind of feature."""
    data = datasets.load(name)
    found = diagnose(fastvae.load(name), data.held_out)
    results: dict[str, Any] = {
        "rows": {"train": len(data.train), "held out": len(data.held_out)},
        "active": int(found.active.sum()),
        "rate": round(found.rate, 3),
        "features": {},
    }
    for kind, (train, held_out) in features(data, int(found.active.sum())).items():
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        classifier.fit(train, data.train_labels)
        fits = [KMeans(10, n_init=10, random_state=seed).fit(train) for seed in range(seeds)]
        indices = [adjusted_rand_score(data.held_out_labels, fit.predict(held_out)) for fit in fits]
        results["features"][kind] = {
            "dims": train.shape[1],
            "accuracy": round(float(classifier.score(held_out, data.held_out_labels)), 4),
            "ari": [round(float(np.mean(indices)), 4), round(float(np.std(indices)), 4)],
        }
    return results


def features(data: datasets.Dataset, active: int) -> dict[str, tuple[Any, Any]]:
    """Training and held-out rows as each kind of feature (rows, dims)."""
    model = fastvae.load(data.name)
    pixels = [part.reshape(len(part), -1) for part in (data.train, data.held_out)]
    kinds: dict[str, Any] = {"embedding": tuple(model.embed(part) for part in (data.train, data.held_out))}
    for dims in sorted({model.spec.latent_dim, active}, reverse=True):
        pca = PCA(dims, random_state=0).fit(pixels[0])
        kinds[f"PCA {dims}"] = tuple(map(pca.transform, pixels))
    return kinds | {"pixels": tuple(pixels)}


def main() -> None:
    """The command line of ``python -m bench.representation``."""
    parser = argparse.ArgumentParser(prog="python -m bench.representation", description=__doc__)
    parser.add_argument("data", nargs="*", default=list(DATA), help=f"of {', '.join(DATA)}")
    parser.add_argument("--out", type=Path, default=OUT / "representation.jsonl", help="JSON lines to append to")
    options = parser.parse_args()
    for name in options.data:
        row = environment() | {"study": f"representation/{name}", "result": study(name)}
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row["result"], indent=2), flush=True)


if __name__ == "__main__":
    main()
