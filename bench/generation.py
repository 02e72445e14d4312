"""How good are samples? Those of the embedded models beside held-out rows, a linear model's samples and real rows.

Run as ``python -m bench.generation [digits] [mnist]``. As many samples as there are held-out rows, over SEEDS seeds:

* ``frechet``: the Fréchet distance between normal distributions fitted to the samples and to the held-out rows, in
  the space of the training rows' first COMPONENTS principal components, in squared units of the pixel range. It sees
  means and covariances only: linear samples, which are made of them, do well at it.
* ``confident``: the share of samples in which a classifier of digits, trained on the training rows and then left
  alone, is at least CONFIDENT sure of a class.
* ``classes``: exp of the entropy of the classes that it finds: 10 if all are as frequent.

Rows of results go to ``bench/results/generation.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import fastvae
from bench import datasets
from bench.environment import OUT, environment

DATA = ("digits", "mnist")
SEEDS = 5
COMPONENTS = 32
EPOCHS = 60
CONFIDENT = 0.9


def frechet(a: Any, b: Any) -> float:
    """Squared Fréchet distance between normal distributions fitted to rows ``a`` and ``b`` (Dowson & Landau 1982)."""
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1]) - 2 * shared)


def study(name: str, seeds: int = SEEDS) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each number, for each source of samples."""
    data = datasets.load(name)
    train, held_out = (part.reshape(len(part), -1) for part in (data.train, data.held_out))
    space = PCA(COMPONENTS, random_state=0).fit(train)
    classifier = MLPClassifier((128,), alpha=0.01, max_iter=EPOCHS, n_iter_no_change=EPOCHS, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # EPOCHS are enough for a judge
        classifier.fit(train, data.train_labels)
    results: dict[str, Any] = {
        "rows": len(held_out),
        "classifier accuracy": round(float(classifier.score(held_out, data.held_out_labels)), 4),
        "held out": judged(held_out, classifier),
    }
    for source, draw in sources(name, train, len(held_out)).items():
        found = []
        for seed in range(seeds):
            rows = draw(seed)
            distance = frechet(space.transform(rows), space.transform(held_out))
            found.append({"frechet": distance} | judged(rows, classifier))
        columns = {key: [row[key] for row in found] for key in found[0]}
        results[source] = {
            key: [round(float(np.mean(values)), 4), round(float(np.std(values)), 4)] for key, values in columns.items()
        }
    return results


def sources(name: str, train: Any, rows: int) -> dict[str, Callable[[int], Any]]:
    """Ways to draw ``rows`` rows (rows, pixels) by a seed."""
    model = fastvae.load(name)
    linear = PCA(model.spec.latent_dim, random_state=0).fit(train)

    def of_model(output: Any) -> Callable[[int], Any]:
        return lambda seed: model.generate(rows, seed=seed, output=output).reshape(rows, -1)

    def of_pca(seed: int) -> Any:
        z = np.random.default_rng(seed).standard_normal((rows, linear.n_components_))
        return linear.inverse_transform(z * np.sqrt(linear.explained_variance_)).clip(0, 1).astype(np.float32)

    def real(seed: int) -> Any:
        return train[np.random.default_rng(seed).permutation(len(train))[:rows]]

    return {"training rows": real, "mean": of_model("mean"), "sample": of_model("sample"), "PCA": of_pca}


def judged(rows: Any, classifier: MLPClassifier) -> dict[str, float]:
    """How sure the classifier is of them, and how many classes it finds."""
    shares = classifier.predict_proba(rows)
    frequent = np.bincount(shares.argmax(1), minlength=10) / len(rows)
    positive = frequent[frequent > 0]
    return {
        "confident": round(float((shares.max(1) >= CONFIDENT).mean()), 4),
        "classes": round(float(np.exp(-(positive * np.log(positive)).sum())), 3),
    }


def main() -> None:
    """The command line of ``python -m bench.generation``."""
    parser = argparse.ArgumentParser(prog="python -m bench.generation", description=__doc__)
    parser.add_argument("data", nargs="*", default=list(DATA), help=f"of {', '.join(DATA)}")
    parser.add_argument("--out", type=Path, default=OUT / "generation.jsonl", help="JSON lines to append to")
    options = parser.parse_args()
    for name in options.data:
        row = environment() | {"study": f"generation/{name}", "result": study(name)}
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row["result"], indent=2), flush=True)


if __name__ == "__main__":
    main()
