"""Where a job's files are: what a local folder and an object store have in common."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from fastvae.bulk.content import added
from fastvae.bulk.disk import Output, Written, sha256_of
from fastvae.bulk.job import Job
from fastvae.bulk.rejects import files_of
from fastvae.bulk.shards import FORMATS
from fastvae.errors import JobError

JOB, SUCCESS = "job.json", "_SUCCESS"


@dataclass(frozen=True)
class Record:
    """What the manifest says of a shard: its number, first row, rows, files, and their checksum in hexadecimal."""

    shard: int
    start: int
    rows: int
    files: tuple[Written, ...]
    content: str

    def to_json(self) -> bytes:
        """The record as a line."""
        return (json.dumps(asdict(self)) + "\n").encode()


@dataclass(frozen=True)
class Success:
    """What ``_SUCCESS`` says: the job's id, its samples and shards, and the checksum of all rows."""

    job: str
    n: int
    shards: int
    content: str

    def to_json(self) -> bytes:
        """What is written to ``_SUCCESS``."""
        return (json.dumps(asdict(self)) + "\n").encode()


class JobFolder(Protocol):
    """A job's folder, as its driver, its workers and ``verify`` see it."""

    @property
    def path(self) -> Path | str:
        """What :func:`fastvae.bulk.opening.open_folder` makes this folder of, in another process too."""

    @property
    def shared(self) -> bool:
        """Whether other processes see the same folder."""

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """The folder, made if need be, for a driver.

        Raises:
            JobError: it holds files that are none of a job's, or another process is known to work on it.
            OutputError: it cannot be made or written.
        """

    def job(self) -> Job:
        """The job the folder holds.

        Raises:
            JobError: none, or not one of this version.
        """

    def prepare(self, job: Job) -> None:
        """Make the folder that of ``job``, and clean up what a crash left. Only in :meth:`locked`.

        Raises:
            JobError: it holds another job.
        """

    def sweep(self) -> None:
        """Remove files that were never finished."""

    def records(self, job: Job) -> dict[int, Record]:
        """What the manifest says, by shard; what is not whole, or not of ``job``, is left out."""

    def present(self, record: Record) -> str:
        """What is wrong with a shard's files at first sight (their sizes); nothing if it is empty."""

    def success(self) -> Success | None:
        """What ``_SUCCESS`` says; None if it is not there, or not whole."""

    def repair_manifest(self) -> None:
        """Bring the manifest into a state that more can be added to."""

    def append(self, record: Record) -> None:
        """Add a shard to the manifest; the shard counts from then on."""

    def read_text(self, name: str) -> str | None:
        """What a file of the folder holds; None if it is not there, or no text."""

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the folder, whole or not at all. Only in :meth:`locked`."""

    def begin_again(self) -> None:
        """Take ``_SUCCESS`` away: something of the job is missing."""

    def finish(self, job: Job, records: Mapping[int, Record]) -> Success:
        """Write ``_SUCCESS``."""

    def new_files(self, names: Sequence[str]) -> contextlib.AbstractContextManager[Sequence[Output]]:
        """Files to write and publish under ``names``, folders where one ends in a slash.

        What is not published leaves nothing.
        """

    def local(self, job: Job, record: Record) -> contextlib.AbstractContextManager[Path]:
        """A local folder with a shard's files, and what goes with all shards; OSError if they cannot be had."""


def altered(record: Record, folder: Path, seen: Callable[[int], None] = lambda count: None) -> str:
    """Which of a shard's files in a local folder has other bytes than were written; nothing if it is empty.

    ``seen`` is called with the bytes of every piece. OSError if one cannot be read.
    """
    for written in record.files:
        if sha256_of(folder / written.name, seen) != written.sha256:
            return f"{written.name} has another SHA-256 than the manifest says"
    return ""


def record_of(line: bytes, job: Job) -> Record | None:
    """The record in a line of the manifest; None if there is none of ``job``."""
    try:
        values = json.loads(line)
        record = Record(**{**values, "files": tuple(Written(**file) for file in values["files"])})
        low, high = job.bounds(record.shard)
        int(record.content, 16)
        names = files_of(job, record.shard)
    except (ValueError, TypeError, KeyError):
        return None
    known = 0 <= record.shard < job.shards and (record.start, record.rows) == (low, high - low)
    whole = tuple(file.name for file in record.files) == names and all(map(_whole, record.files))
    return record if known and whole else None


def _whole(file: Written) -> bool:
    return isinstance(file.bytes, int) and isinstance(file.sha256, str)


def success_of(data: bytes) -> Success | None:
    """What :meth:`Success.to_json` gave; None if it is not whole."""
    try:
        return Success(**json.loads(data))
    except (ValueError, TypeError):
        return None


def success_for(job: Job, records: Mapping[int, Record]) -> Success:
    """What ``_SUCCESS`` of a job says that has these records."""
    content = 0
    for record in records.values():
        content = added(content, int(record.content, 16))
    return Success(job.id, job.n, job.shards, f"{content:016x}")


def job_of(data: bytes, path: Path | str) -> Job:
    """The job in the ``job.json`` of the folder ``path``.

    Raises:
        JobError: none of this version.
    """
    source = f"{str(path).rstrip('/')}/{JOB}"
    try:
        job = Job.from_json(data.decode(), source)
    except UnicodeDecodeError as error:
        raise JobError(f"{path}: is not the folder of a job; it has no {JOB} that can be read") from error
    if job.format not in FORMATS:
        raise JobError(f"{source}: holds no job of this version of fastvae; its format is {job.format!r:.80}")
    return job


def refuse_another(found: Job, job: Job, path: Path | str) -> None:
    """Refuse a folder that holds ``found`` to ``job``.

    Raises:
        JobError: they are not the same.
    """
    if found.id != job.id:
        raise JobError(
            f"{path}: holds another job ({found.differences(job)}); choose another folder, or delete this one"
        )


def refuse_foreign(names: Sequence[str], path: Path | str) -> None:
    """Refuse a folder with files of somebody else, before anything is written there.

    Raises:
        JobError: there are such ``names``, and no job.
    """
    if names and JOB not in names:
        raise JobError(f"{path}: holds files but no job ({min(names)!r}); choose one that is empty or new")
