"""The files of shards: one class per format, which writes rows as they come and reads some of them back."""

from fastvae.bulk.shards._format import ShardFormat, ShardWriter
from fastvae.bulk.shards._npy import Npy
from fastvae.bulk.shards._parquet import Parquet

FORMATS: dict[str, ShardFormat] = {"parquet": Parquet(), "npy": Npy()}

__all__ = ["FORMATS", "ShardFormat", "ShardWriter"]
