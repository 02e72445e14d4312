"""Reads a file into memory once, so that everything after it judges and uses the same bytes."""

import io
import os
import stat
from pathlib import Path

from fastvae.errors import FastVAEError, InputError

__all__ = ["PathLike", "files_in", "read_head", "read_regular_file"]

PathLike = str | os.PathLike[str]

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
# O_NONBLOCK: opening a FIFO swapped in after the stat must not hang. O_BINARY exists on Windows only.
_FLAGS = sum(getattr(os, f"O_{name}", 0) for name in ("RDONLY", "NONBLOCK", "NOCTTY", "CLOEXEC", "BINARY"))


def read_regular_file(path: PathLike, *, error: type[FastVAEError]) -> bytes:
    """Return the whole content of the regular file at ``path``; symbolic links are followed.

    Exactly the size the open file declares is allocated, once.

    Raises ``InputError`` when there is no such file or it may not be read, and ``error`` when it is not a
    regular file or shrank, grew, was replaced or was written to while it was being read.
    """
    try:
        name = os.fspath(path)
        if not isinstance(name, str):
            raise TypeError(f"expected str or os.PathLike[str], got {type(name).__name__}")
        expected = os.stat(name)
        # Before opening: merely opening some devices has side effects.
        _require_regular(name, expected, error)
        descriptor = os.open(name, _FLAGS)
    except (OSError, ValueError, TypeError) as cause:
        if isinstance(cause, FastVAEError):
            raise
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        shown = os.fspath(path) if isinstance(path, os.PathLike) else path
        raise InputError(f"{shown!r}: expected a readable file, but it cannot be opened: {reason}") from cause
    with io.FileIO(descriptor) as file:
        before = os.fstat(descriptor)
        _require_regular(name, before, error)
        if (expected.st_dev, expected.st_ino) != (before.st_dev, before.st_ino):
            raise error(f"{name}: expected one file, but another replaced it while it was being opened")
        content = _read_exactly(name, file, before.st_size, error)
        after = os.fstat(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise error(
            f"{name}: expected a file at rest, but it was written to while it was being read "
            f"({before.st_size} bytes before, {after.st_size} after)"
        )
    return content


def files_in(folder: Path) -> list[Path]:
    """Return the regular files in ``folder``, sorted, none if it is no folder that may be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return []


def read_head(path: PathLike, size: int) -> bytes:
    """Return up to ``size`` bytes from the beginning of the file at ``path``, none if there is no regular file.

    What recognises a format looks at them; its reader then reads, and judges, the whole file anew.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return b""
        with io.FileIO(os.open(path, _FLAGS)) as file:
            return file.read(size) or b"" if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except (OSError, ValueError):
        return b""


def _require_regular(name: str, status: os.stat_result, error: type[FastVAEError]) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = next((kind for test, kind in _KINDS if test(status.st_mode)), "something else")
    raise error(f"{name}: expected a regular file, found {kind}")


def _read_exactly(name: str, file: io.FileIO, size: int, error: type[FastVAEError]) -> bytes:
    """Read ``size`` bytes and then the end of the file, without ever holding a second copy."""
    try:
        buffer = io.BytesIO(bytes(size))
        with buffer.getbuffer() as view:
            done = 0
            while done < size:
                count = file.readinto(view[done:])
                if not count:
                    raise error(f"{name}: expected {size} bytes, but it shrank to {done} while being read")
                done += count
        if file.read(1):
            raise error(f"{name}: expected {size} bytes, but more follow: it grew while being read")
    except (OSError, MemoryError, OverflowError) as cause:
        if isinstance(cause, FastVAEError):
            raise
        raise error(f"{name}: expected {size} readable bytes, but reading failed: {cause!r}") from cause
    return buffer.getvalue()
