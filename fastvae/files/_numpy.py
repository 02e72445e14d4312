"""``.npy`` and ``.npz`` files: checked before anything is allocated, and never unpickled."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from fastvae.errors import InputError
from fastvae.files._common import Values, check_inflation, check_regular, one_line

MAX_DEFLATE_RATIO = 100
CHUNK = 2**20
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_MALFORMED = (ValueError, TypeError, SyntaxError, EOFError, RecursionError, MemoryError, OverflowError)
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, OSError)


@dataclass(frozen=True)
class _Header:
    """What an ``.npy`` header declares."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy(path: Path) -> Values:
    """The array in an ``.npy`` file, memory-mapped and read-only.

    Raises:
        InputError: not an ``.npy`` file of numbers or booleans, or one of another size than it declares.
    """
    size = check_regular(path)
    try:
        with path.open("rb") as file:
            header = _read_header(str(path), file)
            offset = file.tell()
            _check_size(str(path), header, size - offset)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not header.nbytes:
        return np.empty(header.shape, header.dtype)
    order: Any = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, "r", offset, header.shape, order)


def read_npz(path: Path, key: str | None = None) -> Values:
    """The array called ``key`` in an ``.npz`` file, or its first.

    Raises:
        InputError: not an ``.npz`` file, no such array, a member whose name leads out of the archive or that
            unpacks to more than MAX_DEFLATE_RATIO times its size, or whatever :func:`read_npy` refuses.
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            member = _choose(path, archive.infolist(), key)
            name = f"{path}: {member.filename}"
            check_inflation(name, member.file_size, member.compress_size, MAX_DEFLATE_RATIO)
            with archive.open(member) as file:
                return read_member(name, file, member.file_size)
    except InputError:
        raise
    except _BAD_ZIP as error:
        raise InputError(f"{path}: expected an .npz file: {one_line(error)}") from error


def _choose(path: Path, members: list[zipfile.ZipInfo], key: str | None) -> zipfile.ZipInfo:
    names = [member.filename for member in members]
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in member.filename or names.count(member.filename) > 1:
            raise InputError(f"{path}: refused, its member {member.filename!r} has an unsafe or repeated name")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{path}: member {member.filename!r} is neither stored nor deflated")
    arrays = {name.removesuffix(".npy"): member for name, member in zip(names, members, strict=True)}
    if not arrays:
        raise InputError(f"{path}: holds no arrays")
    if key is not None and key not in arrays:
        raise InputError(f"{path}: holds no array {key!r}, only {', '.join(map(repr, arrays))}")
    return arrays[key] if key is not None else members[0]


def read_member(name: str, file: IO[bytes], size: int) -> Values:
    header = _read_header(name, file)
    _check_size(name, header, size - file.tell())
    array = np.empty(header.nbytes, np.uint8)
    done = 0
    while chunk := file.read(CHUNK):
        array[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
        done += len(chunk)
    if done != header.nbytes:
        raise InputError(f"{name}: expected {header.nbytes:,} bytes, found {done:,}")
    return array.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


def _read_header(name: str, file: IO[bytes]) -> _Header:
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version} holds no plain arrays")
        header = _Header(*_HEADERS[version](file))
    except (*_MALFORMED, tokenize.TokenError) as error:
        raise InputError(f"{name}: expected an .npy array: {one_line(error)}") from error
    if header.dtype.kind not in "fiub" or header.dtype.itemsize > 8:
        raise InputError(f"{name}: expected an array of numbers, found dtype {header.dtype}")
    if any(size < 0 for size in header.shape):
        raise InputError(f"{name}: the header declares the shape {header.shape}")
    return header


def _check_size(name: str, header: _Header, found: int) -> None:
    if header.nbytes != found:
        raise InputError(
            f"{name}: the header declares {header.dtype} of shape {header.shape}, {header.nbytes:,} bytes, "
            f"but {found:,} bytes follow it"
        )
