"""`student_t_nll`, `poisson_nll` and `negative_binomial_nll`: rows' sums under likelihoods of up to three parameters.

Sums are cut into pieces and added up as those of `row_scores`, so that a row's bits depend on the row alone.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.counts import negative_binomial_term, poisson_term, with_extra_zeros
from ..common.likelihood import student_t_term
from ..common.rows import tree_sum
from ..layout import flat_rows
from ..parts import part_of
from ..pieces import pieces_per_program, row_pieces
from ..tuning import RowScoreConfig, config_for
from .gemm import ceil_div, row_unit
from .row_scores import finish_kernel

__all__ = ["head_scores_kernel", "launch", "negative_binomial_nll", "poisson_nll", "student_t_nll"]


@triton.jit
def _term(location, first, second, x, LIKELIHOOD: tl.constexpr, EXTRA_ZEROS: tl.constexpr):
    """An entry's score; first and second as in head_scores_kernel."""
    if LIKELIHOOD == "student_t":
        nll = student_t_term(location, first, second, x)
    elif LIKELIHOOD == "poisson":
        nll, of_zero = poisson_term(location, x)
        if EXTRA_ZEROS:
            nll = with_extra_zeros(nll, of_zero, second, x)
    else:
        tl.static_assert(LIKELIHOOD == "negative_binomial")
        nll, of_zero = negative_binomial_term(location, first, x)
        if EXTRA_ZEROS:
            nll = with_extra_zeros(nll, of_zero, second, x)
    return nll


@triton.jit
def _parameter(base, row_offset, column, inside, KIND: tl.constexpr):
    """A further parameter of a tile, as float32 that broadcasts; 0 where there is none."""
    if KIND == "row":
        value = tl.load(base + row_offset[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
    elif KIND == "shared":
        value = tl.load(base + column[None, :], mask=inside, other=0.0).to(tl.float32)
    elif KIND == "scalar":
        value = tl.load(base + tl.zeros((1, 1), tl.int32)).to(tl.float32)
    else:
        value = 0.0
    return value


_STRIDES = ["location_units", "x_units", "first_units", "second_units", "mask_units"]


@triton.jit(do_not_specialize=["rows", "n", "units", *_STRIDES, "pieces", "groups", "share"])
def head_scores_kernel(
    location,
    x,
    first,
    second,
    mask,
    scores,
    partials,
    rows: tl.int64,
    n: tl.int64,
    units: tl.int32,
    location_units: tl.int64,
    x_units: tl.int64,
    first_units: tl.int64,
    second_units: tl.int64,
    mask_units: tl.int64,
    pieces: tl.int32,
    groups: tl.int32,
    share: tl.int32,
    LIKELIHOOD: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """location [rows, dim], x and mask [n, dim] -> scores [rows]; row r is scored against data row r % n.

    LIKELIHOOD: "student_t", whose log-scale is `first` and log-df `second`; "poisson", of which location is the
    log-rate; "negative_binomial", with its log-mean and, `first`, its log-dispersion. `second` of these two are logits
    of extra zeros. FIRST and SECOND say what these are: "none", "scalar", "shared" [dim] or "row" [rows, dim]. Row
    lengths and strides are in units of UNIT elements. A piece is `groups` blocks of BLOCK_COLUMNS columns; if partials
    is not None a program takes `share` of a row's pieces and writes their sums to partials [pieces, rows] instead.
    """
    dim = units * UNIT
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    data_row = row % n
    of_location = location + (row * location_units * UNIT)[:, None]
    of_x = x + (data_row * x_units * UNIT)[:, None]
    first_row = row * first_units * UNIT
    second_row = row * second_units * UNIT
    if mask is not None:
        of_mask = mask + (data_row * mask_units * UNIT)[:, None]
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    first_piece = tl.program_id(1) * share
    for piece in range(first_piece, tl.minimum(first_piece + share, pieces)):
        acc = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
        for group in range(piece * groups, (piece + 1) * groups):
            column = group * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
            known = column < dim
            inside = (row < rows)[:, None] & known[None, :]
            at = tl.load(of_location + column[None, :], mask=inside, other=0.0).to(tl.float32)
            d = tl.load(of_x + column[None, :], mask=inside, other=0.0).to(tl.float32)
            one = _parameter(first, first_row, column, inside if FIRST == "row" else known[None, :], FIRST)
            two = _parameter(second, second_row, column, inside if SECOND == "row" else known[None, :], SECOND)
            counts = inside
            if mask is not None:
                counts = inside & (tl.load(of_mask + column[None, :], mask=inside, other=0) != 0)
            acc += tl.where(counts, _term(at, one, two, d, LIKELIHOOD, SECOND != "none"), 0.0)
        if partials is not None:
            tl.store(partials + piece * rows + row, tree_sum(acc), mask=row < rows)
        else:
            total += tree_sum(acc)
    if partials is None:
        tl.store(scores + row, total, mask=row < rows)


def _kind(parameter: Tensor | None) -> str:
    return "none" if parameter is None else ("scalar", "shared", "row")[parameter.dim()]


def launch(
    location: Tensor,
    x: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    mask: Tensor | None,
    scores: Tensor,
    *,
    likelihood: str,
    config: RowScoreConfig,
    share: int | None = None,
) -> None:
    """Fill scores [rows], contiguous float32, as head_scores_kernel has it.

    location: [rows, dim]; x: [n, dim]; mask: uint8 [n, dim], non-zero where an entry counts, or None; first and second:
    None, [], [dim] or [rows, dim]. Any row stride, unit inner stride. n is not 0. share: the pieces of a row a program
    takes, by default what fills the device; no bit depends on it.
    """
    (rows, dim), n = location.shape, x.shape[0]
    cut = row_pieces(dim, config)
    strides = [t.stride(0) if t is not None and t.dim() == 2 else 0 for t in (location, x, first, second, mask)]
    unit = row_unit(dim, *strides)
    share = share or pieces_per_program(rows, cut, part_of(location.device).processors, config)
    shares = ceil_div(max(cut.pieces, 1), share)
    partials = location.new_empty(cut.pieces, rows, dtype=torch.float32) if shares > 1 else None
    blocks = ceil_div(rows, cut.block_rows)
    head_scores_kernel[(blocks, shares)](
        location,
        x,
        first,
        second,
        mask,
        scores,
        partials,
        rows,
        n,
        dim // unit,
        *(stride // unit for stride in strides),
        cut.pieces,
        cut.groups * cut.unroll,
        share,
        LIKELIHOOD=likelihood,
        FIRST=_kind(first),
        SECOND=_kind(second),
        UNIT=unit,
        BLOCK_ROWS=cut.block_rows,
        BLOCK_COLUMNS=cut.block_columns,
        num_warps=config.num_warps,
    )
    if partials is not None:
        finish_kernel[(blocks,)](
            *(partials, None, None, scores, None, None),
            *(rows, n, 0, 0, 0),
            LATENT_UNIT=1,
            PIECES=cut.pieces,
            BLOCK_ROWS=cut.block_rows,
            BLOCK_LATENT=4,
            num_warps=config.num_warps,
        )


def _score(
    likelihood: str, location: Tensor, x: Tensor, first: Tensor | None, second: Tensor | None, mask: Tensor | None
) -> Tensor:
    config = config_for("head_scores", location.device)
    assert isinstance(config, RowScoreConfig)
    scores = location.new_empty(location.shape[0], dtype=torch.float32)
    if location.shape[0]:
        one, two = (p if p is None or p.dim() == 0 else flat_rows(location, p) for p in (first, second))
        seen = None if mask is None else flat_rows(location, mask.view(torch.uint8))
        rows = flat_rows(location, location)
        launch(rows, flat_rows(location, x), one, two, seen, scores, likelihood=likelihood, config=config)
    return scores


def student_t_nll(location: Tensor, log_scale: Tensor, log_df: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """As the reference defines it."""
    return _score("student_t", location, x, log_scale, log_df, mask)


def poisson_nll(log_rate: Tensor, zero_logits: Tensor | None, x: Tensor, mask: Tensor | None) -> Tensor:
    """As the reference defines it."""
    return _score("poisson", log_rate, x, None, zero_logits, mask)


def negative_binomial_nll(
    log_mean: Tensor, log_dispersion: Tensor, zero_logits: Tensor | None, x: Tensor, mask: Tensor | None
) -> Tensor:
    """As the reference defines it."""
    return _score("negative_binomial", log_mean, x, log_dispersion, zero_logits, mask)
