import importlib
import pickle
import pickletools
import sys
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
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastvae
from fastvae.errors import UnsupportedError, WeightFormatError
from fastvae.integrations.sklearn import VAETransformer, _available

X, Y = load_breast_cancer(return_X_y=True)
FEW: dict[str, Any] = {"epochs": 2, "hidden": (8,), "random_state": 0}


@parametrize_with_checks([VAETransformer(**FEW)])
def test_scikit_learns_conventions(estimator: Any, check: Any) -> None:
    check(estimator)


def test_transform_is_the_posterior_mean_and_comes_back() -> None:
    transformer = VAETransformer(model="breast_cancer").fit(X)
    vae = fastvae.load("breast_cancer", batch_invariant=True)
    z = transformer.transform(X)
    np.testing.assert_array_equal(z, vae.embed(X.astype(np.float32)))
    np.testing.assert_array_equal(transformer.inverse_transform(z), vae.decode(z.astype(np.float32)))
    assert transformer.transform(X.astype(np.float32)).dtype == np.float32
    assert z.dtype == np.float64


def test_a_trained_transformer_keeps_most_of_what_a_table_says() -> None:
    transformer = VAETransformer(latent_dim=6, epochs=25, random_state=0).fit(X)
    residual = (transformer.inverse_transform(transformer.transform(X)) - X) / X.std(0)
    assert np.mean(residual**2) < 0.4


def test_the_same_random_state_gives_the_same_model_and_another_one_another() -> None:
    first, same, other = (VAETransformer(**FEW | {"random_state": s}).fit(X).transform(X) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


def test_rows_held_out_are_not_trained_on() -> None:
    def fingerprint(rows: Any) -> str:
        fitted = VAETransformer(**FEW | {"epochs": 1}).fit(rows)  # one epoch leaves nothing to choose
        return fitted.model_.fingerprint

    held_out = VAETransformer(**FEW).fit(X)._held_out(len(X))
    assert held_out.sum() == 113
    for changed, same in ((held_out, True), (~held_out, False)):
        rows = X.copy()
        rows[changed] *= 1.5
        assert (fingerprint(rows) == fingerprint(X)) == same


def test_without_held_out_rows_every_row_counts() -> None:
    whole = VAETransformer(**FEW, validation_fraction=0.0).fit(X)
    assert not whole._held_out(len(X)).any()
    assert whole.model_.fingerprint != VAETransformer(**FEW).fit(X).model_.fingerprint


def test_very_few_rows_are_all_trained_on() -> None:
    assert np.isfinite(VAETransformer(**FEW).fit(X[:2]).transform(X[:2])).all()


@pytest.mark.parametrize("model", [None, "breast_cancer", "loaded"])
def test_pickles_and_clones_give_the_same_bits(model: Any, tmp_path: Path) -> None:
    model = fastvae.load("breast_cancer", batch_invariant=True) if model == "loaded" else model
    fitted = VAETransformer(model=model, **FEW).fit(X)
    expected = fitted.transform(X)
    again = pickle.loads(pickle.dumps(fitted))
    joblib.dump(fitted, tmp_path / "fitted.joblib")
    for copy in (again, joblib.load(tmp_path / "fitted.joblib"), clone(fitted).fit(X)):
        np.testing.assert_array_equal(copy.transform(X), expected)
    assert again.model_.fingerprint == fitted.model_.fingerprint


def test_a_pickle_has_the_weights_as_a_native_file_and_nothing_of_torch() -> None:
    data = pickle.dumps(VAETransformer(model="breast_cancer").fit(X))
    names = [argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)]
    assert not [name for name in names if name.startswith("torch")]
    assert b"encoder.standardize.scale" in data


def test_a_pickle_whose_weights_were_tampered_with_is_refused() -> None:
    data = pickle.dumps(VAETransformer(model="breast_cancer").fit(X))
    with pytest.raises(WeightFormatError, match="the estimator's model"):
        pickle.loads(data.replace(b"encoder.standardize.scale", b"encoder.standardize.scal\xff"))


def test_names_and_pandas_output() -> None:
    frame = pd.DataFrame(X, columns=[f"column {i}" for i in range(30)])
    transformer = VAETransformer(model="breast_cancer").set_output(transform="pandas").fit(frame)
    out = transformer.transform(frame)
    assert list(out.columns) == [f"vaetransformer{i}" for i in range(6)]
    assert list(transformer.get_feature_names_out()) == list(out.columns)
    with pytest.raises(ValueError, match="feature names"):
        transformer.transform(frame.rename(columns={"column 0": "other"}))


def test_a_grid_search_chooses_among_parameters_of_a_step() -> None:
    pipeline = make_pipeline(VAETransformer(**FEW), LogisticRegression())
    search = GridSearchCV(pipeline, {"vaetransformer__latent_dim": [1, 4]}, cv=2).fit(X, Y)
    assert search.best_params_["vaetransformer__latent_dim"] == 4


def test_a_bernoulli_likelihood_takes_shares() -> None:
    shares = np.random.default_rng(0).random((40, 5))
    transformer = VAETransformer(likelihood="bernoulli", **FEW).fit(shares)
    back = transformer.inverse_transform(transformer.transform(shares))
    assert 0 < back.min() <= back.max() < 1
    with pytest.raises(ValueError, match=r"expects values in \[0, 1\]"):
        transformer.fit(shares * 2)
    with pytest.raises(ValueError, match="data lie in"):
        transformer.transform(shares * 2)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"latent_dim": 0}, ValueError, "latent_dim == 0"),
        ({"latent_dim": 2.5}, TypeError, "latent_dim"),
        ({"epochs": 0}, ValueError, "epochs == 0"),
        ({"batch_size": 0}, ValueError, "batch_size == 0"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
        ({"beta": -1.0}, ValueError, "beta"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction"),
        ({"hidden": (8, 0)}, ValueError, "hidden == 0"),
        ({"hidden": 8}, TypeError, "hidden: expected a sequence of widths"),
        ({"likelihood": "poisson"}, ValueError, "'gaussian' or 'bernoulli'"),
        ({"model": "digits"}, ValueError, "X has 30 features, but model expects 64"),
        ({"model": "no such model"}, ValueError, "neither a file or folder nor an embedded model"),
        ({"random_state": "x"}, ValueError, "seed"),
    ],
    ids=str,
)
def test_a_parameter_that_does_not_fit_is_named(parameters: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        VAETransformer(**parameters).fit(X)


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(NotFittedError):
        VAETransformer().transform(X)
    with pytest.raises(NotFittedError):
        VAETransformer().inverse_transform(X)
    transformer = VAETransformer(model="breast_cancer").fit(X)
    with pytest.raises(ValueError, match="7 columns, but the model has 6 latent dimensions"):
        transformer.inverse_transform(X[:, :7])
    with pytest.raises(ValueError, match="too large for float32"):
        transformer.transform(X * 1e38)


def test_without_scikit_learn_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UnsupportedError, match=r"scikit-learn: pip install .fastvae-engine\[sklearn\]"):
        importlib.reload(_available)
