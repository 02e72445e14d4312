"""Calls into compiled plans: a row's bits are its own on every way to them, and so are errors, memory and processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastvae.api import VAE
from fastvae.errors import InputError, NumericsError
from fastvae.runtime import Settings
from fastvae.runtime import compiled as compiled_plans
from fastvae.runtime.compiled_call import MOST_ROWS
from fastvae_kernels.cpu import has_wide_products
from tests.fastvae.runtime.test_compiled import call_of, named, on
from tests.fastvae.support import data_for
from tests.fastvae.test_pixels import overflowing

pytestmark = pytest.mark.skipif(not has_wide_products(), reason="no wide products on this CPU")

ROWS = 200
METRICS = ("reconstruction", "kl", "elbo", "mse", "l2")
Results = dict[str, NDArray[Any]]


def results(model: VAE, x: Any, z: Any) -> Results:
    """Every verb's; ``x`` and ``z`` are of one kind, whatever that is."""
    posterior = model.encode(x)
    found: dict[str, Any] = {"mean": posterior.mean, "logvar": posterior.logvar, "embed": model.embed(x)}
    found |= {"reconstruct": model.reconstruct(x), "decode": model.decode(z)}
    found |= {metric: model.score(x, metric) for metric in METRICS}  # type: ignore[arg-type]
    if model.spec.likelihood.kind == "bernoulli":
        found |= {"pixels": model.decode(z, output="uint8")}
    return {name: np.asarray(value) for name, value in found.items()}


def latents(model: VAE, rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=(rows, *model.spec.latent_shape)).astype(np.float32)


def assert_part(found: Results, whole: Results, low: int, high: int) -> None:
    for name, values in whole.items():
        np.testing.assert_array_equal(found[name], values[low:high], err_msg=name)


@pytest.fixture
def any_work_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between threads, however little it is."""
    monkeypatch.setattr("fastvae_kernels.cpu.row_program._LEAST", 1)


@pytest.mark.usefixtures("any_work_is_shared")
@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("name", ["digits", "mnist", "images", "mlp_residual"])
def test_a_row_has_its_bits_in_any_batch_by_any_way(name: str, batch_invariant: bool) -> None:
    model = on(name, threads=1, batch_invariant=batch_invariant)
    x, z = data_for(model.spec, ROWS).astype(np.float32), latents(model, ROWS)
    for verb in ("encode", "decode", "elbo"):
        call_of(model, verb)
    whole = results(model, x, z)
    for threads, low, rows in ((1, 11, 1), (2, 3, 1), (1, 120, 7), (3, 193, 7), (2, 100, 61), (3, 0, 61), (3, 0, ROWS)):
        other = model if threads == 1 else on(name, threads=threads, batch_invariant=batch_invariant)
        part = slice(low, low + rows)
        assert_part(results(other, x[part], z[part]), whole, low, low + rows)
        strided = (np.repeat(each[part], 2, axis=-1)[..., ::2] for each in (x, z))
        assert_part(results(other, *strided), whole, low, low + rows)
        if rows != 61:
            tensors = (torch.from_numpy(each[part]) for each in (x, z))
            assert_part(results(other, *tensors), whole, low, low + rows)


@pytest.mark.usefixtures("any_work_is_shared")
@pytest.mark.parametrize("name", ["digits", "mnist"])
@pytest.mark.parametrize("output", ["mean", "uint8"])
def test_samples_are_those_of_their_indices(name: str, output: Any) -> None:
    models = [on(name, threads=threads) for threads in (1, 3)]
    call_of(models[0], "generate")
    whole = models[0].generate(ROWS, seed=4, output=output)
    for start, rows in ((0, ROWS), (63, 1), (60, 7), (130, 61)):
        for model in (*models, on(name, batch_invariant=True)):
            found = model.generate(rows, seed=4, start=start, output=output)
            np.testing.assert_array_equal(found, whole[start : start + rows])
            found = model.generate(rows, seed=4, start=start, output=output, kind="torch")
            np.testing.assert_array_equal(found, whole[start : start + rows])
    far = 2**62 - 9
    np.testing.assert_array_equal(models[0].generate(3, start=far), models[1].generate(9, start=far - 6)[6:])
    session = on(name, impl="onnxruntime").generate(ROWS, seed=4, output=output).astype(np.float32)
    np.testing.assert_allclose(whole, session, rtol=0, atol=1 if output == "uint8" else 1e-5)


@pytest.mark.usefixtures("any_work_is_shared")
@pytest.mark.parametrize("name", ["digits", "mnist", "mlp_fixed"])
def test_several_samples_of_a_row(name: str) -> None:
    exact = on(name, impl="reference", precision="float64")
    x = data_for(exact.spec, 5).astype(np.float32)
    for metric in ("reconstruction", "elbo", "iwae", "mse"):
        expected = exact.score(x, metric, samples=7)  # type: ignore[arg-type]
        bits = [
            on(name, threads=threads, **how).score(x, metric, samples=7)  # type: ignore[arg-type]
            for threads, how in ((1, {}), (3, {}), (2, {"batch_invariant": True}), (1, {"batch_size": 2}))
        ]
        np.testing.assert_allclose(bits[0], expected, rtol=256 * 2.0**-24)
        for other in bits[1:]:
            np.testing.assert_array_equal(other, bits[0])


@pytest.mark.parametrize("rows", [2, MOST_ROWS + 2])
@pytest.mark.parametrize("name", ["digits", "mnist", "breast_cancer"])
def test_refuses_what_sessions_refuse_in_their_words(name: str, rows: int) -> None:
    model, session = on(name), on(name, impl="onnxruntime")
    x, z = data_for(model.spec, rows).astype(np.float32), latents(model, rows)
    for verb in ("encode", "decode"):
        call_of(model, verb)

    def outcome(found: VAE, verb: str, given: Any) -> str:
        try:
            getattr(found, verb)(given)
        except InputError as error:
            return str(error)
        return "taken"

    seen = set()
    for bad in (np.nan, np.inf, -np.inf, 1.5, -0.25, -0.0, 3e38):
        for verb, clean in (("encode", x), ("score", x), ("reconstruct", x), ("decode", z)):
            worse = clean.copy()
            worse[rows - 1].flat[3] = bad
            told = outcome(model, verb, worse)
            assert told == outcome(session, verb, worse), (verb, bad)
            seen.add(told)
    assert len(seen) > 2
    for shape in ((0, 7), (3, 1), (2, 2, 2)):
        assert outcome(model, "encode", np.zeros(shape, np.float32)) == outcome(
            session, "encode", np.zeros(shape, np.float32)
        )
    worse = x.copy()
    worse[1].flat[0] = np.nan
    assert np.isnan(model.score(worse, invalid="mask")).tolist() == [False, True] + [False] * (rows - 2)


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_a_nan_that_bytes_do_not_show_is_an_error(batch_invariant: bool) -> None:
    model = VAE(overflowing(), Settings(batch_invariant=batch_invariant))
    call_of(model, "decode_uint8")
    for rows in (4, 100):
        bad = np.zeros((rows, 1), np.float32)
        assert model.decode(bad, output="uint8").tolist() == [[128] * 4] * rows
        bad[rows - 2] = 3
        for z in (bad, torch.from_numpy(bad)):
            with pytest.raises(NumericsError, match="decode_uint8: a result is not finite"):
                model.decode(z, output="uint8")


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_no_rows(batch_invariant: bool) -> None:
    model = on("images", batch_invariant=batch_invariant)
    shape = model.spec.input_shape
    assert model.encode(np.zeros((0, *shape), np.float32)).mean.shape == (0, 6)
    assert model.reconstruct(torch.zeros(0, *shape)).shape == (0, *shape)
    assert model.score(np.zeros((0, *shape), np.float32), samples=3).shape == (0,)
    assert model.generate(0, output="uint8").shape == (0, *shape[1:], 3)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_more_rows_than_fit_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = data_for(named(name).spec, ROWS).astype(np.float32)
    expected = on(name)
    z = latents(expected, ROWS)
    few = on(name, batch_size=3)
    assert call_of(few, "encode")._most == 3
    monkeypatch.setattr(compiled_plans, "BUFFER_BYTES", 2**20 if name == "mnist" else 2**15)
    small = on(name)
    fit = small._engine.executors.of("reconstruct").rows_that_fit
    assert 1 < fit < ROWS
    whole = results(expected, x, z)
    for model in (few, small):
        assert_part(results(model, x, z), whole, 0, ROWS)
        assert_part(results(model, torch.from_numpy(x), torch.from_numpy(z)), whole, 0, ROWS)
        np.testing.assert_array_equal(model.generate(ROWS), expected.generate(ROWS))
    x[ROWS - 1] = np.nan
    with pytest.raises(InputError, match=f"row {ROWS - 1} holds NaN"):
        small.encode(x)
