"""The arithmetic of untrusted shapes, shared by the readers."""

from collections.abc import Sequence

from fastvae.errors import WeightFormatError

__all__ = ["MAX_HALVINGS", "MAX_RANK", "checked_numel", "rounded_size"]

MAX_RANK = 8
MAX_HALVINGS = 15
# No address space holds more. Zero-element shapes are held to it as well, with their zeros left out:
# [0, 2**62] is small only until something takes a stride or a sum over it.
_MAX_BYTES = 2**48


def checked_numel(shape: Sequence[object], itemsize: int) -> int:
    """Return the number of elements of ``shape``, which comes from a file and may be anything.

    Raises ``ValueError`` (saying what was expected and found, not which file) unless ``shape`` has at most
    ``MAX_RANK`` dimensions, each a non-negative ``int``, that together stay within an address space.
    """
    if len(shape) > MAX_RANK:
        raise ValueError(f"expected at most {MAX_RANK} dimensions, found {len(shape)}")
    span, empty = itemsize, False
    for size in shape:
        if type(size) is not int or size < 0:
            # Never the repr of what may be a container: one that shares its parts prints as exponentially many.
            found = size if isinstance(size, int | float) else f"a {type(size).__name__}"
            raise ValueError(f"expected dimensions that are non-negative integers, found {found}")
        span *= max(size, 1)
        empty = empty or size == 0
        if span > _MAX_BYTES:
            raise ValueError(f"expected dimensions whose product is addressable, found {list(shape)!r:.200}")
    return 0 if empty else span // itemsize


def rounded_size(size: int, halvings: int) -> int:
    """Return ``size``, an image's, rounded up to a multiple of what an encoder halves ``halvings`` times.

    Raises ``WeightFormatError`` (not saying which file) when that is more often than any does.
    """
    if halvings > MAX_HALVINGS:
        raise WeightFormatError(f"expected an encoder to halve images at most {MAX_HALVINGS} times, found {halvings}")
    factor = 1 << halvings
    return -(-size // factor) * factor
