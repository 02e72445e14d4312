"""Plans as graphs: the same results as without, few recordings, one replay at a time."""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import pytest
import torch

from fastvae.errors import InputError
from fastvae.plan import build_plan
from fastvae.runtime.executor import Draw, Executor
from fastvae.runtime.graphs import MOST_ROWS, GraphExecutor, GraphSet
from tests.fastvae.runtime.fakes import FakeGraphs, on_fake, plain_vae
from tests.fastvae.support import SPECS, condition_for, data_for, mlp_spec, random_model


def executor_of(verb: str, name: str = "mlp_fixed", dtype: torch.dtype = torch.float32) -> Executor:
    plan = build_plan(random_model(SPECS[name]), verb, dtype=dtype)
    return Executor(plan, impl="reference", device=torch.device("cpu"), dtype=dtype)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (0, []),
        (1, [(0, 1, 1)]),
        (2, [(0, 2, 16)]),
        (16, [(0, 16, 16)]),
        (17, [(0, 17, 256)]),
        (257, [(0, 256, 256), (256, 257, 256)]),
        (2047, [(low, min(low + 256, 2047), 256) for low in range(0, 2047, 256)]),
        (2048, [(0, 2048, 4096)]),
        (4096, [(0, 4096, 4096)]),
        (4097, []),
    ],
)
def test_which_graphs_a_batch_takes(rows: int, expected: list[tuple[int, int, int]]) -> None:
    assert list(GraphExecutor(executor_of("embed"), GraphSet(FakeGraphs())).pieces(rows)) == expected


def test_prepared_sizes_are_used_and_huge_ones_are_not() -> None:
    executor = GraphExecutor(executor_of("embed"), GraphSet(FakeGraphs()), (1, 1000))
    assert list(executor.pieces(400)) == [(low, low + 1, 1) for low in range(400)]
    executor.prepare(400, MOST_ROWS + 1)
    assert list(executor.pieces(400)) == [(0, 400, 400)]
    assert list(executor.pieces(1001)) == []


@pytest.mark.parametrize("rows", [0, 1, 2, 16, 17, 300, 2100, 4097])
def test_the_rows_of_a_padded_batch_are_those_of_the_padded_plan(rows: int) -> None:
    plain = executor_of("elbo")
    graphed = GraphExecutor(executor_of("elbo"), GraphSet(FakeGraphs()))
    x = torch.rand(rows, 6)
    found = graphed({"x": x})
    for low, high, size in list(graphed.pieces(rows)) or [(0, rows, rows)]:
        padded = torch.zeros(size, 6)
        padded[: high - low] = x[low:high]
        for ours, expected in zip(found, plain({"x": padded}), strict=True):
            assert torch.equal(ours[low:high], expected[: high - low])


def test_a_graph_is_recorded_once_and_replayed_afterwards() -> None:
    device = FakeGraphs()
    executor = GraphExecutor(executor_of("embed"), GraphSet(device))
    for rows in (3, 9, 16, 2, 3):
        executor({"x": torch.rand(rows, 6)})
    assert (device.captures, device.replays) == (1, 5)
    executor({"x": torch.rand(17, 6)})
    assert (device.captures, device.replays) == (2, 6)


def test_results_outlive_the_next_replay_and_padding_is_zero() -> None:
    plain, seen = executor_of("reconstruct"), []

    class Spying(Executor):
        def __call__(self, inputs: Any, draw: Any = None) -> tuple[torch.Tensor, ...]:
            seen.append(inputs["x"].clone())
            return super().__call__(inputs, draw)

    spying = Spying(plain.plan, impl="reference", device=torch.device("cpu"), dtype=torch.float32)
    executor = GraphExecutor(spying, GraphSet(FakeGraphs()))
    first, second = torch.full((16, 6), torch.inf), torch.rand(5, 6)
    executor({"x": first})
    kept = executor({"x": second})[0]
    value = kept.clone()
    executor({"x": first})
    assert torch.equal(kept, value)
    padded = seen[-2]
    assert torch.equal(padded[:5], second)
    assert not padded[5:].any()
    assert torch.equal(kept, plain({"x": padded})[0][:5])


def test_the_least_recently_used_graph_makes_way() -> None:
    device = FakeGraphs()
    graphs = GraphSet(device, most=2)
    executor = GraphExecutor(executor_of("embed"), graphs)
    for rows in (1, 16, 1, 256, 1, 16):  # 256 drives out 16, and 16 then 256
        executor({"x": torch.rand(rows, 6)})
    assert device.captures == 4
    graphs.clear()
    assert device.forgotten == 1
    executor({"x": torch.rand(1, 6)})
    assert device.captures == 5


def test_what_cannot_be_recorded_runs_without(caplog: pytest.LogCaptureFixture) -> None:
    device = FakeGraphs()

    def fail() -> None:
        raise RuntimeError("operation failed due to a previous error during capture")

    device.fail = fail
    executor, x = GraphExecutor(executor_of("embed"), GraphSet(device)), torch.rand(16, 6)
    with caplog.at_level(logging.WARNING, "fastvae"):
        for _ in range(3):
            assert torch.equal(executor({"x": x})[0], executor_of("embed")({"x": x})[0])
    assert [record.getMessage() for record in caplog.records] == [
        "embed, 16 rows: runs without a CUDA graph: operation failed due to a previous error during capture"
    ]


def verbs(model: Any, spec: Any, rows: int) -> dict[str, Any]:
    x, c = data_for(spec, rows).astype(np.float32), condition_for(spec, rows)
    holes = x.copy()
    holes.reshape(rows, -1)[:, ::3] = np.nan
    one = None if c is None else 1
    return {
        "generate": model.generate(rows, seed=3, condition=one),
        "sample": model.generate(rows, seed=4, start=7, output="sample", condition=one),
        "stream": np.concatenate(list(model.stream(rows, batch_size=3, seed=5, condition=one))),
        "embed": model.embed(x, condition=c),
        "logvar": model.encode(x, condition=c).logvar,
        "reconstruct": model.reconstruct(x, condition=c),
        "interpolate": model.interpolate(x, x[::-1].copy(), 3, condition=c),
        "kl": model.score(x, "kl", condition=c),
        "elbo": model.score(x, "elbo", condition=c),
        "sampled": model.score(x, "iwae", samples=3, condition=c),
        "l2": model.score(x, "l2", condition=c),
        "impute": model.impute(holes, samples=4, condition=c),
        "gibbs": model.impute(holes, method="gibbs", samples=4, condition=c),
    }


@pytest.mark.parametrize("name", SPECS)
def test_every_verb_gives_what_it_gives_without_graphs(name: str) -> None:
    spec = SPECS[name]
    device = FakeGraphs()
    found = verbs(on_fake(spec, device, precision="float64"), spec, 11)
    assert device.replays > 0
    for verb, expected in verbs(plain_vae(spec, precision="float64"), spec, 11).items():
        np.testing.assert_allclose(found[verb], expected, rtol=1e-6, atol=1e-9, err_msg=verb)


@pytest.mark.parametrize("name", ["mlp_predicted", "conv_conditional"])
def test_batch_invariant_bits_are_the_same_with_graphs(name: str) -> None:
    spec = SPECS[name]
    device = FakeGraphs()
    found = verbs(on_fake(spec, device, batch_invariant=True), spec, 130)
    assert device.replays > device.captures > 0
    for verb, expected in verbs(plain_vae(spec, batch_invariant=True), spec, 130).items():
        np.testing.assert_array_equal(found[verb], expected, err_msg=verb)


def test_no_graph_records_a_seed() -> None:
    model, plain = on_fake(mlp_spec(), FakeGraphs(), precision="float64"), plain_vae(mlp_spec(), precision="float64")
    for seed, start in ((1, 0), (2, 0), (2, 2**40)):
        expected = plain.generate(16, seed=seed, start=start)
        np.testing.assert_allclose(model.generate(16, seed=seed, start=start), expected, rtol=1e-12)


def test_a_plan_that_draws_noise_runs_without() -> None:
    device, cpu = FakeGraphs(), torch.device("cpu")
    executor = GraphExecutor(executor_of("generate", "mlp_conditional"), GraphSet(device))
    inputs = {"condition": torch.zeros(4, 3)}
    first, second = (executor(inputs, Draw(4, seed, 0, cpu, torch.float32))[0] for seed in (1, 2))
    assert not torch.equal(first, second)
    assert device.captures == 0


def test_warmup_records_the_largest_first_and_calls_nothing_more() -> None:
    device = FakeGraphs()
    model = on_fake(mlp_spec(), device)
    sizes: list[int] = []
    record = GraphSet._record

    def spy(self: GraphSet, executor: Executor, inputs: Any, rows: int) -> Any:
        sizes.append(rows)
        return record(self, executor, inputs, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GraphSet, "_record", spy)
        model.warmup((1, 40, 7), ("encode", "generate"))
    assert sizes == [40, 40, 7, 7, 1, 1]
    for rows in (1, 5, 7, 33, 40):
        model.encode(data_for(mlp_spec(), rows))
        model.generate(rows)
    assert device.captures == 6


def test_warmup_takes_what_there_is() -> None:
    for name in ("mlp_conditional", "conv"):
        model = on_fake(SPECS[name], FakeGraphs())
        model.warmup((2, 5000), ("generate", "embed", "decode", "reconstruct", "interpolate", "score", "impute"))
        plain_vae(SPECS[name], batch_invariant=True).warmup()
    with pytest.raises(InputError, match=r"verbs: expected some of 'generate', .* got 'sing'"):
        plain_vae(mlp_spec()).warmup(verbs=("sing",))
    with pytest.raises(InputError, match="batch_sizes: expected an integer from 1"):
        plain_vae(mlp_spec()).warmup((0,))


@pytest.mark.parametrize("graphs", [False, True])
def test_threads_get_the_bits_of_calls_one_by_one(graphs: bool) -> None:
    spec = SPECS["conv"]
    model = on_fake(spec, FakeGraphs()) if graphs else plain_vae(spec)
    batches = [data_for(spec, rows, seed=rows).astype(np.float32) for rows in (1, 2, 15, 16, 30)]
    expected = [(model.score(x, "elbo"), model.reconstruct(x), model.generate(len(x), seed=len(x))) for x in batches]
    wrong: list[Any] = []

    def work(first: int) -> None:
        try:
            for k in range(20):
                x, results = batches[(first + k) % 5], expected[(first + k) % 5]
                found = model.score(x, "elbo"), model.reconstruct(x), model.generate(len(x), seed=len(x))
                wrong.extend(k for a, b in zip(found, results, strict=True) if not np.array_equal(a, b))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
