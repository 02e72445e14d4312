"""What the readers and writers of data files share."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from fastvae.errors import InputError, UnsupportedError

Values: TypeAlias = NDArray[Any]
# A compressed file may always unpack to this many bytes; beyond, only to a multiple of its own size.
FREE_BYTES = 64 * 2**20


@contextlib.contextmanager
def needs(package: str, purpose: str, extra: str = "cli") -> Iterator[None]:
    """Around an import of an optional ``package`` that one of fastvae's ``extra`` brings.

    Raises:
        UnsupportedError: it is not installed; the message says what it is for and how to get it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        how = f'pip install "fastvae-engine[{extra}]"'
        raise UnsupportedError(f"{purpose} need the package {package}: {how}") from error


def check_regular(path: Path) -> int:
    """The size in bytes of the regular file at ``path``.

    Raises:
        InputError: there is none, or it is a folder, a FIFO or a device.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: expected a regular file")
    return status.st_size


def check_inflation(name: str, size: int, compressed: int, ratio: int) -> None:
    """Refuse what would unpack to more than FREE_BYTES and more than ``ratio`` times its ``compressed`` size.

    Raises:
        InputError: it would; nothing has been unpacked.
    """
    if size > max(FREE_BYTES, ratio * compressed):
        raise InputError(
            f"{name}: {compressed:,} bytes would unpack to {size:,}, more than {ratio} times as many; refused"
        )


def one_line(error: BaseException) -> str:
    """The message of another library's exception, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
