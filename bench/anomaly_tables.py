"""Anomaly detection in tables: VAEOutlierDetector beside scikit-learn's IsolationForest and PyOD's VAE.

Semi-supervised: each detector is fitted, with its defaults, on half of the normal rows, and ranks the other half among
the anomalies. Halves are drawn anew for every seed. The study of tens has ten of the anomalies, drawn many times; and
once more unsupervised: what is ranked is what was fitted.
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
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer

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


def breast_cancer_reversed() -> Table:
    """Malignant rows as normal, the benign ones as anomalous."""
    benign, malignant = breast_cancer()
    return malignant, benign


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
    "breast cancer, benign among malignant": breast_cancer_reversed,
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


def few_epochs(train: Rows, test: Rows, seed: int) -> Scores:
    """Trained so shortly that anomalies among the rows are not learned by heart."""
    detector = VAEOutlierDetector(epochs=25, random_state=seed).fit(train)
    return {"fastvae, 25 epochs, elbo": -detector.score_samples(test)}


def transformed(train: Rows, test: Rows, seed: int) -> Scores:
    """Behind scikit-learn's PowerTransformer, which takes skewness from each column (Yeo & Johnson 2000)."""
    detector = make_pipeline(PowerTransformer(), VAEOutlierDetector(random_state=seed)).fit(train)
    return {"fastvae behind PowerTransformer, elbo": -detector.score_samples(test)}


def forest(train: Rows, test: Rows, seed: int) -> Scores:
    return {"isolation forest": -IsolationForest(random_state=seed).fit(train).score_samples(test)}


def pyod_vae(train: Rows, test: Rows, seed: int) -> Scores:
    from pyod.models.vae import VAE

    # PyOD trains on whole batches only, and fails where the rows fill none.
    detector = VAE(random_state=seed, verbose=0, batch_size=min(32, len(train)))
    return {"pyod vae": detector.fit(train).decision_function(test)}


def detectors(*, pixels: bool = False) -> list[Detector]:
    """What is compared. ``pixels`` are also taken as Bernoullis, other columns also made more like normal ones."""
    second = functools.partial(ours, likelihood="bernoulli") if pixels else transformed
    return [ours, second, forest, *_of_pyod()]


def _of_pyod() -> list[Detector]:
    """PyOD's VAE, where it is installed."""
    if importlib.util.find_spec("pyod") is None:
        print(WITHOUT_PYOD, flush=True)
        return []
    return [pyod_vae]


def half(table: Table, seed: int) -> Split:
    """Half of the normal rows to fit; the other half to rank, among the anomalies."""
    normal, anomalous = table
    order = np.random.default_rng(seed).permutation(len(normal))
    train, rest = np.split(normal[order], [len(normal) // 2])
    return train, np.concatenate([rest, anomalous]), np.repeat([0, 1], [len(rest), len(anomalous)])


def together(table: Table, seed: int) -> Split:
    """Unsupervised, as in the outlier literature: all normal rows and ten anomalies are both fitted and ranked."""
    normal, anomalous = table
    ten = np.random.default_rng(seed).permutation(len(anomalous))[:10]
    rows = np.concatenate([normal, anomalous[ten]])
    return rows, rows, np.repeat([0, 1], [len(normal), 10])


def ranked(labels: NDArray[np.int_], seed: int, tens: int) -> list[NDArray[np.int_]]:
    """The rows to judge by: all of them; or so often those that are normal and ten anomalies, drawn anew."""
    if tens == 0:
        return [np.arange(len(labels))]
    normal, anomalous = np.flatnonzero(labels == 0), np.flatnonzero(labels)
    rng = np.random.default_rng(seed)
    return [np.concatenate([normal, rng.permutation(anomalous)[:10]]) for _ in range(tens)]


def compare(
    table: Table,
    ways: list[Detector],
    seeds: int,
    split: Callable[[Table, int], Split] = half,
    tens: int = 0,
) -> dict[str, Any]:
    """Mean and standard deviation, over seeds and draws of ten, of AUROC and average precision, by what made scores."""
    found: dict[str, list[tuple[float, float]]] = {}
    rows: dict[str, int] = {}
    for seed in range(seeds):
        train, test, labels = split(table, seed)
        judged = ranked(labels, seed, tens)
        rows = {"trained on": len(train), "normal": int((labels == 0).sum()), "anomalous": int(labels[judged[0]].sum())}
        for way in ways:
            for name, scores in way(train, test, seed).items():
                reports = [anomaly_report(labels[some], scores[some], resamples=1) for some in judged]
                found.setdefault(name, []).extend((r.auroc.value, r.average_precision.value) for r in reports)
    summaries = {name: _summary(np.array(results)) for name, results in found.items()}
    return {"rows": rows | {"seeds": seeds} | ({"draws of ten": tens} if tens else {})} | summaries


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


def study_tens() -> dict[str, Any]:
    """:func:`compare` of TENS, by many draws of ten anomalies and unsupervised, printed as it comes."""
    ways, results = [ours, few_epochs, forest, *_of_pyod()], {}
    for name, table in TENS.items():
        results[f"{name}, ten"] = compare(table(), ways, 5, tens=20)
        results[f"{name}, ten, unsupervised"] = compare(table(), ways, 20, together)
        for key in (f"{name}, ten", f"{name}, ten, unsupervised"):
            print(f"{key}: {results[key]}", flush=True)
    return results
