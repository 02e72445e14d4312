"""A few rows through a session between arrays that are kept: the same results, the caller's own, for many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import fastvae
from fastvae.api import VAE
from fastvae.errors import InputError
from fastvae.runtime.kept_call import MOST_BYTES, MOST_ROWS, KeptCall
from tests.fastvae.support import SPECS, data_for, vae

NAMES = ("mlp_fixed", "mlp_bernoulli_interleaved", "conv")


def kept(model: VAE, verb: str) -> KeptCall:
    """What runs a few rows of a verb."""
    call = model._engine._short_ways.of(verb)
    assert call is not None
    assert isinstance(call._few, KeptCall)
    return call._few


def results(model: VAE, x: Any) -> dict[str, NDArray[Any]]:
    posterior = model.encode(x)
    found: dict[str, Any] = {"mean": posterior.mean, "logvar": posterior.logvar, "embed": model.embed(x)}
    found |= {"reconstruct": model.reconstruct(x), "decode": model.decode(posterior.mean)}
    found |= {metric: model.score(x, metric) for metric in ("reconstruction", "kl", "elbo", "mse", "l2")}  # type: ignore[arg-type]
    return {name: np.asarray(value) for name, value in found.items()}


@pytest.mark.parametrize("rows", [1, 3, MOST_ROWS, MOST_ROWS + 1])
@pytest.mark.parametrize("name", NAMES)
def test_has_the_bits_of_the_long_way(name: str, rows: int) -> None:
    model = vae(SPECS[name], impl="onnxruntime")
    x = data_for(model.spec, rows).astype(np.float32)
    expected = results(model, torch.from_numpy(x))
    for found in (results(model, x), results(model, np.repeat(x, 2, axis=-1)[..., ::2])):
        for key, values in expected.items():
            np.testing.assert_array_equal(found[key], values, err_msg=key)


def test_results_belong_to_the_caller() -> None:
    model = fastvae.load("digits", impl="onnxruntime")
    x = data_for(model.spec, 3).astype(np.float32)
    first = results(model, x)
    before = {name: values.copy() for name, values in first.items()}
    results(model, 1 - x)
    for name, values in first.items():
        np.testing.assert_array_equal(values, before[name])


def test_many_threads_at_once() -> None:
    model = fastvae.load("digits", impl="onnxruntime", threads=1)
    x = data_for(model.spec, 40).astype(np.float32)
    alone = [model.score(x[row : row + 2], "elbo") for row in range(39)]
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda row: model.score(x[row : row + 2], "elbo"), [*range(39)] * 5))
    for index, pair in enumerate(many):
        np.testing.assert_array_equal(pair, alone[index % 39])


@pytest.mark.parametrize("compiled", [True, False])
def test_refuses_what_the_long_way_refuses(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr("fastvae.runtime.kept_call.why_not", lambda: "no compiler")
    digits = fastvae.load("digits", impl="onnxruntime")
    x = np.full((2, 1, 8, 8), 0.5, np.float32)
    digits.encode(x)
    unit = r"\[0, 1\]"
    for bad, words in ((np.nan, "row 1 holds NaN or Inf"), (1.5, unit), (-0.25, unit), (np.inf, "NaN or Inf")):
        worse = x.copy()
        worse[1, 0, 3, 3] = bad
        for verb in (digits.encode, digits.reconstruct, digits.score):
            with pytest.raises(InputError, match=words):
                verb(worse)
    z = np.zeros((2, 16), np.float32)
    z[1, 5] = 3e38  # its square overflows
    assert kept(digits, "decode")(z) is not None
    z[1, 5] = np.nan
    with pytest.raises(InputError, match="row 1 holds NaN"):
        digits.decode(z)


def test_short_of_memory_it_leaves_it_to_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = fastvae.load("digits", impl="onnxruntime")
    x = data_for(digits.spec, 2).astype(np.float32)
    expected = digits.embed(x)
    call = kept(digits, "embed")
    errors: list[Exception] = [RuntimeError("bad_alloc: out of memory"), RuntimeError("no such node")]
    new = call._new

    def broken(rows: int) -> Any:
        given, made, _, finish, session = new(rows)

        def compute() -> None:
            raise errors.pop(0)

        return given, made, compute, finish, session

    monkeypatch.setattr(call, "_new", broken)
    call._idle[2].clear()
    np.testing.assert_array_equal(digits.embed(x), expected)
    assert not call._idle[2]
    with pytest.raises(RuntimeError, match="no such node"):
        digits.embed(x)


def test_how_many_rows_it_takes() -> None:
    model = vae(SPECS["mlp_fixed"], impl="onnxruntime")
    assert kept(model, "embed").most == MOST_ROWS
    assert kept(vae(SPECS["mlp_fixed"], impl="onnxruntime", batch_size=5), "embed").most == 5
    session: Any = None
    for entries in (MOST_BYTES // 4 // 8, MOST_BYTES):
        call = KeptCall(session, ("x", (entries,)), {"y": ()}, [np.dtype(np.float32)], False, None, "any", 100)
        assert call.most == MOST_BYTES // (4 * entries + 4)


def test_bytes_and_their_marks() -> None:
    model = vae(SPECS["conv"], impl="onnxruntime")
    z = np.random.default_rng(0).normal(size=(2, *model.spec.latent_shape)).astype(np.float32)
    found = model.decode(z, output="uint8")
    kept(model, "decode_uint8")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.asarray(model.decode(torch.from_numpy(z), output="uint8")))
