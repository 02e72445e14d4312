"""Anomaly detection in tables: VAEOutlierDetector beside scikit-learn's IsolationForest and PyOD's VAE.

Semi-supervised: each detector is fitted, with its defaults, on half of the normal rows, and ranks the other half among
the anomalies. Halves are drawn anew for every seed.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import IsolationForest

from fastvae.integrations.sklearn import VAEOutlierDetector, anomaly_report

METRICS = ("elbo", "reconstruction", "mse")
Rows = NDArray[np.float64]
Table = tuple[Rows, Rows]  # normal and anomalous rows
Scores = dict[str, Rows]  # higher for more anomalous rows, by what made them
Detector = Callable[[Rows, Rows, int], Scores]  # of rows to fit, rows to rank, and a seed
WITHOUT_PYOD = "pyod: not installed, so its VAE is left out; pip install -e '.[compare]'"


def breast_cancer() -> Table:
    """Benign rows as normal, all malignant ones as anomalous."""
    rows, labels = load_breast_cancer(return_X_y=True)
    return rows[labels == 1], rows[labels == 0]


def breast_cancer_ten() -> Table:
    """WDBC as in the outlier literature (Zhang, Hutter & Jin 2009): ten malignant rows, here the first of the file."""
    normal, anomalous = breast_cancer()
    return normal, anomalous[:10]


def wine() -> Table:
    """Cultivars 2 and 3 as normal, 1 as anomalous: the classes of the outlier literature's Wine, none thinned out."""
    rows, labels = load_wine(return_X_y=True)
    return rows[labels != 0], rows[labels == 0]


def wine_class(label: int) -> Table:
    """One cultivar as normal, the two others as anomalous."""
    rows, labels = load_wine(return_X_y=True)
    return rows[labels == label], rows[labels != label]


def digits(label: int) -> Table:
    """All digits but one as normal, that one as anomalous; 64 pixels from 0 to 1."""
    rows, labels = load_digits(return_X_y=True)
    return rows[labels != label] / 16, rows[labels == label] / 16


TABLES: dict[str, Callable[[], Table]] = {
    "breast cancer": breast_cancer,
    "breast cancer, ten malignant": breast_cancer_ten,
    "wine, 1 among 2 and 3": wine,
    **{f"wine, others among {label + 1}": lambda label=label: wine_class(label) for label in range(3)},
}
DIGITS: dict[str, Callable[[], Table]] = {
    f"digits without {label}": lambda label=label: digits(label) for label in range(10)
}


def ours(train: Rows, test: Rows, seed: int, likelihood: str = "gaussian") -> Scores:
    """One fit, and its scores by each of METRICS."""
    detector = VAEOutlierDetector(likelihood=likelihood, random_state=seed).fit(train)
    kind = "" if likelihood == "gaussian" else f" {likelihood}"
    return {f"fastvae{kind}, {name}": -detector.set_params(metric=name).score_samples(test) for name in METRICS}


def forest(train: Rows, test: Rows, seed: int) -> Scores:
    return {"isolation forest": -IsolationForest(random_state=seed).fit(train).score_samples(test)}


def pyod_vae(train: Rows, test: Rows, seed: int) -> Scores:
    from pyod.models.vae import VAE

    return {"pyod vae": VAE(random_state=seed, verbose=0).fit(train).decision_function(test)}


def detectors(*, pixels: bool = False) -> list[Detector]:
    """What is compared; PyOD's only where it is installed. ``pixels`` are also taken as Bernoullis."""
    found: list[Detector] = [ours, forest]
    if pixels:
        found.insert(1, functools.partial(ours, likelihood="bernoulli"))
    if importlib.util.find_spec("pyod") is None:
        print(WITHOUT_PYOD, flush=True)
    else:
        found.append(pyod_vae)
    return found


def compare(table: Table, ways: list[Detector], seeds: int) -> dict[str, Any]:
    """Mean and standard deviation over seeds of AUROC and average precision, by what made the scores."""
    normal, anomalous = table
    half = len(normal) // 2
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(normal))
        train, rest = normal[order[:half]], normal[order[half:]]
        labels = np.repeat([0, 1], [len(rest), len(anomalous)])
        for way in ways:
            for name, scores in way(train, np.concatenate([rest, anomalous]), seed).items():
                report = anomaly_report(labels, scores, resamples=1)
                found.setdefault(name, []).append((report.auroc.value, report.average_precision.value))
    rows = {"trained on": half, "normal": len(normal) - half, "anomalous": len(anomalous), "seeds": seeds}
    return {"rows": rows} | {name: _summary(np.array(results)) for name, results in found.items()}


def _summary(results: NDArray[np.float64]) -> dict[str, Any]:
    mean, spread = results.mean(0).round(4).tolist(), results.std(0, ddof=1).round(4).tolist()
    return {"auroc": [mean[0], spread[0]], "average_precision": [mean[1], spread[1]]}


def study(tables: dict[str, Callable[[], Table]], *, seeds: int, pixels: bool = False) -> dict[str, Any]:
    """:func:`compare` of every table, printed as it comes."""
    ways, results = detectors(pixels=pixels), {}
    for name, table in tables.items():
        results[name] = compare(table(), ways, seeds)
        print(f"{name}: {results[name]}", flush=True)
    return results
