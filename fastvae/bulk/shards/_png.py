"""A folder of PNG images for every shard, ``shard-000000000/000000042.png``: what any image tool reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fastvae.bulk.disk import NewTree, Output
from fastvae.bulk.job import Job
from fastvae.bulk.shards._format import ShardWriter, check_single, key
from fastvae.bulk.shards._images import decoded, encoded, is_image
from fastvae.bulk.table import Block, Column, Rows
from fastvae.errors import InputError
from fastvae.files import needs


class _PngWriter:
    def __init__(self, job: Job, tree: NewTree) -> None:
        self._job, self._tree = job, tree
        (self._column,) = job.columns

    def write(self, block: Block) -> None:
        for index, row in enumerate(block.column(self._column), block.start):
            self._tree.add(f"{key(self._job, index)}.png", encoded(row))

    def finish(self) -> None:
        """Nothing follows the images."""


class Png:
    """An image for every row."""

    def check(self, columns: Sequence[Column]) -> None:
        """See :class:`ShardFormat`."""
        check_single("png", columns)
        if not is_image(columns[0]):
            raise InputError(
                f"format: 'png' holds uint8 images of 1 or 3 channels, not {columns[0]}; use dtype='uint8' with a "
                "model of images, or another format"
            )
        with needs("pillow", ".png shards", "bulk"):
            import PIL.Image  # noqa: F401

    def names(self, job: Job, shard: int) -> tuple[str, ...]:
        """See :class:`ShardFormat`."""
        return (f"{job.stem(shard)}/",)

    def common(self, job: Job) -> Mapping[str, bytes]:
        """See :class:`ShardFormat`."""
        return {}

    @contextlib.contextmanager
    def writer(self, job: Job, shard: int, files: Sequence[Output]) -> Iterator[ShardWriter]:
        """See :class:`ShardFormat`."""
        (tree,) = files
        assert isinstance(tree, NewTree)
        yield _PngWriter(job, tree)

    def read(self, job: Job, shard: int, folder: Path, places: Sequence[int]) -> tuple[Rows, Mapping[str, Rows]]:
        """See :class:`ShardFormat`; the indices are the files' names."""
        (column,) = job.columns
        low = job.bounds(shard)[0]
        rows = np.empty((len(places), *column.shape), column.dtype)
        for row, place in zip(rows, places, strict=True):
            path = folder / job.stem(shard) / f"{key(job, low + place)}.png"
            row[:] = decoded(path.read_bytes(), column)
        return np.array(places, np.int64) + low, {column.name: rows}

    def count(self, job: Job, shard: int, folder: Path) -> int:
        """See :class:`ShardFormat`."""
        expected = {f"{key(job, index)}.png" for index in range(*job.bounds(shard))}
        return len(expected & {path.name for path in (folder / job.stem(shard)).iterdir()})
