"""How far a data set is opened: bytes of its files that have been gone through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

# Told of bytes that are done and all bytes.
Told: TypeAlias = Callable[[int, int], None]
# Told of bytes that are done besides.
Advance: TypeAlias = Callable[[int], None]


class Indexing:
    """Bytes of a data set's files whose rows are known by now, and of all files.

    ``total`` is 0, for unknown, if there are folders of images or Zarr: to list one is most of the work.
    """

    def __init__(self, paths: Sequence[Path], told: Told) -> None:
        self._told = told
        self.done = 0
        files = [path.stat().st_size for path in paths if path.is_file()]
        self.total = sum(files) if len(files) == len(paths) else 0

    def add(self, count: int) -> None:
        """So many more, which is told."""
        self.done += count
        self._told(self.done, self.total)
