"""Rows of host memory on their way through a device, a block at a time.

The plain way waits for every copy. For data of several blocks on a GPU, three blocks are under way instead: one being
copied there, one computed and one copied back, through page-locked memory that is allocated once and used in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

DEPTH = 3


class HostRows(Protocol):
    """A caller's rows, wherever they are; see :class:`fastvae.arrays.Rows`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row."""

    @property
    def dtype(self) -> torch.dtype:
        """The engine's dtype."""

    @property
    def host_dtype(self) -> torch.dtype:
        """Dtype to copy rows of host memory in."""

    def block(self, low: int, high: int) -> Tensor:
        """Rows low to high on the engine's device."""

    def read(self, low: int, high: int, out: Tensor) -> None:
        """Write rows low to high of host memory to ``out``, of ``host_dtype``."""


class Carrier(Protocol):
    """Brings blocks of rows to the engine and results back: ``load`` and ``store`` for each; samples are not loaded."""

    def load(self, rows: HostRows, low: int, high: int) -> Tensor:
        """Rows low to high on the engine's device, in its dtype."""

    def store(self, parts: Sequence[Tensor], results: Sequence[Tensor], low: int, high: int) -> None:
        """Write ``parts`` to rows low to high of ``results``; done once :meth:`finish` returns."""

    def finish(self) -> None:
        """Return once all results are written."""


class Direct:
    """The plain way: every block is copied when it is asked for."""

    def load(self, rows: HostRows, low: int, high: int) -> Tensor:
        return rows.block(low, high)

    def store(self, parts: Sequence[Tensor], results: Sequence[Tensor], low: int, high: int) -> None:
        for result, part in zip(results, parts, strict=True):
            target = result[low:high]
            if part.data_ptr() != target.data_ptr():  # it may have been computed where it belongs
                target.copy_(part)

    def finish(self) -> None:
        pass


class Lanes(Protocol):
    """Copies that run beside the computing: what staging needs of a device. Marks are points in a lane's work."""

    def pinned(self, size: int) -> Tensor:
        """``size`` bytes of host memory that the device can copy from and to by itself."""

    def memory(self, size: int) -> Tensor:
        """``size`` bytes of the device's."""

    def upload(self, target: Tensor, source: Tensor) -> Any:
        """Copy to the device, before anything computed from now on; a mark for its end."""

    def download(self, target: Tensor, source: Tensor) -> Any:
        """Copy to the host what has been computed up to now; a mark for its end."""

    def wait(self, mark: Any) -> None:
        """Return once the work up to ``mark`` is done."""


class CudaLanes:
    """The real one: a stream for each direction beside the caller's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._up: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._down: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def memory(self, size: int) -> Tensor:
        # On the stream that writes it first: another's work on memory it freed might not be done.
        with torch.cuda.stream(self._up):
            return torch.empty(size, dtype=torch.uint8, device=self._device)

    def upload(self, target: Tensor, source: Tensor) -> torch.cuda.Event:
        mark = self._copy(self._up, target, source)
        torch.cuda.current_stream(self._device).wait_event(mark)
        return mark

    def download(self, target: Tensor, source: Tensor) -> torch.cuda.Event:
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        return self._copy(self._down, target, source)

    def _copy(self, stream: torch.cuda.Stream, target: Tensor, source: Tensor) -> torch.cuda.Event:
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
            mark: torch.cuda.Event = stream.record_event()
        return mark

    def wait(self, mark: torch.cuda.Event) -> None:
        mark.synchronize()


class _Buffer:
    """Memory that grows to the largest tensor it is asked for and is then used again and again."""

    def __init__(self, allocate: Callable[[int], Tensor]) -> None:
        self._allocate = allocate
        self._bytes: Tensor | None = None

    def tensor(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of unspecified values over its memory."""
        size = torch.Size(shape).numel() * dtype.itemsize
        if self._bytes is None or len(self._bytes) < size:
            self._bytes = None  # freed before more is taken
            self._bytes = self._allocate(size)
        return self._bytes[:size].view(dtype).reshape(*shape)


@dataclass
class _Slot:
    """Memory for one block under way, and what is still to be done with it."""

    source: _Buffer
    target: _Buffer
    results: list[_Buffer] = field(default_factory=list)
    marks: list[Any] = field(default_factory=list)
    parts: Sequence[Tensor] = ()
    pending: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class Staged:
    """The overlapped way: ``DEPTH`` slots in turns, each waited for only when its turn comes again."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._slots = [_Slot(_Buffer(lanes.pinned), _Buffer(lanes.memory)) for _ in range(DEPTH)]
        self._loaded = False

    def load(self, rows: HostRows, low: int, high: int) -> Tensor:
        slot = self._slots[0]
        self._settle(slot)
        shape = high - low, *rows.shape
        source = slot.source.tensor(shape, rows.host_dtype)
        rows.read(low, high, source)
        block = slot.target.tensor(shape, rows.host_dtype)
        slot.marks.append(self._lanes.upload(block, source))
        self._loaded = True
        return block.to(rows.dtype)

    def store(self, parts: Sequence[Tensor], results: Sequence[Tensor], low: int, high: int) -> None:
        slot = self._slots[0]
        if not self._loaded:  # computed from nothing that was loaded, so the slot still has an earlier block
            self._settle(slot)
        slot.results += [_Buffer(self._lanes.pinned) for _ in parts[len(slot.results) :]]
        # Kept until copied: freed memory may be taken by what is computed next.
        slot.parts = [part.to(result.dtype) for part, result in zip(parts, results, strict=True)]
        for buffer, part, result in zip(slot.results, slot.parts, results, strict=False):
            host = buffer.tensor(part.shape, part.dtype)
            slot.marks.append(self._lanes.download(host, part))
            slot.pending.append((result[low:high], host))
        self._slots.append(self._slots.pop(0))
        self._loaded = False

    def finish(self) -> None:
        for slot in self._slots:
            self._settle(slot)

    def abandon(self) -> None:
        """Wait for what is under way and let its results go."""
        for slot in self._slots:
            slot.pending.clear()
            self._settle(slot)
        self._loaded = False

    def _settle(self, slot: _Slot) -> None:
        for mark in slot.marks:
            self._lanes.wait(mark)
        for result, host in slot.pending:
            result.copy_(host)
        slot.marks.clear()
        slot.pending.clear()
        slot.parts = ()


class Stages:
    """The carriers of one engine: a ring of slots for each caller at work, kept for the next."""

    def __init__(self, lanes: Callable[[], Lanes] | None) -> None:
        self._lanes = lanes
        self._idle: list[Staged] = []

    def overlaps(self, rows: int, block: int) -> bool:
        """Whether rows of host memory go the overlapped way: on a device with lanes, if they are several blocks."""
        return self._lanes is not None and rows > block

    @contextmanager
    def carrier(self, overlapped: bool) -> Iterator[Carrier]:
        """A carrier for one caller; on leaving, all results are written."""
        if not overlapped or self._lanes is None:
            yield Direct()
            return
        try:
            staged = self._idle.pop()
        except IndexError:
            staged = Staged(self._lanes())
        try:
            yield staged
            staged.finish()
        finally:
            staged.abandon()
            self._idle.append(staged)

    def clear(self) -> None:
        """Free the memory of carriers not in use."""
        self._idle.clear()


def stages(device: torch.device) -> Stages:
    """The carriers for an engine on ``device``."""
    return Stages((lambda: CudaLanes(device)) if device.type == "cuda" else None)
