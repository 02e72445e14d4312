import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastvae
from fastvae.errors import ImputationWarning
from fastvae.integrations.sklearn import VAEImputer

X, Y = load_breast_cancer(return_X_y=True)
X, Y = X[:150], Y[:150]
MISSING = np.random.default_rng(0).random(X.shape) < 0.3
HOLES = np.where(MISSING, np.nan, X)
FEW: dict[str, Any] = {"epochs": 2, "hidden": (8,), "draws": 2, "samples": 40, "random_state": 0}

pytestmark = pytest.mark.filterwarnings("ignore::fastvae.errors.ImputationWarning")


@parametrize_with_checks([VAEImputer(**FEW)])
def test_scikit_learns_conventions(estimator: Any, check: Any) -> None:
    check(estimator)


def test_a_model_that_is_given_imputes_as_its_verb() -> None:
    imputer = VAEImputer(model="breast_cancer", samples=40, random_state=0).fit(HOLES)
    vae = fastvae.load("breast_cancer", batch_invariant=True)
    found = imputer.transform(HOLES)
    np.testing.assert_array_equal(found, vae.impute(HOLES, samples=40, seed=imputer.seed_))
    np.testing.assert_array_equal(found[~MISSING], X[~MISSING])
    assert imputer.transform(HOLES.astype(np.float32)).dtype == np.float32
    assert imputer.model_.fingerprint == vae.fingerprint


def test_training_on_incomplete_rows_beats_their_means() -> None:
    imputer = VAEImputer(
        hidden=(32,), epochs=25, batch_size=16, draws=5, learning_rate=1e-2, samples=60, random_state=0
    )
    filled = imputer.fit_transform(HOLES)
    error = (filled - X)[MISSING] / np.broadcast_to(X.std(0), X.shape)[MISSING]
    assert np.mean(error**2) < 0.65
    np.testing.assert_array_equal(filled[~MISSING], X[~MISSING])
    assert imputer.fit(HOLES).model_.fingerprint == imputer.model_.fingerprint


def test_draws_differ_by_seed_and_are_draws() -> None:
    imputer = VAEImputer(model="breast_cancer", samples=40, sample_posterior=True, random_state=0).fit(HOLES)
    first = imputer.transform(HOLES)
    np.testing.assert_array_equal(first, imputer.transform(HOLES))
    imputer.seed_ += 1
    assert (imputer.transform(HOLES) != first)[MISSING].mean() > 0.99
    np.testing.assert_array_equal(first[~MISSING], X[~MISSING])


@pytest.mark.parametrize("model", [None, "breast_cancer"])
def test_pickles_and_clones_give_the_same_bits(model: Any, tmp_path: Path) -> None:
    fitted = VAEImputer(model=model, add_indicator=True, **FEW).fit(HOLES)
    expected = fitted.transform(HOLES)
    joblib.dump(fitted, tmp_path / "fitted.joblib")
    again = pickle.loads(pickle.dumps(fitted))
    for copy in (again, joblib.load(tmp_path / "fitted.joblib"), clone(fitted).fit(HOLES)):
        np.testing.assert_array_equal(copy.transform(HOLES), expected)


def test_names_indicator_and_pandas_output() -> None:
    names = [f"column {i}" for i in range(30)]
    holes = HOLES.copy()
    holes[:, :28] = X[:, :28]
    holes[0, 28:] = np.nan
    frame = pd.DataFrame(holes, columns=names, index=range(7, 157))
    imputer = VAEImputer(model="breast_cancer", samples=10, add_indicator=True, random_state=0)
    out = imputer.set_output(transform="pandas").fit_transform(frame)
    assert list(out.columns) == [*names, "missingindicator_column 28", "missingindicator_column 29"]
    assert list(out.index) == list(frame.index)
    np.testing.assert_array_equal(out.iloc[:, 30:].to_numpy(), np.isnan(holes[:, 28:]))
    assert not out.isna().any(axis=None)
    plain = VAEImputer(model="breast_cancer").fit(frame)
    assert list(plain.get_feature_names_out()) == names
    assert plain.indicator_ is None


def test_a_grid_search_chooses_among_parameters_of_a_step() -> None:
    pipeline = make_pipeline(StandardScaler(), VAEImputer(**FEW), LogisticRegression(max_iter=1000))
    search = GridSearchCV(pipeline, {"vaeimputer__latent_dim": [1, 4]}, cv=2).fit(HOLES, Y)
    assert search.best_score_ > 0.8


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_columns_and_rows_without_any_value(likelihood: str) -> None:
    holes = np.random.default_rng(0).random((40, 4))
    holes[:, 1] = np.nan
    holes[3] = np.nan
    filled = VAEImputer(likelihood=likelihood, **FEW).fit_transform(holes)
    assert np.isfinite(filled).all()


@pytest.mark.filterwarnings("default::fastvae.errors.ImputationWarning")
def test_too_few_samples_warn() -> None:
    imputer = VAEImputer(model="breast_cancer", method="metropolis", samples=8, random_state=0).fit(HOLES)
    with pytest.warns(ImputationWarning, match="accepted fewer than 1 of 4 proposals"):
        imputer.transform(HOLES * 3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"draws": 0}, "draws == 0"),
        ({"samples": 1}, "samples == 1"),
        ({"method": "mice"}, "method: expected one of 'importance', 'metropolis', 'gibbs', got 'mice'"),
        ({"model": "digits"}, "X has 30 features, but model expects 64"),
    ],
    ids=str,
)
def test_a_parameter_that_does_not_fit_is_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAEImputer(**parameters).fit(HOLES)


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(NotFittedError):
        VAEImputer().transform(HOLES)
    holes = HOLES.copy()
    holes[0, 0] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        VAEImputer(**FEW).fit(holes)
