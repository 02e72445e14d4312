"""How the row sums of triton/row_scores.py are cut: into tiles, and into pieces that several programs may share."""

from dataclasses import dataclass
from functools import cache

from .tuning import RowScoreConfig

__all__ = ["RowPieces", "pieces_per_program", "power_of_2", "row_pieces"]


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def power_of_2(size: int) -> int:
    """The least power of two, from 4, that is no less than `size`."""
    return 1 << max(size - 1, 3).bit_length()


@dataclass(frozen=True)
class RowPieces:
    """How rows of one length are cut.

    A program's tile is block_rows x block_columns; a group is `unroll` such blocks of columns, a piece is `groups`
    groups, and a row is `pieces` pieces, the last of which may be short.
    """

    block_rows: int
    block_columns: int
    unroll: int
    groups: int
    pieces: int


@cache
def row_pieces(dim: int, config: RowScoreConfig) -> RowPieces:
    """The cut of rows of `dim` columns. The number of rows has no say: it must not decide the order of a sum."""
    columns = min(power_of_2(dim), config.max_block_columns)
    blocks = _ceil_div(dim, columns)
    unroll = min(config.unroll, max(blocks, 1))
    groups = max(_ceil_div(blocks, unroll * config.max_pieces), 1)
    rows = min(config.block_elements // columns, config.max_block_rows)
    return RowPieces(rows, columns, unroll, groups, _ceil_div(blocks, unroll * groups))


def pieces_per_program(rows: int, cut: RowPieces, processors: int, config: RowScoreConfig) -> int:
    """How many pieces of its rows one program takes: all, unless that leaves processors idle."""
    programs = _ceil_div(rows, cut.block_rows)
    shares = min(cut.pieces, _ceil_div(processors * config.programs_per_processor, max(programs, 1)))
    if cut.pieces < config.min_shared_pieces or shares <= 1:
        return max(cut.pieces, 1)
    return _ceil_div(cut.pieces, shares)
