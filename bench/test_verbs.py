"""``pytest bench/``: each verb under pytest-benchmark, fastvae and its peers, results checked first."""

from __future__ import annotations

from typing import Any

import pytest

from bench.cases import VERBS, Case
from bench.peers import BASELINE, BUDGET, PEERS, distance
from bench.prepared import AbsentError

ROWS = 256
MODELS = ("mlp", "conv32")
COMPILED = ("torch.compile", "torch.compile tuned")
ENOUGH_COMPILED = [("mlp", "reconstruct")]  # one takes seconds


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("model", MODELS)
def test_verb(benchmark: Any, model: str, verb: str, peer: str) -> None:
    if peer in COMPILED and (model, verb) not in ENOUGH_COMPILED:
        pytest.skip("compiling takes seconds")
    case = Case(model, verb, ROWS)
    try:
        prepared = PEERS[peer](case)
        found = prepared.check()
    except AbsentError as error:
        pytest.skip(str(error))
    assert distance(found, PEERS[BASELINE](case).check()) < BUDGET
    benchmark.group = str(case)
    benchmark.name = peer
    benchmark.pedantic(prepared.call, rounds=5, warmup_rounds=1)
