"""The folder of a job: its files, its manifest, and the lock that keeps a second driver out.

    job.json          what the job is
    shard-*.parquet   the shards, or .npy
    rejected-*.jsonl  a line for every row of a shard that was rejected, in a job that masks them
    input.jsonl       a line for every file that the job reads
    manifest.jsonl    a line for every shard that is on the disk under its final name
    _SUCCESS          written last: the job's id and the checksum of all rows
    .lock             held while a driver is at work
    .*.tmp            files being written

A shard counts once its line is in the manifest. What a crash can leave (temporary files, a shard without its line, a
line without its end) is swept, overwritten or dropped by the next driver.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from fastvae.bulk.content import added
from fastvae.bulk.disk import Disk, NewFile, Written
from fastvae.bulk.job import Job
from fastvae.bulk.rejects import files_of
from fastvae.bulk.shards import FORMATS
from fastvae.errors import JobError, OutputError

JOB, MANIFEST, SUCCESS, LOCK = "job.json", "manifest.jsonl", "_SUCCESS", ".lock"
TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


@dataclass(frozen=True)
class Record:
    """What the manifest says of a shard: its number, first row, rows, files, and their checksum in hexadecimal."""

    shard: int
    start: int
    rows: int
    files: tuple[Written, ...]
    content: str


@dataclass(frozen=True)
class Success:
    """What ``_SUCCESS`` says: the job's id, its samples and shards, and the checksum of all rows."""

    job: str
    n: int
    shards: int
    content: str


class Folder:
    """A job's folder, on a disk."""

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.path, self._disk = path, disk or Disk()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The folder, made if need be, as this process's own.

        Raises:
            JobError: another process works on it, or it holds files that are none of a job's.
            OutputError: it cannot be made or written.
        """
        lock = FileLock(self.path / LOCK, timeout=0, thread_local=False)
        try:
            if not self.path.exists():
                self.path.mkdir(parents=True, exist_ok=True)
                self._disk.sync_folder(self.path.parent)
            self._refuse_foreign()
            lock.acquire()
        except Timeout as error:
            raise JobError(f"{self.path}: another process is working on this job") from error
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    def job(self) -> Job:
        """The job the folder holds.

        Raises:
            JobError: none, or not one of this version.
        """
        path = self.path / JOB
        try:
            job = Job.from_json(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(f"{self.path}: is not the folder of a job; it has no {JOB} that can be read") from error
        if job.format not in FORMATS:
            raise JobError(f"{path}: holds no job of this version of fastvae; its format is {job.format!r:.80}")
        return job

    def prepare(self, job: Job) -> None:
        """Make the folder that of ``job``, and clean up what a crash left. Only in :meth:`locked`.

        Raises:
            JobError: it holds another job.
        """
        self.sweep()
        if (self.path / JOB).exists():
            found = self.job()
            if found.id != job.id:
                raise JobError(
                    f"{self.path}: holds another job ({found.differences(job)}); "
                    "choose another folder, or delete this one"
                )
            return
        self.write_text(JOB, job.to_json())

    def sweep(self) -> None:
        """Remove files that were never finished."""
        with contextlib.suppress(OSError):
            for path in self.path.iterdir():
                if TEMPORARY.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def records(self, job: Job) -> dict[int, Record]:
        """What the manifest says, by shard; lines that are not whole, or not of ``job``, are left out."""
        try:
            lines = (self.path / MANIFEST).read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return {}
        found = (_record(line, job) for line in lines)
        return {record.shard: record for record in found if record is not None}

    def present(self, record: Record) -> str:
        """What is wrong with a shard's files at first sight (their sizes); nothing if it is empty."""
        for file in record.files:
            try:
                size = (self.path / file.name).stat().st_size
            except FileNotFoundError:
                return f"{file.name} is missing"
            if size != file.bytes:
                return f"{file.name} has {size:,} bytes instead of {file.bytes:,}"
        return ""

    def success(self) -> Success | None:
        """What ``_SUCCESS`` says; None if it is not there, or not whole."""
        try:
            return Success(**json.loads((self.path / SUCCESS).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def repair_manifest(self) -> None:
        """Cut off a line without its end, so that the next one is a line of its own."""
        path = self.path / MANIFEST
        if not path.exists():
            return
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self._appending(path) as descriptor:
                self._disk.truncate(descriptor, whole)
                self._disk.sync(descriptor)

    def append(self, record: Record) -> None:
        """Add a shard's line to the manifest; the shard counts from then on."""
        path = self.path / MANIFEST
        new = not path.exists()
        view = memoryview((json.dumps(asdict(record)) + "\n").encode())
        with self._appending(path) as descriptor:
            while view:
                view = view[self._disk.write(descriptor, view) :]
            self._disk.sync(descriptor)
        if new:
            self._disk.sync_folder(self.path)

    def begin_again(self) -> None:
        """Take ``_SUCCESS`` away: something of the job is missing."""
        (self.path / SUCCESS).unlink(missing_ok=True)
        self._disk.sync_folder(self.path)

    def finish(self, job: Job, records: dict[int, Record]) -> Success:
        """Write ``_SUCCESS``."""
        content = 0
        for record in records.values():
            content = added(content, int(record.content, 16))
        success = Success(job.id, job.n, job.shards, f"{content:016x}")
        self.write_text(SUCCESS, json.dumps(asdict(success)) + "\n")
        return success

    @contextlib.contextmanager
    def new_files(self, names: Sequence[str]) -> Iterator[list[NewFile]]:
        """Files to write and publish under ``names``; what is not published leaves nothing."""
        files: list[NewFile] = []
        try:
            for name in names:
                temporary = self.path / f".{name}.{secrets.token_hex(8)}.tmp"
                files.append(NewFile(self._disk, temporary, self.path / name))
            yield files
        except BaseException:
            for file in files:
                with contextlib.suppress(OSError):
                    file.discard()
            raise

    def read_text(self, name: str) -> str | None:
        """What a file of the folder holds; None if it is not there, or no text."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the folder, whole or not at all. Only in :meth:`locked`."""
        with self.new_files([name]) as (file,):
            file.write(text.encode())
            file.publish()

    def _refuse_foreign(self) -> None:
        """Refuse a folder with files of somebody else, before anything is written there."""
        names = sorted(path.name for path in self.path.iterdir())
        foreign = [name for name in names if name != LOCK and not TEMPORARY.fullmatch(name)]
        if foreign and JOB not in names:
            raise JobError(f"{self.path}: holds files but no job ({foreign[0]!r}); choose one that is empty or new")

    @contextlib.contextmanager
    def _appending(self, path: Path) -> Iterator[int]:
        descriptor = self._disk.open_append(path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _record(line: bytes, job: Job) -> Record | None:
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
