"""Rejected rows: in a job that masks them, every shard has one more file, with a line for each.

It is published with the shard's other files, so a row is listed once, whatever is killed on the way.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Final

from fastvae.bulk.job import Job
from fastvae.bulk.shards import FORMATS
from fastvae.bulk.table import Block, Rejected

RAISE: Final = "raise"
MASK: Final = "mask"


def rejects_name(shard: int) -> str:
    """The name of a shard's list."""
    return f"rejected-{shard:09d}.jsonl"


def files_of(job: Job, shard: int) -> tuple[str, ...]:
    """Names of all files of a shard, which follow from its number alone."""
    names = FORMATS[job.format].names(job, shard)
    return (*names, rejects_name(shard)) if job.invalid == MASK else names


def lines_of(block: Block) -> bytes:
    """A block's lines."""
    return "".join(json.dumps(asdict(row)) + "\n" for row in block.rejected).encode()


def parsed(line: str) -> Rejected:
    """What :func:`lines_of` wrote in a line; ValueError or TypeError if it is none."""
    return Rejected(**json.loads(line))
