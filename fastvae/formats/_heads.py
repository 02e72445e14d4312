"""Recognises weights by the names of their tensors, which both kinds of file have at their beginning."""

from __future__ import annotations

from pathlib import Path

from fastvae.formats._files import read_head

__all__ = ["holds"]

_BYTES = 16 * 2**20


def holds(path: Path, name: str) -> bool:
    """Whether the first 16 MiB of the file at ``path`` mention ``name``, and it is no native file of ours.

    A guess at a format, for files that nobody has checked yet: safetensors have their names in the header, and
    ``torch.save`` writes the pickle with them before the data.
    """
    head = read_head(path, _BYTES)
    if path.suffix == ".safetensors":
        head = head[8 : 8 + int.from_bytes(head[:8], "little")]
        if b'"fastvae"' in head:
            return False
    return name.encode() in head
