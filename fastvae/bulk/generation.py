"""``generate``: a bulk job of samples, from its arguments to its last file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

import fastvae
from fastvae import noise
from fastvae.api import VAE
from fastvae.bulk import identity
from fastvae.bulk.data_rows import row_source
from fastvae.bulk.driver import Driver
from fastvae.bulk.job import ANY_NUMBER, DTYPES, Job, numerics_of, sizes, spec_hash, weights_hash
from fastvae.bulk.opening import folder_path, open_folder
from fastvae.bulk.place import JOB, JobFolder
from fastvae.bulk.pool import Crew, Processes, Recipe, Threads
from fastvae.bulk.progress import Watch, unwatched
from fastvae.bulk.ray_workers import check_address, cluster
from fastvae.bulk.shards import FORMATS
from fastvae.bulk.source import check_dtype, condition_hash, condition_rows
from fastvae.bulk.table import Column, Rows
from fastvae.errors import InputError, OutputError
from fastvae.files.dataset import Dataset
from fastvae.loading import load
from fastvae.plan import build_plan, plan_cost

MOST_WORKERS = 1024

Format: TypeAlias = Literal["parquet", "parquet-bytes", "npy", "zarr", "webdataset", "png"]
Dtype: TypeAlias = Literal["float32", "float16", "uint8"]


@dataclass(frozen=True)
class Report:
    """A job that is done.

    Args:
        folder: where its files are: a path, or a URL.
        job: its id.
        n, shards: its samples and files.
        content: checksum of all rows in the order of their indices, as in ``_SUCCESS``; the same for any size and
            format of shards and any number of workers.
        rejected: rows of a data set that were masked.
    """

    folder: Path | str
    job: str
    n: int
    shards: int
    content: str
    rejected: int = 0


def generate(
    model: VAE | str | os.PathLike[str],
    n: int,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    shard_size: int | None = None,
    format: Format = "parquet",
    dtype: Dtype = "float32",
    output: Literal["mean", "sample"] = "mean",
    condition: Any = None,
    workers: int | None = None,
    ray: bool | str = False,
    recheck: bool = False,
    watch: Watch | None = None,
) -> Report:
    """Samples 0 to ``n`` of ``seed`` as files in a folder: each exactly once, whatever is killed on the way.

    The same call goes on with what is missing. Rows are computed in batch-invariant mode: they have the bits of
    ``fastvae.load(..., batch_invariant=True).generate(n, seed)``. See docs/bulk.md for the folder and its promises.

    Args:
        model: a model, or what :func:`fastvae.load` takes.
        n: number of samples.
        out: a folder, made if need be, or a URL that fsspec understands (``s3://bucket/samples``); it must be empty or
            hold this very job.
        seed: unsigned 64-bit integer.
        shard_size: samples of a file; None is 64 MiB of them, or fewer of a large model.
        format: ``parquet`` (columns ``index`` and ``sample``, a list), ``parquet-bytes`` (the same with each sample's
            memory, faster to write and read), ``npy``, ``zarr``, ``webdataset``, or ``png`` (images in
            ``uint8``).
        dtype: ``float32``, ``float16``, or ``uint8``: the integer nearest to 255 times the value, of outputs in [0, 1],
            or of means whose black and white ``spec.pixel_range`` says.
        output: ``mean`` for E[x|z], ``sample`` for a draw from p(x|z).
        condition: for conditional models: a label or vector for all samples, or ``n`` of them.
        workers: 1 computes on threads of this process, more start as many processes, which share its threads (in plain
            PyTorch each has as many, because rows depend on it). A script must then call this below
            ``if __name__ == "__main__":``. The default is one for each GPU, unless the model names one, and 1 on a CPU;
            with Ray as many as the cluster has room for.
        ray: workers are actors of Ray, each with a GPU and a CPU, or where the model is on the CPU with as many CPUs as
            it has threads, 1 unless ``threads`` of the model say otherwise. True takes the Ray that this process is
            connected to, or the cluster that ``ray.init()`` finds or starts; text is an address that ``ray.init``
            takes, ``ray://`` too. ``out`` must be on storage that all nodes see.
        recheck: whether to hash the shards that are there, and make those again whose bytes are not those written;
            without it their sizes are compared.
        watch: called with a :class:`fastvae.bulk.Progress` at the start, when a worker is ready, after every shard, and
            at the end.

    Returns:
        A Report, also if the job was done before.

    Raises:
        InputError: an argument out of range.
        JobError: the folder holds another job (the message says how it differs) or other files, or another process is
            working on it; or Ray has no cluster, or a node that would make other rows or does not see the folder.
        IncompleteJobError: some shards failed three times; all others are done.
        OutputError: the folder cannot be written or reached, or the disk is full. What is there stays.
        UnsupportedError: a package that the format, the URL or Ray needs is not installed, or the URL's puts are not
            whole and conditional. Besides, what :func:`fastvae.load` raises.
    """
    check_common(format, dtype, shard_size, workers)
    if not isinstance(output, str) or output not in ("mean", "sample"):
        raise InputError(f"output: expected 'mean' or 'sample', got {output!r:.80}")
    path = folder_path("out", out)
    n, seed = noise.check_count("n", n), noise.check_seed(seed)
    ray = check_address(ray)
    vae = invariant(model)
    engine = vae._engine
    check_dtype(dtype, engine, output)
    vectors = condition_rows(condition, engine, n, "decode")
    columns = (Column("sample", dtype, engine.spec.input_shape),)
    FORMATS[format].check(columns)
    flops = plan_cost(build_plan(engine.model, "decode", device="meta")).flops
    rows, block = sizes(n, sum(column.bytes for column in columns), flops, shard_size)
    job = Job(
        verb="generate",
        weights=weights_hash(engine.model),
        spec=spec_hash(engine.spec),
        condition=condition_hash(vectors),
        seed=seed,
        n=n,
        output=output,
        shard_size=rows,
        block_rows=block,
        format=format,
        columns=columns,
        engine=fastvae.__version__,
        **numerics_of(engine),
    )
    return run(job, vae, vectors, open_folder(path), workers, ray, watch or unwatched, recheck=recheck)


def check_common(format: Any, dtype: Any, shard_size: Any, workers: Any) -> None:
    """Refuse what no job can be made of.

    Raises:
        InputError: no such format or dtype, or a number out of range.
    """
    if not isinstance(format, str) or format not in FORMATS:
        raise InputError(f"format: expected one of {', '.join(map(repr, FORMATS))}, got {format!r:.80}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"dtype: expected one of {', '.join(map(repr, DTYPES))}, got {dtype!r:.80}")
    if workers is not None:
        noise.check_count("workers", workers, least=1, most=MOST_WORKERS)
    if shard_size is not None:
        noise.check_count("shard_size", shard_size, least=1)


def run(
    job: Job,
    vae: VAE,
    condition: Rows | None,
    folder: JobFolder,
    workers: int | None,
    ray: bool | str,
    watch: Watch,
    data: Dataset | None = None,
    entries: Sequence[identity.Entry] = (),
    *,
    recheck: bool = False,
) -> Report:
    """Run a job in its folder, one over ``data`` with the ``entries`` of their files; errors as :func:`generate`."""
    with _crew(job, vae, condition, folder, workers, ray, data) as crew, folder.locked():
        try:
            if data is not None and folder.read_text(JOB) is not None:
                identity.refuse_changed(folder, job, entries)
            folder.prepare(job)
            if data is not None:
                identity.keep(folder, entries)
            success = Driver(job, folder, crew, watch, recheck=recheck).run()
        except BrokenPipeError:  # whoever watches has gone
            raise
        except OSError as error:
            raise OutputError(
                f"{folder.path}: cannot be written ({error}); what is there stays, and the same call goes on with it"
            ) from error
    return Report(folder.path, job.id, job.n, job.shards, success.content)


def invariant(model: VAE | str | os.PathLike[str]) -> VAE:
    """The model in batch-invariant mode. Errors as :func:`fastvae.load`."""
    if not isinstance(model, VAE):
        return load(model, batch_invariant=True)
    settings = model._engine.settings
    if settings.batch_invariant:
        return model
    return VAE(model._engine.model, replace(settings, batch_invariant=True))


def _crew(
    job: Job,
    vae: VAE,
    condition: Rows | None,
    folder: JobFolder,
    workers: int | None,
    ray: bool | str,
    data: Dataset | None,
) -> contextlib.AbstractContextManager[Crew]:
    """What makes the job's workers.

    Raises:
        InputError: there shall be several, and no other process sees the folder.
    """
    engine = vae._engine
    if workers is None and ray is False:
        workers = devices(engine.device)
    if ray is False and workers == 1:
        return contextlib.nullcontext(Threads(job, folder, row_source(vae, condition, data)))
    if not folder.shared:
        raise InputError(f"workers: {folder.path} is in the memory of one process; use workers=1 and no Ray")
    settings = replace(engine.settings, device=str(engine.device))
    recipe = Recipe(engine.model, settings, condition, job, folder.path, data)
    fixed = None if job.threads == ANY_NUMBER else int(job.threads)
    if ray is not False:
        return cluster(ray, recipe, workers, fixed or settings.threads or 1)
    assert workers is not None
    threads = fixed or max(1, torch.get_num_threads() // workers)
    return contextlib.nullcontext(Processes(recipe, workers, threads))


def devices(device: torch.device) -> int:
    """How many workers a model on ``device`` has room for: one, or one on each GPU if it names none."""
    return max(1, torch.cuda.device_count()) if device == torch.device("cuda") else 1
