"""The folder of a job on a local disk: its files, its manifest, and the lock that keeps a second driver out.

    job.json          what the job is
    shard-*.parquet   the shards, or as their format says, with what goes with all of them
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
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from fastvae.bulk.disk import Disk, NewFile, NewTree, Output, bytes_of
from fastvae.bulk.job import Job
from fastvae.bulk.place import (
    JOB,
    SUCCESS,
    Record,
    Success,
    job_of,
    record_of,
    refuse_another,
    refuse_foreign,
    success_for,
    success_of,
)
from fastvae.bulk.shards import FORMATS
from fastvae.errors import JobError, OutputError

MANIFEST, LOCK = "manifest.jsonl", ".lock"
TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


class Folder:
    """A job's folder, on a disk; methods as :class:`JobFolder` says."""

    shared = True

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.path, self._disk = path, disk or Disk()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """See :class:`JobFolder`; one driver at a time, on any machine whose file system locks files."""
        lock = FileLock(self.path / LOCK, timeout=0, thread_local=False)
        try:
            if not self.path.exists():
                self.path.mkdir(parents=True, exist_ok=True)
                self._disk.sync_folder(self.path.parent)
            names = [path.name for path in self.path.iterdir()]
            refuse_foreign([name for name in names if name != LOCK and not TEMPORARY.fullmatch(name)], self.path)
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
        """See :class:`JobFolder`."""
        try:
            data = (self.path / JOB).read_bytes()
        except OSError as error:
            raise JobError(f"{self.path}: is not the folder of a job; it has no {JOB} that can be read") from error
        return job_of(data, self.path)

    def prepare(self, job: Job) -> None:
        """See :class:`JobFolder`."""
        self.sweep()
        if (self.path / JOB).exists():
            refuse_another(self.job(), job, self.path)
        else:
            self._write(JOB, job.to_json().encode())
        for name, data in FORMATS[job.format].common(job).items():
            path = self.path / name
            if not path.exists() or path.read_bytes() != data:
                if not path.parent.exists():
                    self._disk.create_folder(path.parent)
                    self._disk.sync_folder(self.path)
                self._write(name, data)

    def sweep(self) -> None:
        """See :class:`JobFolder`."""
        with contextlib.suppress(OSError):
            for path in self.path.iterdir():
                if TEMPORARY.fullmatch(path.name):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def records(self, job: Job) -> dict[int, Record]:
        """See :class:`JobFolder`."""
        try:
            lines = (self.path / MANIFEST).read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return {}
        found = (record_of(line, job) for line in lines)
        return {record.shard: record for record in found if record is not None}

    def present(self, record: Record) -> str:
        """See :class:`JobFolder`."""
        for file in record.files:
            try:
                size = bytes_of(self.path / file.name)
            except FileNotFoundError:
                return f"{file.name} is missing"
            if size != file.bytes:
                return f"{file.name} has {size:,} bytes instead of {file.bytes:,}"
        return ""

    def success(self) -> Success | None:
        """See :class:`JobFolder`."""
        try:
            return success_of((self.path / SUCCESS).read_bytes())
        except OSError:
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
        """See :class:`JobFolder`."""
        path = self.path / MANIFEST
        new = not path.exists()
        view = memoryview(record.to_json())
        with self._appending(path) as descriptor:
            while view:
                view = view[self._disk.write(descriptor, view) :]
            self._disk.sync(descriptor)
        if new:
            self._disk.sync_folder(self.path)

    def begin_again(self) -> None:
        """See :class:`JobFolder`."""
        (self.path / SUCCESS).unlink(missing_ok=True)
        self._disk.sync_folder(self.path)

    def finish(self, job: Job, records: Mapping[int, Record]) -> Success:
        """See :class:`JobFolder`."""
        success = success_for(job, records)
        self._write(SUCCESS, success.to_json())
        return success

    @contextlib.contextmanager
    def new_files(self, names: Sequence[str]) -> Iterator[Sequence[Output]]:
        """See :class:`JobFolder`."""
        files: list[Output] = []
        try:
            for name in names:
                flat = name.strip("/").replace("/", "-")
                temporary = self.path / f".{flat}.{secrets.token_hex(8)}.tmp"
                kind = NewTree if name.endswith("/") else NewFile
                files.append(kind(self._disk, temporary, self.path, name))
            yield files
        except BaseException:
            for file in files:
                with contextlib.suppress(OSError):
                    file.discard()
            raise

    @contextlib.contextmanager
    def local(self, job: Job, record: Record) -> Iterator[Path]:
        """See :class:`JobFolder`."""
        yield self.path

    def read_text(self, name: str) -> str | None:
        """See :class:`JobFolder`."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def write_text(self, name: str, text: str) -> None:
        """See :class:`JobFolder`."""
        self._write(name, text.encode())

    def _write(self, name: str, data: bytes) -> None:
        with self.new_files([name]) as (file,):
            assert isinstance(file, NewFile)
            file.write(data)
            file.publish()

    @contextlib.contextmanager
    def _appending(self, path: Path) -> Iterator[int]:
        descriptor = self._disk.open_append(path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
