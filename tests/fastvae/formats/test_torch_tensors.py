"""Tensors and storages that a file describes wrongly, or that cost more than the file justifies, are refused."""

import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastvae.errors import UnsafeFileError
from fastvae.formats import _storages
from fastvae.formats._torch import read_torch
from tests.fastvae.formats.crafted import (
    Call,
    Storage,
    assert_refused,
    legacy,
    pickled,
    saved,
    tensor,
    tensor_v3,
    zipped,
)


def _refused(tmp_path: Path, content: bytes, match: str, megabytes: float = 2.0) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    assert_refused(read_torch, UnsafeFileError, path, match, megabytes)


ONE = zipped(pickled({"w": tensor(Storage(4), 0, (2, 2), (2, 1))}), bytes(range(16)))


def test_the_crafted_file_is_good(tmp_path: Path) -> None:
    path = tmp_path / "good.pt"
    path.write_bytes(ONE)
    found = read_torch(path)
    assert isinstance(found, dict)
    assert found["w"].shape == (2, 2)


def _tensor_files() -> dict[str, tuple[bytes, str]]:
    four = Storage(4)
    cases = {
        "stride 0 to 10^9": (tensor(four, 0, (10**9,), (0,)), "within its storage of 4 elements"),
        "stride 0, 3 elements more": (tensor(four, 0, (7,), (0,)), "within its storage"),
        "past the end": (tensor(four, 1, (4,), (1,)), "within its storage"),
        "stride past the end": (tensor(four, 0, (2,), (4,)), "within its storage"),
        "offset past the end": (tensor(four, 4, (1,), (1,)), "within its storage"),
        "offset of an empty tensor": (tensor(four, 5, (0,), (1,)), "within its storage"),
        "negative offset": (tensor(four, -1, (4,), (1,)), "integers from 0"),
        "negative stride": (tensor(four, 3, (4,), (-1,)), "integers from 0"),
        "negative size": (tensor(four, 0, (-4,), (1,)), "found -4"),
        "bool size": (tensor(four, 0, (True,), (1,)), "found True"),
        "float size": (tensor(four, 0, (4.0,), (1,)), "found 4.0"),
        "float offset": (tensor(four, 0.0, (4,), (1,)), "integers from 0"),
        "list size": (tensor(four, 0, [4], [1]), "size and stride"),
        "rank mismatch": (tensor(four, 0, (2, 2), (1,)), "stride for each of 2"),
        "rank 9": (tensor(four, 0, (1,) * 9, (1,) * 9), "at most 8 dimensions"),
        "product overflow": (tensor(four, 0, (2**40, 2**40), (1, 1)), "addressable"),
        "zero by 2^62": (tensor(four, 0, (0, 2**62), (1, 1)), "addressable"),
        "stride overflow": (tensor(four, 0, (1,), (2**79,)), "integers from 0"),
        "hooks": (tensor(four, 0, (4,), (1,), OrderedDict(a=1)), "hooks"),
        "negated": (tensor(four, 0, (4,), (1,), None, {"neg": True}), "negation"),
        "no storage": (tensor(None, 0, (4,), (1,)), "size and stride"),
        "meta storage": (tensor(Storage(4, location="meta"), 0, (4,), (1,)), "meta device"),
        "storage over the record": (tensor(Storage(5), 0, (4,), (1,)), "expected 20 bytes"),
        "storage under the record": (tensor(Storage(3), 0, (3,), (1,)), "expected 12 bytes"),
        "storage of 4 TiB": (tensor(Storage(2**40), 0, (4,), (1,)), "no larger than the file"),
        "storage of 2^62": (tensor(Storage(2**62), 0, (4,), (1,)), "addressable"),
        "negative storage": (tensor(Storage(-4), 0, (4,), (1,)), "found -4"),
        "storage without a record": (tensor(Storage(4, key="9"), 0, (4,), (1,)), "found none"),
        "storage elsewhere": (tensor(Storage(4, key="../data.pkl"), 0, (4,), (1,)), "found none"),
        "storage key a number": (tensor(Storage(4, key=0), 0, (4,), (1,)), "type, key and location"),
        "storage type a dtype": (tensor(Storage(4, torch.float32), 0, (4,), (1,)), "type, key and location"),
        "two types": ([four, Storage(4, torch.IntStorage)], "one type and size"),
        "two sizes": ([four, Storage(2)], "one type and size"),
        "a storage as value": ([four], "found a StorageView"),
        "untyped without dtype": (tensor(Storage(16, torch.UntypedStorage), 0, (4,), (1,)), "found None"),
        "two dtypes": (
            [
                tensor_v3(Storage(16, torch.UntypedStorage), (8,), torch.uint16),
                tensor_v3(Storage(16, torch.UntypedStorage), (4,), torch.uint32),
            ],
            "one dtype per storage",
        ),
        "dtype a number": (tensor_v3(four, (4,), 5), "expected a tensor's dtype"),
        "bools over 1": (tensor(Storage(16, torch.BoolStorage), 0, (16,), (1,)), "bool bytes of 0 or 1"),
    }
    return {name: (zipped(pickled(value), bytes(range(16))), match) for name, (value, match) in cases.items()}


TENSORS = _tensor_files()


@pytest.mark.parametrize("name", TENSORS)
def test_31_32_tensors(name: str, tmp_path: Path) -> None:
    _refused(tmp_path, *TENSORS[name])


def test_23_bool_bytes_of_an_untyped_storage(tmp_path: Path) -> None:
    value = tensor_v3(Storage(2, torch.UntypedStorage), (2,), torch.bool)
    _refused(tmp_path, zipped(pickled(value), b"\x01\x02"), "bool bytes")


def _quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: torch.eye(3).to_sparse(), "a sparse tensor"),
        (lambda: torch.eye(3).to_sparse_csr(), "a sparse tensor"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "a nested tensor"),
        (_quantised, "a quantised tensor"),
        (lambda: torch.ones(4, device="meta"), "a meta tensor"),
        (lambda: torch.ones(4, dtype=torch.complex64), "a complex tensor"),
        (lambda: torch.ones(4, dtype=torch.complex128), "a complex tensor"),
        (lambda: torch.ones(4, dtype=torch.complex64).conj(), "a complex tensor"),
        (lambda: torch.ones(4).to(torch.float8_e4m3fn), "Float8|float8"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_31_kinds_of_tensors(make: Callable[[], torch.Tensor], kind: str, new: bool, tmp_path: Path) -> None:
    _refused(tmp_path, saved({"w": make()}, _use_new_zipfile_serialization=new), f"it asks for torch.*{kind}")


def test_32_many_tensors_on_one_storage(tmp_path: Path) -> None:
    shared = Storage(250_000)
    one = tensor(shared, 0, (250_000,), (1,))
    for value in ([tensor(shared, 0, (250_000,), (1,)) for _ in range(1000)], [one] * 1000, [[one] * 40] * 40):
        _refused(tmp_path, zipped(pickled(value), bytes(1_000_000)), "16 times the file's")


def test_32_too_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_storages, "MAX_RECORDS", 40)
    value = [tensor(Storage(1), 0, (), ()) for _ in range(41)]
    _refused(tmp_path, zipped(pickled(value), bytes(4)), "at most 40 tensors, found more")


def test_32_too_many_storages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_storages, "MAX_RECORDS", 40)
    value = [Storage(1, key=str(i)) for i in range(41)]
    _refused(tmp_path, zipped(pickled(value), bytes(164)), "at most 40 storages, found more")


def test_views_start_on_an_element(tmp_path: Path) -> None:
    view = Storage(16, torch.UntypedStorage, view=(("v", 1, 8),))
    _refused(tmp_path, zipped(pickled(tensor_v3(view, (4,), torch.uint16)), bytes(16)), "starts on an element")


def _legacy_files() -> dict[str, tuple[bytes, str]]:
    raw, four = pickled({"w": tensor(Storage(4), 0, (4,), (1,))}), bytes(16)
    good = legacy(raw, ("0",), four)
    return {
        "no storages": (legacy(raw), "keys of the 1 storages"),
        "another key": (legacy(raw, ("1",), four), "keys of the 1 storages"),
        "a key twice": (legacy(raw, ("0", "0"), four, four), "keys of the 1 storages"),
        "keys as dict": (legacy(raw, {"0": 0}, four), "keys of the 1 storages"),
        "keys as numbers": (legacy(raw, (0,), four), "keys of the 1 storages"),
        "fewer elements": (legacy(raw, ("0",), bytes(12)), "expected 4 elements in storage '0', found 3"),
        "negative elements": (good[:-24] + struct.pack("<q", -4) + four, "found -4"),
        "truncated": (good[:-1], "expected 16 bytes for storage '0', found 15"),
        "trailing": (good + b"x", "expected the data to end at byte"),
        "big-endian": (good.replace(b"\x88s", b"\x89s", 1), "little-endian"),
        "no system": (good.replace(b"little_endian", b"middle_endian", 1), "little-endian"),
        "another magic": (good.replace(b"\x6c\xfc", b"\x6d\xfc", 1), "magic number"),
        "another version": (good.replace(b"M\xe9\x03", b"M\xea\x03", 1), "protocol version"),
        "a plain pickle": (pickle.dumps([1, 2, 3], 2), "magic number"),
        "view a number": (
            legacy(pickled(tensor(Storage(4, view=(5,)), 0, (3,), (1,))), ("0",), four),
            "view as key, offset and size",
        ),
        "view past the end": (legacy(pickled(_view(2, 3)), ("0",), four), "view within 16 bytes"),
        "view before the start": (legacy(pickled(_view(-1, 2)), ("0",), four), "non-negative"),
        "view of a view": (legacy(pickled(_view(0, (1,))), ("0",), four), "non-negative"),
        "tensor past its view": (legacy(pickled(_view(1, 2)), ("0",), four), "storage of 2 elements"),
        "bools over 1": (legacy(pickled([Storage(16, torch.BoolStorage)]), ("0",), bytes(63) + b"x"), "found"),
    }


def _view(offset: Any, numel: Any) -> Call:
    return tensor(Storage(4, view=(("v", offset, numel),)), 0, (3,), (1,))


LEGACY = _legacy_files()


@pytest.mark.parametrize("name", LEGACY)
def test_legacy_files(name: str, tmp_path: Path) -> None:
    _refused(tmp_path, *LEGACY[name])


@pytest.mark.parametrize(
    "content",
    [b"", b"P", b"\x80", b"PK\x03\x04", b"<!DOCTYPE html>", b"\x93NUMPY\x01\x00", b"\xff" * 100, b"\x80\x02\x8a"],
)
def test_34_not_a_checkpoint(content: bytes, tmp_path: Path) -> None:
    _refused(tmp_path, content, "expected")


@pytest.mark.parametrize("new", [True, False])
def test_34_truncations(new: bool, tmp_path: Path) -> None:
    whole = saved({"w": torch.arange(4.0), "b": torch.ones(2)}, _use_new_zipfile_serialization=new)
    path = tmp_path / "cut.pt"
    for size in [*range(0, len(whole), 5), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(UnsafeFileError, match="expected"):
            read_torch(path)
