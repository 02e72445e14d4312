"""Checks that what a pickle built is a tree of plain data whose walk, or copy, costs what its file justifies."""

from typing import NamedTuple

import torch

__all__ = ["check_plain"]

_LEAVES = (str, int, float, bool, type(None), torch.dtype)
_MAX_DEPTH = 64
_MAX_NODES = 500_000
# Tied weights count at every use, since a caller may copy each; no real model uses all weights this often.
_MAX_REUSE = 16


class _Extent(NamedTuple):
    """The size of a tree with its shared parts written out: what a naive walk over it would meet."""

    depth: int
    nodes: int
    nbytes: int


def check_plain(value: object, *, file_size: int) -> None:
    """Check an untrusted tree of ``dict``, ``list`` and ``tuple`` with plain leaves and tensors.

    Raises ``ValueError`` on any other leaf, on a cycle, on trees deeper than 64 or of more than half a
    million nodes, and on tensors of more than 16 times ``file_size`` bytes in all, each counted at every use.
    """
    extent = _measure(value, 0, {})
    if extent.nodes > _MAX_NODES:
        raise ValueError(f"expected at most {_MAX_NODES} values, found {extent.nodes}")
    if extent.nbytes > _MAX_REUSE * file_size:
        raise ValueError(
            f"expected tensors of at most {_MAX_REUSE} times the file's {file_size} bytes, found {extent.nbytes}"
        )


def _measure(value: object, above: int, known: dict[int, _Extent]) -> _Extent:
    if isinstance(value, torch.Tensor):
        return _Extent(1, 1, value.numel() * value.itemsize)
    if isinstance(value, _LEAVES):
        return _Extent(1, 1, 0)
    if not isinstance(value, dict | list | tuple):
        raise ValueError(f"expected plain values and tensors, found a {type(value).__name__}")
    extent = known.get(id(value))
    if extent is None:
        if above > _MAX_DEPTH:
            raise ValueError(f"expected values nested at most {_MAX_DEPTH} deep, found deeper ones or a cycle")
        depth = nodes = nbytes = 0
        for item in value.values() if isinstance(value, dict) else value:
            part = _measure(item, above + 1, known)
            depth, nodes, nbytes = max(depth, part.depth), nodes + part.nodes, nbytes + part.nbytes
        extent = known[id(value)] = _Extent(depth + 1, nodes + 1, nbytes)
    if above + extent.depth > _MAX_DEPTH:
        raise ValueError(f"expected values nested at most {_MAX_DEPTH} deep, found deeper ones")
    return extent
