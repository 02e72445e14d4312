"""Tables that bulk jobs over data sets read, and what they made of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import fastvae
from fastvae.bulk import ReadOptions
from fastvae.bulk.folder import Folder
from fastvae.bulk.shards import FORMATS
from fastvae.bulk.table import Rows

N = 300
IDS = ReadOptions(id_columns=("name", "number"))


def write_table(path: Path, rows: Rows) -> None:
    numbers = np.arange(len(rows)) * 10
    ids = {"name": [f"r\N{LATIN SMALL LETTER E WITH ACUTE}{row}" for row in range(len(rows))], "number": numbers}
    columns = {f"x{i}": rows[:, i] for i in range(rows.shape[1])}
    pq.write_table(pa.table(ids | columns), path, row_group_size=37)


def columns_in(out: Path) -> dict[str, Rows]:
    """The columns of all shards, and their indices."""
    job = Folder(out).job()
    parts = [FORMATS[job.format].read(job, k, out, range(np.diff(job.bounds(k))[0])) for k in range(job.shards)]
    columns = {name: np.concatenate([found[name] for _, found in parts]) for name in parts[0][1]}
    return {"index": np.concatenate([index for index, _ in parts])} | columns


def invariant(model: fastvae.VAE) -> fastvae.VAE:
    return fastvae.VAE(model._engine.model, replace(model._engine.settings, batch_invariant=True))


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())
