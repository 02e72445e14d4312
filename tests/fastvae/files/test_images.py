"""Folders of images, and grids of images."""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from fastvae.errors import InputError, UnsupportedError
from fastvae.files import ReadOptions, check_grid, open_source
from fastvae.files._images import GAP, GAP_GREY, grid_png

GREY, RGB = (1, 4, 6), (3, 4, 6)


def _save(folder: Path, name: str, pixels: np.ndarray) -> None:
    PIL.Image.fromarray(pixels).save(folder / name)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_sorted_scaled_and_converted(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 6), dtype=np.uint8)
    for name, image in zip(["b.png", "a.bmp", "c.png"], pixels, strict=True):
        _save(tmp_path, name, image)
    (tmp_path / "notes.txt").touch()
    source = open_source(tmp_path, ReadOptions(image_shape=GREY))
    assert list(source.ids["file"]) == ["a.bmp", "b.png", "c.png"]
    assert source.shape == (3, 1, 4, 6)
    block = source.block(0, 3)
    assert block.dtype == np.float32
    np.testing.assert_array_equal(block[:, 0], pixels[[1, 0, 2]].astype(np.float32) / np.float32(255))
    colour = open_source(tmp_path, ReadOptions(image_shape=RGB)).block(1, 2)
    np.testing.assert_array_equal(colour, np.repeat(block[1:2], 3, 1))


def test_colour_is_channels_first(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    _save(tmp_path, "a.png", pixels)
    block = open_source(tmp_path, ReadOptions(image_shape=RGB)).block(0, 1)
    np.testing.assert_array_equal(np.rint(block[0] * 255), pixels.transpose(2, 0, 1))


def test_another_size_needs_resize(tmp_path: Path) -> None:
    _save(tmp_path, "a.png", np.zeros((4, 6), np.uint8))
    _save(tmp_path, "b.png", np.full((8, 12), 255, np.uint8))
    with pytest.raises(InputError, match=r"b\.png: expected 6 x 4 pixels .*, found 12 x 8; pass --resize"):
        open_source(tmp_path, ReadOptions(image_shape=GREY))
    source = open_source(tmp_path, ReadOptions(image_shape=GREY, resize=True))
    np.testing.assert_array_equal(source.block(1, 2), np.ones((1, *GREY), np.float32))


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"a\.png: cannot be read as an image"):
        open_source(tmp_path, ReadOptions(image_shape=GREY))
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 6), dtype=np.uint8)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue()[:-30])
    with pytest.raises(InputError, match=r"a\.png: cannot be decoded"):
        open_source(tmp_path, ReadOptions(image_shape=GREY)).block(0, 1)


def test_a_decompression_bomb_is_refused_unread(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(1000)))
    (tmp_path / "a.png").write_bytes(bomb + _chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"a\.png: "):
        open_source(tmp_path, ReadOptions(image_shape=GREY, resize=True))


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    _save(tmp_path, "a.png", np.zeros((4, 6), np.uint16))
    with pytest.raises(InputError, match="8 bits a channel"):
        open_source(tmp_path, ReadOptions(image_shape=GREY))


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none"):
        open_source(tmp_path, ReadOptions(image_shape=GREY))
    with pytest.raises(InputError, match="not grey or RGB images"):
        open_source(tmp_path, ReadOptions(image_shape=(30,)))
    with pytest.raises(InputError, match="--scale means nothing"):
        open_source(tmp_path, ReadOptions(image_shape=GREY, scale=255))


def test_pillow_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UnsupportedError, match="images need the package pillow"):
        open_source(tmp_path, ReadOptions(image_shape=GREY))


def test_grid_enlarges_small_images_and_clips() -> None:
    line = np.array([0.0, 2.0, np.nan], np.float32).reshape(3, 1, 1, 1) * np.ones((3, 1, 8, 8), np.float32)
    picture = np.asarray(PIL.Image.open(io.BytesIO(grid_png([line, line[:1]]))))
    cell = 56
    assert picture.shape == (2 * (cell + GAP) + GAP, 3 * (cell + GAP) + GAP)
    assert (picture[GAP : GAP + cell, GAP : GAP + cell] == 0).all()
    assert (picture[GAP : GAP + cell, 2 * GAP + cell : 2 * (GAP + cell)] == 255).all()
    assert (picture[:GAP] == GAP_GREY).all()
    assert (picture[cell + 2 * GAP :, cell + 2 * GAP :] == GAP_GREY).all()


def test_grid_of_large_colour_images_keeps_their_size() -> None:
    images = np.random.default_rng(0).random((2, 3, 40, 33), np.float32)
    picture = np.asarray(PIL.Image.open(io.BytesIO(grid_png([images]))))
    assert picture.shape == (40 + 2 * GAP, 2 * (33 + GAP) + GAP, 3)
    np.testing.assert_array_equal(picture[GAP : GAP + 40, GAP : GAP + 33], np.rint(images[0].transpose(1, 2, 0) * 255))


@pytest.mark.parametrize(
    ("count", "shape", "message"),
    [(4, (30,), "not grey or RGB"), (4, (2, 8, 8), "not grey"), (0, GREY, "no images"), (10**6, GREY, "pixels")],
)
def test_no_grid(count: int, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_grid(count, shape, 2)
