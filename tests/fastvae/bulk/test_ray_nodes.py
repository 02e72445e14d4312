"""A job on several nodes of a Ray cluster: each is a raylet of its own, with its workers, as another machine's is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

import fastvae
from fastvae import bulk
from fastvae.bulk.content import content_of
from fastvae.bulk.progress import Progress
from fastvae.bulk.table import Block

# Milliseconds after which a node that does not answer is given up, for a test that waits for it.
IMPATIENT = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 3}


@pytest.fixture
def nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a cluster of two nodes, each with room for one worker, and what kills the second."""
    assert not ray.is_initialized()
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": IMPATIENT}
    )
    try:
        node: Any = cluster.add_node(num_cpus=1)
        yield cluster.address, lambda: cluster.remove_node(node, allow_graceful=False)
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_node_that_goes_takes_nothing_with_it(nodes: tuple[str, Callable[[], None]], tmp_path: Path) -> None:
    """A node of two is gone once both have made a shard; the other makes what is left, and all rows are there once."""
    address, kill = nodes
    model = fastvae.load("digits", batch_invariant=True)
    expected = content_of(Block(0, {"sample": model.generate(40_000)}))
    events: list[Progress] = []
    killed: list[int] = []

    def watch(state: Progress) -> None:
        events.append(state)
        if not killed and state.workers and all(worker.done for worker in state.workers):
            killed.append(state.shards)
            kill()

    report = bulk.generate(model, 40_000, tmp_path / "job", shard_size=200, ray=address, watch=watch)
    assert 2 <= killed[0] < 200
    assert report.content == f"{expected:016x}"
    assert [event.event for event in events].count("shard") == report.shards == 200
    assert "worker" in {event.event for event in events}
    assert bulk.generate(model, 40_000, tmp_path / "job", shard_size=200).content == report.content
