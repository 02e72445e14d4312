"""The few system calls that the shards' protocol is made of, and a file that is written by them.

They are methods of one object so that a test can let each of them fail, or the process die at it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from fastvae.atomic import sync_folder


class Disk:
    """System calls; each raises OSError as the system does."""

    def create(self, path: Path) -> int:
        """A new file, opened for writing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def open_append(self, path: Path) -> int:
        """A file, new or not, opened for writing at its end."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of ``data``; how many bytes."""
        return os.write(descriptor, data)

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut a file to ``size`` bytes."""
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Wait until what was written to a file is on the disk."""
        os.fsync(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file, over another if there is one, in one step."""
        os.replace(source, target)

    def sync_folder(self, folder: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        sync_folder(folder)


@dataclass(frozen=True)
class Written:
    """A file that is there: its name in the folder, bytes, and SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str


class NewFile:
    """A file that appears under ``target`` when :meth:`publish` is called, and has been hashed on the way.

    Until then it has a temporary name in the same folder. It is file-like as far as pyarrow and NumPy ask.
    """

    def __init__(self, disk: Disk, temporary: Path, target: Path) -> None:
        self._disk, self._temporary, self._target = disk, temporary, target
        self._hash = hashlib.sha256()
        self.size = 0
        self.closed = False
        self._descriptor = disk.create(temporary)

    def write(self, data: bytes | memoryview) -> int:
        """Append all of ``data``."""
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):
            written += self._disk.write(self._descriptor, view[written:])
        self._hash.update(view)
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Let go of the file, published or not."""
        if not self.closed:
            self.closed = True
            os.close(self._descriptor)

    def publish(self) -> Written:
        """Give the file its final name, once it is on the disk."""
        self._disk.sync(self._descriptor)
        self.close()
        self._disk.replace(self._temporary, self._target)
        self._disk.sync_folder(self._target.parent)
        return Written(self._target.name, self.size, self._hash.hexdigest())

    def discard(self) -> None:
        """Remove what is under the temporary name."""
        self.close()
        self._temporary.unlink(missing_ok=True)
