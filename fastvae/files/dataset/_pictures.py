"""Rows that are members: the images of a folder, and the samples of a WebDataset tar."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from fastvae.errors import InputError
from fastvae.files._common import Values, check_regular, needs, one_line
from fastvae.files._images import SUFFIXES
from fastvae.files._numpy import read_member
from fastvae.files._pictures import Preparation
from fastvae.files.ahead import read_ahead
from fastvae.files.dataset._indexing import Advance
from fastvae.files.dataset._part import TEXT, Chunk, DataFile, IdColumn, files_at, texts
from fastvae.files.source import Source

NPY = ".npy"


@dataclass(frozen=True)
class ImagesPart:
    """The images of a folder, each a file, in the order of their relative paths."""

    path: Path
    files: tuple[DataFile, ...]
    preparation: Preparation
    ids: tuple[IdColumn, ...] = (IdColumn("file", TEXT),)
    integers: bool = False

    @property
    def rows(self) -> int:
        """See :class:`Part`."""
        return len(self.files)

    @property
    def shape(self) -> tuple[int, ...]:
        """See :class:`Part`."""
        return self.preparation.shape

    def files_of(self, low: int, high: int) -> Sequence[DataFile]:
        """See :class:`Part`."""
        return self.files[low:high]

    def chunks(self, low: int, high: int, size: int) -> Iterator[Chunk]:
        """See :class:`Part`."""
        for start, values, bad in _decoded(self, self._row, low, high, size):
            names = [file.path.relative_to(self.path).as_posix() for file in self.files[start : start + len(values)]]
            yield Chunk(values, {"file": texts(names)}, bad)

    def _row(self, row: int) -> Values:
        return self.preparation.row(self.files[row].path)


@dataclass(frozen=True, eq=False)
class TarPart:
    """The samples of a WebDataset tar: a member of each, ``suffix``, at a place that the index knows.

    ``preparation`` is None where members are ``.npy`` arrays.
    """

    file: DataFile
    suffix: str
    keys: Values
    offsets: Values
    sizes: Values
    preparation: Preparation | None
    shape: tuple[int, ...]
    integers: bool
    ids: tuple[IdColumn, ...] = (IdColumn("key", TEXT),)

    @property
    def path(self) -> Path:
        """See :class:`Part`."""
        return self.file.path

    @property
    def rows(self) -> int:
        """See :class:`Part`."""
        return len(self.keys)

    @property
    def files(self) -> tuple[DataFile, ...]:
        """See :class:`Part`."""
        return (self.file,)

    def files_of(self, low: int, high: int) -> Sequence[DataFile]:
        """See :class:`Part`."""
        return self.files

    def chunks(self, low: int, high: int, size: int) -> Iterator[Chunk]:
        """See :class:`Part`."""
        for start, values, bad in _decoded(self, self._row, low, high, size):
            yield Chunk(values, {"key": self.keys[start : start + len(values)]}, bad)

    def _row(self, row: int) -> Values:
        label = Path(f"{self.path}: {self.keys[row]}{self.suffix}")
        with self.path.open("rb") as file:
            file.seek(int(self.offsets[row]))
            content = io.BytesIO(file.read(int(self.sizes[row])))
        if self.preparation is not None:
            return self.preparation.row(label, content)
        array = read_member(str(label), content, int(self.sizes[row]))
        if array.shape != self.shape or (array.dtype.kind != "f") != self.integers:
            raise InputError(f"{label}: expected an array like the first, of shape {self.shape}, found {array.shape}")
        return array


def _decoded(
    part: ImagesPart | TarPart, row_of: Callable[[int], Values], low: int, high: int, size: int
) -> Iterator[tuple[int, Values, dict[int, str]]]:
    """The first row, values, and what is wrong with rows that cannot be read, ``size`` at a time, read ahead."""
    bad: dict[int, str] = {}

    def read(first: int, _: int) -> Values:
        try:
            return row_of(first)[None]
        except InputError as error:
            bad[first] = str(error)
            return np.full((1, *part.shape), np.nan, np.float32)

    source = Source(part.path, (part.rows, *part.shape), read, decodes=True)
    ranges = ((start, min(start + size, high)) for start in range(low, high, size))
    with closing(read_ahead(source, ranges)) as blocks:
        for start, values in blocks:
            yield start, values, {row: bad.pop(start + row) for row in range(len(values)) if start + row in bad}


def open_images(path: Path, root: Path, preparation: Preparation, advance: Advance, *, recursive: bool) -> ImagesPart:
    """The images in a folder; ``advance`` is told of the bytes of each.

    Raises:
        InputError: there are none, or the model takes no images.
        UnsupportedError: Pillow is not installed.
    """
    check_images(path, preparation.shape)
    found = path.rglob("*") if recursive else path.iterdir()
    paths = [file for file in found if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not paths:
        where = "in this folder or below" if recursive else "in this folder"
        raise InputError(f"{path}: expected images ({', '.join(SUFFIXES)}) {where}, found none")
    paths.sort(key=lambda file: file.relative_to(path).as_posix())
    return ImagesPart(path, files_at(paths, root, advance), preparation)


def check_images(path: Path, shape: Sequence[int]) -> None:
    """Refuse images for a model that takes none; UnsupportedError if Pillow is not installed."""
    with needs("pillow", "images"):
        import PIL.Image  # noqa: F401
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(f"{path}: this model takes rows of shape {tuple(shape)}, not grey or RGB images")


def open_tar(path: Path, root: Path, preparation: Preparation, key: str | None, advance: Advance) -> TarPart:
    """The samples of a WebDataset tar, of which the headers of members are read.

    A sample is the members that share a name up to its first dot; ``key`` is which of them is the row, ``npy`` or an
    image's suffix, by default the first sample's only one. ``advance`` is told of bytes between headers as they are
    passed over.

    Raises:
        InputError: no tar, a compressed one, no such members, or samples without them.
        UnsupportedError: Pillow is not installed.
    """
    check_regular(path)
    file = DataFile.of(path, root)
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    at = 0
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isreg() and not member.issparse():
                    name, suffix = _split(member.name)
                    samples.setdefault(name, {})[suffix] = (member.offset_data, member.size)
                archive.members = []  # type: ignore[attr-defined]  # they would all be kept
                advance(member.offset - at)
                at = member.offset
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(f"{path}: expected a tar that is not compressed: {one_line(error)}") from error
    advance(file.bytes - at)
    suffix = _suffix(path, samples, key)
    lacking = next((name for name, members in samples.items() if suffix not in members), None)
    if lacking is not None:
        raise InputError(f"{path}: sample {lacking!r} has no member {lacking + suffix!r}")
    places = np.array([members[suffix] for members in samples.values()], np.int64).reshape(-1, 2)
    keys, offsets, sizes = texts(list(samples)), places[:, 0], places[:, 1]
    if suffix != NPY:
        check_images(path, preparation.shape)
        return TarPart(file, suffix, keys, offsets, sizes, preparation, preparation.shape, integers=False)
    with path.open("rb") as content:
        content.seek(int(offsets[0]))
        first = read_member(f"{path}: {keys[0]}{suffix}", io.BytesIO(content.read(int(sizes[0]))), int(sizes[0]))
    return TarPart(file, suffix, keys, offsets, sizes, None, first.shape, integers=first.dtype.kind != "f")


def _split(name: str) -> tuple[str, str]:
    """A member's sample and suffix: what is before the first dot of its last part, and the rest."""
    path = PurePosixPath(name)
    stem, dot, rest = path.name.partition(".")
    return (path.parent / stem).as_posix(), (dot + rest).lower()


def _suffix(path: Path, samples: dict[str, dict[str, tuple[int, int]]], key: str | None) -> str:
    """The suffix of the members that are rows."""
    if not samples:
        raise InputError(f"{path}: holds no samples")
    found = [suffix for suffix in next(iter(samples.values())) if suffix.endswith((NPY, *SUFFIXES))]
    chosen = [suffix for suffix in found if key is None or suffix == f".{key.lower().lstrip('.')}"]
    if len(chosen) != 1:
        shown = ", ".join(suffix[1:] for suffix in found) or "neither .npy nor images"
        raise InputError(f"{path}: name the members that are rows with key; the first sample has {shown}")
    return chosen[0]
