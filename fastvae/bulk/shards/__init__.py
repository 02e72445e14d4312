"""The files of shards: one class per format, which writes rows as they come and reads some of them back."""

from fastvae.bulk.shards._format import ShardFormat, ShardWriter
from fastvae.bulk.shards._npy import Npy
from fastvae.bulk.shards._parquet import Parquet
from fastvae.bulk.shards._png import Png
from fastvae.bulk.shards._webdataset import WebDataset
from fastvae.bulk.shards._zarr import Zarr

FORMATS: dict[str, ShardFormat] = {
    "parquet": Parquet(),
    "parquet-bytes": Parquet(as_bytes=True),
    "npy": Npy(),
    "zarr": Zarr(),
    "webdataset": WebDataset(),
    "png": Png(),
}

__all__ = ["FORMATS", "ShardFormat", "ShardWriter"]
