"""Anomaly detection in tables: VAEOutlierDetector beside scikit-learn's IsolationForest and PyOD's VAE.

Semi-supervised: each detector is fitted, with its defaults, on half of the normal rows, and ranks the other half among
the anomalies. Halves are drawn anew for every seed. The study of tens has ten anomalies, drawn for every seed as well,
and is unsupervised besides: what is ranked is what was fitted.
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
Split = tuple[Rows, Rows, NDArray[np.int_]]  # rows to fit, rows to rank, and 1 for each of these that is anomalous
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


CELLS: dict[str, Callable[[], Table]] = {
    "breast cancer": breast_cancer,
    "breast cancer, ten malignant": breast_cancer_ten,
}
TENS: dict[str, Callable[[], Table]] = {"breast cancer": breast_cancer, "wine": wine}
WINES: dict[str, Callable[[], Table]] = {
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

    # PyOD trains on whole batches only, and fails where the rows fill none.
    detector = VAE(random_state=seed, verbose=0, batch_size=min(32, len(train)))
    return {"pyod vae": detector.fit(train).decision_function(test)}


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


def half(table: Table, seed: int) -> Split:
    """Half of the normal rows to fit; the other half to rank, among the anomalies."""
    normal, anomalous = table
    order = np.random.default_rng(seed).permutation(len(normal))
    train, rest = np.split(normal[order], [len(normal) // 2])
    return train, np.concatenate([rest, anomalous]), np.repeat([0, 1], [len(rest), len(anomalous)])


def half_and_ten(table: Table, seed: int) -> Split:
    """As :func:`half`, among ten of the anomalies, drawn anew for every seed."""
    return half((table[0], _ten(table, seed)), seed)


def together(table: Table, seed: int) -> Split:
    """Unsupervised, as in the outlier literature: all normal rows and ten anomalies are both fitted and ranked."""
    rows = np.concatenate([table[0], _ten(table, seed)])
    return rows, rows, np.repeat([0, 1], [len(table[0]), 10])


def _ten(table: Table, seed: int) -> Rows:
    return table[1][np.random.default_rng([seed, 1]).permutation(len(table[1]))[:10]]


def compare(
    table: Table, ways: list[Detector], seeds: int, split: Callable[[Table, int], Split] = half
) -> dict[str, Any]:
    """Mean and standard deviation over seeds of AUROC and average precision, by what made the scores."""
    found: dict[str, list[tuple[float, float]]] = {}
    rows: dict[str, int] = {}
    for seed in range(seeds):
        train, test, labels = split(table, seed)
        rows = {"trained on": len(train), "normal": int((labels == 0).sum()), "anomalous": int(labels.sum())}
        for way in ways:
            for name, scores in way(train, test, seed).items():
                report = anomaly_report(labels, scores, resamples=1)
                found.setdefault(name, []).append((report.auroc.value, report.average_precision.value))
    summaries = {name: _summary(np.array(results)) for name, results in found.items()}
    return {"rows": rows | {"seeds": seeds}} | summaries


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


def study_tens(*, seeds: int) -> dict[str, Any]:
    """:func:`compare` of TENS in both ways, printed as it comes."""
    ways, results = detectors(), {}
    for name, table in TENS.items():
        for way, split in {"ten drawn": half_and_ten, "ten drawn, unsupervised": together}.items():
            results[f"{name}, {way}"] = compare(table(), ways, seeds, split)
            print(f"{name}, {way}: {results[f'{name}, {way}']}", flush=True)
    return results
