"""``.npy`` and ``.npz`` files, sound and hostile."""

import io
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fastvae.errors import InputError
from fastvae.files import ReadOptions, open_source
from fastvae.files._numpy import read_npy, read_npz


def _npy(shape: str, descr: str = "'<f4'", data: bytes = b"") -> bytes:
    """An .npy file whose header says whatever the test wants."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def _npz(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def _bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", "<i8", "|u1", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_reads_what_numpy_wrote(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.asarray(np.arange(24).reshape(4, 6), dtype=dtype, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", array)
    found = read_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert not found.flags.writeable


def test_npy_is_not_loaded(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(_npy("(8388608, 8)"))
        file.truncate(file.tell() + 8388608 * 32)
    tracemalloc.start()
    try:
        source = open_source(tmp_path / "a.npy")
        assert source.block(8388600, 8388608).sum() == 0
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(0, 3), (0,), (2, 0)])
def test_npy_without_elements(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.empty(shape, np.float32))
    assert read_npy(tmp_path / "a.npy").shape == shape


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an .npy array"),
        (b"\x93NUMPY\x01\x00\xff\xff", "expected an .npy array"),
        (b"PK\x03\x04", "expected an .npy array"),
        (_npy("(1,)", "'|O'", b"12345678"), "dtype object"),
        (_npy("(1,)", "[('a', '<f4')]", b"1234"), "array of numbers"),
        (_npy("(1,)", "'<U1'", b"1234"), "array of numbers"),
        (_npy("(1,)", "'<c8'", b"12345678"), "array of numbers"),
        (_npy(f"({2**50},)"), "but 0 bytes follow"),
        (_npy(f"({2**40}, {2**40})"), "but 0 bytes follow"),
        (_npy("(2,)", data=b"1234"), "but 4 bytes follow"),
        (_npy("(2,)", data=b"123456789"), "but 9 bytes follow"),
        (_npy("(-1,)", data=b"1234"), "shape"),
        (_npy("(1.5,)", data=b"1234"), "expected an .npy array"),
        (_npy("__import__('os')"), "expected an .npy array"),
        (_npy("(" * 300), "expected an .npy array"),
    ],
)
def test_npy_refuses(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_npy(path)
    assert "bad.npy" in str(caught.value)


def test_npy_refuses_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.npy")
    with pytest.raises(InputError, match="regular file"):
        open_source(tmp_path / "fifo.npy")
    with pytest.raises(InputError, match="no such file"):
        open_source(tmp_path / "nothing.npy")


def test_npz_by_key(tmp_path: Path) -> None:
    first, second = np.arange(6.0).reshape(2, 3), np.arange(4.0, dtype=np.float32)
    np.savez_compressed(tmp_path / "a.npz", first=first, second=np.asfortranarray(second.reshape(2, 2)))
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz"), first)
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz", "second"), second.reshape(2, 2))
    with pytest.raises(InputError, match="no array 'third', only 'first', 'second'"):
        read_npz(tmp_path / "a.npz", "third")


@pytest.mark.parametrize("name", ["../../evil.npy", "/etc/evil.npy", "..\\evil.npy", "C:evil.npy"])
def test_npz_refuses_unsafe_names(tmp_path: Path, name: str) -> None:
    path = _npz(tmp_path / "a.npz", {"x.npy": _bytes(np.ones(3)), name: b""})
    with pytest.raises(InputError, match="unsafe"):
        read_npz(path)


def test_npz_refuses_a_bomb_before_inflating_it(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        member.write(_npy("(18350080,)"))
        for _ in range(70):
            member.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="would unpack to"):
            read_npz(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_npz_refuses_a_member_of_another_size_than_it_declares(tmp_path: Path) -> None:
    path = _npz(tmp_path / "a.npz", {"x.npy": _npy(f"({2**50},)", data=b"1234")})
    with pytest.raises(InputError, match="but 4 bytes follow"):
        read_npz(path)


def test_npz_refuses_a_central_directory_that_lies(tmp_path: Path) -> None:
    path = _npz(tmp_path / "a.npz", {"x.npy": _bytes(np.zeros(1000, np.float32))})
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    size = struct.unpack_from("<I", data, directory + 24)[0]
    struct.pack_into("<I", data, directory + 24, size + 4)
    path.write_bytes(data)
    with pytest.raises(InputError):
        read_npz(path)


def test_npz_refuses_damage(tmp_path: Path) -> None:
    path = _npz(tmp_path / "a.npz", {"x.npy": _bytes(np.ones(100))}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="CRC"):
        read_npz(path)
    path.write_bytes(data[:-30])
    with pytest.raises(InputError, match=r"expected an \.npz file"):
        read_npz(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_refuses_other_compressions(tmp_path: Path, compression: int) -> None:
    path = _npz(tmp_path / "a.npz", {"x.npy": _bytes(np.ones(3))}, compression)
    with pytest.raises(InputError, match="neither stored nor deflated"):
        read_npz(path)


def test_npz_refuses_objects_and_nothing(tmp_path: Path) -> None:
    path = _npz(tmp_path / "a.npz", {"x.npy": _npy("(1,)", "'|O'", b"12345678")})
    with pytest.raises(InputError, match="dtype object"):
        read_npz(path)
    with pytest.raises(InputError, match="holds no arrays"):
        read_npz(_npz(tmp_path / "b.npz", {}))


def test_integers_need_a_scale(tmp_path: Path) -> None:
    pixels = np.array([[0, 51, 255]], np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    with pytest.raises(InputError, match="--scale 255"):
        open_source(tmp_path / "a.npy")
    source = open_source(tmp_path / "a.npy", ReadOptions(scale=255))
    np.testing.assert_array_equal(source.block(0, 1), pixels.astype(np.float32) / np.float32(255))
    assert source.block(0, 1).dtype == np.float32
    assert open_source(tmp_path / "a.npy", ReadOptions(integers=True)).block(0, 1).dtype == np.uint8


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_scale_must_be_a_number_to_divide_by(scale: float) -> None:
    with pytest.raises(InputError, match="--scale"):
        ReadOptions(scale=scale)


def test_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    with pytest.raises(InputError, match="--key, --id-column, --no-header, --resize means nothing"):
        open_source(tmp_path / "a.npy", ReadOptions("x", ("a",), header=False, resize=True))


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match=r"expected \.npy, \.npz, \.csv, \.parquet or a folder of images"):
        open_source(tmp_path / "a.txt")
    np.save(tmp_path / "a.npy", np.float32(1))
    with pytest.raises(InputError, match="a single number"):
        open_source(tmp_path / "a.npy")
