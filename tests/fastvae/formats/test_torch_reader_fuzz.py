"""Whatever the bytes, the torch reader gives plain data or its one error, in little memory."""

import io
import tracemalloc
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvae.errors import UnsafeFileError
from fastvae.formats._torch import read_torch
from tests.fastvae.formats.crafted import saved

VALUE = {
    "w": torch.arange(6.0).reshape(2, 3),
    "b": torch.nn.Parameter(torch.ones(2)),
    "mask": torch.tensor([True, False]),
    "raw": torch.arange(3).to(torch.uint16),
    "meta": {"epoch": 3, "lr": [0.1, None, (1, 2)], "size": torch.Size([1]), "dtype": torch.float32},
}


ZIP, LEGACY = saved(VALUE), saved(VALUE, _use_new_zipfile_serialization=False)
with zipfile.ZipFile(io.BytesIO(ZIP)) as _archive:
    RECORDS = {name: _archive.read(name) for name in _archive.namelist()}
PICKLE = next(name for name in RECORDS if name.endswith("data.pkl"))
FUNCTIONS = (
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch\nSize\n",
    b"ctorch\ndevice\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch.storage\nUntypedStorage\n",
    b"ctorch\nfloat32\n",
    b"cposix\nsystem\n",
)
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
OPCODES = (*b"N\x88\x89]})(tau0Rsbeqh2Q\x85\x86\x87\x94\x93\x81",)


@st.composite
def _damaged(draw: st.DrawFn, good: bytes) -> bytes:
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "delete", "copy"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "copy":
            source = draw(st.integers(0, len(data)))
            data[at:at] = data[source : source + draw(st.integers(1, 30))]
        else:
            del data[at : at + draw(st.integers(1, 8))]
    return bytes(data)


def _repacked(raw: bytes) -> bytes:
    """Put another pickle into the archive, with the right checksum, so that damage reaches the reader."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in RECORDS.items():
            archive.writestr(name, raw if name == PICKLE else content)
    return file.getvalue()


def _programs() -> st.SearchStrategy[bytes]:
    part = st.one_of(
        st.sampled_from(OPCODES).map(lambda code: bytes([code])),
        st.sampled_from(FUNCTIONS),
        st.just(STORAGE),
        st.integers(0, 255).map(lambda n: b"K" + bytes([n])),
        st.integers(0, 20).map(lambda n: b"q" + bytes([n])),
        st.integers(0, 20).map(lambda n: b"h" + bytes([n])),
        st.just(b"K\x02\x85"),
    )
    return st.lists(part, max_size=30).map(lambda parts: b"\x80\x02" + b"".join(parts) + b".")


def _check(content: bytes, factory: pytest.TempPathFactory) -> None:
    path = factory.getbasetemp() / "fuzzed.pt"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        try:
            value = read_torch(path)
        except UnsafeFileError:
            value = None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1e6 + 10 * len(content)
    _walk(value, 16 * len(content))


def _walk(value: object, budget: int) -> int:
    """Touch every byte of every tensor; return what remains of the budget."""
    if isinstance(value, torch.Tensor):
        budget -= len(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            budget = _walk(item, budget)
    else:
        assert value is None or isinstance(value, str | int | float | torch.dtype)
    assert budget >= 0
    return budget


@settings(max_examples=200, deadline=None, database=None)
@given(content=_damaged(ZIP))
def test_damaged_archives(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    _check(content, tmp_path_factory)


@settings(max_examples=200, deadline=None, database=None)
@given(content=_damaged(LEGACY))
def test_damaged_legacy_files(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    _check(content, tmp_path_factory)


@settings(max_examples=200, deadline=None, database=None)
@given(raw=_damaged(RECORDS[PICKLE]))
def test_damaged_pickles_in_sound_archives(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    _check(_repacked(raw), tmp_path_factory)


@settings(max_examples=200, deadline=None, database=None)
@given(raw=_programs())
def test_random_programs(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    _check(_repacked(raw), tmp_path_factory)


@settings(max_examples=100, deadline=None, database=None)
@given(content=st.binary(max_size=200), magic=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02"]))
def test_noise(content: bytes, magic: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    _check(magic + content, tmp_path_factory)
