"""``verify``: whether a folder holds what its job promises."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastvae import noise
from fastvae.api import VAE
from fastvae.bulk.data_rows import plans_of, row_source
from fastvae.bulk.datasets import same_data
from fastvae.bulk.generation import invariant
from fastvae.bulk.job import Job, check_numerics, spec_hash, weights_hash
from fastvae.bulk.opening import open_folder
from fastvae.bulk.place import SUCCESS, JobFolder, Record, Success, altered, success_for
from fastvae.bulk.progress import Progress, Watch, unwatched
from fastvae.bulk.shards import FORMATS
from fastvae.bulk.source import RowSource, condition_hash, condition_rows
from fastvae.errors import InputError, JobError


@dataclass(frozen=True)
class Verification:
    """What was found.

    Args:
        job: the job.
        shards: how many are there and as they were written.
        rows: how many rows were made again, each equal in every bit.
        problems: everything that is not as it should be, a line each.
    """

    job: Job
    shards: int
    rows: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems


def verify(
    folder: str | os.PathLike[str],
    model: VAE | str | os.PathLike[str] | None = None,
    *,
    rows: int = 64,
    seed: int = 0,
    condition: Any = None,
    data: Any = None,
    watch: Watch | None = None,
) -> Verification:
    """Read a job's files again: their SHA-256, their rows, and the job's checksum.

    With a model, also make ``rows`` rows again, drawn at random by ``seed``, and compare their bits; write nothing.

    Args:
        folder: that of a job, done or not; a path or a URL.
        model: the one it was made with.
        condition: the one it was made with.
        data: for a job over a data set: the data it was made of, without which no rows are made again.
        watch: called with a :class:`fastvae.bulk.Progress`: of ``index`` and ``hash`` while ``data`` are read, as by a
            job, and of ``shard`` after every shard, with the rows and shards looked at; those with problems ``failed``.

    Returns:
        A Verification. A shard that it names can be deleted; the call that made the job then makes it again.

    Raises:
        JobError: the folder holds no job or cannot be read, the model is another or would compute it in another way, or
            the data are others.
        InputError: an argument out of range, or data that cannot be read. Besides, what :func:`fastvae.load` raises.
    """
    watch = watch or unwatched
    rows, seed = noise.check_count("rows", rows, most=2**20), noise.check_seed(seed)
    place = open_folder(folder)
    job = place.job()
    FORMATS[job.format].check(job.columns)
    if model is not None and (data is not None) != bool(job.data):
        raise InputError(f"data: a job of {job.verb} {'needs them' if job.data else 'has none'} to make rows again")
    source = None if model is None else _source(job, place, model, condition, data, watch)
    try:
        records, success = place.records(job), place.success()
    except OSError as error:
        raise JobError(f"{place.path}: its manifest cannot be read: {error}") from error
    problems: dict[int, str] = {}
    begun = time.monotonic()
    for shard in range(job.shards):
        record = records.get(shard)
        problem = "is not in the manifest" if record is None else _wrong(job, place, record)
        if problem:
            problems[shard] = f"shard {shard}: {problem}"
        seconds = time.monotonic() - begun
        watch(Progress.at("shard", job, job.bounds(shard)[1], shard + 1, len(problems), seconds))
    whole = [shard for shard in range(job.shards) if shard not in problems]
    found = list(problems.values()) + _wrong_success(job, success, records)
    again = 0
    if source is not None and whole:
        wrong, again = _made_again(job, place, source, [records[shard] for shard in whole], rows, seed)
        found += wrong
    return Verification(job, len(whole), again, tuple(found))


def _source(
    job: Job, place: JobFolder, model: VAE | str | os.PathLike[str], condition: Any, data: Any, watch: Watch
) -> RowSource:
    """What makes the job's rows.

    Raises:
        JobError: another model, condition or data than the job's.
    """
    vae = invariant(model)
    engine = vae._engine
    vectors = condition_rows(condition, engine, job.n, *plans_of(job.verb, job.output, job.samples, engine.spec))
    asked = {
        "weights": weights_hash(engine.model),
        "spec": spec_hash(engine.spec),
        "condition": condition_hash(vectors),
    }
    if wrong := [name for name, value in asked.items() if getattr(job, name) != value]:
        raise JobError(f"the job was made with another model or condition: {', '.join(wrong)} differ")
    check_numerics(job, vae)
    return row_source(vae, vectors, None if data is None else same_data(job, place, vae, data, watch))


def _wrong(job: Job, place: JobFolder, record: Record) -> str:
    """What is wrong with a shard's files; nothing if it is empty."""
    if problem := place.present(record):
        return problem
    try:
        with place.local(job, record) as folder:
            if problem := altered(record, folder):
                return problem
            count = FORMATS[job.format].count(job, record.shard, folder)
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"
    return "" if count == record.rows else f"has {count:,} rows instead of {record.rows:,}"


def _wrong_success(job: Job, success: Success | None, records: dict[int, Record]) -> list[str]:
    if success is None:
        return [f"{SUCCESS} is missing: the job is not done"]
    if success != success_for(job, records):
        return [f"{SUCCESS} does not belong to these shards"]
    return []


def _made_again(
    job: Job, place: JobFolder, source: RowSource, whole: list[Record], rows: int, seed: int
) -> tuple[list[str], int]:
    """Problems of rows drawn at random from the ``whole`` shards, and how many were looked at."""
    sizes = np.array([record.rows for record in whole], np.int64)
    before = np.concatenate([[0], np.cumsum(sizes)])
    drawn = np.sort(np.random.default_rng(seed).choice(before[-1], min(rows, before[-1]), replace=False))
    problems: list[str] = []
    at = np.searchsorted(before, drawn, side="right") - 1
    for position in np.unique(at):
        places = [int(place) for place in drawn[at == position] - before[position]]
        problems += _compared(job, place, source, whole[position], places)
    return problems, len(drawn) - len(problems)


def _compared(job: Job, place: JobFolder, source: RowSource, record: Record, places: list[int]) -> list[str]:
    """Problems of some rows of a shard."""
    shard, start = record.shard, record.start
    try:
        with place.local(job, record) as folder:
            indices, found = FORMATS[job.format].read(job, shard, folder, places)
    except (OSError, ValueError, IndexError) as error:
        return [f"shard {shard}: cannot be read: {error}"]
    problems = []
    for position, (place_, index) in enumerate(zip(places, indices, strict=True)):
        expected = source.block(job, start + place_, start + place_ + 1).columns
        wrong = [name for name in expected if not _same(found[name][position], expected[name][0])]
        if index != start + place_:
            problems.append(f"shard {shard}, row {place_}: has index {index}, not {start + place_}")
        elif wrong:
            problems.append(f"row {index}: made again, it has other bits ({', '.join(wrong)})")
    return problems


def _same(found: Any, expected: Any) -> bool:
    """Whether two values of a column have the same bits."""
    return found == expected if isinstance(expected, str) else bool(found.tobytes() == expected.tobytes())
