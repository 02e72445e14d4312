"""What a bulk job is: everything that the bytes of its files depend on, and how it is cut into shards."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import torch

from fastvae.api import VAE
from fastvae.bulk.table import TEXT, Column
from fastvae.errors import InputError, JobError
from fastvae.model import Model
from fastvae.runtime import Engine
from fastvae.spec import ModelSpec
from fastvae.spec_json import spec_to_json
from fastvae_kernels.cpu import has_wide_products

DTYPES: Final = ("float32", "float16", "uint8")
# What columns of ids have, besides.
ID_DTYPES: Final = ("int64", TEXT)
# A shard of the default size takes a few seconds on a small machine, and is large enough for any file system.
SHARD_BYTES, SHARD_FLOPS = 64 * 2**20, 2 * 10**11
# A block is computed, queued and written at once, and is a row group: the step in which a job can be stopped.
BLOCK_BYTES, BLOCK_FLOPS = 8 * 2**20, 2 * 10**10
TILE = 128
ANY_NUMBER: Final = "any number"
# The implementation of a job whose rows the compiled kernels may make: what `impl="auto"` leaves to them.
COMPILED: Final = "compiled"
MOST_SHARDS = 10**9


@dataclass(frozen=True)
class Job:
    """A job. Two jobs with the same :attr:`id` make the same rows in the same files.

    Args:
        verb: what is computed.
        weights: SHA-256 of the model's weights.
        spec: SHA-256 of its spec.
        condition: SHA-256 of the condition, or empty.
        n: samples in all.
        shard_size: samples of a shard; the last may have fewer.
        block_rows: samples of a row group; the last of a shard may have fewer.
        columns: what is stored of a row, besides its index.
        precision, numerics, implementation, device, threads, libraries: how it is computed; a row has the same bits
            where they are the same. ``threads`` are those of a process where they matter, in plain PyTorch.
        engine: version of fastvae.
        data: what the rows are computed from, as :func:`fastvae.bulk.identity.digest` has it; empty for ``generate``.
        reading: how they are read, as JSON.
        invalid: what becomes of bad rows, ``raise`` or ``mask``.
        samples: draws of a row; 0 for none.
        beta: weight of the divergence in ``elbo``.
        scaled_latents, max_memory: as the model was loaded, for verbs whose bits depend on it.
    """

    verb: str
    weights: str
    spec: str
    condition: str
    seed: int
    n: int
    output: str
    shard_size: int
    block_rows: int
    format: str
    columns: tuple[Column, ...]
    precision: str
    numerics: str
    implementation: str
    device: str
    threads: str
    libraries: str
    engine: str
    data: str = ""
    reading: str = ""
    invalid: str = ""
    samples: int = 0
    beta: float = 1.0
    scaled_latents: bool = False
    max_memory: str = ""

    @property
    def id(self) -> str:
        """SHA-256 of all of it, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.n // self.shard_size)

    def bounds(self, shard: int) -> tuple[int, int]:
        """The samples of a shard: from, to."""
        return shard * self.shard_size, min((shard + 1) * self.shard_size, self.n)

    def stem(self, shard: int) -> str:
        """What the names of a shard's files begin with."""
        return f"shard-{shard:09d}"

    def to_json(self) -> str:
        """The job as JSON, with its id."""
        return json.dumps({"id": self.id, "job": asdict(self)}, indent=1) + "\n"

    @staticmethod
    def from_json(text: str, source: str) -> Job:
        """The job that :meth:`to_json` wrote.

        Raises:
            JobError: ``source`` holds none, or one that was changed.
        """
        try:
            document = json.loads(text)
            values = document["job"]
            columns = (Column(**{**column, "shape": tuple(column["shape"])}) for column in values["columns"])
            job = Job(**{**values, "columns": tuple(columns)})
            whole = all(isinstance(getattr(job, field.name), KINDS[str(field.type)]) for field in fields(Job))
            if whole and document["id"] == job.id and job._sensible():
                return job
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        raise JobError(f"{source}: holds no job of this version of fastvae, or one that was changed")

    def _sensible(self) -> bool:
        """Whether there can be such a job; only then it is safe to walk over its shards."""
        sizes = self.n >= 0 and self.shard_size > 0 and self.block_rows > 0 and self.shards <= MOST_SHARDS
        names = [column.name for column in self.columns]
        return sizes and bool(names) and len(set(names)) == len(names) and all(map(_sensible, self.columns))

    def differences(self, other: Job) -> str:
        """How ``other``, which was asked for, differs from this one."""
        return _differences(self, {field.name: getattr(other, field.name) for field in fields(other)})


KINDS = {"str": str, "int": int, "float": float, "bool": bool, "tuple[Column, ...]": tuple}


def _sensible(column: Column) -> bool:
    """Whether there can be such a column."""
    shape = all(type(size) is int and size > 0 for size in column.shape)
    return shape and isinstance(column.name, str) and column.name != "index" and column.dtype in (*DTYPES, *ID_DTYPES)


def _differences(held: Job, asked: Mapping[str, Any]) -> str:
    """The fields of ``asked`` that have another value in ``held``."""
    names = [name for name in asked if getattr(held, name) != asked[name]]
    return "; ".join(f"{name} {_short(getattr(held, name))}, not {_short(asked[name])}" for name in names)


def _short(value: Any) -> str:
    """A value for a message; hashes by their beginning."""
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text or "none"


def weights_hash(model: Model) -> str:
    """SHA-256 of the weights' names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.weights.items()):
        digest.update(f"{name}:{weight.dtype}:{tuple(weight.shape)};".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def spec_hash(spec: ModelSpec) -> str:
    """SHA-256 of the spec as JSON."""
    return hashlib.sha256(spec_to_json(spec).encode()).hexdigest()


def numerics_of(engine: Engine) -> dict[str, Any]:
    """The fields of a Job that say how an engine computes."""
    compiled = engine.how.compiled and has_wide_products()
    packages, threads = ["numpy", "torch"], ANY_NUMBER
    if engine.device.type == "cuda":
        device = torch.cuda.get_device_name(engine.device)
        packages.append("triton")
    else:
        device = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    if engine.impl == "onnxruntime":
        packages.append("onnxruntime")
    elif engine.device.type == "cpu":  # MKL's sums depend on it, also in tiles of fixed size
        threads = str(torch.get_num_threads())
    return {
        "precision": engine.precision,
        "numerics": "batch-invariant",
        "implementation": COMPILED if compiled else engine.impl,
        "device": device,
        "threads": threads,
        "libraries": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(packages)),
    }


def check_numerics(job: Job, vae: VAE) -> None:
    """Refuse a model that would compute a job's rows in another way.

    Raises:
        JobError: another implementation, device or version of a library.
    """
    if wrong := _differences(job, numerics_of(vae._engine)):
        raise JobError(f"the job's rows were computed in another way than this model would: {wrong}")


def sizes(n: int, row_bytes: int, row_flops: int, shard_size: int | None) -> tuple[int, int]:
    """Rows of a shard, ``shard_size`` if given, and of a block; from what a row takes.

    Raises:
        InputError: that would be too many shards.
    """
    rows = shard_size or _rows(SHARD_BYTES, SHARD_FLOPS, row_bytes, row_flops)
    if -(-n // rows) > MOST_SHARDS:
        raise InputError(f"shard_size: {n:,} samples would be more than {MOST_SHARDS:,} shards of {rows:,}")
    return rows, min(rows, _rows(BLOCK_BYTES, BLOCK_FLOPS, row_bytes, row_flops))


def _rows(most_bytes: int, most_flops: int, row_bytes: int, row_flops: int) -> int:
    """How many rows stay below both limits: at least one, and whole tiles where several go in."""
    rows = max(1, min(most_bytes // max(1, row_bytes), most_flops // max(1, row_flops)))
    return rows // TILE * TILE if rows > TILE else rows
