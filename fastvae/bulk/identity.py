"""What a job's input is: its files by name, size and SHA-256, kept in the job's folder as ``input.jsonl``.

A file is hashed when a job starts, and again when it goes on, unless its size and times of change are those it had when
it was last hashed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Final

from fastvae.bulk.hashing import Count, in_threads
from fastvae.bulk.job import Job
from fastvae.bulk.place import JobFolder
from fastvae.errors import InputError, JobError
from fastvae.files.ahead import default_threads
from fastvae.files.dataset import DataFile, Told

INPUT: Final = "input.jsonl"
CHUNK = 2**20
# Files that are one task of a thread.
MOST_AT_ONCE = 256
# A file may change within a tick of its clock after it was hashed: what is as young as that is hashed again.
RACE_NS = 2 * 10**9


@dataclass(frozen=True)
class Entry:
    """A file of an input: its name below the input's root, bytes, SHA-256, times of change, and when it was hashed."""

    name: str
    bytes: int
    sha256: str
    mtime_ns: int
    ctime_ns: int
    hashed_ns: int

    @property
    def settled(self) -> bool:
        """Whether a change after it was hashed would have another time."""
        return max(self.mtime_ns, self.ctime_ns) + RACE_NS < self.hashed_ns


def identify(
    files: Sequence[DataFile], known: Mapping[str, Entry], watch: Told = lambda done, total: None
) -> list[Entry]:
    """An Entry for every file, in their order; ``known`` saves hashing those that are as they were.

    ``watch`` is told of it, and all of it stopped, as :func:`in_threads` says.

    Raises:
        InputError: a file cannot be read.
        JobError: one changed since it was opened.
    """
    threads = default_threads()
    size = max(1, min(MOST_AT_ONCE, len(files) // (8 * threads)))

    def several(low: int, count: Count) -> list[Entry]:
        return [_entry(file, known.get(file.name), count) for file in files[low : low + size]]

    works = [partial(several, low) for low in range(0, len(files), size)]
    total = sum(file.bytes for file in files)
    return [entry for found in in_threads(works, threads, total, watch) for entry in found]


def _entry(file: DataFile, known: Entry | None, count: Count) -> Entry:
    try:
        path = file.path
        ctime = path.stat().st_ctime_ns
        stamp = (file.bytes, file.mtime_ns, ctime)
        if known is not None and stamp == (known.bytes, known.mtime_ns, known.ctime_ns) and known.settled:
            count.add(file.bytes)
            return known
        begun = time.time_ns()
        digest = hashlib.sha256()
        with path.open("rb") as content:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
                count.add(len(chunk))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    file.check()
    return Entry(file.name, file.bytes, digest.hexdigest(), file.mtime_ns, ctime, begun)


def digest(entries: Iterable[Entry]) -> str:
    """SHA-256 of names, sizes and SHA-256s in their order: that of the same input on any machine."""
    found = hashlib.sha256()
    for entry in entries:
        found.update(json.dumps([entry.name, entry.bytes, entry.sha256]).encode() + b"\n")
    return found.hexdigest()


def kept(folder: JobFolder) -> dict[str, Entry]:
    """What the folder's ``input.jsonl`` says, by name; what is no entry in it is left out."""
    found: dict[str, Entry] = {}
    for line in (folder.read_text(INPUT) or "").splitlines():
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[str(entry.name)] = entry
    return found


def keep(folder: JobFolder, entries: Sequence[Entry]) -> None:
    """Write ``input.jsonl``. Only while the folder is locked and holds the job."""
    text = "".join(json.dumps(asdict(entry)) + "\n" for entry in entries)
    if folder.read_text(INPUT) != text:
        folder.write_text(INPUT, text)


def refuse_changed(folder: JobFolder, job: Job, entries: Sequence[Entry]) -> None:
    """Refuse ``entries`` that are not the input of the job in a folder, if ``job`` is that job but for them.

    Raises:
        JobError: they are another; the message names a file.
    """
    held = folder.job()
    if replace(held, data=job.data, n=job.n) == job and held.data != job.data:
        raise JobError(
            f"{folder.path}: the data are not those that the job began with ({_change(entries, kept(folder))}); choose "
            "another folder for these, or bring back what the data were"
        )


def _change(entries: Sequence[Entry], known: Mapping[str, Entry]) -> str:
    """The first file that is not as it was."""
    for entry in entries:
        before = known.get(entry.name)
        if before is None and known:
            return f"{entry.name} is new"
        if before is not None and (before.bytes, before.sha256) != (entry.bytes, entry.sha256):
            return f"{entry.name} has changed"
    names = {entry.name for entry in entries}
    missing = next((name for name in known if name not in names), None)
    return f"{missing} is missing" if missing else "their files are others"
