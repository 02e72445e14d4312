"""What read_regular_file promises, and that both checkpoint readers keep it."""

import os
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from fastvae.errors import FastVAEError, InputError, UnsafeFileError, WeightFormatError
from fastvae.formats import _files
from fastvae.formats._files import read_regular_file
from fastvae.formats._safetensors import read_safetensors
from fastvae.formats._torch import read_torch

READERS = [(read_safetensors, WeightFormatError), (read_torch, UnsafeFileError)]


def _read(path: object) -> bytes:
    return read_regular_file(path, error=WeightFormatError)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_reads_every_byte(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "link").symlink_to("file")
    assert _read(tmp_path / "file") == _read(str(tmp_path / "link")) == content


def test_holds_the_content_once(tmp_path: Path) -> None:
    size = 20_000_000
    with open(tmp_path / "file", "wb") as file:
        file.truncate(size)
    tracemalloc.start()
    try:
        assert len(_read(tmp_path / "file")) == size
        assert tracemalloc.get_traced_memory()[1] < 1.1 * size
    finally:
        tracemalloc.stop()


def _make_directory(path: Path) -> None:
    path.mkdir()


def _make_fifo(path: Path) -> None:
    os.mkfifo(path)


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


def _make_device_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(("reader", "error"), READERS)
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_make_directory, "a directory"),
        (_make_fifo, "a FIFO"),
        (_make_socket, "a socket"),
        (_make_device_link, "a character device"),
    ],
)
def test_only_regular_files(
    reader: Callable[[Path], object],
    error: type[FastVAEError],
    make: Callable[[Path], None],
    kind: str,
    tmp_path: Path,
) -> None:
    path = tmp_path / "f"
    make(path)
    with pytest.raises(error, match=f"expected a regular file, found {kind}") as caught:
        reader(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("reader", "_error"), READERS)
def test_missing_file(reader: Callable[[Path], object], _error: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file") as caught:
        reader(tmp_path / "absent.pt")
    assert "absent.pt" in str(caught.value)


@pytest.mark.parametrize("path", ["", "nul\0byte", 0, b"bytes", None, "x" * 5000])
def test_paths_that_are_none(path: object) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        _read(path)


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(_files.os, "open", refuse)
    with pytest.raises(InputError, match=r"file.*Permission denied"):
        _read(tmp_path / "file")


def _meddle_after_stat(monkeypatch: pytest.MonkeyPatch, when: int, meddle: Callable[[], object]) -> None:
    """Run ``meddle`` just before (when=1: after) the reader's final look (its first) at the open file."""
    real, calls = os.fstat, []

    def fstat(descriptor: int) -> os.stat_result:
        calls.append(descriptor)
        if len(calls) == 2 == when:
            meddle()
        status = real(descriptor)
        if len(calls) == 1 == when:
            meddle()
        return status

    monkeypatch.setattr(_files.os, "fstat", fstat)


def test_grown_while_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    _meddle_after_stat(monkeypatch, 1, lambda: path.write_bytes(b"123456789"))
    with pytest.raises(WeightFormatError, match=r"file: expected 5 bytes.*grew"):
        _read(path)


def test_shrunk_while_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    _meddle_after_stat(monkeypatch, 1, lambda: os.truncate(path, 2))
    with pytest.raises(WeightFormatError, match=r"file: expected 5 bytes.*shrank to 2"):
        _read(path)


def test_written_to_while_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    _meddle_after_stat(monkeypatch, 2, lambda: os.utime(path, ns=(1, 1)))
    with pytest.raises(WeightFormatError, match="written to while"):
        _read(path)


@pytest.mark.parametrize("replacement", ["file", "fifo"])
def test_replaced_before_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacement: str) -> None:
    path, real = tmp_path / "file", os.open
    path.write_bytes(b"12345")

    def swap_and_open(name: str, flags: int) -> int:
        os.rename(name, f"{name}.old")
        path.write_bytes(b"other") if replacement == "file" else os.mkfifo(name)
        return real(name, flags)

    monkeypatch.setattr(_files.os, "open", swap_and_open)
    with pytest.raises(WeightFormatError, match=r"another replaced it|found a FIFO"):
        _read(path)


def test_a_file_that_hides_its_size() -> None:
    path = Path("/proc/self/status")
    if not path.exists():
        pytest.skip("needs /proc")
    with pytest.raises(WeightFormatError, match="expected 0 bytes"):
        _read(path)
