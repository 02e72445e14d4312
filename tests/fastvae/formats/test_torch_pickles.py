"""Pickles that ask for anything but tensors in plain containers are refused, and nothing in them runs."""

import builtins
import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastvae.errors import UnsafeFileError
from fastvae.formats._torch import read_torch
from tests.fastvae.formats.crafted import (
    HEADERS,
    Call,
    Storage,
    assert_refused,
    legacy,
    pickled,
    saved,
    tensor,
    zipped,
)


def _refused(tmp_path: Path, content: bytes, match: str, megabytes: float = 2.0) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    assert_refused(read_torch, UnsafeFileError, path, match, megabytes)


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "zip": zipped,
    "legacy": legacy,
    "raw": lambda raw: raw,
    "legacy-magic": lambda raw: raw + HEADERS,
    "legacy-system": lambda raw: HEADERS[: HEADERS.index(b"}")] + raw,
    "legacy-keys": lambda raw: HEADERS + pickle.dumps({}, 2) + raw,
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.getattr, builtins.__import__, os.open])
def test_29_calls(container: str, protocol: int, function: Any, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    raw = pickled({"w": Call(function, f"touch {canary}", os.O_CREAT)}, protocol)
    name = f"{function.__module__}.{function.__name__}"
    if container == "legacy-system":
        raw = raw[2:]
    if protocol == 2:
        name = name.replace("builtins", "__builtin__")
    _refused(tmp_path, CONTAINERS[container](raw), f"it asks for {name}, and only|found")
    assert not canary.exists()


@pytest.mark.parametrize("writer", [True, False])
def test_29_whole_module(writer: bool, tmp_path: Path) -> None:
    content = saved(torch.nn.Linear(2, 2), _use_new_zipfile_serialization=writer)
    _refused(tmp_path, content, r"torch\.nn\.modules\.linear\.Linear")


SYSTEM = b"cposix\nsystem\n"
OPCODES = {
    "REDUCE": b"\x80\x02" + SYSTEM + b"X\x02\x00\x00\x00id\x85R.",
    "INST": b"(X\x02\x00\x00\x00idiposix\nsystem\n.",
    "OBJ": b"(" + SYSTEM + b"X\x02\x00\x00\x00ido.",
    "NEWOBJ": b"\x80\x02" + SYSTEM + b"X\x02\x00\x00\x00id\x85\x81.",
    "NEWOBJ_EX": b"\x80\x04" + SYSTEM + b")}\x92.",
    "EXT1": b"\x80\x02\x82\x01.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
    "BUILD": b"\x80\x02}" + SYSTEM + b"b.",
    "dotted": b"\x80\x04\x8c\x05torch\x8c\x0fhub.load.__call\x93.",
    "PERSID": b"\x80\x02P0\n.",
    "pseudo-global": b"\x80\x02ctorch.storage\nUntypedStorage.__init__\n.",
    "INT": b"I5\n.",
    "LONG4": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "long integer": b"\x80\x02\x8a\x0b" + b"\x01" * 11 + b".",
    "BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "BINUNICODE8": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b".",
    "BINUNICODE of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
    "LONG_BINPUT 2^31": b"\x80\x02}r\xff\xff\xff\x7f.",
    "BINGET of nothing": b"\x80\x02h\x05.",
    "surrogate": b"\x80\x02X\x03\x00\x00\x00\xed\xa0\x80.",
    "bad utf-8": b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
    "Python 2 latin-1": b"\x80\x02U\x01\xff.",
    "empty stack": b"\x80\x02.",
    "two values": b"\x80\x02NN.",
    "open mark": b"\x80\x02(N.",
    "no mark": b"\x80\x02t.",
    "no STOP": b"\x80\x02N",
    "append to None": b"\x80\x02NNa.",
    "odd items": b"\x80\x02}(Nu.",
    "same key twice": b"\x80\x02}(X\x01\x00\x00\x00aNX\x01\x00\x00\x00aNu.",
    "tuple as key": b"\x80\x02})Ns.",
    "colliding integer as key": b"\x80\x02}\x8a\x09" + b"\x01" * 9 + b"Ns.",
    "call of None": b"\x80\x02N)R.",
    "call of a storage type": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "call without a tuple": b"\x80\x02ccollections\nOrderedDict\n]R.",
    "call with too many": b"\x80\x02ccollections\nOrderedDict\nNNNN(tR.",
    "rebuild of nothing": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "a function as value": b"\x80\x02ccollections\nOrderedDict\n.",
    "a storage type as value": b"\x80\x02ctorch\nFloatStorage\n.",
    "state of a list": b"\x80\x02]}b.",
    "persistent id of None": b"\x80\x02NQ.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a dict in itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
}


@pytest.mark.parametrize("name", OPCODES)
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_29_34_pickles(name: str, container: str, tmp_path: Path) -> None:
    _refused(tmp_path, CONTAINERS[container](OPCODES[name]), "save")


@pytest.mark.parametrize("name", ["INST", "EXT1", "PERSID", "INT"])
def test_29_opcodes_by_name(name: str, tmp_path: Path) -> None:
    _refused(tmp_path, zipped(OPCODES[name]), f"only opcodes that state dicts need, found {name} at")


BOMBS = {
    "deep lists": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    "deep tuples": b"\x80\x02)" + b"\x85" * 50_000 + b".",
    "deep tuple as key": b"\x80\x02}" + b")" + b"\x85" * 50_000 + b"Ns.",
    "shared tuples": b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b".",
    "shared tuples as key": b"\x80\x02})" + b"q\x00h\x00\x86" * 200 + b"Ns.",
    "shared tuples as size": b"\x80\x02ctorch\nSize\n)" + b"q\x00h\x00\x86" * 200 + b"\x85R.",
    "shared tuples as location": b"\x80\x02(X\x07\x00\x00\x00storage))"
    + b"q\x00h\x00\x86" * 200
    + b"q\x01h\x01h\x01tQ.",
    "marks": b"\x80\x02" + b"(" * 50_000 + b".",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("container", ["zip", "legacy", "legacy-keys"])
def test_pickle_bombs(name: str, container: str, tmp_path: Path) -> None:
    _refused(tmp_path, CONTAINERS[container](BOMBS[name]), "expected", megabytes=40)


def test_opcodes_are_limited(tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(zipped(b"\x80\x02(" + b"K\x00" * 600_000 + b"t."))
    with pytest.raises(UnsafeFileError, match="at most 500000 opcodes"):
        read_torch(path)


def test_shared_tuples_as_numbers_of_a_tensor(tmp_path: Path) -> None:
    shared: Any = ()
    for _ in range(200):
        shared = (shared, shared)
    for args in ((shared, (1,), (1,)), (0, shared, (1,)), (0, (shared,), (1,)), (0, (1,), (shared,))):
        _refused(tmp_path, zipped(pickled(tensor(Storage(1), *args)), bytes(4)), "expected")
    _refused(tmp_path, zipped(pickled(tensor(Storage(shared), 0, (1,), (1,))), bytes(4)), "expected")
    _refused(tmp_path, legacy(pickled({}), shared), "keys")


def _nested(depth: int, inside: object = 0) -> object:
    for _ in range(depth):
        inside = [inside]
    return inside


def _doubled(times: int) -> object:
    value: object = 0
    for _ in range(times):
        value = (value, value)
    return value


def _cycle() -> object:
    value: list[object] = []
    value.append(value)
    return value


SHARED = _nested(40)
VALUES: dict[str, tuple[object, str]] = {
    "items of a number": (Call(OrderedDict, 5), "items as a list, found a int"),
    "items of tuples": (Call(OrderedDict, [((), 1)]), "unlike strings, found a tuple"),
    "the same item twice": (Call(OrderedDict, [("a", 1), ("a", 2)]), "unlike strings"),
    "items of one": (Call(OrderedDict, [("a",)]), "values to unpack"),
    "size of a number": (Call(torch.Size, 5), "torch.Size of integers, found a int"),
    "size of fractions": (Call(torch.Size, (1.5,)), "torch.Size of integers"),
    "device of a number": (Call(torch.device, 5), "torch.device's type and index"),
    "device index": (Call(torch.device, "cpu", "x"), "torch.device's type and index"),
    "parameter of a number": (Call(torch._utils._rebuild_parameter, 5, True, None), "parameter's tensor"),
    "too deep": (_nested(66), "nested at most 64 deep"),
    "too deep at the second place": ([SHARED, _nested(40, SHARED)], "nested at most 64 deep"),
    "too many values written out": (_doubled(30), "at most 500000 values"),
    "a cycle": (_cycle(), "or a cycle"),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_values(name: str, container: str, tmp_path: Path) -> None:
    value, match = VALUES[name]
    _refused(tmp_path, CONTAINERS[container](pickled(value)), match)


def test_the_deepest_value_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep.pt"
    path.write_bytes(zipped(pickled(_nested(63))))
    assert read_torch(path) == _nested(63)


def test_storages_in_a_header(tmp_path: Path) -> None:
    _refused(tmp_path, b"\x80\x02NQ." + legacy(pickled({})), "before and after the saved object")


def test_neither_zip_nor_pickle(tmp_path: Path) -> None:
    _refused(tmp_path, b"<!DOCTYPE html>", "found a file that begins with b'<!DOCTYP'")
