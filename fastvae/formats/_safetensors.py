"""Reads a ``.safetensors`` file, trusting nothing it says.

The header is validated here, more strictly than by the safetensors library (which accepts duplicate keys,
unknown fields, any rank and any key), and the library then builds the tensors from the very same bytes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import safetensors
import safetensors.torch
import torch

from fastvae.errors import WeightFormatError
from fastvae.formats._files import PathLike, read_regular_file
from fastvae.formats._shapes import checked_numel

__all__ = ["SafetensorsFile", "parse_safetensors", "read_safetensors"]

_MAX_HEADER_BYTES = 100_000_000
# About 13,000 tensors. A token costs at most some 200 bytes while it is parsed.
_MAX_HEADER_TOKENS = 250_000
_DTYPES_BY_ITEMSIZE = {
    1: ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"),
    2: ("U16", "I16", "F16", "BF16"),
    4: ("U32", "I32", "F32"),
    8: ("U64", "I64", "F64"),
}
_ITEMSIZE = {dtype: size for size, dtypes in _DTYPES_BY_ITEMSIZE.items() for dtype in dtypes}
_FIELDS = {"dtype", "shape", "data_offsets"}
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class SafetensorsFile:
    """The content of one file: ``tensors`` on the CPU by key, and the header's ``__metadata__``."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]


def read_safetensors(path: PathLike) -> SafetensorsFile:
    """Read the ``.safetensors`` file at ``path``.

    Tensors have the shapes and dtypes the file declares, in the file's key order, and share no memory.

    Raises ``InputError`` when there is no readable file at ``path``, and ``WeightFormatError`` when it is
    not a regular file or anything in it departs from the format.
    """
    return parse_safetensors(read_regular_file(path, error=WeightFormatError), source=str(path))


def parse_safetensors(data: bytes, *, source: str) -> SafetensorsFile:
    """The content of a ``.safetensors`` file in memory, which messages call ``source``; see :func:`read_safetensors`.

    Raises ``WeightFormatError`` when anything in it departs from the format.
    """
    try:
        entries, metadata = _read_header(data)
        tensors = safetensors.torch.load(data)
    except (ValueError, RecursionError, MemoryError, safetensors.SafetensorError) as cause:
        raise WeightFormatError(f"{source}: not a valid safetensors file: {cause}") from cause
    return SafetensorsFile({key: tensors[key] for key in entries}, metadata)


def _read_header(data: bytes) -> tuple[Mapping[str, object], dict[str, str]]:
    """Return the validated header entries by key, and the metadata; ``ValueError`` on any departure."""
    if len(data) < 8:
        raise ValueError(f"expected at least the 8 bytes of the header length, found {len(data)}")
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= _MAX_HEADER_BYTES:
        raise ValueError(f"expected a header of 1 to {_MAX_HEADER_BYTES} bytes, found a length of {length}")
    if length > len(data) - 8:
        raise ValueError(f"expected a header of {length} bytes, but only {len(data) - 8} follow its length")
    header = _parse_json(data[8 : 8 + length])
    metadata = _check_metadata(header.pop("__metadata__", {}))
    if not header:
        raise ValueError("expected at least one tensor, found none")
    _check_tensors(header, memoryview(data)[8 + length :])
    return header, metadata


def _parse_json(raw: bytes) -> dict[str, Any]:
    """Parse the header, whose depth and number of tokens are bounded before the parser sees it."""
    quotes = raw.count(b'"')  # first, because the split below costs memory for each
    if quotes > 2 * _MAX_HEADER_TOKENS:
        raise ValueError(f"expected at most {2 * _MAX_HEADER_TOKENS} quotes in the header, found {quotes}")
    structure, strings = _STRING.subn(b"", raw)
    structure = structure.translate(None, _NOT_STRUCTURE)
    if strings + len(structure) > _MAX_HEADER_TOKENS:
        found = strings + len(structure)
        raise ValueError(f"expected a header of at most {_MAX_HEADER_TOKENS} JSON tokens, found {found}")
    brackets = structure.replace(b",", b"")
    for _ in range(3):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    if brackets:
        raise ValueError("expected JSON of a header's shape, found brackets nested deeper or unbalanced")
    header = json.loads(
        raw.decode("utf-8"),
        object_pairs_hook=_unique,
        parse_float=_refuse_number,
        parse_constant=_refuse_number,
    )
    if not isinstance(header, dict):
        raise ValueError(f"expected a JSON object as header, found a {type(header).__name__}")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"expected every key once, found {twice!r:.200} twice")
    return result


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"expected integers only, found {text:.40}")


def _check_metadata(metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict):
        raise ValueError(f"expected __metadata__ to be an object, found a {type(metadata).__name__}")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ValueError(f"expected strings in __metadata__, found {value!r:.80} for {key!r:.200}")
    return metadata


def _check_tensors(header: Mapping[str, Any], body: memoryview) -> None:
    """Check every entry, and that together they cover ``body`` exactly, without holes or overlaps."""
    spans = []
    for key, entry in header.items():
        _check_key(key)
        try:
            spans.append((*_check_entry(entry), key, entry["dtype"]))
        except ValueError as cause:
            raise ValueError(f"tensor {key!r:.200}: {cause}") from None
    expected = 0
    for begin, end, key, dtype in sorted(spans):
        if begin != expected:
            kind = "an overlap" if begin < expected else "a hole"
            raise ValueError(f"tensor {key!r:.200}: expected data from byte {expected}, found {begin}: {kind}")
        expected = end
        if end > len(body):
            raise ValueError(f"tensor {key!r:.200}: expected data up to byte {end}, found {len(body)} bytes")
        if dtype == "BOOL" and body[begin:end].tobytes().strip(b"\x00\x01"):
            raise ValueError(f"tensor {key!r:.200}: expected BOOL bytes of 0 or 1, found others")
    if expected != len(body):
        raise ValueError(f"expected {expected} bytes of tensor data, found {len(body)}")


def _check_key(key: str) -> None:
    parts = key.replace("\\", "/").split("/")
    if not key or _CONTROL.search(key) or "\\" in key or key.startswith("/") or ".." in parts:
        raise ValueError(
            "expected tensor keys that are not empty and hold no control characters, backslashes, '..' or "
            f"absolute paths, found {key!r:.200}"
        )


def _check_entry(entry: object) -> tuple[int, int]:
    """Return the byte range of one tensor entry, whose shape and dtype fill it exactly."""
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise ValueError(f"expected the fields {sorted(_FIELDS)}, found {found!r:.200}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEMSIZE:
        raise ValueError(f"expected a dtype among {', '.join(_ITEMSIZE)}, found {dtype!r:.80}")
    if not isinstance(shape, list):
        raise ValueError(f"expected a list as shape, found {shape!r:.80}")
    numel = checked_numel(shape, _ITEMSIZE[dtype])
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(item) is not int for item in offsets):
        raise ValueError(f"expected two integers as data_offsets, found {offsets!r:.80}")
    begin, end = offsets
    if not 0 <= begin <= end:
        raise ValueError(f"expected 0 <= begin <= end as data_offsets, found {offsets}")
    if end - begin != numel * _ITEMSIZE[dtype]:
        nbytes = numel * _ITEMSIZE[dtype]
        raise ValueError(f"expected {nbytes} bytes for {dtype} {shape}, found {end - begin} in data_offsets")
    return begin, end
