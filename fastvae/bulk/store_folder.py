"""The folder of a job in an object store, which renames nothing, appends to nothing and locks nothing.

    job.json                  what the job is; put only if there is none
    shard-*.parquet           the shards, and what goes with them, as in a local folder; put whole, if there is none
    manifest/000000000.json   a record for every shard that is there, put after it
    _SUCCESS                  put last

A put is seen whole or not at all. Nothing keeps a second driver of the same job out, because nothing has to: both put
the same bytes under the same names, each shard before its record. They only do the work twice. A lock would have to
outlast its holder until it is old enough to be broken, and a job that was killed could not go on at once. A driver of
another job is refused by ``job.json``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from fastvae.bulk.disk import Output
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
from fastvae.bulk.store import Store, Upload, UploadTree, at_once, scratch
from fastvae.errors import JobError, OutputError

MANIFEST: Final = "manifest/"
SCRATCH: Final = re.compile(r"fastvae-shard-(\d+)-.*")


class StoreFolder:
    """A job's folder, under a URL; methods as :class:`JobFolder` says. Errors as :class:`Store`."""

    def __init__(self, path: str, store: Store | None = None) -> None:
        self.path = path
        self._store = store or Store(path)
        self._sizes: Counter[str] | None = None

    @property
    def shared(self) -> bool:
        """See :class:`JobFolder`."""
        return self._store.shared

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """See :class:`JobFolder`; other drivers are not kept out."""
        try:
            names = list(self._store.list())
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be listed ({error}); is there such a bucket, and may these credentials list, "
                "read and write it?"
            ) from error
        refuse_foreign(names, self.path)
        yield

    def job(self) -> Job:
        """See :class:`JobFolder`."""
        try:
            data = self._store.get(JOB)
        except OSError as error:
            raise JobError(
                f"{self.path}: is not the folder of a job; it has no {JOB} that can be read ({error})"
            ) from error
        return job_of(data, self.path)

    def prepare(self, job: Job) -> None:
        """See :class:`JobFolder`."""
        self.sweep()
        if not self._create(JOB, job.to_json().encode()):
            refuse_another(self.job(), job, self.path)
        for name, data in FORMATS[job.format].common(job).items():
            self._ensure(name, data)

    def sweep(self) -> None:
        """Remove what killed processes of this machine were about to upload."""
        for folder in Path(tempfile.gettempdir()).glob("fastvae-shard-*"):
            match = SCRATCH.fullmatch(folder.name)
            if match and not _alive(int(match[1])):
                shutil.rmtree(folder, ignore_errors=True)

    def records(self, job: Job) -> dict[int, Record]:
        """See :class:`JobFolder`; what :meth:`present` knows is of the last call."""
        self._look()
        assert self._sizes is not None
        names = [name for name in self._sizes if name.startswith(MANIFEST) and name.endswith(".json")]
        found = (record_of(line, job) for line in at_once(self._line, names))
        return {record.shard: record for record in found if record is not None}

    def present(self, record: Record) -> str:
        """See :class:`JobFolder`."""
        if self._sizes is None:
            self._look()
        assert self._sizes is not None
        for file in record.files:
            if file.name not in self._sizes:
                return f"{file.name} is missing"
            if self._sizes[file.name] != file.bytes:
                return f"{file.name} has {self._sizes[file.name]:,} bytes instead of {file.bytes:,}"
        return ""

    def success(self) -> Success | None:
        """See :class:`JobFolder`."""
        try:
            return success_of(self._store.get(SUCCESS))
        except FileNotFoundError:
            return None

    def repair_manifest(self) -> None:
        """Nothing to do: records are put whole."""

    def append(self, record: Record) -> None:
        """See :class:`JobFolder`."""
        self._ensure(f"{MANIFEST}{record.shard:09d}.json", record.to_json())

    def read_text(self, name: str) -> str | None:
        """See :class:`JobFolder`."""
        try:
            return self._store.get(name).decode()
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    def write_text(self, name: str, text: str) -> None:
        """See :class:`JobFolder`."""
        self._ensure(name, text.encode())

    def begin_again(self) -> None:
        """See :class:`JobFolder`."""
        self._store.delete(SUCCESS)

    def finish(self, job: Job, records: Mapping[int, Record]) -> Success:
        """See :class:`JobFolder`."""
        success = success_for(job, records)
        self._ensure(SUCCESS, success.to_json())
        return success

    @contextlib.contextmanager
    def new_files(self, names: Sequence[str]) -> Iterator[Sequence[Output]]:
        """See :class:`JobFolder`; they are uploaded when they are published, until then they are local."""
        with scratch(f"fastvae-shard-{os.getpid()}-") as folder:
            files: list[Output] = []
            try:
                for number, name in enumerate(names):
                    kind = UploadTree if name.endswith("/") else Upload
                    files.append(kind(self._store, folder / str(number), name))
                yield files
            finally:
                for file in files:
                    with contextlib.suppress(OSError):
                        file.discard()

    @contextlib.contextmanager
    def local(self, job: Job, record: Record) -> Iterator[Path]:
        """See :class:`JobFolder`; they are downloaded."""
        if self._sizes is None:
            self._look()
        with scratch(f"fastvae-shard-{os.getpid()}-") as folder:
            names = [name for file in record.files for name in self._below(file.name)]
            names += [name for name in FORMATS[job.format].common(job) if name in (self._sizes or ())]
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
            at_once(lambda name: self._store.download(name, folder / name), names)
            yield folder

    def _below(self, name: str) -> list[str]:
        """The names of a file's objects; several where it is a folder.

        Raises:
            ValueError: one that could not be a local file there.
        """
        if not name.endswith("/"):
            return [name]
        found = [other for other in self._sizes or () if other.startswith(name) and other != name]
        for other in found:
            if str(PurePosixPath(other).parent) != name.rstrip("/") or PurePosixPath(other).name in (".", ".."):
                raise ValueError(f"{other!r:.200} is no file of a shard")
        return found

    def _look(self) -> None:
        """Ask for the sizes of all objects; a folder's are those of the objects in it."""
        self._sizes = Counter(self._store.list())
        for name, size in list(self._sizes.items()):
            if "/" in name:
                self._sizes[name[: name.rindex("/") + 1]] += size

    def _line(self, name: str) -> bytes:
        try:
            return self._store.get(name)
        except FileNotFoundError:
            return b""

    def _create(self, name: str, data: bytes) -> bool:
        """Make a small object unless there is one; whether there was none."""
        with scratch() as folder:
            (folder / "new").write_bytes(data)
            return self._store.create(name, folder / "new")

    def _ensure(self, name: str, data: bytes) -> None:
        """Make a small object, in place of another."""
        with self.new_files([name]) as (file,):
            assert isinstance(file, Upload)
            file.write(data)
            file.publish()


def _alive(process: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
