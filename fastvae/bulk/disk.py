"""The few system calls that the shards' protocol is made of, and the files that are written by them.

They are methods of one object so that a test can let each of them fail, or the process die at it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fastvae.atomic import sync_folder

CHUNK = 2**20
# Bytes of a file after which the system is asked to write and forget them.
FORGET_EVERY = 8 * 2**20


class Disk:
    """System calls; each raises OSError as the system does."""

    def create(self, path: Path) -> int:
        """A new file, opened for writing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def create_folder(self, path: Path) -> None:
        """A new folder."""
        path.mkdir(mode=0o755)

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

    def forget(self, descriptor: int) -> None:
        """Let the system's copy of a file in memory go, where it is on the disk; Linux begins to write what is not.

        Nobody reads a shard soon, and pages that are let go are there for what comes next: without it a job fills all
        memory with what it has written, in place of what others read, and on a virtual machine whose host takes freed
        memory back each new page has to be asked for. What is written early need not be waited for at the end.
        """
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # not all file systems take advice
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file or a folder, over another file if there is one, in one step."""
        os.replace(source, target)

    def sync_folder(self, folder: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        sync_folder(folder)


@dataclass(frozen=True)
class Written:
    """A file that is there: its name in the folder, bytes, and SHA-256 in hexadecimal.

    A name with a slash at its end is a folder of files: ``bytes`` are those of all of them, and ``sha256`` is that of
    what ``sha256sum *`` prints there.
    """

    name: str
    bytes: int
    sha256: str


class NewFile:
    """A file that appears as ``name`` in ``folder`` when :meth:`publish` is called, and has been hashed on the way.

    Until then it has a temporary name on the same disk. It is file-like as far as pyarrow and NumPy ask.
    """

    def __init__(self, disk: Disk, temporary: Path, folder: Path, name: str) -> None:
        self._disk, self._temporary, self._target, self._name = disk, temporary, folder / name, name
        self._hash = hashlib.sha256()
        self.size = self._forgotten = 0
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
        if self.size - self._forgotten >= FORGET_EVERY:
            self._disk.forget(self._descriptor)
            self._forgotten = self.size
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
        self._disk.forget(self._descriptor)
        self.close()
        self._disk.replace(self._temporary, self._target)
        self._disk.sync_folder(self._target.parent)
        return Written(self._name, self.size, self._hash.hexdigest())

    def discard(self) -> None:
        """Remove what is under the temporary name."""
        self.close()
        self._temporary.unlink(missing_ok=True)


class NewTree:
    """Many small files that appear as the folder ``name``, all at once, when :meth:`publish` is called."""

    def __init__(self, disk: Disk, temporary: Path, folder: Path, name: str) -> None:
        self._disk, self._temporary, self._target, self._name = disk, temporary, folder / name, name
        self._hash = hashlib.sha256()
        self._names: list[str] = []
        self.size = 0
        disk.create_folder(temporary)

    def add(self, name: str, data: bytes) -> None:
        """Another file; names come in their order."""
        assert not self._names or name > self._names[-1]
        descriptor = self._disk.create(self._temporary / name)
        try:
            view = memoryview(data)
            while view:
                view = view[self._disk.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        self._hash.update(_line(name, hashlib.sha256(data).hexdigest()))
        self._names.append(name)
        self.size += len(data)

    def publish(self) -> Written:
        """Give the folder its final name, once all of it is on the disk; a folder of that name is moved away first."""
        for name in self._names:
            descriptor = os.open(self._temporary / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._disk.sync(descriptor)
                self._disk.forget(descriptor)
            finally:
                os.close(descriptor)
        self._disk.sync_folder(self._temporary)
        if self._target.exists():
            old = self._temporary.with_name(f".old{self._temporary.name}")
            self._disk.replace(self._target, old)
            shutil.rmtree(old)
        self._disk.replace(self._temporary, self._target)
        self._disk.sync_folder(self._target.parent)
        return Written(self._name, self.size, self._hash.hexdigest())

    def discard(self) -> None:
        """Remove what is under the temporary name."""
        shutil.rmtree(self._temporary, ignore_errors=True)


Output: TypeAlias = NewFile | NewTree


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder; FileNotFoundError if there is neither."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir())
    return path.stat().st_size


def sha256_of(path: Path, seen: Callable[[int], None] = lambda count: None) -> str:
    """SHA-256 of a file, or as :class:`Written` says of a folder; ``seen`` is called with the bytes of every piece."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.iterdir()):
            digest.update(_line(file.name, sha256_of(file, seen)))
    else:
        with path.open("rb") as opened:
            while chunk := opened.read(CHUNK):
                digest.update(chunk)
                seen(len(chunk))
    return digest.hexdigest()


def _line(name: str, digest: str) -> bytes:
    return f"{digest}  {name}\n".encode()
