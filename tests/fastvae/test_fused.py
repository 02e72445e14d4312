"""Verbs on the fused plans that the engine builds where kernels run: under Triton's interpreter without a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fastvae
from fastvae.errors import UnsupportedError
from fastvae.spec import Bernoulli, Likelihood, ModelSpec, PerDimensionGaussian
from tests.fastvae.image_specs import image_spec
from tests.fastvae.support import conv_spec, data_for, mlp_spec, vae

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Three layers of at most eight terms each in float32, and two of the scores' sums.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def pair(spec: ModelSpec) -> tuple[fastvae.VAE, fastvae.VAE]:
    """A model on kernels, and on references."""
    return vae(spec, impl="triton", device=DEVICE), vae(spec, impl="reference", device=DEVICE)


def ops(model: fastvae.VAE, verb: str) -> set[str]:
    return {step.op for step in model._engine.executors.of(verb).plan.steps}


@pytest.mark.parametrize("likelihood", [Bernoulli(), PerDimensionGaussian()], ids=lambda value: value.kind)
def test_fused_verbs_agree_with_the_reference(likelihood: Likelihood) -> None:
    spec = mlp_spec(likelihood)
    kernels, reference = pair(spec)
    x = data_for(spec, 7).astype(np.float32)
    for metric in ("reconstruction", "kl", "elbo", "l2"):
        np.testing.assert_allclose(kernels.score(x, metric), reference.score(x, metric), **CLOSE)
    sampled = [model.score(x, "iwae", samples=3, seed=1) for model in (kernels, reference)]
    np.testing.assert_allclose(*sampled, **CLOSE)
    generated = [model.generate(5, seed=3, start=2**33, output="sample") for model in (kernels, reference)]
    np.testing.assert_allclose(*generated, **CLOSE)
    means = [model.generate(5, seed=3, start=2**33) for model in (kernels, reference)]
    np.testing.assert_allclose(*means, **CLOSE)


def test_kernels_get_fused_plans_and_references_layers() -> None:
    kernels, reference = pair(mlp_spec())
    assert ops(kernels, "elbo") == {"linear", "bottleneck", "linear_score"}
    assert ops(kernels, "generate") == {"linear_prior", "linear"}
    assert ops(kernels, "kl") == {"linear", "gaussian_head"}
    assert not ops(reference, "elbo") & {"bottleneck", "linear_score"}


def test_batch_invariant_plans_keep_their_layers() -> None:
    model = vae(mlp_spec(), impl="triton", device=DEVICE, batch_invariant=True)
    assert "bottleneck" not in ops(model, "elbo")


def test_batch_invariant_bits_on_kernels() -> None:
    """Rows alone, and in batches cut elsewhere, get the bits they have among all; more than a tile of them."""
    spec = mlp_spec()
    whole, pieces = (
        vae(spec, impl="triton", device=DEVICE, batch_invariant=True, batch_size=size) for size in (None, 3)
    )
    x = data_for(spec, 140).astype(np.float32)
    part = slice(125, 132)

    def results(model: fastvae.VAE, rows: slice) -> dict[str, np.ndarray[Any, Any]]:
        posterior = model.encode(x[rows])
        return {
            "mean": posterior.mean,
            "logvar": posterior.logvar,
            "reconstruct": model.reconstruct(x[rows]),
            "elbo": model.score(x[rows], "elbo"),
            "iwae": model.score(x[rows], "iwae", samples=2, start=rows.start),
            "generate": model.generate(rows.stop - rows.start, seed=3, start=rows.start),
        }

    expected = results(whole, slice(0, 140))
    for verb, values in results(pieces, part).items():
        np.testing.assert_array_equal(values, expected[verb][part], err_msg=verb)


def test_plans_of_what_kernels_cannot_compute_are_refused_at_once() -> None:
    with pytest.raises(UnsupportedError, match=r"impl 'triton' of .* it takes torch\.float32"):
        vae(conv_spec(), impl="triton", device=DEVICE, precision="float64")


def test_convolutional_models_run_on_kernels() -> None:
    """Convolutions, plain and transposed, batch norms, dense layers around the latents."""
    spec = conv_spec()
    kernels, reference = pair(spec)
    x = data_for(spec, 2).astype(np.float32)
    np.testing.assert_allclose(kernels.score(x), reference.score(x), **CLOSE)
    assert ops(kernels, "elbo") >= {"channels_last", "conv2d", "bottleneck", "conv_transpose2d"}


def test_image_autoencoders_run_on_kernels() -> None:
    """Group norms whose statistics a convolution has, residuals, attention, upsampling, clamped log-variances."""
    spec = image_spec()
    kernels, reference = pair(spec)
    x = data_for(spec, 1).astype(np.float32)
    q, expected = kernels.encode(x), reference.encode(x)
    np.testing.assert_allclose(q.mean, expected.mean, **CLOSE)
    np.testing.assert_allclose(q.logvar, expected.logvar, **CLOSE)
    z = np.random.default_rng(0).normal(size=(1, 2, 3, 5)).astype(np.float32)
    np.testing.assert_allclose(kernels.decode(z), reference.decode(z), **CLOSE)
    assert {"conv2d_statistics", "norm_by_statistics", "attention", "conv_transpose2d"} <= ops(kernels, "decode")
    for metric in ("elbo", "l2"):
        np.testing.assert_allclose(kernels.score(x, metric), reference.score(x, metric), **CLOSE)
    assert "conv_score" in ops(kernels, "elbo") & ops(kernels, "distance")
    sums = [step.op for step in kernels._engine.executors.of("decode").plan.steps].count("add")
    assert sums == 1, "attention's, whose last product was folded into its values"


def test_tf32_reaches_every_dense_product() -> None:
    spec = mlp_spec()
    model = vae(spec, impl="triton", device=DEVICE, precision="tf32")
    for verb in ("encode", "generate", "kl", "elbo", "reconstruct"):
        for step in model._engine.executors.of(verb).plan.steps:
            assert step.op in ("split", "reshape", "kl", "affine") or step.attributes["precision"] == "tf32", (
                verb,
                step.op,
            )
    x = data_for(spec, 7).astype(np.float32)
    imitated = vae(spec, impl="reference", device=DEVICE, precision="tf32").score(x, "elbo")
    # Triton's interpreter does not round operands: within three layers of 2^-11 each.
    np.testing.assert_allclose(model.score(x, "elbo"), imitated, rtol=3 * 2.0**-11)
    assert (imitated != vae(spec, impl="reference", device=DEVICE).score(x, "elbo")).any()
