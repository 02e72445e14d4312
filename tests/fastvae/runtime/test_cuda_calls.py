"""What graphs and staging ask of torch.cuda, in which order; a stand-in for it notes the calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fastvae.runtime.graphs import CudaGraphs
from fastvae.runtime.staging import CudaLanes

CUDA = torch.device("cuda")


class Stream:
    """A stream that notes what is asked of it."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def wait_stream(self, other: Stream) -> None:
        self.calls.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: str) -> None:
        self.calls.append(f"{self.name} waits for {event}")

    def record_event(self) -> str:
        self.calls.append(f"{self.name} marks")
        return f"a mark of {self.name}"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    names = iter(("side", "other"))
    handles = iter(((0, 1), (0, 2)))

    @contextlib.contextmanager
    def stream(of: Stream) -> Iterator[None]:
        found.append(f"on {of.name}")
        yield
        found.append(f"off {of.name}")

    @contextlib.contextmanager
    def graph(_: Any, *, pool: Any, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        found.append(f"capture {pool} on {stream.name}, {capture_error_mode}")
        yield

    class CUDAGraph:
        def replay(self) -> None:
            found.append("replay")

    for name, value in {
        "Stream": lambda device: Stream(next(names), found),
        "current_stream": lambda device: Stream("caller's", found),
        "graph_pool_handle": lambda: next(handles),
        "empty_cache": lambda: found.append("empty cache"),
        "stream": stream,
        "graph": graph,
        "CUDAGraph": CUDAGraph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return found


def test_graphs_are_captured_thread_local_on_a_stream_of_their_own(calls: list[str]) -> None:
    device, outputs = CudaGraphs(CUDA), (torch.zeros(1),)
    with device.ordered():
        replay, found = device.capture(lambda: outputs)
        replay()
    assert found is outputs
    assert calls == [
        "side waits for caller's",
        "on side",
        "capture (0, 1) on side, thread_local",
        "replay",
        "off side",
        "caller's waits for side",
    ]
    device.forget()
    device.capture(lambda: outputs)
    assert calls[-2:] == ["empty cache", "capture (0, 2) on side, thread_local"]


def test_the_caller_waits_for_the_graphs_also_after_an_error(calls: list[str]) -> None:
    with pytest.raises(KeyError), CudaGraphs(CUDA).ordered():
        raise KeyError
    assert calls[-1] == "caller's waits for side"


def test_copies_run_beside_the_computing(calls: list[str]) -> None:
    lanes = CudaLanes(CUDA)
    source, target = torch.arange(3), torch.zeros(3, dtype=torch.int64)
    assert lanes.upload(target, source) == "a mark of side"  # type: ignore[comparison-overlap]
    assert calls == ["on side", "side marks", "off side", "caller's waits for a mark of side"]
    assert torch.equal(target, source)
    calls.clear()
    lanes.download(source, target)
    assert calls == ["other waits for caller's", "on other", "other marks", "off other"]
