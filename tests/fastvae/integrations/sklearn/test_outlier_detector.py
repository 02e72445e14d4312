import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import NotFittedError
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastvae
from fastvae import VAE
from fastvae.heads import ContinuousBernoulli, Fixed, Laplace, Likelihood, PerDimension, Poisson, StudentT
from fastvae.integrations.sklearn import PyODDetector, VAEOutlierDetector
from fastvae.layers import Linear
from fastvae.model import Model
from fastvae.spec import Bernoulli, Condition, FixedGaussian, GaussianHead, ModelSpec, PerDimensionGaussian, PointHead

X, Y = load_breast_cancer(return_X_y=True)
BENIGN, MALIGNANT = X[Y == 1], X[Y == 0]
FEW: dict[str, Any] = {"epochs": 2, "hidden": (8,), "random_state": 0}


def given(model: Any = "breast_cancer", **parameters: Any) -> VAEOutlierDetector:
    return VAEOutlierDetector(model=model, **parameters).fit(X)


@parametrize_with_checks([VAEOutlierDetector(**FEW), VAEOutlierDetector(contamination=0.1, **FEW)])
def test_scikit_learns_conventions(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("metric", ["reconstruction", "kl", "elbo", "iwae", "mse", "l2"])
@pytest.mark.parametrize("samples", [None, 3])
def test_scores_are_the_models_with_the_other_sign(metric: Any, samples: Any) -> None:
    detector = given(metric=metric, samples=samples, random_state=5)
    vae = fastvae.load("breast_cancer", batch_invariant=True)
    expected = vae.score(X.astype(np.float32), metric, samples=samples, seed=detector.seed_)
    np.testing.assert_array_equal(detector.score_samples(X), -expected)
    np.testing.assert_array_equal(detector.decision_scores_, expected)
    np.testing.assert_array_equal(detector.decision_function(X), -expected.astype(np.float64) - detector.offset_)


@pytest.mark.parametrize(
    ("parameters", "share"), [({}, 0.05), ({"quantile": 0.8}, 0.2), ({"contamination": 0.3, "quantile": 0.8}, 0.3)]
)
def test_the_threshold_leaves_the_share_of_outliers_asked_for(parameters: Any, share: float) -> None:
    detector = given(**parameters)
    outliers = detector.predict(X) == -1
    assert outliers.sum() == pytest.approx(share * len(X), abs=1)
    np.testing.assert_array_equal(outliers, detector.decision_function(X) < 0)
    np.testing.assert_array_equal(detector.labels_, outliers)
    assert detector.threshold_ == -detector.offset_


def test_the_threshold_of_normal_rows_comes_from_those_held_out_from_training() -> None:
    detector = VAEOutlierDetector(epochs=60, quantile=0.9, random_state=0).fit(BENIGN[::2])
    held_out = detector._held_out(len(BENIGN[::2]))
    assert held_out.sum() == 35
    outliers = detector.decision_scores_ > detector.threshold_
    assert outliers[held_out].mean() == pytest.approx(0.1, abs=0.03)
    assert outliers[~held_out].mean() < outliers[held_out].mean()
    assert (detector.predict(BENIGN[1::2]) == -1).mean() == pytest.approx(0.1, abs=0.07)


def test_a_detector_trained_on_normal_rows_ranks_the_others_above() -> None:
    detector = VAEOutlierDetector(epochs=20, random_state=0).fit(BENIGN[::2])
    scores = detector.score_samples(np.concatenate([BENIGN[1::2], MALIGNANT]))
    labels = np.repeat([1, 0], [len(BENIGN[1::2]), len(MALIGNANT)])
    assert roc_auc_score(labels, scores) > 0.94


def test_a_given_model_is_not_trained() -> None:
    vae = fastvae.load("breast_cancer")
    assert given(vae).model_ is vae
    assert given().model_.fingerprint == vae.fingerprint


def made(likelihood: Likelihood, decoder: tuple[Any, ...] = (Linear("d", 2, 6),), **parts: Any) -> VAE:
    head = GaussianHead("separate", mean=(Linear("m", 6, 2),), scale=(Linear("s", 6, 2),))
    given: dict[str, Any] = {"input_shape": (6,), "encoder": (), "posterior": head}
    spec = ModelSpec(latent_shape=(2,), decoder=decoder, likelihood=likelihood, **(given | parts))
    generator = torch.Generator().manual_seed(0)
    return VAE(Model(spec, {name: torch.rand(shape, generator=generator) for name, shape in spec.tensors().items()}))


LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": Bernoulli(),
    "continuous_bernoulli": ContinuousBernoulli(),
    "fixed": FixedGaussian(0.3),
    "per_dimension": PerDimensionGaussian(),
    "laplace": Laplace(PerDimension("scale")),
    "student_t": StudentT(Fixed(3.0), Fixed(0.4)),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_contributions_add_up_to_the_reconstruction_error(name: str) -> None:
    vae = made(LIKELIHOODS[name])
    rows = np.random.default_rng(0).random((300, 6))
    detector = VAEOutlierDetector(model=vae).fit(rows)
    parts = detector.contributions(rows)
    assert parts.shape == rows.shape
    np.testing.assert_allclose(parts.sum(1), vae.score(rows.astype(np.float32)), rtol=1e-4, atol=1e-4)
    moved = rows.copy()
    moved[:, 2] = 1 - moved[:, 2]
    mean = vae.decode(np.asarray(vae.embed(rows.astype(np.float32))))
    if name == "fixed":
        expected = 0.5 * (np.log(2 * np.pi * 0.3) + (rows - mean) ** 2 / 0.3)
        np.testing.assert_allclose(parts, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(parts, detector.contributions(moved))


def test_contributions_of_a_trained_detector_point_at_the_feature_that_is_off() -> None:
    detector = VAEOutlierDetector(epochs=20, random_state=0).fit(BENIGN)
    row = BENIGN[:1].copy()
    row[0, 4] += 8 * BENIGN[:, 4].std()
    assert detector.contributions(row).argmax() == 4


def test_likelihoods_that_do_not_factorise_have_no_contributions() -> None:
    vae = made(Poisson())
    detector = VAEOutlierDetector(model=vae).fit(np.ones((3, 6)))
    with pytest.raises(ValueError, match="the model's is 'poisson'"):
        detector.contributions(np.ones((3, 6)))


def test_pictures_come_as_flat_rows() -> None:
    pictures = np.random.default_rng(0).random((5, 64))
    detector = VAEOutlierDetector(model="digits").fit(pictures)
    np.testing.assert_allclose(
        detector.contributions(pictures).sum(1), detector.model_.score(pictures.astype(np.float32)), rtol=1e-4
    )


def test_pickled_detectors_give_the_same_bits() -> None:
    detector = VAEOutlierDetector(metric="iwae", samples=4, **FEW).fit(X)
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(again.decision_function(X), detector.decision_function(X))
    np.testing.assert_array_equal(clone(detector).fit(X).decision_function(X), detector.decision_function(X))


def test_pipelines_and_grid_searches_take_a_detector() -> None:
    pipeline = make_pipeline(StandardScaler(), VAEOutlierDetector(**FEW))
    scorer = make_scorer(roc_auc_score, response_method="decision_function")
    grid = {"vaeoutlierdetector__metric": ["elbo", "mse"]}
    search = GridSearchCV(pipeline, grid, scoring=scorer, cv=2).fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_pyods_names_have_pyods_sign() -> None:
    detector = PyODDetector(VAEOutlierDetector(model="breast_cancer"), contamination=0.2).fit(X)
    scores = detector.decision_function(X)
    np.testing.assert_array_equal(scores, detector.decision_scores_)
    np.testing.assert_array_equal(
        scores, fastvae.load("breast_cancer", batch_invariant=True).score(X.astype(np.float32), "elbo")
    )
    np.testing.assert_array_equal(detector.predict(X), detector.labels_)
    assert detector.labels_.mean() == pytest.approx(0.2, abs=0.01)
    assert set(detector.labels_[scores > detector.threshold_]) == {1}
    assert clone(detector).set_params(detector__metric="mse").fit(X).detector_.metric == "mse"
    with pytest.raises(NotFittedError):
        PyODDetector().predict(X)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"metric": "surprise"}, ValueError, "'reconstruction', 'kl'"),
        ({"samples": 0}, ValueError, "samples == 0"),
        ({"contamination": 0.6}, ValueError, "contamination == 0.6"),
        ({"contamination": 0.0}, ValueError, "contamination == 0.0"),
        ({"contamination": "some"}, TypeError, "contamination"),
        ({"quantile": 1.0}, ValueError, "quantile == 1.0"),
    ],
    ids=str,
)
def test_a_parameter_that_does_not_fit_is_named(parameters: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        VAEOutlierDetector(**FEW | parameters).fit(X)


def test_models_that_detect_nothing_are_refused() -> None:
    rows = np.ones((3, 6))
    conditional = made(FixedGaussian(), (Linear("d", 5, 6),), condition=Condition(3, encoder=False))
    with pytest.raises(ValueError, match="unconditional"):
        VAEOutlierDetector(model=conditional).fit(rows)
    point = made(FixedGaussian(), posterior=PointHead((Linear("m", 6, 2),)))
    with pytest.raises(ValueError, match="deterministic"):
        VAEOutlierDetector(model=point).fit(rows)
    with pytest.raises(NotFittedError):
        VAEOutlierDetector().contributions(rows)
