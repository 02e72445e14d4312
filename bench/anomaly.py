"""Do scores separate? AUROC of ``score`` for rows of a kind the model was never trained on.

Run as ``python -m bench.anomaly [breast_cancer] [digits] [cells] [wine] [tens] [pixels]``. Breast cancer: trained on
benign cells, malignant ones are anomalies. Digits: ten models, each trained without one class, which is the anomaly.
The others are VAEOutlierDetector beside other detectors (:mod:`bench.anomaly_tables`). All rows judged are held out
from training, but for what is called unsupervised. Each row of results goes to ``bench/results/anomaly.jsonl``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

import fastvae
from bench import datasets
from bench.anomaly_tables import CELLS, DIGITS, WINES, study, study_tens
from bench.environment import OUT, environment
from tools.train_demo import train

METRICS = {"reconstruction": None, "kl": None, "elbo": None, "iwae": 100, "mse": None}
BENIGN = 1


def aurocs(model: fastvae.VAE, normal: Any, anomalous: Any) -> dict[str, float]:
    """AUROC of each metric at telling ``anomalous`` rows from ``normal`` ones."""
    x = np.concatenate([normal, anomalous])
    labels = np.repeat([0, 1], [len(normal), len(anomalous)])
    scores = {metric: model.score(x, metric, samples=samples) for metric, samples in METRICS.items()}
    return {metric: round(float(roc_auc_score(labels, values)), 4) for metric, values in scores.items()}


def breast_cancer() -> dict[str, Any]:
    """Benign as normal, by a model trained on benign rows, and by the embedded one, which saw both."""
    data = datasets.load("breast_cancer")
    benign = data.held_out[data.held_out_labels == BENIGN]
    malignant = data.held_out[data.held_out_labels != BENIGN]
    trained = fastvae.VAE(train("breast_cancer", only_classes=[BENIGN]))
    return {
        "rows": {"normal": len(benign), "anomalous": len(malignant)},
        "trained on benign": aurocs(trained, benign, malignant),
        "embedded": aurocs(fastvae.load("breast_cancer"), benign, malignant),
    }


def digits() -> dict[str, Any]:
    """Each class left out of training in turn, and the mean over classes."""
    data = datasets.load("digits")
    results: dict[str, Any] = {}
    for label, name in enumerate(data.classes):
        model = fastvae.VAE(train("digits", exclude_classes=[label]))
        known = data.held_out_labels != label
        results[name] = aurocs(model, data.held_out[known], data.held_out[~known])
        print(f"digits without {name}: {results[name]}", flush=True)
    mean = {metric: round(float(np.mean([row[metric] for row in results.values()])), 4) for metric in METRICS}
    return {"rows": {"held out": len(data.held_out)}, "left out": results, "mean": mean}


STUDIES: dict[str, Callable[[], dict[str, Any]]] = {
    "breast_cancer": breast_cancer,
    "digits": digits,
    "cells": lambda: study(CELLS, seeds=5),
    "wine": lambda: study(WINES, seeds=5),
    "tens": study_tens,
    "pixels": lambda: study(DIGITS, seeds=2, pixels=True),
}


def main() -> None:
    """The command line of ``python -m bench.anomaly``."""
    parser = argparse.ArgumentParser(prog="python -m bench.anomaly", description=__doc__)
    parser.add_argument("studies", nargs="*", default=list(STUDIES))
    parser.add_argument("--out", type=Path, default=OUT / "anomaly.jsonl", help="JSON lines to append to")
    options = parser.parse_args()
    for name in options.studies:
        row = environment() | {"study": f"anomaly/{name}", "auroc": STUDIES[name]()}
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row["auroc"], indent=2))


if __name__ == "__main__":
    main()
