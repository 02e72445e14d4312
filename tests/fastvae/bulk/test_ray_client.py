"""A job through Ray's client, from outside of its cluster. Where grpcio is not installed, as in CI, it is skipped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastvae
from fastvae import bulk
from tests.fastvae.commands import generate_digits

pytest.importorskip("grpc")

SAMPLES, SHARD = 40_000, 400


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """The address of a cluster that somebody has started, and the process that is the cluster."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ports, folder = free_ports(2), tempfile.mkdtemp(prefix="ray")  # one of its own, so that no other process finds it
    options = ["--num-cpus", 2, "--include-dashboard", "false", "--temp-dir", folder, "--port", ports[0]]
    command = [
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--ray-client-server-port",
        ports[1],
        *options,
    ]
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not answers(ports[1]):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield f"ray://127.0.0.1:{ports[1]}", process.pid
    process.terminate()
    process.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(found.getsockname()[1]) for found in sockets]
    for found in sockets:
        found.close()
    return ports


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def actors_below(ancestor: int) -> list[int]:
    """Processes of our actors in the cluster of this process."""
    parents, actors = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(") ")[2].split()[1])
            if (path / "cmdline").read_text().startswith("ray::Seat"):
                actors.append(int(path.name))
        except OSError:
            continue

    def below(process: int) -> bool:
        return process == ancestor or (process in parents and below(parents[process]))

    return [process for process in actors if below(process)]


def until(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """Read the JSON that a command prints up to an event of that name."""
    assert process.stdout is not None
    for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event:
            return found
    raise AssertionError(process.communicate())


def test_an_actor_is_killed_and_the_driver_is_interrupted(head: tuple[str, int], tmp_path: Path) -> None:
    address, cluster = head
    out = tmp_path / "job"
    process = generate_digits(out, SAMPLES, SHARD, "--workers", 2, "--ray", address, "--json")
    until(process, "shard")
    os.kill(actors_below(cluster)[0], signal.SIGKILL)
    state = until(process, "worker")
    assert sum(worker["replaced"] for worker in state["workers"]) == 1
    until(process, "shard")
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stderr.endswith(f"{out}: stopped; the same command goes on with what is there\nfastvae: interrupted\n")
    assert not list(out.glob(".*.tmp"))

    process = generate_digits(out, SAMPLES, SHARD, "--ray", address, "--json")
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    model = fastvae.load("digits")
    assert bulk.verify(out, model).ok
    report = bulk.generate(model, SAMPLES, out, shard_size=SHARD)
    assert report.content == bulk.generate(model, SAMPLES, tmp_path / "whole", format="npy").content
