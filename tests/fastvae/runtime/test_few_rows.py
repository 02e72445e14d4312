"""A few rows of dense models by the compiled kernels: when that way is taken, and that its results are the others'."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import fastvae
from fastvae.api import VAE
from fastvae.errors import ClosedError, InputError
from fastvae.layers import Linear
from fastvae.plan import build_plan
from fastvae.runtime import Settings
from fastvae.runtime.few_rows import MOST_BYTES, MOST_ROWS, few_rows
from fastvae.spec import Bernoulli, ModelSpec
from fastvae_kernels.cpu import ProgramCall, why_not
from tests.fastvae.strategies import specs
from tests.fastvae.support import SPECS, data_for, gaussian_head, mlp_spec, random_model, vae

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"the kernels for CPUs: {why_not()}")

VERBS = ("encode", "embed", "decode", "reconstruct", "elbo", "kl", "distance")
DENSE = ("mlp_fixed", "mlp_per_dimension", "mlp_clamped", "mlp_residual")


@pytest.fixture(autouse=True)
def no_shorter_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU without wide products, which has no whole plans in the compiled kernels."""
    monkeypatch.setattr("fastvae.runtime.executors.compiled_steps", lambda *_: None)


def way(model: VAE, verb: str) -> ProgramCall | None:
    """The call of the compiled kernels that runs a few rows of a verb; None where something else does."""
    call = model._engine._short_ways.of(verb)
    few = None if call is None else call._few
    return few if isinstance(few, ProgramCall) else None


def results(model: VAE, x: Any) -> dict[str, NDArray[np.float32]]:
    posterior = model.encode(x)
    found = {"mean": posterior.mean, "logvar": posterior.logvar, "embed": model.embed(x)}
    found |= {"reconstruct": model.reconstruct(x), "decode": model.decode(posterior.mean)}
    found |= {metric: model.score(x, metric) for metric in ("reconstruction", "kl", "elbo", "mse", "l2")}  # type: ignore[arg-type]
    return {name: np.asarray(value) for name, value in found.items()}


def assert_equal(found: dict[str, NDArray[np.float32]], expected: dict[str, NDArray[np.float32]]) -> None:
    for name, values in expected.items():
        # Two float32 evaluations of at most 16 roundings of sums over at most 128 terms.
        np.testing.assert_allclose(
            found[name], values, rtol=0, atol=16 * 16 * 2.0**-23 * np.abs(values).max(initial=1.0), err_msg=name
        )


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("name", [*DENSE, "digits", "breast_cancer"])
def test_equals_the_reference(name: str, rows: int) -> None:
    model = vae(SPECS[name]) if name in SPECS else fastvae.load(name)
    assert all(way(model, verb) is not None for verb in VERBS)
    x = data_for(model.spec, rows).astype(np.float32)
    assert_equal(results(model, x), results(VAE(model._model, Settings(impl="reference")), x))


@given(spec=specs(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_plan_equals_the_session_or_is_left_to_it(spec: ModelSpec, seed: int) -> None:
    model, x = random_model(spec, seed), data_for(spec, 3, seed).astype(np.float32)
    z = np.random.default_rng(seed).normal(size=(3, *spec.latent_shape)).astype(np.float32)
    exact = VAE(model, Settings(precision="float64", impl="reference"))._engine
    for verb in VERBS:
        plan = build_plan(model, verb, target="onnx", dtype=torch.float32, device="cpu")
        few = few_rows(plan)
        if few is None:
            continue
        (name,) = plan.inputs
        given_ = {"x": x, "z": z}[name]
        call = few.call(given_.shape[1:], "any", 3)
        wide = exact.runner.run(verb, 3, {name: torch.from_numpy(given_)})
        for found, values in zip(call(given_) or [], wide, strict=True):
            # Sums of at most 36 terms in a dozen layers, each error magnified by what follows: seldom above 4 u in all.
            bound = max(1.0, float(values.abs().max()))
            np.testing.assert_allclose(found, values, rtol=0, atol=256 * 2.0**-24 * bound)


def test_many_rows_go_the_other_way() -> None:
    model, session = vae(SPECS["mlp_fixed"]), vae(SPECS["mlp_fixed"], impl="onnxruntime")
    x = data_for(model.spec, MOST_ROWS + 1).astype(np.float32)
    np.testing.assert_array_equal(model.embed(x), session.embed(x))
    assert_equal(results(model, x[:MOST_ROWS]), results(session, x[:MOST_ROWS]))


def test_any_kind_of_rows_has_the_same_bits() -> None:
    """The short way and the long one, into memory of their own or where results belong."""
    model = vae(SPECS["mlp_fixed"])
    x = data_for(model.spec, 6).astype(np.float32)
    expected = results(model, x)
    strided = np.repeat(x, 2, axis=-1)[..., ::2]
    for other in (x.astype(np.float64), strided, torch.from_numpy(x), torch.from_numpy(x).requires_grad_()):
        for name, values in results(model, other).items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
    worse = x.copy()
    worse[2] = np.nan
    for policy in ("mask", "propagate"):
        found = model.score(worse, invalid=policy)
        np.testing.assert_array_equal(np.delete(found, 2), np.delete(expected["reconstruction"], 2))
        assert np.isnan(found[2])


def test_who_takes_it() -> None:
    spec = SPECS["mlp_fixed"]
    assert way(vae(spec), "embed") is not None
    assert way(vae(SPECS["mlp_bernoulli_interleaved"]), "encode") is not None
    assert way(vae(spec), "generate") is None
    for settings_ in ({"impl": "onnxruntime"}, {"batch_invariant": True}, {"impl": "reference"}, {"precision": "bf16"}):
        assert way(vae(spec, **settings_), "embed") is None
    for name in ("conv", "conv_residual", "mlp_softplus_chunked"):
        assert way(vae(SPECS[name]), "encode") is None
    large = ModelSpec(
        input_shape=(512,),
        latent_shape=(2,),
        encoder=(Linear("e", 512, MOST_BYTES // 2048 + 1),),
        posterior=gaussian_head("q", MOST_BYTES // 2048 + 1, 2, "separate"),
        decoder=(Linear("d", 2, 512),),
        likelihood=Bernoulli(),
    )
    assert way(vae(large), "embed") is None
    assert way(vae(large), "decode") is not None


def test_without_the_compiled_library_it_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvae.runtime.row_steps.why_not", lambda: "no compiler")
    model, session = vae(mlp_spec()), vae(mlp_spec(), impl="onnxruntime")
    assert way(model, "embed") is None
    x = data_for(model.spec, 2).astype(np.float32)
    np.testing.assert_array_equal(model.embed(x), session.embed(x))


def test_refuses_what_the_other_ways_refuse() -> None:
    digits = fastvae.load("digits")
    x = np.full((2, 1, 8, 8), 0.5, np.float32)
    assert digits.encode(x).mean.shape == (2, 16)
    for bad, words in ((np.nan, "row 1 holds NaN or Inf"), (1.5, r"\[0, 1\]"), (-np.inf, "NaN or Inf")):
        worse = x.copy()
        worse[1, 0, 3, 3] = bad
        with pytest.raises(InputError, match=words):
            digits.encode(worse)
    for shape in ((8, 8), (1, 8, 9), (2, 1, 8)):
        with pytest.raises(InputError, match="shape"):
            digits.encode(np.zeros(shape, np.float32))
    assert np.isnan(digits.embed(worse, invalid="mask")).any(1).tolist() == [False, True]
    digits.close()
    with pytest.raises(ClosedError):
        digits.encode(x)


def test_the_bits_of_a_row_are_its_own_and_any_threads() -> None:
    digits = fastvae.load("digits", batch_size=4)
    x = data_for(digits.spec, 40).astype(np.float32)
    scores = digits.score(x, "elbo")
    alone = np.concatenate([digits.score(x[row : row + 1], "elbo") for row in range(40)])
    np.testing.assert_array_equal(alone, scores)
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda row: digits.score(x[row : row + 2], "elbo"), [*range(39)] * 10))
    for index, pair in enumerate(many):
        np.testing.assert_array_equal(pair, scores[index % 39 : index % 39 + 2])
