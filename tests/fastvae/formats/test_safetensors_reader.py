"""The safetensors reader gives good files unchanged and refuses every malformed one by name."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvae.errors import WeightFormatError
from fastvae.formats._safetensors import read_safetensors
from tests.fastvae.formats.crafted import assert_refused, bounded

DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
]


def _entry(shape: Any = (2,), begin: Any = 0, end: Any = 8, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _file(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def _refused(tmp_path: Path, content: bytes, match: str, megabytes: float = 2.0) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    assert_refused(read_safetensors, WeightFormatError, path, match, megabytes)


def test_good_file_is_read_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {str(d): torch.randint(0, 2, (3, 5)).to(d) for d in DTYPES}
    tensors |= {"scalar": torch.tensor(1.5), "none": torch.empty(0, 7), "nan": torch.tensor([float("nan")])}
    path = tmp_path / "good.safetensors"
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt", "note": 'é {["\\'})
    file = read_safetensors(path)
    assert file.metadata == {"format": "pt", "note": 'é {["\\'}
    assert file.tensors.keys() == tensors.keys()
    for key, expected in tensors.items():
        found = file.tensors[key]
        assert (found.dtype, found.shape, found.requires_grad) == (expected.dtype, expected.shape, False)
        assert found.reshape(-1).view(torch.uint8).equal(expected.reshape(-1).view(torch.uint8))


def test_tensors_share_no_memory_with_each_other(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(_file({"a": _entry(), "b": _entry(begin=8, end=16)}, bytes(16)))
    tensors = read_safetensors(path).tensors
    tensors["a"].fill_(1.0)
    assert tensors["b"].eq(0).all()


def test_offsets_in_another_order_than_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    header = {"late": _entry(begin=8, end=16), "none": _entry([0], 8, 8), "early": _entry()}
    path.write_bytes(_file(header, struct.pack("<4f", 1, 2, 3, 4)))
    tensors = read_safetensors(path).tensors
    assert list(tensors) == ["late", "none", "early"]
    assert tensors["late"].tolist() == [3, 4]


TWO = {"a": _entry(), "b": _entry(begin=8, end=16)}
PLAIN = json.dumps({"a": _entry()}).encode()

MALFORMED = {
    "01-empty": (b"", "at least the 8 bytes"),
    "01-seven-bytes": (b"1234567", "at least the 8 bytes"),
    "02-header-beyond-file": (_file(PLAIN, length=500), "only [0-9]+ follow"),
    "03-header-2^63": (_file(PLAIN, length=2**63), "1 to 100000000 bytes"),
    "04-header-over-100MB": (_file(PLAIN, length=100_000_001), "found a length of 100000001"),
    "05-zero-length-header": (_file(b"", bytes(8)), "found a length of 0"),
    "06-not-utf8": (_file(b'{"\xff": 1}'), "utf-8"),
    "07-not-json": (_file(b"not json"), "Expecting value"),
    "07-an-array": (_file(b"[1, 2]"), "found a list"),
    "07-a-number": (_file(b"12345678"), "found a int"),
    "07-cut-short": (_file(PLAIN[:-1], bytes(8)), "unbalanced"),
    "07-two-documents": (_file(PLAIN + PLAIN, bytes(8)), "Extra data"),
    "08-deep-lists": (_file(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "JSON tokens"),
    "08-deep-objects": (_file(b'{"a":' * 200_000 + b"1" + b"}" * 200_000), "JSON tokens"),
    "08-objects-within-the-token-cap": (_file(b'{"a":' * 40_000 + b"1" + b"}" * 40_000), "nested deeper"),
    "08-deep-unclosed": (_file(b"[" * 200_000), "nested deeper"),
    "08-unclosed-strings": (_file(b'{"a' + b'\\"' * 200_000), "unbalanced"),
    "09-truncated": (_file({"a": _entry()}, bytes(7)), "up to byte 8, found 7"),
    "10-trailing": (_file({"a": _entry()}, bytes(9)), "expected 8 bytes of tensor data, found 9"),
    "11-overlap": (_file({"a": _entry(), "b": _entry(begin=4, end=12)}, bytes(12)), "an overlap"),
    "11-same-range": (_file({"a": _entry(), "b": _entry()}, bytes(8)), "an overlap"),
    "12-hole": (_file({"a": _entry(), "b": _entry(begin=12, end=20)}, bytes(20)), "a hole"),
    "12-hole-at-start": (_file({"a": _entry(begin=4, end=12)}, bytes(12)), "a hole"),
    "13-negative": (_file({"a": _entry(begin=-8, end=0)}, bytes(8)), "0 <= begin <= end"),
    "13-reversed": (_file({"a": _entry(begin=8, end=0)}, bytes(8)), "0 <= begin <= end"),
    "13-three-offsets": (_file({"a": {**_entry(), "data_offsets": [0, 4, 8]}}, bytes(8)), "two integers"),
    "13-bool-offset": (_file({"a": _entry(begin=False)}, bytes(8)), "two integers"),
    "13-float-offset": (_file({"a": _entry(end=8.0)}, bytes(8)), "integers only, found 8.0"),
    "14-shape-too-large": (_file({"a": _entry([3])}, bytes(8)), "expected 12 bytes"),
    "14-dtype-too-narrow": (_file({"a": _entry(dtype="F16")}, bytes(8)), "expected 4 bytes"),
    "15-product-overflow": (_file({"a": _entry([2**40, 2**40])}, bytes(8)), "addressable"),
    "15-wraps-to-eight": (_file({"a": _entry([2**63, 2])}, bytes(8)), "addressable"),
    "15-huge-integer": (_file(PLAIN.replace(b"[2]", b"[" + b"9" * 5000 + b"]")), "integer string"),
    "16-negative-dimension": (_file({"a": _entry([-2])}, bytes(8)), "found -2"),
    "16-two-negatives": (_file({"a": _entry([-1, -2])}, bytes(8)), "found -1"),
    "16-fraction": (_file({"a": _entry([2.5])}, bytes(8)), "integers only, found 2.5"),
    "16-nan": (_file({"a": _entry([float("nan")])}, bytes(8)), "integers only, found NaN"),
    "16-bool-dimension": (_file({"a": _entry([True], end=4)}, bytes(4)), "found True"),
    "16-string-dimension": (_file({"a": _entry(["2"])}, bytes(8)), "found a str"),
    "16-no-list": (_file({"a": _entry(2)}, bytes(8)), "expected a list as shape"),
    "17-unknown-dtype": (_file({"a": _entry(dtype="F33")}, bytes(8)), "BF16.*found 'F33'"),
    "17-packed-dtype": (_file({"a": _entry(dtype="F4", shape=[16])}, bytes(8)), "found 'F4'"),
    "17-complex-dtype": (_file({"a": _entry(dtype="C64", shape=[1])}, bytes(8)), "found 'C64'"),
    "17-number-as-dtype": (_file({"a": _entry(dtype=[])}, bytes(8)), "found \\[\\]"),
    "17-missing-dtype": (_file({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "expected the fields"),
    "17-extra-field": (_file({"a": {**_entry(), "x": 1}}, bytes(8)), "expected the fields"),
    "17-no-object": (_file({"a": 5}, bytes(8)), "found 'int'"),
    "18-duplicate-key": (_file(PLAIN[:-1] + b"," + PLAIN[1:], bytes(8)), "found 'a' twice"),
    "18-escaped-duplicate": (_file(PLAIN[:-1] + b',"\\u0061"' + PLAIN[4:], bytes(8)), "found 'a' twice"),
    "18-duplicate-field": (_file(PLAIN.replace(b"}}", b',"dtype":"F32"}}'), bytes(8)), "'dtype' twice"),
    "18-duplicate-metadata": (
        _file(b'{"__metadata__":{},"__metadata__":{},' + PLAIN[1:], bytes(8)),
        "'__metadata__' twice",
    ),
    "19-rank-9": (_file({"a": _entry([2] + [1] * 8)}, bytes(8)), "at most 8 dimensions, found 9"),
    "19-rank-10001": (_file({"a": _entry([1] * 10_001, end=4)}, bytes(4)), "found 10001"),
    "19-zero-by-2^62": (_file({"a": _entry([0, 2**62], end=0)}), "addressable"),
    "20-empty-key": (_file({"": _entry()}, bytes(8)), "not empty"),
    "20-nul": (_file({"a\0b": _entry()}, bytes(8)), "control characters"),
    "20-newline": (_file({"a\nb": _entry()}, bytes(8)), "control characters"),
    "20-traversal": (_file({"../../etc/passwd": _entry()}, bytes(8)), "'\\.\\.'"),
    "20-absolute": (_file({"/etc/passwd": _entry()}, bytes(8)), "absolute"),
    "20-backslash": (_file({"..\\x": _entry()}, bytes(8)), "backslashes"),
    "20-surrogate": (_file(PLAIN.replace(b'"a"', b'"\\ud800"'), bytes(8)), "not a valid safetensors file"),
    "21-no-tensors": (_file({}), "at least one tensor"),
    "21-only-metadata": (_file({"__metadata__": {"a": "b"}}), "at least one tensor"),
    "23-bool-of-7": (_file({"a": _entry(dtype="BOOL", end=2)}, b"\x01\x07"), "BOOL bytes of 0 or 1"),
    "23-bool-in-the-middle": (_file({"a": _entry([3], dtype="BOOL", end=3)}, b"\x00\x02\x01"), "BOOL bytes"),
    "metadata-number": (_file({"__metadata__": {"a": 1}, **TWO}, bytes(16)), "strings in __metadata__"),
    "metadata-list": (_file({"__metadata__": ["a"], **TWO}, bytes(16)), "__metadata__ to be an object"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str, tmp_path: Path) -> None:
    content, match = MALFORMED[name]
    _refused(tmp_path, content, match, megabytes=40)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":[' + b"[]," * 1_000_000 + b"[]]}",
        b'{"a":[' + b"1," * 1_000_000 + b"1]}",
        b'{"__metadata__":{' + b'"" ,' * 1_000_000 + b"}}",
    ],
    ids=["lists", "numbers", "strings"],
)
def test_a_header_that_swells_when_parsed(header: bytes, tmp_path: Path) -> None:
    _refused(tmp_path, _file(header), "JSON tokens|quotes")


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":[' + b"[]," * 80_000 + b"[]]}",
        b'{"a":{' + b",".join(b'"%d":300' % i for i in range(120_000)) + b"}}",
    ],
    ids=["lists", "keys"],
)
def test_the_largest_header_stays_bounded(header: bytes, tmp_path: Path) -> None:
    _refused(tmp_path, _file(header), "expected the fields", megabytes=50)


def test_many_tensors(tmp_path: Path) -> None:
    path = tmp_path / "many.safetensors"
    path.write_bytes(_file({f"t{i}": _entry([0], 0, 0) for i in range(3000)}))
    assert len(read_safetensors(path).tensors) == 3000


GOOD = _file(
    {"__metadata__": {"k": "v"}, "w": _entry([2, 2], 0, 16), "b": _entry([3], 16, 19, "BOOL")},
    bytes(range(16)) + b"\x00\x01\x00",
)


@st.composite
def _damaged(draw: st.DrawFn, good: bytes) -> bytes:
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "delete", "digit"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "digit" and at < len(data):
            data[at] = draw(st.sampled_from(b'0123456789-.{}[]",e'))
        else:
            del data[at : at + draw(st.integers(1, 8))]
    return bytes(data)


@settings(max_examples=400, deadline=None, database=None)
@given(content=_damaged(GOOD))
def test_damaged_files_give_tensors_or_the_error(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content)
    with bounded(megabytes=1.0):
        try:
            tensors = read_safetensors(path).tensors
        except WeightFormatError:
            tensors = {}
    assert sum(t.numel() * t.itemsize for t in tensors.values()) <= len(content)


@settings(max_examples=100, deadline=None, database=None)
@given(
    header=st.recursive(
        st.none() | st.booleans() | st.integers(-8, 2**70) | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]), inner)
        ),
    ),
    body=st.binary(max_size=16),
)
def test_any_json_gives_tensors_or_the_error(
    header: object, body: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "json.safetensors"
    path.write_bytes(_file(header, body))
    with bounded(megabytes=1.0), pytest.raises(WeightFormatError):
        read_safetensors(path)
