"""Large blocks of glibc's allocator: mappings of their own while somebody asks for it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# In a process of its own: in an old one, blocks may find a place in what earlier ones have left.
PROGRAM = """
import ctypes, importlib.util, threading

spec = importlib.util.spec_from_file_location("allocator", "fastvae/runtime/allocator.py")
allocator = importlib.util.module_from_spec(spec)
spec.loader.exec_module(allocator)
large_blocks_apart, LARGE = allocator.large_blocks_apart, allocator.LARGE
C = ctypes.CDLL(None)


class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks")] + [
        ("others", ctypes.c_size_t * 6)
    ]


C.malloc.restype, C.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
C.free.argtypes, C.mallinfo2.restype = [ctypes.c_void_p], Info


def mapped():
    before = C.mallinfo2().hblks
    blocks = [C.malloc(16 * LARGE) for _ in range(32)]  # more than stays free in the heap
    after = C.mallinfo2().hblks
    for block in blocks:
        C.free(block)
    return after - before


with large_blocks_apart():
    found = [mapped()]
    with large_blocks_apart():
        found += [mapped()]
    found += [mapped()]
found += [mapped()]

inside, leave = threading.Event(), threading.Event()


def other():
    with large_blocks_apart():
        inside.set()
        leave.wait(60)


thread = threading.Thread(target=other)
with large_blocks_apart():
    thread.start()
    inside.wait(60)
found += [mapped()]
leave.set()
thread.join()
found += [mapped()]
print(*found)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not a glibc of 2.33 or later")
def test_large_blocks_are_mappings_until_the_last_caller_has_left() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["32", "32", "32", "0", "32", "0"]
