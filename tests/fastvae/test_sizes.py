"""A model whose layers fit images of any size runs them all from one set of weights and sessions."""

from __future__ import annotations

import functools
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from fastvae.errors import ClosedError, InputError, UnsupportedError, WeightFormatError
from fastvae.layers import Activation, Affine, Conv2d, Flatten, Linear, Reshape, Residual, Upsample
from fastvae.plan import SIZE_FREE_VERBS
from fastvae.runtime.batching import TILE
from fastvae.runtime.engine import MOST_SIZES
from fastvae.scaling import LatentScaling
from fastvae.spec import Condition, FixedGaussian, GaussianHead, ModelSpec, PerDimensionGaussian, PointHead
from tests.fastvae.support import conv_spec, vae

RELU = Activation("relu")
SPEC = ModelSpec(
    input_shape=(3, 16, 16),
    latent_shape=(4, 8, 8),
    encoder=(
        Affine("in", (3,)),
        Conv2d("e.0", 3, 8, (3, 3), padding=(1, 1)),
        Residual((RELU, Conv2d("e.1", 8, 8, (3, 3), padding=(1, 1)))),
        Conv2d("e.2", 8, 8, (3, 3), (2, 2), (0, 0), padding_end=(1, 1)),
    ),
    posterior=GaussianHead("chunked", joint=(Conv2d("q", 8, 8, (1, 1)),)),
    decoder=(
        Conv2d("d.0", 4, 8, (3, 3), padding=(1, 1)),
        RELU,
        Upsample(),
        Conv2d("d.1", 8, 3, (3, 3), padding=(1, 1)),
    ),
    likelihood=FixedGaussian(),
)
IMPLS = ("onnxruntime", "reference")


def images(height: int, width: int, rows: int = 2) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((rows, 3, height, width), dtype=np.float32)


@pytest.mark.parametrize("impl", IMPLS)
def test_other_sizes_give_what_a_model_of_that_size_gives(impl: str) -> None:
    model, sized = vae(SPEC, impl=impl), vae(SPEC.resized(24, 40), impl=impl)
    x = images(24, 40)
    mean = sized.embed(x)
    assert mean.shape == (2, 4, 12, 20)
    np.testing.assert_array_equal(model.encode(x).logvar, sized.encode(x).logvar)
    np.testing.assert_array_equal(model.embed(x), mean)
    np.testing.assert_array_equal(model.reconstruct(x), sized.reconstruct(x))
    np.testing.assert_array_equal(model.decode(mean), sized.decode(mean))
    for metric in ("elbo", "mse", "kl"):
        np.testing.assert_array_equal(model.score(x, metric), sized.score(x, metric))
    gaps = x.copy()
    gaps[0, 0, :3] = np.nan
    np.testing.assert_array_equal(model.impute(gaps, samples=4), sized.impute(gaps, samples=4))
    line = model.interpolate(x[:1], x[1:], 3)
    np.testing.assert_array_equal(line, sized.interpolate(x[:1], x[1:], 3))
    np.testing.assert_array_equal(line, model.interpolate(model.embed(x[:1]), model.embed(x[1:]), 3, space="latent"))
    assert model.embed(images(16, 16)).shape == (2, 4, 8, 8)


def test_one_session_serves_all_sizes() -> None:
    model = vae(SPEC, impl="onnxruntime")
    for size in (8, 24, 32):
        model.encode(images(size, size))
        model.decode(np.zeros((1, 4, size, size), np.float32))
    engine = model._engine
    sessions = {
        id(sized.executors.of(verb)._session)  # type: ignore[union-attr]
        for sized in (engine, *engine._sizes.values())
        for verb in ("encode", "decode")
    }
    assert len(sessions) == 2


def test_sizes_long_unused_are_forgotten() -> None:
    model = vae(SPEC, impl="reference")
    for size in range(2, 2 * MOST_SIZES + 8, 2):
        model.embed(images(size, 2, rows=1))
    assert len(model._engine._sizes) == MOST_SIZES
    assert (3, size, 2) in model._engine._sizes


@pytest.mark.parametrize("impl", IMPLS)
def test_a_size_that_does_not_come_back_is_refused(impl: str) -> None:
    model = vae(SPEC, impl=impl)
    with pytest.raises(InputError, match=r"x: this model takes no images of 25x40 pixels: the decoder makes shape"):
        model.encode(images(25, 40))
    with pytest.raises(InputError, match="expected shape"):
        model.encode(np.zeros((1, 4, 24, 40), np.float32))
    with pytest.raises(InputError, match="must be positive"):
        model.embed(images(0, 4))


@pytest.mark.parametrize("impl", IMPLS)
def test_tiles_of_large_images_fit_in_memory(impl: str) -> None:
    """Of 128 images of this size the first layer alone would take 2 GiB; a row's bits still do not depend on others."""
    model = vae(SPEC, impl=impl, batch_invariant=True)
    x = images(512, 1024)
    whole = model.embed(x)
    tiles = {engine.executors.of("embed").tile_rows for engine in model._engine._sizes.values()}
    assert max(tiles) < 4
    np.testing.assert_array_equal(model.embed(x[1:]), whole[1:])
    assert model._engine.executors.of("embed").tile_rows == TILE


def test_closing_closes_every_size() -> None:
    model = vae(SPEC, impl="onnxruntime")
    x = images(24, 40)
    posterior = model.encode(x)
    model.close()
    masked = functools.partial(model.score, images(8, 8), invalid="mask")  # not the short way, and a new size
    for call in (lambda: model.encode(x), posterior.kl, masked):
        with pytest.raises(ClosedError):
            call()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_posterior_of_another_size_goes_to_another_process(impl: str) -> None:
    model = vae(SPEC, impl=impl)
    there, posterior = pickle.loads(pickle.dumps((model, model.encode(images(24, 40)))))
    np.testing.assert_array_equal(posterior.sample(1), model.encode(images(24, 40)).sample(1))
    np.testing.assert_array_equal(there.encode(images(24, 40)).mean, posterior.mean)


@pytest.mark.parametrize("verb", SIZE_FREE_VERBS)
def test_exports_take_any_size(verb: str, tmp_path: Any) -> None:
    model = vae(replace(SPEC, latent_scaling=LatentScaling(0.5, 0.25), pixel_range=(-1.0, 1.0)), impl="reference")
    model.export(tmp_path / "m.onnx", verb)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    of_images = verb.startswith(("encode", "embed", "reconstruct"))
    given = images(24, 40) if of_images else np.ones((2, 4, 12, 20), np.float32)
    found = session.run(None, {session.get_inputs()[0].name: given})[0]
    size = found.shape[1:3] if verb.endswith("uint8") else found.shape[2:]
    assert size == ((24, 40) if given.shape[1] == 4 or verb.startswith("reconstruct") else (12, 20))


@pytest.mark.parametrize(
    "spec",
    [
        conv_spec(),
        replace(SPEC, likelihood=PerDimensionGaussian()),
        replace(SPEC, encoder=(*SPEC.encoder, Affine("a", (8, 8, 8)))),
        replace(SPEC, decoder=(*SPEC.decoder, Flatten(), Linear("d.2", 768, 768), Reshape((3, 16, 16)))),
        replace(
            SPEC,
            condition=Condition(1, encoder=False),
            decoder=(Conv2d("d.0", 5, 8, (3, 3), padding=(1, 1)), *SPEC.decoder[1:]),
        ),
    ],
    ids=["flat latents", "variance per pixel", "affine per pixel", "linear", "conditional"],
)
def test_weights_of_one_size_fit_no_other(spec: ModelSpec) -> None:
    assert not spec.any_size
    with pytest.raises(WeightFormatError, match="only"):
        spec.resized(32, 32)
    with pytest.raises(WeightFormatError, match="only"):
        spec.decoding(32, 32)


def test_latents_of_no_size_are_refused() -> None:
    assert SPEC.decoding(12, 20).input_shape == (3, 24, 40)
    with pytest.raises(WeightFormatError, match="must be positive"):
        SPEC.decoding(0, 3)


def test_a_point_posterior_draws_its_mean() -> None:
    spec = replace(SPEC, posterior=PointHead((Conv2d("q", 8, 4, (1, 1)),)))
    for impl in IMPLS:
        posterior = vae(spec, impl=impl).encode(images(16, 16))
        assert np.all(posterior.logvar == -np.inf)
        np.testing.assert_array_equal(posterior.sample(seed=3), posterior.mean)
        assert np.all(posterior.kl() == np.inf)


def test_scores_that_need_a_variance_are_refused_for_a_point() -> None:
    model = vae(replace(SPEC, posterior=PointHead((Conv2d("q", 8, 4, (1, 1)),))))
    x = images(16, 16)
    for metric in ("kl", "elbo", "iwae"):
        with pytest.raises(UnsupportedError, match=f"metric '{metric}': this model's encoder is deterministic"):
            model.score(x, metric)
    with pytest.raises(UnsupportedError, match="impute: this model's encoder is deterministic"):
        model.impute(x)
    nll = model.score(x)
    normaliser = 0.5 * x[0].size * np.log(2 * np.pi)
    np.testing.assert_allclose(nll - normaliser, 0.5 * model.score(x, "l2") ** 2, rtol=1e-5)
