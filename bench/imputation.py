"""Is imputation worth it? RMSE on the masked entries of held-out rows, 50 % missing completely at random.

Run as ``python -m bench.imputation``. Compared with the training mean of each entry and, for breast cancer,
scikit-learn's IterativeImputer fitted on the training rows. Errors of tables are in training standard
deviations of the feature, those of images in units of the pixel range. And the MSE of imputers that are trained on the
incomplete rows themselves and fill those, as MIWAE's authors compare them. Rows go to
``bench/results/imputation.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import fastvae
from bench import datasets
from bench.environment import OUT, environment
from fastvae.integrations.sklearn import VAEImputer

METHODS = ("importance", "metropolis", "gibbs")
TRAINED = "breast_cancer_trained_on_holes"
STUDIES = ("breast_cancer", "digits", TRAINED)
MASKS = 5
SAMPLES = 200


def study(name: str, rows: int) -> dict[str, Any]:
    """Mean and standard deviation of the RMSE over MASKS random masks, for each way to fill."""
    data = datasets.load(name)
    train, held_out = (part.reshape(len(part), -1).astype(np.float64) for part in (data.train, data.held_out))
    held_out = held_out[:rows]
    unit = train.std(0) if name == "breast_cancer" else np.ones(train.shape[1])
    model = fastvae.load(name)
    errors: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for seed in range(MASKS):
        missing = np.random.default_rng(seed).random(held_out.shape) < 0.5
        holes = np.where(missing, np.nan, held_out)
        for way, guess in guesses(name, model, train, holes, seed, seconds):
            residual = ((guess - held_out) / unit)[missing]
            errors.setdefault(way, []).append(float(np.sqrt(np.mean(residual**2))))
            assert np.array_equal(np.asarray(guess)[~missing], held_out[~missing]), "observed entries changed"
    return {
        "rows": len(held_out),
        "rmse": {way: [round(float(np.mean(e)), 4), round(float(np.std(e)), 4)] for way, e in errors.items()},
        "seconds": {way: round(value / MASKS, 2) for way, value in seconds.items()},
    }


def trained_on_holes() -> dict[str, Any]:
    """MSE of imputers fitted on the incomplete rows that they fill: all of breast cancer, standardised beforehand.

    VAEImputer with its defaults; no imputer sees an entry that is missing.
    """
    from sklearn.datasets import load_breast_cancer
    from sklearn.impute import SimpleImputer

    rows = load_breast_cancer().data
    rows = (rows - rows.mean(0)) / rows.std(0)
    errors: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for seed in range(MASKS):
        missing = np.random.default_rng(seed).random(rows.shape) < 0.5
        holes = np.where(missing, np.nan, rows)
        imputers = {"mean": SimpleImputer(), "iterative": iterative_imputer(), "vae": VAEImputer(random_state=seed)}
        for way, imputer in imputers.items():
            begin = time.process_time()
            filled = imputer.fit_transform(holes)
            seconds[way] = seconds.get(way, 0.0) + time.process_time() - begin
            errors.setdefault(way, []).append(float(np.mean((filled - rows)[missing] ** 2)))
            assert np.array_equal(filled[~missing], rows[~missing]), "observed entries changed"
    return {
        "rows": len(rows),
        "mse": {way: [round(float(np.mean(e)), 4), round(float(np.std(e)), 4)] for way, e in errors.items()},
        "cpu_seconds": {way: round(value / MASKS, 2) for way, value in seconds.items()},
    }


def guesses(
    name: str, model: fastvae.VAE, train: Any, holes: Any, seed: int, seconds: dict[str, float]
) -> list[tuple[str, Any]]:
    """(way, filled rows) for every way to fill ``holes``; adds the time of each to ``seconds``."""
    ways: dict[str, Any] = {"mean": lambda: np.where(np.isnan(holes), train.mean(0), holes)}
    if name == "breast_cancer":
        ways["iterative"] = lambda: iterative(train, holes)
    for method in METHODS:
        ways[method] = lambda method=method: model.impute(holes, method=method, samples=SAMPLES, seed=seed)
    results = []
    for way, fill in ways.items():
        begin = time.perf_counter()
        results.append((way, fill()))
        seconds[way] = seconds.get(way, 0.0) + time.perf_counter() - begin
    return results


def iterative(train: Any, holes: Any) -> Any:
    """scikit-learn's IterativeImputer with its defaults, fitted on complete rows with as many holes made."""
    missing = np.random.default_rng(0).random(train.shape) < 0.5
    imputer = iterative_imputer().fit(np.where(missing, np.nan, train))
    return imputer.transform(holes)


def iterative_imputer() -> Any:
    """scikit-learn's own, with its defaults but for more iterations."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    return IterativeImputer(random_state=0, max_iter=20)


def main() -> None:
    """The command line of ``python -m bench.imputation``."""
    parser = argparse.ArgumentParser(prog="python -m bench.imputation", description=__doc__)
    parser.add_argument("--rows", type=int, default=200, help="held-out rows at most")
    parser.add_argument("--out", type=Path, default=OUT / "imputation.jsonl", help="JSON lines to append to")
    parser.add_argument("--study", choices=STUDIES, nargs="+", default=STUDIES, help="which to run")
    options = parser.parse_args()
    for name in options.study:
        result = trained_on_holes() if name == TRAINED else study(name, options.rows)
        row = environment() | {"study": f"imputation/{name}", "result": result}
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row["result"], indent=2), flush=True)


if __name__ == "__main__":
    main()
