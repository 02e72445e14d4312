"""Plans whose scores the compiled kernels take after the session: which, and that results are those of the whole."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastvae
from fastvae.api import VAE
from fastvae.plan import Plan, build_plan
from fastvae.runtime import Settings
from fastvae.runtime.last_steps import MOST_THREADS, LastSteps, last_steps
from fastvae.runtime.ort import OnnxExecutor
from fastvae.spec import ModelSpec
from fastvae_kernels.cpu import why_not
from tests.fastvae.head_specs import HEADS
from tests.fastvae.strategies import specs
from tests.fastvae.support import SPECS, data_for, random_model, vae

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"the kernels for CPUs: {why_not()}")


@pytest.fixture(autouse=True)
def no_whole_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the compiled kernels, as for plans that these leave to sessions."""
    monkeypatch.setattr("fastvae.runtime.executors.compiled_steps", lambda *_: None)


VERBS = ("elbo", "kl", "distance", "score", "squared_error")
ANY_SIZE = patch("fastvae.runtime.last_steps.LEAST_FLOPS", 0)
NO_SHORTER_WAY = patch("fastvae.runtime.ort.few_rows", lambda _: None)


def plan_of(spec: ModelSpec, verb: str) -> Plan:
    return build_plan(random_model(spec), verb, target="onnx", dtype=torch.float32, device="cpu")


def cut(spec: ModelSpec, verb: str, threads: int = 1) -> LastSteps | None:
    with ANY_SIZE:
        return last_steps(plan_of(spec, verb), threads)


def test_scores_and_divergences_come_last() -> None:
    for name in ("mlp_fixed", "mlp_predicted", "conv"):
        found = cut(SPECS[name], "elbo")
        assert found is not None, name
        assert found.inputs == ("x",)
        ops = {step.op for step in found.front.steps}
        assert "linear" in ops
        assert not ops & {"kl", "bernoulli_nll", "gaussian_nll", "squared_error"}
    assert cut(SPECS["mlp_fixed"], "encode") is None
    assert cut(SPECS["mlp_fixed"], "impute") is None  # its score is masked, and what is imputed has another shape


def test_who_is_left_whole() -> None:
    spec = SPECS["mlp_fixed"]
    assert last_steps(plan_of(spec, "elbo"), 1) is None  # small layers
    assert cut(spec, "elbo", MOST_THREADS) is not None
    assert cut(spec, "elbo", MOST_THREADS + 1) is None
    assert cut(spec, "elbo") is not None
    with patch("fastvae.runtime.row_steps.why_not", lambda: "no compiler"):
        assert cut(spec, "elbo") is None


@pytest.mark.parametrize("name", HEADS)
def test_no_other_likelihood_is_cut_in_its_midst(name: str) -> None:
    spec = HEADS[name]
    found = cut(spec, "score")
    ops = {step.op for step in plan_of(spec, "score").steps}
    assert found is None or ops & {"bernoulli_nll", "gaussian_nll", "squared_error"}


@given(spec=specs(), seed=st.integers(0, 99), rows=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_any_plan_gives_what_the_whole_session_gives(spec: ModelSpec, seed: int, rows: int) -> None:
    model = random_model(spec, seed)
    random = np.random.default_rng(seed)
    made = {"x": data_for(spec, rows, seed), "z": random.normal(size=(rows, *spec.latent_shape))}
    if spec.condition is not None:
        made["condition"] = random.random((rows, spec.condition.dim))
    exact = VAE(model, Settings(precision="float64", impl="reference"))._engine
    for verb in VERBS:
        plan = build_plan(model, verb, target="onnx", dtype=torch.float32, device="cpu")
        with ANY_SIZE, NO_SHORTER_WAY:
            executor = OnnxExecutor(plan, threads=1, arena=True, batch_invariant=False, compiled=True)
        if executor._last is None:
            continue
        given_ = {name: torch.from_numpy(made[name]) for name in plan.inputs}
        wide = exact.executors.of(verb)(given_)
        narrow = executor({name: value.float() for name, value in given_.items()})
        for found, values in zip(narrow, wide, strict=True):
            assert found.dtype == torch.float32
            # As for a few rows: sums of at most 36 terms in a dozen layers, seldom above 4 u in all; and no row's.
            bound = max(1.0, float(values.abs().max()))
            np.testing.assert_allclose(found.numpy(), values.numpy(), rtol=0, atol=256 * 2.0**-24 * bound)


@pytest.mark.parametrize("name", ["mlp_fixed", "mlp_predicted", "conv"])
def test_every_way_to_it_has_the_same_bits(name: str) -> None:
    """A few rows and many, the short way and the long one, from tensors or where results belong."""
    spec = SPECS[name]
    with ANY_SIZE, NO_SHORTER_WAY:
        model = vae(spec, threads=1)
        x = data_for(spec, 70).astype(np.float32)
        for metric in ("reconstruction", "kl", "elbo", "mse", "l2"):
            for rows in (1, 3, 70):
                found = model.score(x[:rows], metric)  # type: ignore[arg-type]
                other = model.score(torch.from_numpy(x[:rows]), metric)  # type: ignore[arg-type]
                np.testing.assert_array_equal(found, np.asarray(other))
        executor = model._engine.executors.of("elbo")
    assert isinstance(executor, OnnxExecutor)
    assert executor._last is not None


@pytest.mark.parametrize("name", ["mlp_fixed", "mlp_predicted", "mlp_conditional", "conv"])
def test_several_samples_of_a_row(name: str) -> None:
    """Their latents are more than the rows, which are scored under each."""
    spec = SPECS[name]
    x = data_for(spec, 5).astype(np.float32)
    settings = {"samples": 7, "condition": None if spec.condition is None else [1.0, 0.0, 0.0]}
    exact = vae(spec, impl="reference", precision="float64")
    with ANY_SIZE, NO_SHORTER_WAY:
        model = vae(spec, threads=1)
        for metric in ("reconstruction", "elbo", "iwae", "mse", "l2"):
            found = model.score(x, metric, **settings)  # type: ignore[arg-type]
            # As for any plan, and the sampled latents' own roundings.
            np.testing.assert_allclose(found, exact.score(x, metric, **settings), rtol=256 * 2.0**-24)  # type: ignore[arg-type]
        executor = model._engine.executors.of("score")
    assert isinstance(executor, OnnxExecutor)
    assert executor._last is not None


def test_a_model_as_it_is_loaded() -> None:
    """Whose layers are work enough: nothing here is patched."""
    model, exact = fastvae.load("mnist", threads=1), fastvae.load("mnist", impl="reference", precision="float64")
    x = data_for(model.spec, 3).astype(np.float32)
    for samples in (None, 4):
        # A sum of 784 terms, of parameters that sums of at most 784 terms in a dozen layers made.
        np.testing.assert_allclose(
            model.score(x, "elbo", samples), exact.score(x, "elbo", samples), rtol=784 * 2.0**-24
        )
    for verb in ("elbo", "score"):
        executor = model._engine.executors.of(verb)
        assert isinstance(executor, OnnxExecutor)
        assert executor._last is not None
