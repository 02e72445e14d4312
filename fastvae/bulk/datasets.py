"""``encode``, ``reconstruct`` and ``score``: bulk jobs with a result for every row of a data set."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import fastvae
from fastvae import noise
from fastvae.api import VAE
from fastvae.bulk import identity
from fastvae.bulk.data_rows import JOINT, flops_of, id_columns, plans_of, reading_from, reading_text, sized
from fastvae.bulk.generation import Dtype, Format, Report, check_common, invariant, run
from fastvae.bulk.job import Job, numerics_of, sizes, spec_hash, weights_hash
from fastvae.bulk.opening import folder_path, open_folder
from fastvae.bulk.place import JobFolder
from fastvae.bulk.progress import Watch, before_job, now_and_then, unwatched
from fastvae.bulk.ray_workers import check_address
from fastvae.bulk.rejects import MASK, RAISE, parsed, rejects_name
from fastvae.bulk.shards import FORMATS
from fastvae.bulk.source import check_dtype, condition_hash, condition_rows
from fastvae.bulk.table import TEXT, Column, Rejected
from fastvae.errors import InputError, JobError
from fastvae.evidence import BOUNDS, ERRORS, Estimator
from fastvae.files import ReadOptions
from fastvae.files.dataset import Dataset, open_dataset
from fastvae.scoring import metric_of
from fastvae.spec import ModelSpec, PointHead

ENCODED = ("posterior", "mean", "sample")
# Formats that hold strings, as names of files and keys are.
WITH_TEXT = ("parquet", "parquet-bytes")


def encode(
    model: VAE | str | os.PathLike[str],
    data: Any,
    out: str | os.PathLike[str],
    *,
    output: Literal["posterior", "mean", "sample"] = "posterior",
    samples: int = 1,
    seed: int = 0,
    condition: Any = None,
    reading: ReadOptions | None = None,
    invalid: Literal["raise", "mask"] = "raise",
    shard_size: int | None = None,
    format: Format = "parquet",
    dtype: Dtype = "float32",
    workers: int | None = None,
    ray: bool | str = False,
    recheck: bool = False,
    watch: Watch | None = None,
) -> Report:
    """The posterior q(z|x) of every row of a data set, as files in a folder: each row once, whatever is killed.

    The same call goes on with what is missing. Rows have the bits of ``fastvae.load(..., batch_invariant=True)``: of
    its ``embed`` for ``mean``, of its ``encode`` otherwise. See docs/bulk.md for the folder and its promises.

    Args:
        model: a model, or what :func:`fastvae.load` takes.
        data: a file (Parquet, ``.npy``, ``.npz``, CSV, a WebDataset tar), a folder (of files of one of these kinds, of
            images, of a finished bulk job, or a Zarr array or group), a pattern such as ``data/*.parquet``, or a list.
        out: a folder, made if need be; it must be empty or hold this very job.
        output: ``posterior``, columns ``mean`` and ``logvar`` (which a deterministic encoder has not); ``mean`` alone;
            or ``sample``, draws from q(z|x), whose noise is that of the row's index.
        samples: draws of a row; more than one makes values of shape (samples, *latent_shape).
        seed: of the draws, an unsigned 64-bit integer.
        condition: for conditional models: a label or vector for all rows, or one for each.
        reading: how data are read. ``image_shape`` is for models of any size, ``pixel_range`` by default the model's.
        invalid: what becomes of rows that cannot be read, hold NaN or Inf, or lie outside [0, 1] where the model's data
            do not: ``raise`` fails their shard; ``mask`` makes them NaN and lists them, see :func:`rejected`.
        shard_size: rows of a file; None is 64 MiB of what is read and written for them, or fewer of a large model.
        format: ``parquet`` (columns ``index``, ids, and results) or, for one column without ids, ``npy``.
        dtype: ``float32`` or ``float16``.
        workers, ray, recheck, watch: as for :func:`fastvae.bulk.generate`.

    Returns:
        A Report, also if the job was done before.

    Raises:
        InputError: an argument out of range, or data that cannot be read.
        JobError: the folder holds another job or other files, another process is working on it, or the data changed.
        IncompleteJobError: some shards failed three times; all others are done.
        OutputError: the folder cannot be written, or the disk is full. What is there stays.
        UnsupportedError: a package that reads or writes it is not installed. Besides, what :func:`fastvae.load` raises.
    """
    if not isinstance(output, str) or output not in ENCODED:
        raise InputError(f"output: expected one of {', '.join(map(repr, ENCODED))}, got {output!r:.80}")
    samples, seed = noise.check_count("samples", samples, least=1, most=noise.MAX_SAMPLES), noise.check_seed(seed)
    asked = _Asked(data, condition, reading, invalid, shard_size, format, dtype, workers, ray, recheck)
    asked.check()
    if dtype == "uint8":
        raise InputError("dtype: 'uint8' is for values in [0, 1], and latents are not; use 'float32' or 'float16'")
    found = _Input.of(invariant(model), asked, watch)
    if output == "sample":
        shape = found.spec.latent_shape if samples == 1 else (samples, *found.spec.latent_shape)
        names: tuple[str, ...] = ("sample",)
        settings: dict[str, Any] = {"output": output, "samples": samples, "seed": seed}
    else:
        shape = found.spec.latent_shape
        names = ("mean",) if output == "mean" or isinstance(found.spec.posterior, PointHead) else ("mean", "logvar")
        settings = {"output": JOINT.join(names)}
    return found.run("encode", asked, out, [Column(name, dtype, shape) for name in names], settings)


def reconstruct(
    model: VAE | str | os.PathLike[str],
    data: Any,
    out: str | os.PathLike[str],
    *,
    condition: Any = None,
    reading: ReadOptions | None = None,
    invalid: Literal["raise", "mask"] = "raise",
    shard_size: int | None = None,
    format: Format = "parquet",
    dtype: Dtype = "float32",
    workers: int | None = None,
    ray: bool | str = False,
    recheck: bool = False,
    watch: Watch | None = None,
) -> Report:
    """E[x|z] at the posterior mean of every row of a data set, in the column ``reconstruction``, as :func:`encode`.

    ``dtype`` may be ``uint8``, as for :func:`generate`, without ``mask``: bytes have no NaN. Other arguments, the
    result and errors are those of :func:`encode`.
    """
    asked = _Asked(data, condition, reading, invalid, shard_size, format, dtype, workers, ray, recheck)
    asked.check()
    if dtype == "uint8" and invalid == MASK:
        raise InputError("dtype: 'uint8' has no NaN for the rows that invalid='mask' rejects; use 'float32'")
    vae = invariant(model)
    check_dtype(dtype, vae._engine)
    found = _Input.of(vae, asked, watch)
    columns = [Column("reconstruction", dtype, found.spec.input_shape)]
    return found.run("reconstruct", asked, out, columns, {"output": "mean"})


def score(
    model: VAE | str | os.PathLike[str],
    data: Any,
    out: str | os.PathLike[str],
    *,
    metric: str | Sequence[str] = "reconstruction",
    samples: int | None = None,
    seed: int = 0,
    beta: float = 1.0,
    standard_errors: bool = False,
    condition: Any = None,
    reading: ReadOptions | None = None,
    invalid: Literal["raise", "mask"] = "raise",
    shard_size: int | None = None,
    format: Format = "parquet",
    dtype: Dtype = "float32",
    workers: int | None = None,
    ray: bool | str = False,
    recheck: bool = False,
    watch: Watch | None = None,
) -> Report:
    """How surprising every row of a data set is, a column for each metric, as :func:`encode`.

    Args:
        metric: one or several of those of :meth:`fastvae.VAE.score`.
        samples, seed, beta: as there; the noise of a row is that of its index.
        standard_errors: with the one metric ``iwae`` or ``elbo``, also columns ``standard_error`` and
            ``effective_sample_size``, those of :meth:`fastvae.VAE.log_likelihood`, of at least 2 ``samples``.

    Other arguments, the result and errors are those of :func:`encode`; UnsupportedError also for a metric that a
    deterministic encoder has not.
    """
    names = [metric] if isinstance(metric, str) else list(metric) if isinstance(metric, Sequence) else [metric]
    found_metrics = [metric_of(name, samples, seed, beta) for name in names]
    if not names or len({*names}) < len(names):
        raise InputError(f"metric: expected one or several, each once, got {metric!r:.200}")
    if standard_errors:
        _check_errors(names, samples, seed, beta)
        names += ERRORS
    asked = _Asked(data, condition, reading, invalid, shard_size, format, dtype, workers, ray, recheck)
    asked.check()
    if dtype == "uint8":
        raise InputError("dtype: 'uint8' is for values in [0, 1], and scores are not; use 'float32' or 'float16'")
    vae = invariant(model)
    for found_metric in found_metrics:
        if found_metric.needs_variance:
            vae._check_variance(f"metric {found_metric.name!r}")
    first = found_metrics[0]
    settings = {"output": JOINT.join(names), "samples": samples or 0, "seed": first.seed, "beta": first.beta}
    columns = [Column(name, dtype, ()) for name in names]
    return _Input.of(vae, asked, watch).run("score", asked, out, columns, settings)


def _check_errors(metrics: Sequence[str], samples: Any, seed: int, beta: float) -> None:
    """Refuse ``standard_errors`` of what has none.

    Raises:
        InputError: another metric, several, a weight of the divergence, or fewer than 2 draws.
    """
    if len(metrics) != 1 or metrics[0] not in BOUNDS or beta != 1:
        names = ", ".join(metrics)
        raise InputError(f"standard_errors: for the one metric {' or '.join(BOUNDS)} with beta 1, got {names!r:.80}")
    Estimator(metrics[0], samples, seed)


def rejected(folder: str | os.PathLike[str]) -> Iterator[Rejected]:
    """The rows that a job of ``invalid="mask"`` rejected, in their order, of the shards that are done.

    Raises:
        JobError: the folder holds no job, or a list of it cannot be read.
    """
    place = open_folder(folder)
    job = place.job()
    records = place.records(job) if job.invalid == MASK else {}
    for shard in sorted(records):
        try:
            yield from map(parsed, (place.read_text(rejects_name(shard)) or "").splitlines())
        except (ValueError, TypeError) as error:
            raise JobError(
                f"{place.path}: {rejects_name(shard)} is damaged; delete it and make the job again"
            ) from error


def same_data(job: Job, folder: JobFolder, vae: VAE, data: Any, watch: Watch) -> Dataset:
    """The rows that a job was made of; ``watch`` is told how far counting and hashing them is.

    Raises:
        InputError: ``data`` cannot be read as the job's were.
        JobError: they are others, or the model is loaded in another way.
    """
    settings = vae._engine.settings
    loaded = {"scaled_latents": settings.scaled_latents, "max_memory": str(settings.max_memory or "")}
    if wrong := [name for name, value in loaded.items() if getattr(job, name) != value]:
        raise JobError(f"the job's model was loaded with other settings: {', '.join(wrong)}")
    _, reading = sized(vae.spec, reading_from(job.reading))
    found = open_dataset(data, reading, vae.spec.pixel_range, now_and_then(before_job(watch, "index")))
    if not found.named and job.format not in WITH_TEXT:
        found = replace(found, ids=())
    told = before_job(watch, "hash", job.n, job.shards)
    entries = identity.identify(found.files, identity.kept(folder), told)
    identity.refuse_changed(folder, replace(job, data=identity.digest(entries), n=len(found)), entries)
    if job.reading != reading_text(found, reading):
        raise JobError("the job's images were decoded by another version of Pillow")
    return found


@dataclass(frozen=True)
class _Asked:
    """The arguments that all verbs have."""

    data: Any
    condition: Any
    reading: ReadOptions | None
    invalid: Any
    shard_size: int | None
    format: Format
    dtype: Dtype
    workers: int | None
    ray: Any
    recheck: bool

    def check(self) -> None:
        """Refuse what can be refused without the model."""
        check_common(self.format, self.dtype, self.shard_size, self.workers)
        check_address(self.ray)
        if not isinstance(self.invalid, str) or self.invalid not in (RAISE, MASK):
            raise InputError(f"invalid: expected 'raise' or 'mask', got {self.invalid!r:.80}")
        if self.reading is not None and not isinstance(self.reading, ReadOptions):
            raise InputError(f"reading: expected ReadOptions, got {type(self.reading).__name__}")


@dataclass(frozen=True)
class _Input:
    """A model and the rows of a data set for it; ``spec`` is the model's for rows of this shape.

    ``watch`` is told how far the job is.
    """

    vae: VAE
    spec: ModelSpec
    data: Dataset
    reading: ReadOptions
    watch: Watch

    @staticmethod
    def of(vae: VAE, asked: _Asked, watch: Watch | None) -> _Input:
        """The rows that are asked for; errors as :func:`encode`."""
        spec, reading = sized(vae.spec, asked.reading or ReadOptions())
        watch = watch or unwatched
        told = now_and_then(before_job(watch, "index"))
        data = open_dataset(asked.data, reading, vae.spec.pixel_range, told)
        if not data.named and asked.format not in WITH_TEXT:  # names of files, which nobody asked for
            data = replace(data, ids=())
        return _Input(vae, spec, data, reading, watch)

    def run(self, verb: str, asked: _Asked, out: Any, results: list[Column], settings: dict[str, Any]) -> Report:
        """Make the job of a verb with columns of ``results`` and run it; errors as :func:`encode`."""
        place, engine, n = open_folder(folder_path("out", out)), self.vae._engine, len(self.data)
        plans = plans_of(verb, settings["output"], settings.get("samples", 0), engine.spec)
        vectors = condition_rows(asked.condition, engine, n, *plans)
        columns = (*id_columns(self.data), *results)
        names = [column.name for column in columns]
        if repeated := next((name for name in names if name == "index" or names.count(name) > 1), None):
            raise InputError(f"id_columns: {repeated!r} is also a column of the result")
        FORMATS[asked.format].check(columns)
        texts = [column.name for column in columns if column.dtype == TEXT]
        if texts and asked.format not in WITH_TEXT:
            raise InputError(
                f"format: {asked.format!r} has no place for ids of text ({', '.join(texts)}); use 'parquet'"
            )
        row_bytes = sum(column.bytes for column in columns) + 4 * math.prod(self.spec.input_shape)
        flops = flops_of(self.vae, self.spec, plans, settings.get("samples", 0))
        rows, block = sizes(n, row_bytes, flops, asked.shard_size)
        told = before_job(self.watch, "hash", n, -(-n // rows))
        entries = identity.identify(self.data.files, identity.kept(place), told)
        job = Job(
            verb=verb,
            weights=weights_hash(engine.model),
            spec=spec_hash(engine.spec),
            condition=condition_hash(vectors),
            n=n,
            shard_size=rows,
            block_rows=block,
            format=asked.format,
            columns=columns,
            engine=fastvae.__version__,
            data=identity.digest(entries),
            reading=reading_text(self.data, self.reading),
            invalid=asked.invalid,
            scaled_latents=engine.settings.scaled_latents,
            max_memory=str(engine.settings.max_memory or ""),
            **{"seed": 0, **settings},
            **numerics_of(engine),
        )
        where = (place, asked.workers, asked.ray, self.watch, self.data, entries)
        report = run(job, self.vae, vectors, *where, recheck=asked.recheck)
        return replace(report, rejected=sum(1 for _ in rejected(place.path)))
