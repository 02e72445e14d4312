"""Where rows come from: one view of every kind of data file, read block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from fastvae.errors import InputError
from fastvae.files._common import Values
from fastvae.files._images import ImageFolder
from fastvae.files._numpy import read_npy, read_npz
from fastvae.files._pictures import CROPS, FILTERS, Preparation
from fastvae.files._tables import Table, read_csv, read_parquet

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")
# Rows are divided in float32: by what it can hold, 0 / 0 would pass for a missing value.
TINY, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class ReadOptions:
    """How to read.

    Args:
        key: which array of an ``.npz``; None takes the first.
        id_columns: columns of a table that are no data.
        header: whether the first line of a CSV file names its columns.
        scale: what to divide values by; required for arrays of integers.
        resize, crop, filter: what becomes of images of another size than the rows', see ``Preparation``.
        pixel_range: values of black and white in rows of images; None: 0 and 1, in a bulk job those of the model.
        recursive: take the images in folders below as well.
        skip: make rows of NaN of images that cannot be read.
        image_shape: a row of an image folder: (channels, height, width).
        integers: take arrays of integers and booleans as they are.
    """

    key: str | None = None
    id_columns: tuple[str, ...] = ()
    header: bool = True
    scale: float | None = None
    resize: bool = False
    crop: str = "none"
    filter: str = "lanczos"
    pixel_range: tuple[float, float] | None = None
    recursive: bool = False
    skip: bool = False
    image_shape: tuple[int, ...] = ()
    integers: bool = False

    def __post_init__(self) -> None:
        for option, value, accepted in (("crop", self.crop, CROPS), ("filter", self.filter, FILTERS)):
            if value not in accepted:
                raise InputError(f"--{option}: expected one of {', '.join(accepted)}, got {value!r:.80}")
        if self.scale is not None and not TINY <= abs(self.scale) <= LARGEST:
            raise InputError(f"--scale: expected a finite number other than 0, got {self.scale}")


@dataclass(frozen=True)
class Source:
    """Rows of data: ``shape`` is (rows, *shape of a row).

    ``read(low, high)`` gives rows as they are in the file, :meth:`block` divides them by ``scale``. ``columns`` and
    ``dtypes`` are those of a table, else empty; ``ids`` are values to pass through, by name; ``order`` is that of
    both in the file. Where ``decodes``, reading a row is work of its own, best done by several threads; ``rejected``
    fills with what was wrong with the rows that came out as NaN.
    """

    path: Path
    shape: tuple[int, ...]
    read: Callable[[int, int], Values] = field(repr=False)
    scale: float | None = None
    columns: tuple[str, ...] = ()
    dtypes: tuple[np.dtype[Any], ...] = ()
    ids: Mapping[str, Values] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    decodes: bool = False
    rejected: Mapping[Path, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.shape[0]

    def block(self, low: int, high: int) -> Values:
        """Rows low to high, scaled."""
        return divided(self.read(low, high), self.scale)


def divided(values: Values, scale: float | None) -> Values:
    """``values`` over ``scale``, as floats; as they are if it is None."""
    if scale is None:
        return values
    narrow = np.can_cast(values.dtype, np.float32)
    with np.errstate(over="ignore"):  # what is infinite then is refused by who looks at the rows
        return np.true_divide(values, scale, dtype=np.float32 if narrow else np.float64)


def open_source(path: Path, options: ReadOptions | None = None) -> Source:
    """The rows in a file (``.npy``, ``.npz``, ``.csv``, ``.parquet``) or in a folder of images.

    Raises:
        InputError: no such file, another kind of file, or one whose content is not what its kind promises; an option
            that this kind does not take.
        UnsupportedError: the package that reads it is not installed.
    """
    options = options or ReadOptions()
    suffix = path.suffix.lower()
    if path.is_dir():
        if not options.image_shape:
            raise InputError(f"{path}: expected {', '.join(SUFFIXES)}, found a folder")
        return _of_images(path, options)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: expected {', '.join(SUFFIXES)} or a folder of images")
    if suffix in (".csv", ".parquet"):
        check_options(path, options, id_columns=options.id_columns, header=options.header, scale=options.scale)
        return _of_table(path, options)
    if suffix == ".npz":
        check_options(path, options, key=options.key, scale=options.scale)
        return _of_array(path, read_npz(path, options.key), options)
    check_options(path, options, scale=options.scale)
    return _of_array(path, read_npy(path), options)


def _of_images(path: Path, options: ReadOptions) -> Source:
    own = ("resize", "crop", "filter", "pixel_range", "recursive")
    check_options(path, options, **{name: getattr(options, name) for name in own})
    shape = cast("tuple[int, int, int]", options.image_shape)
    pixels = options.pixel_range or (0.0, 1.0)
    preparation = Preparation(shape, options.resize, options.crop, options.filter, pixels)
    folder = ImageFolder(path, preparation, recursive=options.recursive, skip=options.skip)
    names = np.array(folder.names, dtype=object)
    return Source(path, (len(names), *shape), folder.block, ids={"file": names}, decodes=True, rejected=folder.rejected)


def check_options(path: Path, options: ReadOptions, **taken: Any) -> None:
    """Refuse options that do nothing for this kind of file."""
    always = ("image_shape", "integers", "skip")
    plain = ReadOptions(**{name: getattr(options, name) for name in always}, **taken)
    if plain == options:
        return
    names = {"key": "--key", "id_columns": "--id-column", "header": "--no-header", "scale": "--scale"}
    names |= {"resize": "--resize", "crop": "--crop", "filter": "--filter", "pixel_range": "--pixels"}
    names |= {"recursive": "--recursive"}
    extra = [flag for name, flag in names.items() if getattr(plain, name) != getattr(options, name)]
    raise InputError(f"{path}: {', '.join(extra)} means nothing for this kind of file")


def _of_table(path: Path, options: ReadOptions) -> Source:
    table: Table
    if path.suffix.lower() == ".csv":
        table = read_csv(path, options.id_columns, header=options.header)
    else:
        table = read_parquet(path, options.id_columns)
    rows = table.rows
    return Source(
        path,
        rows.shape,
        lambda low, high: rows[low:high],
        options.scale,
        table.columns,
        table.dtypes,
        table.ids,
        table.order,
    )


def _of_array(path: Path, array: Values, options: ReadOptions) -> Source:
    if array.ndim == 0:
        raise InputError(f"{path}: expected rows, found a single number")
    if array.dtype.kind != "f" and options.scale is None and not options.integers:
        raise InputError(
            f"{path}: expected floats, found {array.dtype}; pass --scale 255 to divide pixels by 255, or --scale 1 to "
            "take the numbers as they are"
        )
    return Source(path, array.shape, lambda low, high: array[low:high], options.scale)
