"""The verbs: shapes and kinds, noise that belongs to rows, bits that belong to rows in batch-invariant mode."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastvae
from fastvae import noise
from fastvae.api import VAE
from fastvae.layers import Activation, BatchNorm, Linear
from fastvae.spec import Bernoulli, GaussianHead
from tests.fastvae.support import SPECS, condition_for, data_for, mlp_spec, vae

ROOT = Path(__file__).parents[2]
ALL = pytest.mark.parametrize("name", SPECS)


@ALL
def test_shapes_and_kinds(name: str) -> None:
    spec = SPECS[name]
    model = vae(spec)
    for rows in (0, 1, 5):
        x, c = data_for(spec, rows).astype(np.float32), condition_for(spec, rows)
        for kind in (np.asarray, torch.from_numpy):
            data = kind(x)
            q = model.encode(data, condition=c)
            z = q.sample(seed=1)
            expected: dict[Any, tuple[int, ...]] = {
                "mean": (q.mean, (rows, *spec.latent_shape)),
                "logvar": (q.logvar, (rows, *spec.latent_shape)),
                "kl": (q.kl(), (rows,)),
                "sample": (z, (rows, *spec.latent_shape)),
                "samples": (q.sample(samples=3), (3, rows, *spec.latent_shape)),
                "embed": (model.embed(data, condition=c), (rows, *spec.latent_shape)),
                "decode": (model.decode(z, condition=c), x.shape),
                "reconstruct": (model.reconstruct(data, condition=c), x.shape),
                "score": (model.score(data, "elbo", condition=c), (rows,)),
                "impute": (model.impute(data, condition=c, samples=2), x.shape),
                "imputations": (model.impute(data, n_imputations=2, condition=c, samples=4), (2, *x.shape)),
                "interpolate": (model.interpolate(data, data, 4, condition=c), (rows, 4, *spec.input_shape)),
            }  # type: ignore[dict-item]
            for verb, (result, shape) in expected.items():  # type: ignore[misc]
                assert tuple(result.shape) == shape, verb
                assert type(result) is type(data), verb
                assert str(result.dtype).endswith("float32"), verb
    assert model.generate(4, condition=None if spec.condition is None else 1).shape == (4, *spec.input_shape)


@ALL
def test_verbs_agree_with_each_other(name: str) -> None:
    spec = SPECS[name]
    model = vae(spec, precision="float64")
    x, c = data_for(spec, 7), condition_for(spec, 7)
    q = model.encode(x, condition=c)
    # Each verb has a plan of its own: encode makes mean and log-variance in one product, embed the mean alone.
    np.testing.assert_allclose(model.embed(x, condition=c), q.mean, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(model.reconstruct(x, condition=c), model.decode(q.mean, condition=c), rtol=1e-12)
    reconstruction, kl = model.score(x, condition=c), model.score(x, "kl", condition=c)
    np.testing.assert_allclose(kl, q.kl(), rtol=1e-12)
    np.testing.assert_allclose(model.score(x, "elbo", beta=2.0, condition=c), reconstruction + 2 * kl, rtol=1e-12)
    squares = ((x - model.reconstruct(x, condition=c)) ** 2).reshape(7, -1)
    np.testing.assert_allclose(model.score(x, "mse", condition=c), squares.mean(1), rtol=1e-12)
    np.testing.assert_allclose(model.score(x, "l2", condition=c), np.sqrt(squares.sum(1)), rtol=1e-12)
    ends = model.interpolate(x[:3], x[3:6], 5, condition=None if c is None else c[:3])
    np.testing.assert_allclose(ends[:, 0], model.decode(q.mean[:3], condition=None if c is None else c[:3]), rtol=1e-12)
    if c is None:
        np.testing.assert_allclose(ends[:, -1], model.decode(q.mean[3:6]), rtol=1e-12)
        same = model.interpolate(q.mean[:3], q.mean[3:6], 5, space="latent")
        np.testing.assert_allclose(same, ends, rtol=1e-12, atol=1e-15)  # ends come from embed


def test_posterior_samples_follow_the_noise_contract() -> None:
    spec = mlp_spec()
    model = vae(spec, precision="float64")
    q = model.encode(data_for(spec, 5))
    from fastvae_kernels import sample_normal

    z = q.sample(seed=9, samples=3, start=100)
    for k in range(3):
        eps = sample_normal(5, 3, seed=9, start=100, stream=noise.POSTERIOR + k, dtype=torch.float64)
        np.testing.assert_allclose(z[k], q.mean + np.exp(q.logvar / 2) * eps.numpy(), rtol=1e-14)


def test_likelihood_samples_have_the_moments_of_the_likelihood() -> None:
    n = 20_000
    for name in ("mlp_bernoulli_interleaved", "mlp_fixed", "mlp_per_dimension", "mlp_predicted"):
        model = vae(SPECS[name], precision="float64")
        z = np.tile(np.random.default_rng(0).normal(size=(1, 3)), (n, 1))
        parameters = model._engine.parameters(torch.from_numpy(z))
        draws = model._engine.head.sample(parameters, seed=1, start=0, stream=noise.LIKELIHOOD).numpy()
        mean = model.decode(z[:1])[0]
        if name == "mlp_bernoulli_interleaved":
            variance = mean * (1 - mean)
        else:
            logvar = parameters[1][0] if len(parameters) > 1 else model._engine.head.constants["logvar"]
            variance = np.broadcast_to(np.exp(np.asarray(logvar)), mean.shape)
        # 5 standard errors of a mean, and of a variance (at most that of a Gaussian's).
        assert np.all(np.abs(draws.mean(0) - mean) < 5 * np.sqrt(variance / n)), name
        assert np.all(np.abs(draws.var(0) - variance) < 5 * variance * np.sqrt(2 / n) + 5 / n), name


@given(
    cuts=st.lists(st.integers(0, 300), max_size=4),
    batch_size=st.integers(1, 400),
    output=st.sampled_from(["mean", "sample"]),
)
@settings(max_examples=10)
def test_generate_equals_its_pieces_bit_for_bit(cuts: list[int], batch_size: int, output: Any) -> None:
    for name in ("mlp_bernoulli_interleaved", "conv"):
        whole = vae(SPECS[name], batch_invariant=True).generate(300, seed=7, start=2**33, output=output)
        pieces = vae(SPECS[name], batch_invariant=True, batch_size=batch_size)
        edges = [0, *sorted(cuts), 300]
        parts = [pieces.generate(high - low, seed=7, start=2**33 + low, output=output) for low, high in pairwise(edges)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_embedded_samples_equal_their_pieces(name: str) -> None:
    n = 3_000 if name == "digits" else 700
    model = fastvae.load(name, batch_invariant=True)
    whole = model.generate(n, seed=7)
    sizes = [1, 2, 63, 64, 65, 333]
    sizes.append(n - sum(sizes))
    start = 0
    for size, batch_size in zip(sizes, [1, 7, 64, 100, 128, 1000, 5], strict=True):
        piece = fastvae.load(name, batch_invariant=True, batch_size=batch_size)
        np.testing.assert_array_equal(piece.generate(size, seed=7, start=start), whole[start : start + size])
        start += size
    loose = fastvae.load(name).generate(n, seed=7)
    # Without batch invariance only rounding differs: the noise is the same.
    np.testing.assert_allclose(loose, whole, atol=1e-5)


def every_row_result(model: VAE, x: Any, start: int) -> dict[str, Any]:
    holes = x.copy()
    holes.reshape(len(x), -1)[:, ::3] = np.nan
    q = model.encode(x)
    return {
        "mean": q.mean,
        "logvar": q.logvar,
        "kl": q.kl(),
        "sample": q.sample(seed=3, start=start),
        "reconstruct": model.reconstruct(x),
        **{metric: model.score(x, metric, samples=3, seed=5, start=start) for metric in ("elbo", "iwae", "mse", "l2")},
        "impute": model.impute(holes, samples=4, seed=1, start=start),
        "gibbs": model.impute(holes, method="gibbs", samples=4, seed=1, start=start),
        "metropolis": model.impute(holes, method="metropolis", samples=8, seed=1, start=start),
    }


@pytest.mark.parametrize("impl", ["reference", "onnxruntime"])
@pytest.mark.parametrize("name", ["mlp_fixed", "mlp_predicted", "conv"])
def test_a_row_alone_has_the_bits_of_the_row_in_a_batch(name: str, impl: str) -> None:
    spec = SPECS[name]
    x = data_for(spec, 80).astype(np.float32)
    how = {"impl": impl, "device": "cpu", "batch_invariant": True}
    together = every_row_result(vae(spec, **how), x, 0)
    for batch_size, row in ((None, 0), (None, 79), (10, 63)):
        alone = every_row_result(vae(spec, **how, batch_size=batch_size), x[row : row + 1], row)
        for verb, result in alone.items():
            np.testing.assert_array_equal(result[0], together[verb][row], err_msg=f"{verb}, row {row}")


def test_internal_batches_change_nothing_but_rounding() -> None:
    for name in ("mlp_fixed", "conv"):
        spec = SPECS[name]
        x = data_for(spec, 9)
        expected = every_row_result(vae(spec, precision="float64"), x, 0)
        for batch_size in (1, 4, 100):
            found = every_row_result(vae(spec, precision="float64", batch_size=batch_size), x, 0)
            for verb, result in found.items():
                np.testing.assert_allclose(result, expected[verb], rtol=1e-9, atol=1e-12, err_msg=verb)


def test_stream_is_generate_in_batches() -> None:
    model = vae(mlp_spec(), batch_invariant=True)
    batches = list(model.stream(10, batch_size=4, seed=3, start=5))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(batches), model.generate(10, seed=3, start=5))
    assert list(model.stream(0)) == []
    assert isinstance(next(model.stream(1, kind="torch")), torch.Tensor)


def test_flattened_images_come_back_flattened() -> None:
    spec = SPECS["conv"]
    model = vae(spec)
    x = data_for(spec, 3).astype(np.float32)
    flat = x.reshape(3, -1)
    np.testing.assert_array_equal(model.reconstruct(flat), model.reconstruct(x).reshape(3, -1))
    np.testing.assert_array_equal(model.impute(flat, samples=2), flat)
    np.testing.assert_array_equal(model.score(flat), model.score(x))


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_low_precision_stays_near_float32(precision: str) -> None:
    unit = {"bf16": 2.0**-8, "fp16": 2.0**-11, "tf32": 2.0**-11}[precision]
    for name in ("mlp_fixed", "conv"):
        spec = SPECS[name]
        x = data_for(spec, 9).astype(np.float32)
        low, exact = vae(spec, precision=precision), vae(spec)
        assert low.precision == precision
        for found, expected in (
            (low.reconstruct(x), exact.reconstruct(x)),
            (low.embed(x), exact.embed(x)),
            (low.generate(9), exact.generate(9)),
        ):
            # Values are O(1) and pass through at most 12 roundings of weights and activations.
            assert found.dtype == np.float32
            assert name == "conv" or (found != expected).any(), "it is another precision"
            assert np.abs(found - expected).max() < 24 * unit


def test_conditions_as_vectors_or_labels() -> None:
    spec = SPECS["mlp_conditional"]
    model = vae(spec)
    x = data_for(spec, 4).astype(np.float32)
    labels = np.array([0, 2, 1, 2])
    by_label = model.reconstruct(x, condition=labels)
    np.testing.assert_array_equal(by_label, model.reconstruct(x, condition=np.eye(3)[labels]))
    np.testing.assert_array_equal(by_label, model.reconstruct(x, condition=torch.from_numpy(labels)))
    np.testing.assert_array_equal(model.generate(3, condition=1), model.generate(3, condition=np.eye(3)[1]))
    assert np.abs(model.generate(3, condition=1) - model.generate(3, condition=2)).max() > 0
    decoder_only = vae(SPECS["mlp_conditional_decoder"])
    assert decoder_only.embed(x).shape == (4, 3), "its encoder takes no condition"


def test_many_threads_share_a_model() -> None:
    spec = SPECS["conv"]
    model, x = vae(spec, batch_invariant=True), data_for(spec, 20).astype(np.float32)
    expected = vae(spec, batch_invariant=True).score(x, "elbo", samples=2)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(model.score(x, "elbo", samples=2))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_results_can_enter_a_graph_and_inputs_may_require_grad() -> None:
    spec = mlp_spec()
    model = vae(spec)
    x = torch.from_numpy(data_for(spec, 3)).float().requires_grad_()
    z = model.embed(x)
    assert not z.requires_grad
    assert isinstance(model.encode(x), fastvae.Posterior)
    (z * torch.ones(3, requires_grad=True)).sum().backward()


def test_repr_names_the_model() -> None:
    assert repr(fastvae.load("digits")).startswith("VAE('digits', input_shape=(1, 8, 8)")


def test_a_vae_says_what_it_is() -> None:
    model = vae(mlp_spec(), precision="float64", device="cpu")
    assert isinstance(model, VAE)
    assert (model.precision, model.device) == ("float64", torch.device("cpu"))
    assert model.card == {}
    assert isinstance(model.spec, fastvae.ModelSpec)


def test_streaming_holds_one_batch_at_a_time() -> None:
    """300,000 samples are 77 MB; what the process grows by after the first batches is far less."""
    code = (
        "import resource, fastvae\n"
        "vae, peak = fastvae.load('digits'), lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "list(vae.stream(8192)); before = peak()\n"
        "rows = sum(len(part) for part in vae.stream(300_000))\n"
        "print(rows, peak() - before)"
    )
    paths = ":".join(str(path) for path in (ROOT, ROOT / "kernels"))
    environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    rows, grown_kib = map(int, result.stdout.split())
    assert rows == 300_000
    assert grown_kib < 20_000


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_layers_may_be_called_anything(batch_invariant: bool) -> None:
    """Names of buffers and derived weights never meet a checkpoint's."""
    layers = [Linear(f"h{i}", 7, 7) for i in range(1, 7)]
    norms = [BatchNorm("d:h1", 7), BatchNorm("x", 7)]

    def spec(rename: Callable[[str], str]) -> fastvae.ModelSpec:
        named = [replace(layer, name=rename(layer.name)) for layer in layers]
        normed = [replace(norm, name=rename(norm.name)) for norm in norms]
        return fastvae.ModelSpec(
            input_shape=(7,),
            latent_shape=(7,),
            encoder=(named[0], normed[0], Activation("relu"), named[1], normed[1]),
            posterior=GaussianHead("separate", mean=(named[2],), scale=(named[3],)),
            decoder=(named[4], Activation("relu"), named[5]),
            likelihood=Bernoulli(),
        )

    x = data_for(spec(str), 5)
    found = vae(spec(str), batch_invariant=batch_invariant).score(x, "elbo")
    expected = vae(spec("other.{}".format), batch_invariant=batch_invariant).score(x, "elbo")
    np.testing.assert_array_equal(found, expected)


def test_outliers_get_finite_scores_and_imputations() -> None:
    """A standard deviation beyond float64's range once made 0 * inf."""
    model = fastvae.load("breast_cancer")
    rows = model.generate(2)
    rows[0, 3] = 1e6
    assert np.isfinite(model.score(rows, "iwae", samples=5)).all()
    rows[:, 1] = np.nan
    for method in ("importance", "metropolis", "gibbs"):
        assert np.isfinite(model.impute(rows, method=method, samples=20)).all(), method  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_certain_pixels_are_drawn_with_certainty(precision: str) -> None:
    head = vae(mlp_spec(Bernoulli()), precision=precision)._engine.head
    certain = torch.full((20_000, 6), 20.0, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)
    assert head.sample((certain,), seed=0, start=0, stream=noise.LIKELIHOOD).min() == 1


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_interpolation_in_any_internal_batch(batch_size: int) -> None:
    for name in ("mlp_fixed", "mlp_conditional", "conv_standardised"):
        spec = SPECS[name]
        a, b, c = data_for(spec, 4, 0), data_for(spec, 4, 1), condition_for(spec, 4)
        expected = vae(spec, precision="float64").interpolate(a, b, 5, condition=c)
        found = vae(spec, precision="float64", batch_size=batch_size).interpolate(a, b, 5, condition=c)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_a_stream_keeps_the_condition_it_was_given() -> None:
    model = vae(SPECS["mlp_conditional"])
    condition = torch.ones(8, 3)
    expected = model.generate(8, condition=condition)
    stream = model.stream(8, batch_size=4, condition=condition)
    first = next(stream)
    condition.zero_()
    np.testing.assert_allclose(np.concatenate([first, next(stream)]), expected, atol=1e-6)


def test_models_travel_between_processes() -> None:
    model = vae(SPECS["conv"])
    model.generate(1)
    for copy in (pickle.loads(pickle.dumps(model)), deepcopy(model)):
        np.testing.assert_array_equal(copy.generate(3, seed=1), model.generate(3, seed=1))
    q = model.encode(data_for(SPECS["conv"], 2))
    assert q == q
    assert {q}
