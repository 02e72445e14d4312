"""A data set: parts one after the other, whose rows are numbered through."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from fastvae.errors import InputError
from fastvae.files._images import SUFFIXES as IMAGES
from fastvae.files._pictures import Preparation
from fastvae.files.dataset._arrays import ZARR, open_array
from fastvae.files.dataset._csv import open_csv
from fastvae.files.dataset._indexing import Advance, Indexing, Told
from fastvae.files.dataset._parquet import open_parquet
from fastvae.files.dataset._part import Chunk, DataFile, IdColumn, Part, batched
from fastvae.files.dataset._pictures import open_images, open_tar
from fastvae.files.source import ReadOptions, check_options, divided

SUFFIXES = (".parquet", ".npy", ".npz", ".csv", ".tar")
# What a folder of a bulk job has.
JOB, SUCCESS = "job.json", "_SUCCESS"


@dataclass(frozen=True)
class Dataset:
    """Rows of ``shape``, which can be read from any one on; it can be pickled, and holds none of them.

    Args:
        ids: columns that are passed through; ``named`` if the caller named them, else they are names of files.
        scale: what values are divided by.
    """

    parts: tuple[Part, ...]
    shape: tuple[int, ...]
    scale: float | None
    ids: tuple[IdColumn, ...]
    named: bool

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def files(self) -> tuple[DataFile, ...]:
        """What it reads, in the order of the rows."""
        return tuple(file for part in self.parts for file in part.files)

    @property
    def pictures(self) -> bool:
        """Whether images are decoded, which Pillow's version decides bits of."""
        return any(getattr(part, "preparation", None) is not None for part in self.parts)

    def blocks(self, low: int, high: int, size: int) -> Iterator[Chunk]:
        """Rows low to high, ``size`` at a time, scaled; the last may be fewer.

        Raises:
            InputError: they cannot be read.
            JobError: a file changed since the data set was opened.
        """
        return batched(self._chunks(low, high, size), size)

    def _chunks(self, low: int, high: int, size: int) -> Iterator[Chunk]:
        begin = 0
        for part in self.parts:
            first, last = max(0, low - begin), min(part.rows, high - begin)
            if first < last:
                files = part.files_of(first, last)
                for file in files:
                    file.check()
                for chunk in part.chunks(first, last, size):
                    yield replace(chunk, values=divided(chunk.values.reshape(-1, *self.shape), self.scale))
                for file in files:
                    file.check()
            begin += part.rows


def open_dataset(
    data: Any,
    options: ReadOptions,
    pixel_range: tuple[float, float] | None = None,
    told: Told = lambda done, total: None,
) -> Dataset:
    """The rows of files and folders, in an order that depends on their names alone.

    Args:
        data: a file (``.parquet``, ``.npy``, ``.npz``, ``.csv``, ``.tar``), a folder (of files of one of these kinds,
            of images, of a finished bulk job, or a Zarr array or group), a pattern such as ``data/*.parquet``, or a
            list of these. Files of a folder and of a pattern come in the order of their names.
        options: how to read; ``image_shape`` is the shape of a row.
        pixel_range: values of black and white in images, unless the options say.
        told: called often, with bytes whose rows are known by now, and all bytes, or 0 where there are folders of
            images or Zarr.

    Raises:
        InputError: there is nothing there, it cannot be read, or its rows have another shape.
        UnsupportedError: the package that reads it is not installed.
    """
    paths = _expanded(data)
    root = Path(os.path.commonpath([path.parent for path in paths]))
    if len(paths) == 1 and paths[0].is_dir():
        root = paths[0]
    pixels = options.pixel_range or pixel_range or (0.0, 1.0)
    files = [file for path in paths for file in _files(path, options)]
    indexing = Indexing(files, told)
    parts = tuple(_opened(file, root, options, pixels, indexing.add) for file in files)
    shape, first = options.image_shape, parts[0]
    for part in parts:
        _check_rows(part, shape, options)
        if part.ids != first.ids:
            theirs, ours = (", ".join(f"{column.name} ({column.kind})" for column in p.ids) for p in (part, first))
            raise InputError(f"{part.path}: its ids are {theirs or 'none'}, those of {first.path} {ours or 'none'}")
    names = [file.path for part in parts for file in part.files]
    if len({*names}) < len(names):
        raise InputError("data: a file is there twice")
    return Dataset(parts, shape, options.scale, first.ids, bool(options.id_columns))


def _expanded(data: Any) -> list[Path]:
    """The files and folders that ``data`` names, as absolute paths."""
    items = [data] if isinstance(data, str | os.PathLike) else data
    if not isinstance(items, Sequence) or not items or not all(isinstance(item, str | os.PathLike) for item in items):
        raise InputError(f"data: expected a path, a pattern or a list of them, got {data!r:.200}")
    found: list[Path] = []
    for item in items:
        text = os.fspath(item)
        if not isinstance(text, str) or "\0" in text or not text:
            raise InputError(f"data: expected a path, got {item!r:.200}")
        matches = [text] if os.path.lexists(text) else sorted(glob.glob(text, recursive=True))
        if not matches:
            raise InputError(f"{text}: no such file or folder")
        found += [Path(match).absolute() for match in matches]
    return found


def _files(path: Path, options: ReadOptions) -> list[Path]:
    """What makes the parts of a file or folder: itself, or the files of its one kind."""
    if (path / JOB).exists() and not (path / SUCCESS).exists():
        raise InputError(f"{path}: the job in this folder is not done")
    if not path.is_dir() or (path / ZARR).exists():
        return [path]
    found = sorted(path.rglob("*") if options.recursive else path.iterdir())
    if any(file.suffix.lower() in IMAGES for file in found):
        return [path]
    visible = (file for file in found if not file.name.startswith((".", "_")))
    files = [file for file in visible if file.suffix.lower() in SUFFIXES and file.is_file()]
    kinds = sorted({file.suffix.lower() for file in files})
    if len(kinds) > 1:
        raise InputError(f"{path}: holds {' and '.join(kinds)} files; name those of one kind, such as '*{kinds[0]}'")
    return files or [path]


def _opened(path: Path, root: Path, options: ReadOptions, pixels: tuple[float, float], advance: Advance) -> Part:
    shape = cast("tuple[int, int, int]", options.image_shape)
    images = {name: getattr(options, name) for name in ("resize", "crop", "filter", "pixel_range")}
    preparation = Preparation(shape, options.resize, options.crop, options.filter, pixels)
    recursive = {"recursive": options.recursive}
    if path.is_dir() and not (path / ZARR).exists():
        check_options(path, options, **images, **recursive)
        return open_images(path, root, preparation, advance, recursive=options.recursive)
    match path.suffix.lower():
        case ".parquet":
            check_options(path, options, id_columns=options.id_columns, scale=options.scale, **recursive)
            return open_parquet(path, root, options.id_columns, advance)
        case ".csv":
            taken = {"id_columns": options.id_columns, "header": options.header, "scale": options.scale}
            check_options(path, options, **taken, **recursive)
            return open_csv(path, root, options.id_columns, advance, header=options.header)
        case ".tar":
            tar = open_tar(path, root, preparation, options.key, advance)
            taken = {"scale": options.scale} if tar.preparation is None else images
            check_options(path, options, key=options.key, **taken, **recursive)
            return tar
        case ".npy" | ".npz":
            pass
        case _ if not path.is_dir():
            raise InputError(f"{path}: expected {', '.join(SUFFIXES)}, or a folder of them, of images or of Zarr")
    check_options(path, options, key=options.key, scale=options.scale, **recursive)
    return open_array(path, root, options.key, advance)


def _check_rows(part: Part, shape: tuple[int, ...], options: ReadOptions) -> None:
    count = math.prod(shape)
    if part.shape not in (shape, (count,)):
        ids = "; name ids and labels in id_columns" if part.path.suffix.lower() in (".csv", ".parquet") else ""
        flat = f" (or {count} numbers)" if len(shape) > 1 else ""
        raise InputError(f"{part.path}: expected rows of shape {shape}{flat}, found {part.shape}{ids}")
    if part.integers and options.scale is None and not options.integers:
        raise InputError(
            f"{part.path}: expected floats, found integers; give scale=255 to divide pixels by 255, or scale=1 to take "
            "the numbers as they are"
        )
