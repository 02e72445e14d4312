"""A model whose values leave the range of a narrow precision says so, in every verb, instead of giving NaN."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fastvae.api import VAE
from fastvae.errors import NumericsError
from fastvae.layers import Activation, Conv2d, GroupNorm
from fastvae.model import Model
from fastvae.runtime import Settings
from fastvae.runtime.numerics import Numerics
from fastvae.runtime.tiling import TiledExecutor
from fastvae.spec import ModelSpec, PointHead
from tests.fastvae.support import mlp_spec, random_model
from tests.fastvae.test_sizes import SPEC

# The decoder's first convolution feeds a group norm, as in the autoencoders that overflow in practice.
NORMED = replace(SPEC, decoder=(SPEC.decoder[0], GroupNorm("n", 8, 2), *SPEC.decoder[1:]))
# The same, but for an activation that bends what it gets, so that no factor can be taken out.
BENT = replace(SPEC, decoder=(SPEC.decoder[0], Activation("silu"), GroupNorm("n", 8, 2), *SPEC.decoder[1:]))


def grown(spec: ModelSpec, name: str, factor: float, **settings: Any) -> VAE:
    """A model with one weight ``factor`` times too large."""
    model = random_model(spec)
    weights = {**model.weights, name: model.weights[name] * factor}
    return VAE(Model(spec, weights), Settings(impl="reference", **settings))


def rows(spec: ModelSpec, n: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((n, *spec.input_shape), np.float32)


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_a_decoder_beyond_float16(batch_invariant: bool) -> None:
    settings: dict[str, Any] = {"batch_invariant": batch_invariant, "batch_size": 2}
    narrow = grown(BENT, "d.0.weight", 3e5, precision="fp16", **settings)
    wide, brain = (grown(BENT, "d.0.weight", 3e5, precision=p, **settings) for p in ("ieee", "bf16"))
    z = np.random.default_rng(1).standard_normal((3, *BENT.latent_shape)).astype(np.float32)
    assert np.isfinite(wide.decode(z)).all()
    np.testing.assert_allclose(brain.decode(z), wide.decode(z), atol=0.2)
    calls = {
        "decode": lambda: narrow.decode(z),
        "reconstruct": lambda: narrow.reconstruct(rows(BENT)),
        "generate|decode": lambda: narrow.generate(2),
        "elbo": lambda: narrow.score(rows(BENT)),
        "score": lambda: narrow.score(rows(BENT), "iwae", 2),
        "squared_error": lambda: narrow.score(rows(BENT), "mse", 2),
    }
    for verb, call in calls.items():
        with pytest.raises(
            NumericsError, match=rf"^({verb}): .*'fp16'.*load the model with precision='bf16' or 'ieee'"
        ):
            call()
    assert np.isfinite(narrow.embed(rows(BENT))).all()


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_what_a_group_norm_reads_is_rescaled_to_fit(batch_invariant: bool, caplog: pytest.LogCaptureFixture) -> None:
    """In every verb, for images of other sizes too, to what rounding a few layers to float16 costs."""
    settings: dict[str, Any] = {"batch_invariant": batch_invariant, "batch_size": 2}
    with caplog.at_level(logging.INFO, logger="fastvae"):
        narrow = grown(NORMED, "d.0.weight", 3e5, precision="fp16", **settings)
    assert "precision='fp16': 1 buffers of reconstruct are stored divided by powers of two" in caplog.text
    wide = grown(NORMED, "d.0.weight", 3e5, **settings)
    generator = np.random.default_rng(1)
    for size in (NORMED.latent_shape[1:], (5, 12)):
        z = generator.standard_normal((3, 4, *size)).astype(np.float32)
        expected = wide.decode(z)
        np.testing.assert_allclose(narrow.decode(z), expected, rtol=0, atol=2**-9 * np.abs(expected).max())
    x = rows(NORMED)
    np.testing.assert_allclose(narrow.score(x), wide.score(x), rtol=2**-9)
    np.testing.assert_allclose(narrow.score(x, "mse", 2), wide.score(x, "mse", 2), rtol=2**-8)


def test_tiles_are_rescaled_too() -> None:
    z = np.random.default_rng(1).standard_normal((1, 4, 48, 40)).astype(np.float32)
    tiled = grown(NORMED, "d.0.weight", 3e5, precision="fp16", max_memory="1MB")
    whole = grown(NORMED, "d.0.weight", 3e5, precision="fp16")
    found, expected = tiled.decode(z), whole.decode(z)
    assert isinstance(tiled._engine.at(NORMED.decoding(48, 40)).executors.of("decode"), TiledExecutor)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2**-9 * np.abs(expected).max())


def test_models_that_fit_are_left_as_they_are() -> None:
    plans = [
        grown(NORMED, "d.0.weight", 1.0, precision=p)._engine.executors.of("decode").plan for p in ("fp16", "bf16")
    ]
    assert all("rescaled" not in name for plan in plans for name in plan.weights)


def test_beyond_bfloat16_is_beyond_float32_too() -> None:
    model = grown(mlp_spec(), "d.0.weight", 1.0, precision="bf16")
    assert np.isfinite(model.reconstruct(rows(model.spec))).all()
    model = grown(mlp_spec(), "e.0.weight", 3e38, precision="bf16")
    with pytest.raises(NumericsError, match=r"embed: .*'bf16'.*precision='ieee'"):
        model.embed(10 * rows(model.spec))


def test_rows_that_came_with_nan_are_the_callers() -> None:
    model = grown(mlp_spec(), "d.1.weight", 1.0, precision="fp16")
    x = rows(model.spec)
    x[1, 2] = np.nan
    for policy in ("propagate", "mask"):
        found = model.reconstruct(x, invalid=policy)
        assert np.isnan(found[1]).all()
        assert np.isfinite(found[[0, 2]]).all()
    narrow = grown(mlp_spec(), "d.1.weight", 1e6, precision="fp16")
    with pytest.raises(NumericsError):
        narrow.reconstruct(x, invalid="mask")


def test_a_point_has_no_variance_and_no_overflow() -> None:
    spec = replace(SPEC, posterior=PointHead((Conv2d("q", 8, 4, (1, 1)),)))
    posterior = grown(spec, "q.weight", 1.0, precision="fp16").encode(rows(spec))
    assert (posterior.logvar == -np.inf).all()
    with pytest.raises(NumericsError, match=r"^encode: "):
        grown(spec, "q.weight", 1e6, precision="fp16").encode(rows(spec))


def test_scores_of_many_entries_are_not_narrow() -> None:
    """A row's negative log-likelihood may be far beyond what its entries' precision holds."""
    model = grown(mlp_spec(), "d.1.weight", 3000.0, precision="fp16")
    scores = model.score(rows(model.spec))
    assert scores.max() > 65504
    assert np.isfinite(scores).all()


def test_a_model_is_copied_without_its_looks() -> None:
    model = grown(mlp_spec(), "d.1.weight", 1e6, precision="fp16")
    with pytest.raises(NumericsError):
        pickle.loads(pickle.dumps(model)).reconstruct(rows(model.spec))


def test_a_gpus_looks_are_read_at_the_end_and_by_their_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    looks, x = Numerics(), torch.ones(2, 3)
    monkeypatch.setattr(Numerics, "_at_once", staticmethod(lambda _: False))
    nothing, inf = ("decode", "fp16", {"z": x}, [x]), ("embed", "fp16", {"x": x}, [x / 0])

    def look(*several: Any, error: type[Exception] | None = None) -> None:
        with looks:
            for one in several:
                looks.look(*one)
            read.append("not yet")
            if error is not None:
                raise error

    look(nothing, nothing)
    with pytest.raises(NumericsError, match="embed"):
        look(nothing, inf)
    assert len(read) == 2
    with pytest.raises(KeyError):
        look(inf, error=KeyError)
    look(nothing)  # what an exception cut short is nobody's
