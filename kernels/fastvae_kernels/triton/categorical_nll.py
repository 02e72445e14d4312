"""`categorical_nll`: the logarithm of a softmax and the score under it, in one launch.

A program owns its rows whole. Their columns come block by block, three times: for the largest logit, for the sum of
exponentials, and for the score; a block's second and third reading is the cache's.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.elementary import exp, log
from ..common.rows import tree_sum
from ..pieces import row_pieces
from ..tuning import RowScoreConfig, config_for
from .gemm import ceil_div, row_unit, unit_inner_stride

__all__ = ["categorical_nll", "categorical_nll_kernel", "launch"]

_LARGEST = tl.constexpr(8.507059173023462e37)  # logits within it have finite differences


@triton.jit
def _logits(of_logits, column, inside):
    """A block of logits in float32, bounded where it is inside; NaN stays."""
    found = tl.load(of_logits + column[None, :], mask=inside, other=0.0).to(tl.float32)
    return tl.where(found > _LARGEST, _LARGEST, tl.where(found < -_LARGEST, -_LARGEST, found))


@triton.jit
def _unseen(of_mask, column, inside):
    return inside & (tl.load(of_mask + column[None, :], mask=inside, other=1) == 0)


@triton.jit(do_not_specialize=["rows", "n", "units", "logits_units", "x_units", "mask_units"])
def categorical_nll_kernel(
    logits,
    x,
    mask,
    scores,
    rows: tl.int64,
    n: tl.int64,
    units: tl.int32,
    logits_units: tl.int64,
    x_units: tl.int64,
    mask_units: tl.int64,
    UNIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """logits [rows, k], x and mask [n, k] -> scores [rows]; row r is scored against data row r % n.

    k and strides are in units of UNIT elements. With a mask, of a row that is seen in part and has no 1 there, the
    score is that of all its categories that are not seen.
    """
    k = units * UNIT
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    data_row = row % n
    of_logits = logits + (row * logits_units * UNIT)[:, None]
    of_x = x + (data_row * x_units * UNIT)[:, None]
    of_mask = None if mask is None else mask + (data_row * mask_units * UNIT)[:, None]
    largest = tl.full((BLOCK_ROWS,), float("-inf"), tl.float32)
    largest_unseen = largest
    for start in range(0, k, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        inside = (row < rows)[:, None] & (column < k)[None, :]
        logit = _logits(of_logits, column, inside)
        largest = tl.maximum(largest, tl.max(tl.where(inside, logit, float("-inf")), axis=1))
        if mask is not None:
            unseen = _unseen(of_mask, column, inside)
            largest_unseen = tl.maximum(largest_unseen, tl.max(tl.where(unseen, logit, float("-inf")), axis=1))
    # A row without any is compared with 0: its exponentials are none.
    largest = tl.where(largest > float("-inf"), largest, 0.0)
    largest_unseen = tl.where(largest_unseen > float("-inf"), largest_unseen, 0.0)
    shares = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    shares_unseen = shares
    for start in range(0, k, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        inside = (row < rows)[:, None] & (column < k)[None, :]
        logit = _logits(of_logits, column, inside)
        shares += tl.where(inside, exp(logit - largest[:, None]), 0.0)
        if mask is not None:
            unseen = _unseen(of_mask, column, inside)
            shares_unseen += tl.where(unseen, exp(logit - largest_unseen[:, None]), 0.0)
    total = tree_sum(shares)
    logs = log(tl.where(row < rows, total, 1.0))
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    ones = acc
    for start in range(0, k, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        inside = (row < rows)[:, None] & (column < k)[None, :]
        logit = _logits(of_logits, column, inside)
        d = tl.load(of_x + column[None, :], mask=inside, other=0.0).to(tl.float32)
        if mask is not None:
            inside = inside & (tl.load(of_mask + column[None, :], mask=inside, other=0) != 0)
            ones += tl.where(inside, d, 0.0)
        acc += tl.where(inside, d * ((largest[:, None] - logit) + logs[:, None]), 0.0)
    score = tree_sum(acc)
    if mask is not None:
        total_unseen = tree_sum(shares_unseen)
        # Of a row of which nothing is seen, too: all its categories together have probability 1, whose score is 0.
        undecided = (total_unseen > 0.0) & (tree_sum(ones) == 0.0)
        rest = (largest - largest_unseen) + (logs - log(tl.where(undecided, total_unseen, 1.0)))
        score = tl.where(undecided, rest, score)
        score = tl.where(score > 0.0, score, tl.where(score <= 0.0, 0.0, score))
    tl.store(scores + row, score, mask=row < rows)


def launch(logits: Tensor, x: Tensor, mask: Tensor | None, scores: Tensor, *, config: RowScoreConfig) -> None:
    """Fill scores [rows], contiguous float32, of logits [rows, k], x [n, k] and mask, uint8 [n, k] or None.

    Any row stride, unit inner stride. n is not 0.
    """
    (rows, k), n = logits.shape, x.shape[0]
    cut = row_pieces(k, config)
    strides = [0 if t is None else t.stride(0) for t in (logits, x, mask)]
    unit = row_unit(k, *strides)
    categorical_nll_kernel[(ceil_div(rows, cut.block_rows),)](
        logits,
        x,
        mask,
        scores,
        rows,
        n,
        k // unit,
        *(stride // unit for stride in strides),
        UNIT=unit,
        BLOCK_ROWS=cut.block_rows,
        BLOCK_COLUMNS=cut.block_columns,
        num_warps=config.num_warps,
    )


def categorical_nll(logits: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """As the reference defines it."""
    scores = torch.zeros(logits.shape[0], dtype=torch.float32, device=logits.device)
    if logits.numel():
        config = config_for("head_scores", logits.device)
        assert isinstance(config, RowScoreConfig)
        seen = None if mask is None else unit_inner_stride(mask.view(torch.uint8))
        launch(unit_inner_stride(logits), unit_inner_stride(x), seen, scores, config=config)
    return scores
