"""Image files as rows: scaled, cropped, upright, in the model's range; bad ones as NaN where asked for; read ahead."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvae.errors import InputError
from fastvae.files import ReadOptions, open_source, read_ahead
from fastvae.files._pictures import Preparation

SHAPE = (3, 6, 8)


def picture(height: int, width: int, seed: int = 0) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def row(path: Path, **options: Any) -> Any:
    return open_source(path, ReadOptions(image_shape=SHAPE, **options)).block(0, 1)[0]


@pytest.mark.parametrize("filter_", ["bilinear", "bicubic", "lanczos"])
def test_centre_crop(tmp_path: Path, filter_: str) -> None:
    """The shorter side scaled, then as much off one end as off the other."""
    image = picture(30, 60)
    image.save(tmp_path / "a.png")
    expected = image.resize((12, 6), PIL.Image.Resampling[filter_.upper()]).crop((2, 0, 10, 6))
    found = row(tmp_path, crop="center", filter=filter_)
    np.testing.assert_array_equal(np.rint(found * 255), np.asarray(expected).transpose(2, 0, 1))


@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)), to=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_any_size_is_cropped_to_the_rows(size: tuple[int, int], to: tuple[int, int], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("a") / "a.png"
    picture(*size).save(path)
    found = Preparation((3, *to), crop="center").row(path)
    assert found.shape == (3, *to)
    assert 0 <= found.min() <= found.max() <= 1


def test_pixels_in_the_range_of_the_model(tmp_path: Path) -> None:
    image = picture(6, 8)
    image.save(tmp_path / "a.png")
    unit = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
    np.testing.assert_array_equal(row(tmp_path, pixel_range=(-1.0, 1.0)), 2 * unit - 1)
    np.testing.assert_array_equal(row(tmp_path), unit)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(tmp_path: Path, orientation: int) -> None:
    image = PIL.Image.new("RGB", (6, 8) if orientation > 4 else (8, 6))
    image.paste((255, 255, 255), (0, 0, 3, 3))  # the sensor's top left corner
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.webp", exif=exif, lossless=True)
    found = row(tmp_path)[0]
    top, left = {1: (0, 0), 2: (0, 7), 3: (5, 7), 4: (5, 0), 5: (0, 0), 6: (0, 7), 7: (5, 7), 8: (5, 0)}[orientation]
    assert found[top, left] == 1
    assert found.sum() == 9


def test_a_png_that_lies_on_its_side_is_noticed_late(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    picture(6, 8).save(tmp_path / "a.png", exif=exif)
    with pytest.raises(InputError, match=r"expected 8 x 6 pixels .*, found 6 x 8; pass --resize"):
        row(tmp_path)
    assert row(tmp_path, crop="center").shape == SHAPE


@given(where=st.integers(0, 400), byte=st.integers(0, 255), kind=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP"]))
@settings(max_examples=60)
def test_a_damaged_image_is_a_row_or_named(where: int, byte: int, kind: str, tmp_path_factory: Any) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture(6, 8).save(buffer, kind, **({} if kind == "BMP" else {"exif": exif}))
    content = bytearray(buffer.getvalue())
    content[where % len(content)] = byte
    path = tmp_path_factory.mktemp("a") / "a.png"
    path.write_bytes(content)
    source = open_source(path.parent, ReadOptions(image_shape=SHAPE, resize=True, skip=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = source.block(0, 1)
    assert np.isnan(found).all() == (path in source.rejected)


def test_animations_are_refused_and_cmyk_is_not(tmp_path: Path) -> None:
    picture(6, 8).save(tmp_path / "a.webp", save_all=True, append_images=[picture(6, 8, 1)])
    with pytest.raises(InputError, match="expected a still image, found one of 2 frames"):
        row(tmp_path)
    (tmp_path / "a.webp").unlink()
    PIL.Image.new("CMYK", (8, 6)).save(tmp_path / "a.jpg")
    assert row(tmp_path).shape == SHAPE


def test_bad_images_are_rows_of_nan_where_asked(tmp_path: Path) -> None:
    picture(6, 8).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[:-60])
    (tmp_path / "c.png").write_bytes(b"no image")
    PIL.Image.fromarray(np.zeros((6, 8), np.uint16)).save(tmp_path / "d.png")
    picture(7, 8).save(tmp_path / "e.png")
    source = open_source(tmp_path, ReadOptions(image_shape=SHAPE, skip=True))
    assert np.isnan(source.block(0, 5)).all((1, 2, 3)).tolist() == [False, True, True, True, True]
    assert [path.name for path in source.rejected] == ["b.png", "c.png", "d.png", "e.png"]
    assert "cannot be decoded" in source.rejected[tmp_path / "b.png"]


def test_folders_below(tmp_path: Path) -> None:
    for name in ("b/x.png", "a/x.png", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(6, 8).save(tmp_path / name)
    found = open_source(tmp_path, ReadOptions(image_shape=SHAPE, recursive=True)).ids["file"]
    assert list(found) == ["a/x.png", "b/x.png", "c.png"]
    assert list(open_source(tmp_path, ReadOptions(image_shape=SHAPE)).ids["file"]) == ["c.png"]


@pytest.mark.parametrize(("option", "value"), [("crop", "left"), ("filter", "nearest")])
def test_options_that_are_none(option: str, value: str) -> None:
    with pytest.raises(InputError, match=f"--{option}: expected one of .*, got '{value}'"):
        ReadOptions(**{option: value})  # type: ignore[arg-type]


def test_options_for_images_only(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    options = ReadOptions(crop="center", filter="bicubic", pixel_range=(-1, 1), recursive=True, skip=True)
    with pytest.raises(InputError, match="--crop, --filter, --pixels, --recursive means nothing"):
        open_source(tmp_path / "a.npy", options)


def test_read_ahead_is_reading_in_order(tmp_path: Path) -> None:
    for i in range(11):
        picture(6, 8, i).save(tmp_path / f"{i:02}.png")
    source = open_source(tmp_path, ReadOptions(image_shape=SHAPE))
    ranges = [(0, 3), (3, 3), (5, 9), (9, 11)]
    for threads in (1, 4):
        found = list(read_ahead(source, ranges, threads=threads))
        assert [low for low, _ in found] == [low for low, _ in ranges]
        for (low, high), (_, values) in zip(ranges, found, strict=True):
            np.testing.assert_array_equal(values, source.block(low, high))
    array = tmp_path / "a.npy"
    np.save(array, np.arange(12.0).reshape(4, 3))
    found = list(read_ahead(open_source(array), [(1, 3)]))
    np.testing.assert_array_equal(found[0][1], np.arange(3.0, 9.0).reshape(2, 3))


def test_read_ahead_raises_in_turn_and_ends_its_threads(tmp_path: Path) -> None:
    for i in range(8):
        picture(6, 8).save(tmp_path / f"{i}.png")
    source = open_source(tmp_path, ReadOptions(image_shape=SHAPE))
    (tmp_path / "5.png").write_bytes(b"gone bad")
    before = threading.active_count()
    blocks = read_ahead(source, [(i, i + 1) for i in range(8)], threads=2)
    for expected in range(5):
        assert next(blocks)[0] == expected
    with pytest.raises(InputError, match=r"5\.png"):
        next(blocks)
    half = read_ahead(source, [(i, i + 1) for i in range(4)], threads=2)
    next(half)
    half.close()
    assert threading.active_count() == before
