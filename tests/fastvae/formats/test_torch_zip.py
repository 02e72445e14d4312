"""Zip archives that torch.save would not write are refused before anything in them is used."""

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fastvae.errors import UnsafeFileError
from fastvae.formats._torch import read_torch
from fastvae.formats._torch_zip import read_records
from tests.fastvae.formats.crafted import assert_refused, zipped

RAW = pickle.dumps({"epoch": 3}, 2)


ONE = zipped(RAW, bytes(range(16)))


def test_records_by_name() -> None:
    records = read_records(ONE)
    assert {name: bytes(content) for name, content in records.items()} == {"data.pkl": RAW, "data/0": bytes(range(16))}


def _refused(tmp_path: Path, content: bytes, match: str, megabytes: float = 2.0) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    assert_refused(read_torch, UnsafeFileError, path, match, megabytes)


def _with_entry(change: Callable[[zipfile.ZipFile], object]) -> bytes:
    file = io.BytesIO(ONE)
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "a") as archive:
        change(archive)
    return file.getvalue()


def _patched(offset: int, value: bytes, *, directory: bool, entry: int = 1, content: bytes = ONE) -> bytes:
    """Overwrite bytes of the header that entry number ``entry`` has locally or in the directory."""
    data, at = bytearray(content), -1
    for _ in range(entry + 1):
        at = data.index(b"PK\x01\x02" if directory else b"PK\x03\x04", at + 1)
    data[at + offset : at + offset + len(value)] = value
    return bytes(data)


def _swapped(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new)


def _overlapping() -> bytes:
    """Make the directory's second entry, all of whose headers agree, lie inside the first one's data."""
    inner = zipped(b"x", b"y")
    inner_entry = inner[inner.index(b"PK\x03\x04", 4) : inner.index(b"PK\x01\x02")]
    outer = zipped(b"12345678" + inner_entry, b"y")
    at = outer.index(inner_entry)
    return _patched(42, struct.pack("<I", at), directory=True, content=outer)


def _longer() -> bytes:
    """State, in both headers of the last entry, 100 bytes more than lie before the directory."""
    sizes = struct.pack("<II", 116, 116)
    return _patched(18, sizes, directory=False, content=_patched(20, sizes, directory=True))


ARCHIVES = {
    "deflated": (zipped(RAW, bytes(64), compression=zipfile.ZIP_DEFLATED), "stored bytes, found compression method 8"),
    "deflated bomb": (
        zipped(RAW, bytes(50_000_000), compression=zipfile.ZIP_DEFLATED),
        "stored bytes, found compression method 8",
    ),
    "size beyond the file": (_patched(20, struct.pack("<II", 2**30, 2**30), directory=True), "header to agree"),
    "sizes differ": (_patched(24, struct.pack("<I", 2**30), directory=True), "stored bytes"),
    "method in the header": (_patched(8, b"\x08", directory=False), "header to agree"),
    "data beyond the directory": (_longer(), "expected 116 bytes in the file, found 16"),
    "size in the header": (_patched(22, b"\x05", directory=False), "header to agree"),
    "checksum in the header": (_patched(14, b"\0\0\0\0", directory=False), "header to agree"),
    "name in the header": (_patched(30, b"A", directory=False), "same name"),
    "no header": (_patched(0, b"XXXX", directory=False), "header to agree"),
    "header beyond the file": (_patched(42, struct.pack("<I", 2**31), directory=True), "before the directory"),
    "encrypted": (_patched(8, b"\x01", directory=True), "encryption"),
    "strong encryption": (_patched(8, b"\x40", directory=True), "encryption"),
    "patch data": (_patched(8, b"\x20", directory=True), "patches"),
    "overlap": (_overlapping(), "side by side"),
    "same place twice": (_patched(42, b"\0\0\0\0", directory=True), "side by side|same name"),
    "twice": (_with_entry(lambda a: a.writestr("archive/data/0", b"x")), "twice"),
    "traversal": (_with_entry(lambda a: a.writestr("archive/../../evil", b"x")), "found 'archive/../../evil'"),
    "absolute": (_with_entry(lambda a: a.writestr("/evil/x", b"x")), "found '/evil/x'"),
    "backslash": (_with_entry(lambda a: a.writestr("archive/..\\evil", b"x")), "folder/record"),
    "control character": (_with_entry(lambda a: a.writestr("archive/a\nb", b"x")), "folder/record"),
    "nul": (_swapped(ONE, b"archive/data/0", b"archive/data\x000"), "folder/record"),
    "folder entry": (_with_entry(lambda a: a.writestr("archive/x/", b"")), "folder/record"),
    "no folder": (_with_entry(lambda a: a.writestr("loose", b"x")), "folder/record"),
    "two folders": (_with_entry(lambda a: a.writestr("other/x", b"x")), "one top folder"),
    "trailing bytes": (ONE + b"x", "truncated or extended"),
    "comment": (_with_entry(lambda a: setattr(a, "comment", b"hello")), "truncated or extended"),
    "prefixed": (b"PK\x03\x04junk" + ONE, "found none or bytes before it"),
    "no entries": (b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18), "found none or bytes before it"),
    "no data.pkl": (zipped(b"").replace(b"data.pkl", b"date.pkl"), "without data.pkl"),
    "bytes after the pickle": (zipped(RAW + b"x"), "to end at byte"),
    "TorchScript": (zipped(RAW, **{"constants.pkl": b"", "code/a.py": b""}), "TorchScript"),
    "code": (zipped(RAW, **{"code/a.py": b""}), "TorchScript"),
    "big-endian": (zipped(RAW, byteorder=b"big"), "little-endian tensors, found byte order b'big'"),
    "33 checksum": (_swapped(ONE, bytes(range(16)), bytes(range(15)) + b"\0"), "expected the checksum"),
    "many entries": (zipped(RAW, *[b""] * 12_200), "at most 12100 zip entries"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_30_33_archives(name: str, tmp_path: Path) -> None:
    _refused(tmp_path, *ARCHIVES[name])


def test_33_every_bit_of_the_data_is_checked(tmp_path: Path) -> None:
    at = ONE.index(bytes(range(16)))
    for bit in range(0, 128, 7):
        data = bytearray(ONE)
        data[at + bit // 8] ^= 1 << bit % 8
        _refused(tmp_path, bytes(data), "expected the checksum")
