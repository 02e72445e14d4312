"""A checksum of rows in the order of their indices that does not depend on how they are cut into shards or stored.

With the bytes of row ``i`` (column after column, little endian, each with zeros up to a multiple of 4; of a string the
BLAKE2b of its UTF-8, 8 bytes) read as 32-bit words ``w``, it is

    sum over i of mix(mix(i) + sum over j of c[j] w[j])   (mod 2**64),   c[j] = mix(2**63 + j) | 1,

where ``mix`` is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), so the checksums of parts add up to that of
the whole. It is there to compare runs; what guards a file's bytes is its SHA-256.
"""

from __future__ import annotations

import sys
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastvae.bulk.table import Block
from fastvae_kernels.cpu import add_weighted_words, why_not

Words = NDArray[np.uint64]
MASK = 2**64 - 1
# NumPy makes 64 bits of every word before it multiplies them.
COMPILED = why_not() is None and sys.byteorder == "little"


def content_of(block: Block) -> int:
    """The checksum of the rows of a block."""
    if not len(block):
        return 0
    sums = _mix(np.arange(block.start, block.start + len(block), dtype=np.uint64))
    done = 0
    for rows in block.columns.values():
        words = _bytes(rows)
        add = add_weighted_words if COMPILED else _add_weighted_words
        add(sums, words, done)
        done += -(-words.shape[1] // 4)
    return int(_mix(sums).sum(dtype=np.uint64))


def added(contents: int, content: int) -> int:
    """The checksum of two disjoint sets of rows together."""
    return (contents + content) & MASK


def _add_weighted_words(sums: Words, rows: NDArray[np.uint8], place: int) -> None:
    """What :func:`fastvae_kernels.cpu.add_weighted_words` does, in NumPy."""
    if rows.shape[1] % 4:
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    words = rows.view("<u4")
    places = np.arange(place, place + words.shape[1], dtype=np.uint64)
    sums += np.einsum("ij,j->i", words, _mix(places + np.uint64(2**63)) | np.uint64(1))


def _bytes(rows: NDArray[Any]) -> NDArray[np.uint8]:
    """A column's rows as bytes, without gaps."""
    if rows.dtype == object:
        digests = (blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in rows)
        return np.frombuffer(b"".join(digests), np.uint8).reshape(len(rows), 8)
    return np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)


def _mix(x: Words) -> Words:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
