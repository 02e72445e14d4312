"""ONNX Runtime as an implementation: when it is chosen, what it refuses, and that its short ways change nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import fastvae
from fastvae.errors import ClosedError, InputError, UnsupportedError
from fastvae.runtime import ort
from tests.fastvae.support import SPECS, condition_for, data_for, random_model, vae

VERBS = ("encode", "embed", "reconstruct", "score", "decode", "generate")


def results(model: fastvae.VAE, x: Any, condition: Any = None) -> dict[str, np.ndarray[Any, Any]]:
    """Every verb on rows ``x`` as NumPy arrays."""
    posterior = model.encode(x, condition=condition)
    found = {"mean": posterior.mean, "logvar": posterior.logvar, "embed": model.embed(x, condition=condition)}
    found["reconstruct"] = model.reconstruct(x, condition=condition)
    found["decode"] = model.decode(posterior.mean, condition=condition)
    for metric in ("reconstruction", "kl", "elbo", "mse", "l2"):
        found[metric] = model.score(x, metric, condition=condition)
    found["iwae"] = model.score(x, "iwae", samples=3, condition=condition)
    return {name: np.asarray(value) for name, value in found.items()}


@pytest.mark.parametrize("name", SPECS)
def test_equals_the_reference(name: str) -> None:
    spec = SPECS[name]
    x, condition = data_for(spec, 21).astype(np.float32), condition_for(spec, 21)
    found = results(vae(spec, impl="onnxruntime"), x, condition)
    expected = results(vae(spec, impl="reference"), x, condition)
    for verb, values in expected.items():
        # Two float32 evaluations of at most 16 roundings of sums over at most 64 terms.
        np.testing.assert_allclose(found[verb], values, rtol=0, atol=16 * 8 * 2.0**-23 * np.abs(values).max())


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("name", ["mlp_fixed", "conv"])
def test_the_short_way_gives_what_the_long_one_gives(name: str, batch_size: int | None) -> None:
    """Float32 rows in C order take it; the same values in float64, strided, read-only or in pieces do not."""
    model = vae(SPECS[name], impl="onnxruntime", batch_size=batch_size)
    x = data_for(SPECS[name], 12).astype(np.float32)
    expected = results(model, x)
    frozen = x.copy()
    frozen.flags.writeable = False
    wide = np.repeat(x, 2, axis=-1)[..., ::2]
    for other in (x.astype(np.float64), wide, frozen, torch.from_numpy(x)):
        for verb, values in results(model, other).items():
            np.testing.assert_array_equal(values, expected[verb], err_msg=verb)


def test_the_short_way_refuses_what_the_long_one_refuses() -> None:
    digits = fastvae.load("digits")
    x = np.full((2, 1, 8, 8), 0.5, np.float32)
    digits.encode(x)
    for bad, words in ((np.nan, "NaN or Inf"), (1.5, r"\[0, 1\]"), (-np.inf, "NaN or Inf")):
        worse = x.copy()
        worse[1, 0, 3, 3] = bad
        with pytest.raises(InputError, match=words):
            digits.encode(worse)
    with pytest.raises(InputError, match="invalid: expected one of"):
        digits.encode(x, invalid="ignore")
    with pytest.raises(InputError, match="not conditional"):
        digits.encode(x, condition=1)
    with pytest.raises(InputError, match="NaN or Inf"):
        digits.decode(np.full((1, 16), np.nan, np.float32))
    assert digits.encode(x[:0]).mean.shape == (0, 16)


def test_the_short_way_goes_in_internal_batches() -> None:
    """More rows at once would take memory that grows with them; ``limit_rows`` holds for it too."""
    engine = vae(SPECS["mlp_fixed"], impl="onnxruntime", batch_size=8)._engine
    x = data_for(SPECS["mlp_fixed"], 20).astype(np.float32)

    def batches() -> list[int]:
        assert engine.direct("embed", x[:1]) is not None
        call, sizes = engine._resources.direct["embed"], list[int]()
        call._few = None
        run = call._run

        def watched(outputs: Any, given: dict[str, Any], options: Any) -> Any:
            sizes.extend(map(len, given.values()))
            return run(outputs, given, options)

        call._run = watched
        assert engine.direct("embed", x) is not None
        return sizes

    assert batches() == [7, 7, 6]
    engine.batches.limit_rows("embed", 4)
    assert batches() == [4] * 5


def test_the_short_way_ends_where_the_model_is_closed() -> None:
    model = vae(SPECS["mlp_fixed"], impl="onnxruntime")
    x = data_for(SPECS["mlp_fixed"], 2).astype(np.float32)
    z = model.embed(x)
    calls: dict[str, Callable[[], Any]] = {
        "encode": lambda: model.encode(x),
        "embed": lambda: model.embed(x),
        "reconstruct": lambda: model.reconstruct(x),
        "decode": lambda: model.decode(z),
        "elbo": lambda: model.score(x),
        "generate": lambda: model.generate(2),
    }
    for call in calls.values():
        call()
    assert calls.keys() <= model._engine._resources.direct.keys()
    model.close()
    for call in calls.values():
        with pytest.raises(ClosedError):
            call()


@pytest.mark.parametrize("value", [3e38, -3e38])
@pytest.mark.parametrize("rows", [1, 5000])
def test_values_whose_squares_overflow_are_finite_all_the_same(value: float, rows: int) -> None:
    model = vae(SPECS["mlp_fixed"], impl="onnxruntime")
    z = np.zeros((rows, *model.spec.latent_shape), np.float32)
    model.decode(z)
    z[-1] = value
    assert model._engine.direct("decode", z) is not None
    for bad in (np.nan, np.inf, -np.inf):
        z[-1, -1] = bad
        assert model._engine.direct("decode", z) is None


def test_a_bad_value_in_a_later_batch_is_refused() -> None:
    digits = fastvae.load("digits", batch_size=2)
    x = np.full((5, 1, 8, 8), 0.5, np.float32)
    assert digits.embed(x).shape == (5, 16)
    x[4, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="row 4 holds NaN"):
        digits.embed(x)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("bad_alloc: out of memory")])
def test_the_short_way_short_of_memory_leaves_it_to_the_long_one(error: Exception) -> None:
    digits = fastvae.load("digits", impl="onnxruntime", batch_size=2)
    x = data_for(digits.spec, 5).astype(np.float32)
    expected = digits.embed(x)

    def full(*_: object) -> None:
        raise error

    call = digits._engine._resources.direct["embed"]
    call._few, call._run = None, full
    np.testing.assert_array_equal(digits.embed(x), expected)


def test_the_short_way_does_not_hide_other_errors() -> None:
    digits = fastvae.load("digits", impl="onnxruntime")
    x = data_for(digits.spec, 5).astype(np.float32)
    digits.embed(x)

    def broken(*_: object) -> None:
        raise RuntimeError("no such node")

    call = digits._engine._resources.direct["embed"]
    call._few, call._run = None, broken
    with pytest.raises(RuntimeError, match="no such node"):
        digits.embed(x)


def test_results_belong_to_the_caller() -> None:
    """A second call writes nothing into what the first returned."""
    digits = fastvae.load("digits")
    x = data_for(digits.spec, 3).astype(np.float32)
    first = digits.embed(x)
    before = first.copy()
    digits.embed(1 - x)
    np.testing.assert_array_equal(first, before)


def test_bad_rows_are_masked_or_propagated() -> None:
    digits = fastvae.load("digits")
    x = data_for(digits.spec, 4).astype(np.float32)
    clean = digits.score(x, "elbo")
    x[2, 0, 1, 1] = np.nan
    for invalid in ("mask", "propagate"):
        found = digits.score(x, "elbo", invalid=invalid)
        assert np.isnan(found[2])
        np.testing.assert_allclose(found[[0, 1, 3]], clean[[0, 1, 3]], rtol=1e-6)


def test_auto_is_onnxruntime_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fastvae"):
        fastvae.load("digits", device="cpu")
        fastvae.load("digits", device="cpu", precision="float64")
    first, second = (record.message for record in caplog.records)
    assert first.endswith("cpu: onnxruntime")
    assert "reference (it computes in float32" in second


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"impl": "onnxruntime", "precision": "float64"}, "computes in float32"),
        ({"impl": "onnxruntime", "precision": "bf16"}, "computes in float32"),
        ({"impl": "onnxruntime", "precision": "tf32"}, "computes in float32"),
        ({"impl": "reference", "threads": 2}, "threads: only impl='onnxruntime'"),
    ],
)
def test_what_cannot_run_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        fastvae.load("digits", device="cpu", **settings)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort.importlib.util, "find_spec", lambda name: None)
    assert "onnx and onnxruntime not installed" in str(ort.why_not(torch.device("cpu"), "ieee"))
    with pytest.raises(UnsupportedError, match="pip install"):
        fastvae.load("digits", device="cpu", impl="onnxruntime")
    assert fastvae.load("digits", device="cpu").generate(1).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("settings", [{"threads": 1}, {"threads": 3}, {"arena": False}])
def test_threads_and_arena_change_no_value(settings: dict[str, Any]) -> None:
    x = data_for(SPECS["conv"], 300).astype(np.float32)
    expected = vae(SPECS["conv"], impl="onnxruntime", threads=1).reconstruct(x)
    found = vae(SPECS["conv"], impl="onnxruntime", **settings).reconstruct(x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2.0**-21)


def test_bad_thread_counts_are_refused() -> None:
    with pytest.raises(InputError, match="threads: expected an integer"):
        fastvae.load("digits", device="cpu", threads=0)


def test_many_threads_get_serial_results() -> None:
    model = fastvae.load("digits", threads=1)
    inputs = [data_for(model.spec, 1 + i % 5, seed=i).astype(np.float32) for i in range(16)]

    def call(i: int) -> list[np.ndarray[Any, Any]]:
        x = inputs[i % 16]
        return [model.embed(x), model.score(x, "elbo"), model.generate(2, seed=i % 16), model.reconstruct(x)]

    expected = [call(i) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for i, found in enumerate(pool.map(call, range(400))):
            for one, other in zip(found, expected[i % 16], strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_pickled_engine_builds_its_own_sessions() -> None:
    import pickle

    engine = vae(SPECS["mlp_fixed"], impl="onnxruntime")._engine
    x = torch.from_numpy(data_for(SPECS["mlp_fixed"], 3)).float()
    expected = engine.embed(x)
    torch.testing.assert_close(pickle.loads(pickle.dumps(engine)).embed(x), expected, rtol=0, atol=0)


def test_a_model_of_its_own_weights_is_not_changed_by_running() -> None:
    model = random_model(SPECS["mlp_fixed"])
    before = {name: weight.clone() for name, weight in model.weights.items()}
    results(fastvae.VAE(model), data_for(model.spec, 3).astype(np.float32))
    assert all(torch.equal(model.weights[name], weight) for name, weight in before.items())


@pytest.mark.parametrize(
    ("verb", "invariant", "spins"), [("decode", False, True), ("decode", True, False), ("generate", False, False)]
)
def test_threads_spin_between_calls_only_where_nothing_else_wants_the_cores(
    verb: str, invariant: bool, spins: bool
) -> None:
    executor = vae(SPECS["mlp_fixed"], impl="onnxruntime", batch_invariant=invariant)._engine.executors.of(verb)
    try:
        stop = executor._session.get_session_options().get_session_config_entry("session.force_spinning_stop")
    except RuntimeError:  # no such entry
        stop = "0"
    assert (stop == "0") == spins
