"""``pytest bench/``: each verb under pytest-benchmark, eager PyTorch beside fastvae, results checked first."""

from __future__ import annotations

from typing import Any

import pytest

from bench.cases import MODELS, VERBS, Case
from bench.peers import PEERS, verify

ROWS = 256


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("model", MODELS)
def test_verb(benchmark: Any, model: str, verb: str, peer: str) -> None:
    case = Case(model, verb, ROWS)
    call = PEERS[peer](case)
    if peer == "fastvae":
        verify(case, call())
    benchmark.group = str(case)
    benchmark.name = peer
    benchmark.pedantic(call, rounds=10, warmup_rounds=2)
