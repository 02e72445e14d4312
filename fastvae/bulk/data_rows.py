"""The rows of jobs over data sets: read, looked at, and put through a verb of the model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from importlib import metadata
from typing import Any, cast

import numpy as np
import torch

from fastvae.api import VAE
from fastvae.bulk.job import Job
from fastvae.bulk.rejects import RAISE
from fastvae.bulk.source import RowSource, Samples, condition_block, stored
from fastvae.bulk.table import TEXT, Block, Column, Rejected, Rows
from fastvae.errors import InputError, JobError, WeightFormatError
from fastvae.evidence import ERRORS
from fastvae.files import ReadOptions
from fastvae.files.dataset import Chunk, Dataset
from fastvae.plan import build_plan, plan_cost
from fastvae.scoring import metric_of
from fastvae.spec import ModelSpec
from fastvae.streams import ahead

# Blocks read before they are asked for, besides images, which are decoded ahead by themselves.
AHEAD = 1
JOINT = ", "


def row_source(vae: VAE, condition: Rows | None, data: Dataset | None) -> RowSource:
    """What computes a job's rows: samples, or results for the rows of ``data``."""
    return Samples(vae, condition) if data is None else DataRows(vae, condition, data)


class DataRows:
    """What a verb makes of the rows of a data set; ``condition`` is what :func:`condition_rows` gave."""

    def __init__(self, vae: VAE, condition: Rows | None, data: Dataset) -> None:
        self._vae, self._condition, self._data = vae, condition, data
        self._dtype = np.float64 if vae._engine.dtype == torch.float64 else np.float32

    def blocks(self, job: Job, low: int, high: int) -> Iterator[Block]:
        """See :class:`RowSource`; blocks are read ahead of the model."""
        start = low
        with closing(ahead(self._data.blocks(low, high, job.block_rows), AHEAD)) as chunks:
            for chunk in chunks:
                yield self._computed(job, start, chunk)
                start += len(chunk)

    def block(self, job: Job, low: int, high: int) -> Block:
        """See :class:`RowSource`."""
        (chunk,) = self._data.blocks(low, high, high - low)
        return self._computed(job, low, chunk)

    def _computed(self, job: Job, start: int, chunk: Chunk) -> Block:
        with np.errstate(over="ignore"):
            values = np.array(chunk.values, self._dtype, order="C")
        unit_interval = self._vae._engine.head.unit_interval
        bad = dict(sorted({**unusable(values, unit_interval=unit_interval), **chunk.bad}.items()))
        rejected = [Rejected(start + row, _ids_of(chunk, row), reason) for row, reason in bad.items()]
        if rejected and job.invalid == RAISE:
            raise InputError(described(rejected[0]))
        places = list(bad)
        values[places] = 0
        condition = condition_block(self._condition, start, start + len(chunk))
        columns = {column.name: chunk.ids[column.name] for column in job.columns if column.name in chunk.ids}
        for (name, rows), column in zip(
            results(self._vae, job, values, start, condition), job.columns[len(columns) :], strict=True
        ):
            if places:
                rows = np.array(rows)  # what a verb returns may not be writable
                rows[places] = np.nan
            columns[name] = stored(rows, column.dtype)
        return Block(start, columns, rejected)


def results(vae: VAE, job: Job, x: Rows, start: int, condition: Rows | None) -> list[tuple[str, Rows]]:
    """The columns that a job's verb makes of rows (rows, *shape) of which the first has the index ``start``."""
    verb: Any = job.verb, job.output
    match verb:
        case "encode", "mean":
            return [("mean", vae.embed(x, condition=condition))]
        case "encode", "sample":
            draws = vae.encode(x, condition=condition).sample(job.seed, job.samples, start=start)
            return [("sample", draws if job.samples == 1 else np.moveaxis(draws, 0, 1))]
        case "encode", _:
            posterior = vae.encode(x, condition=condition)
            return [(name, getattr(posterior, name)) for name in job.output.split(JOINT)]
        case "reconstruct", _:
            output: Any = "uint8" if job.columns[-1].dtype == "uint8" else "mean"
            return [("reconstruction", vae.reconstruct(x, condition=condition, output=output))]
        case "score", metrics:
            options: dict[str, Any] = {"seed": job.seed, "condition": condition, "start": start}
            names, draws = metrics.split(JOINT), job.samples or None
            if ERRORS[0] in names:
                found = vae.log_likelihood(x, job.samples, bound=cast(Any, names[0]), **options)
                return [(names[0], -found.estimate), *((name, getattr(found, name)) for name in ERRORS)]
            return [(name, vae.score(x, cast(Any, name), draws, beta=job.beta, **options)) for name in names]
    raise AssertionError(f"a job of {job.verb} reads no data")


def plans_of(verb: str, output: str, samples: int, spec: ModelSpec) -> tuple[str, ...]:
    """The plans that a job's verb runs, of a model of ``spec``; those that decide whether it needs a condition."""
    if verb == "generate":
        return ("decode",)
    if verb == "encode":
        return ("embed",) if output == "mean" else ("encode",)
    if verb == "score":
        closed = spec.prior is None
        names = (name for name in output.split(JOINT) if name not in ERRORS)
        metrics = (metric_of(name, samples or None, 0, 1.0, closed=closed) for name in names)
        return tuple(plan for metric in metrics for plan in metric.verbs)
    return (verb,)


def flops_of(vae: VAE, spec: ModelSpec, plans: Sequence[str], samples: int) -> int:
    """FLOPs of a row, whose draws go through all plans but the first."""
    model = replace(vae._engine.model, spec=spec)
    costs = [plan_cost(build_plan(model, plan, device="meta")).flops for plan in plans]
    return costs[0] + max(1, samples) * sum(costs[1:])


def unusable(values: Rows, *, unit_interval: bool) -> dict[int, str]:
    """What is wrong with rows that the model cannot take, by their place."""
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    finite = np.isfinite(flat).all(1)
    bad = {int(row): f"holds NaN or Inf, or a value beyond {values.dtype}" for row in np.flatnonzero(~finite)}
    if unit_interval and flat.size:
        with np.errstate(invalid="ignore"):
            low, high = flat.min(1), flat.max(1)
            for row in np.flatnonzero(finite & ~((low >= 0) & (high <= 1))):
                hint = "; divide by the largest value a pixel can have, e.g. scale=255" if high[row] > 1 else ""
                bad[int(row)] = f"this model's data lie in [0, 1], got values from {low[row]:g} to {high[row]:g}{hint}"
    return bad


def described(row: Rejected) -> str:
    """A rejected row in a sentence."""
    ids = ", ".join(f"{name} {value!r:.200}" for name, value in row.ids.items())
    advice = "invalid='mask' lists such rows and goes on"
    return f"row {row.index} (the first is 0{'; ' + ids if ids else ''}): {row.reason}; {advice}"


def _ids_of(chunk: Chunk, row: int) -> dict[str, Any]:
    return {name: values[row] if values.dtype == object else int(values[row]) for name, values in chunk.ids.items()}


def id_columns(data: Dataset) -> tuple[Column, ...]:
    """The ids of a data set as columns of a job."""
    return tuple(Column(column.name, TEXT if column.kind == TEXT else "int64", ()) for column in data.ids)


def sized(spec: ModelSpec, options: ReadOptions) -> tuple[ModelSpec, ReadOptions]:
    """A model's spec for rows of the shape that is asked for, and the options with that shape.

    Raises:
        InputError: the model takes no rows of this shape.
    """
    shape = options.image_shape
    if shape and shape != spec.input_shape:
        if not spec.any_size or len(shape) != 3 or shape[0] != spec.input_shape[0]:
            raise InputError(f"reading: this model takes rows of shape {spec.input_shape}, not image_shape={shape}")
        try:
            spec = spec.resized(*shape[1:])
        except WeightFormatError as error:
            raise InputError(f"reading: image_shape={shape}: {error}") from error
    return spec, replace(options, image_shape=spec.input_shape)


def reading_text(data: Dataset, options: ReadOptions) -> str:
    """How rows are read, as JSON: the options that are given, and what decodes images."""
    plain = ReadOptions()
    given = {name: value for name, value in asdict(options).items() if value != getattr(plain, name)}
    if data.pictures:
        given["pillow"] = metadata.version("pillow")
    return json.dumps(given, sort_keys=True)


def reading_from(text: str) -> ReadOptions:
    """The options in what :func:`reading_text` wrote.

    Raises:
        JobError: they are none.
    """
    try:
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
        }
        given.pop("pillow", None)
        return ReadOptions(**given)
    except (ValueError, TypeError, AttributeError) as error:
        raise JobError(f"reading: the job says {text!r:.200}, which this version of fastvae cannot read") from error
