"""How well latent dimensions separate known factors of variation: MIG, SAP and DCI.

Higher is better, 1 at best. Every score also depends on how it is discretised or fitted, as its docstring says:
compare numbers made with the same settings and data only (Locatello et al. 2019, arXiv:1811.12359).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastvae.errors import InputError
from fastvae.files import needs
from fastvae.noise import check_count
from fastvae.representation import _checks
from fastvae.representation._checks import Floats

TEST_EVERY = 3
CLASSES = "the separated attribute predictability of classes"


@dataclass(frozen=True, eq=False)
class Separation:
    """A gap metric: ``score``, the mean of ``gaps`` (factors,), from ``matrix`` (dims, factors)."""

    score: float
    gaps: Floats
    matrix: Floats


@dataclass(frozen=True, eq=False)
class DCI:
    """Disentanglement, completeness and informativeness, from ``importance`` (dims, factors).

    ``disentanglement``: a dimension captures one factor; ``completeness``: a factor is captured by one dimension;
    ``informativeness``: balanced accuracy, or R² where a factor is continuous, on rows held out, the mean over factors.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Floats


def mig(latents: NDArray[Any], factors: NDArray[Any], *, bins: int = 20) -> Separation:
    """Mutual information gap (Chen et al. 2018, arXiv:1802.04942).

    The mean over factors v of (I(z_j; v) - I(z_k; v)) / H(v), j and k the dimensions that know most of it.

    Args:
        latents: (rows, dims), such as posterior means.
        factors: (rows, factors), or (rows,) for one. Integers are classes; floats are cut into ``bins`` as well.
        bins: each dimension is cut into so many intervals of equal width between its least and its largest value. The
            estimates, plain counts, grow with bins over rows: have many more rows than bins times classes.

    Returns:
        Separation; its matrix has I(z_j; v) / H(v).

    Raises:
        InputError: an argument of the wrong kind, shape or range, or fewer than 2 dimensions.
    """
    z, v = _pair(latents, factors)
    bins = check_count("bins", bins, least=2, most=2**20)
    codes = [_cut(column, bins) for column in z.T]
    classes = [_cut(column, bins) if column.dtype.kind == "f" else _codes(column) for column in v.T]
    return _gap(np.array([[_information(code, known) for known in classes] for code in codes]))


def sap(
    latents: NDArray[Any], factors: NDArray[Any], *, classifier: Literal["thresholds", "linear_svm"] = "thresholds"
) -> Separation:
    """Separated attribute predictability (Kumar et al. 2018, arXiv:1711.00848).

    The mean over factors of the gap between the two dimensions that predict it best, each by itself. For a factor of
    floats that is R² of a straight line over all rows, its squared correlation. For one of integers it is the balanced
    accuracy of thresholds, one fewer than classes, found by a decision tree on two of three rows and judged on every
    third. Chance is 1 / classes there, so that the best score is 1 - 1 / classes.

    Args: as :func:`mig`, and
        classifier: of integers: ``thresholds``, or ``linear_svm``, a linear support vector machine on a dimension, as
            Kumar et al. take, with the settings of Locatello et al.: C = 0.01, classes weighed alike, one against the
            rest. It tells only the outer ones of ordered classes from the rest, and sees how a dimension is scaled.

    Returns:
        Separation; its matrix has R² or the balanced accuracy.

    Raises:
        InputError: as :func:`mig`, or an unknown classifier.
        UnsupportedError: scikit-learn is not installed, and a factor is of integers.
    """
    if not isinstance(classifier, str) or classifier not in ("thresholds", "linear_svm"):
        raise InputError(f"classifier: expected 'thresholds' or 'linear_svm', got {classifier!r:.80}")
    z, v = _pair(latents, factors)
    of_classes = _thresholds if classifier == "thresholds" else _linear_svm
    columns = [_squared_correlation(z, known) if known.dtype.kind == "f" else of_classes(z, known) for known in v.T]
    return _gap(np.array(columns).T)


def dci(latents: NDArray[Any], factors: NDArray[Any], *, trees: int = 50, seed: int = 0) -> DCI:
    """Disentanglement, completeness, informativeness (Eastwood & Williams 2018).

    Importances are those of forests of bagged trees, one a factor, fitted on two of three rows: classifiers for factors
    of integers, regressors for floats. Entropies have base factors and dims; a dimension counts by its share of all
    importance.

    Args: as :func:`mig`, and
        trees: of each forest.
        seed: of the forests, below 2**32.

    Raises:
        InputError: as :func:`mig`.
        UnsupportedError: scikit-learn is not installed.
    """
    z, v = _pair(latents, factors)
    trees, seed = check_count("trees", trees, least=1, most=10_000), check_count("seed", seed, most=2**32 - 1)
    fits = [_forest(z, known, trees, seed) for known in v.T]
    importance = np.array([found for found, _ in fits]).T
    weights = importance.sum(1) / max(importance.sum(), np.finfo(np.float64).tiny)
    return DCI(
        disentanglement=float((weights * _purity(importance)).sum()),
        completeness=float(_purity(importance.T).mean()),
        informativeness=float(np.mean([score for _, score in fits])),
        importance=importance,
    )


def _pair(latents: Any, factors: Any) -> tuple[Floats, NDArray[Any]]:
    z = _checks.latents("latents", latents, least=2 * TEST_EVERY)
    if z.shape[1] < 2:
        raise InputError("latents: expected at least 2 dimensions, between which a gap can be, got 1")
    return z, _checks.factors(factors, len(z))


def _cut(column: Floats, bins: int) -> NDArray[np.int64]:
    """Which of ``bins`` intervals of equal width each value lies in."""
    edges = np.linspace(column.min(), column.max(), bins + 1)[1:-1]
    return np.digitize(column, edges)


def _codes(column: NDArray[Any]) -> NDArray[np.int64]:
    """Each value as an index into the values that there are."""
    return np.unique(column, return_inverse=True)[1]


def _information(code: NDArray[np.int64], known: NDArray[np.int64]) -> float:
    """I(code; known) / H(known)."""
    joint = np.zeros((code.max() + 1, known.max() + 1))
    np.add.at(joint, (code, known), 1 / len(code))
    entropy = _entropy(joint.sum(0))
    return (_entropy(joint.sum(1)) + entropy - _entropy(joint.ravel())) / entropy


def _entropy(shares: Floats) -> float:
    """In nats."""
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def _gap(matrix: Floats) -> Separation:
    ranked = np.sort(matrix, axis=0)
    gaps = ranked[-1] - ranked[-2]
    return Separation(float(gaps.mean()), gaps, matrix)


def _squared_correlation(z: Floats, known: NDArray[Any]) -> Floats:
    """R² of each dimension; 0 for one that is constant."""
    z, target = z - z.mean(0), known - known.mean()
    variance = (z**2).sum(0) * (target**2).sum()
    shared = (z * target[:, None]).sum(0) ** 2
    squared: Floats = np.divide(shared, variance, out=np.zeros(z.shape[1]), where=variance > 0)
    return squared


def _halves(rows: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows to fit on and rows to judge on."""
    held_out = np.arange(rows) % TEST_EVERY == TEST_EVERY - 1
    return ~held_out, held_out


def _thresholds(z: Floats, known: NDArray[Any]) -> Floats:
    """Balanced accuracy of thresholds on each dimension."""
    with needs("scikit-learn", CLASSES, "sklearn"):
        from sklearn.tree import DecisionTreeClassifier
    leaves = max(2, len(np.unique(known)))
    return _each(DecisionTreeClassifier(max_leaf_nodes=leaves, class_weight="balanced", random_state=0), z, known)


def _linear_svm(z: Floats, known: NDArray[Any]) -> Floats:
    """Balanced accuracy of a linear support vector machine on each dimension."""
    with needs("scikit-learn", CLASSES, "sklearn"):
        from sklearn.svm import LinearSVC
    return _each(LinearSVC(C=0.01, class_weight="balanced", random_state=0), z, known)


def _each(classifier: Any, z: Floats, known: NDArray[Any]) -> Floats:
    """Balanced accuracy of a classifier on each dimension by itself, of rows that it was not fitted on."""
    fit, judge = _halves(len(z))
    guesses = [classifier.fit(column[fit, None], known[fit]).predict(column[judge, None]) for column in z.T]
    return np.array([_balanced(known[judge], guess) for guess in guesses])


def _balanced(truth: NDArray[Any], guess: NDArray[Any]) -> float:
    """Balanced accuracy: the mean over the classes in ``truth`` of the share of their rows that is right."""
    return float(np.mean([(guess[truth == label] == label).mean() for label in np.unique(truth)]))


def _forest(z: Floats, known: NDArray[Any], trees: int, seed: int) -> tuple[Floats, float]:
    """Importances (dims,) and the score on held-out rows of a forest that predicts one factor."""
    with needs("scikit-learn", "disentanglement, completeness and informativeness", "sklearn"):
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
        from sklearn.metrics import r2_score
    fit, judge = _halves(len(z))
    if known.dtype.kind == "f":
        forest = RandomForestRegressor(trees, max_features=None, random_state=seed).fit(z[fit], known[fit])
        return forest.feature_importances_, float(r2_score(known[judge], forest.predict(z[judge])))
    forest = RandomForestClassifier(trees, max_features=None, random_state=seed, class_weight="balanced")
    forest.fit(z[fit], known[fit])
    return forest.feature_importances_, _balanced(known[judge], forest.predict(z[judge]))


def _purity(importance: Floats) -> Floats:
    """1 - entropy of each row of ``importance``, in units of the logarithm of its length; 0 for rows of zeros."""
    total = importance.sum(1, keepdims=True)
    shares = np.divide(importance, total, out=np.full_like(importance, 1 / importance.shape[1]), where=total > 0)
    if importance.shape[1] == 1:
        return np.ones(len(importance))
    return np.array([1 - _entropy(row) / np.log(importance.shape[1]) for row in shares])
