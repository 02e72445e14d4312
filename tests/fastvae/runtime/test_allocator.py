"""Large blocks of glibc's allocator: mappings of their own while somebody asks for it."""

from __future__ import annotations

import ctypes
import threading

import pytest

from fastvae.runtime.allocator import LARGE, large_blocks_apart

C = ctypes.CDLL(None)
pytestmark = pytest.mark.skipif(not hasattr(C, "mallinfo2"), reason="the C library is not a glibc of 2.33 or later")


class Info(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [(name, ctypes.c_size_t) for name in ["arena", "ordblks", "smblks", "hblks", "hblkhd"]] + [
        ("others", ctypes.c_size_t * 5)
    ]


def apart() -> bool:
    """Whether most of many new large blocks are mappings."""
    size, blocks = 16 * LARGE, 32  # more than stays free in the heap
    C.malloc.restype, C.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    C.free.argtypes, C.mallinfo2.restype = [ctypes.c_void_p], Info
    before = C.mallinfo2().hblks
    found = [C.malloc(size) for _ in range(blocks)]
    after = C.mallinfo2().hblks
    for block in found:
        C.free(block)
    return bool(after - before > blocks // 2)


def test_large_blocks_are_mappings_only_inside() -> None:
    with large_blocks_apart():
        assert apart()
        with large_blocks_apart():
            assert apart()
        assert apart()
    assert not apart()


def test_the_last_caller_ends_it() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with large_blocks_apart():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with large_blocks_apart():
        thread.start()
        inside.wait(60)
    assert apart()
    leave.set()
    thread.join()
    assert not apart()
