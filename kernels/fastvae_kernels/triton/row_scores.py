"""`bernoulli_nll`, `gaussian_nll` and the like, `squared_error` and `elbo`: sums over a row's entries, in one pass.

A row's sum is defined apart from how it is computed: its columns are cut into pieces, piece by piece they are
added into BLOCK_COLUMNS running sums, a tree adds those up, and the pieces' sums are added in order. Pieces depend on
the number of columns alone, so that the same bits come from one program or from many, and for a row on its own or
in a batch, wherever in memory it is.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.likelihood import entry_score
from ..common.rows import row_divergence, tree_sum
from ..layout import flat_rows
from ..parts import part_of
from ..pieces import pieces_per_program, power_of_2, row_pieces
from ..tuning import RowScoreConfig, config_for
from .gemm import ceil_div, row_unit, unit_inner_stride

__all__ = [
    "bernoulli_nll",
    "continuous_bernoulli_nll",
    "elbo",
    "finish_kernel",
    "gaussian_nll",
    "laplace_nll",
    "launch",
    "row_scores",
    "row_scores_kernel",
    "squared_error",
]


@triton.jit
def _write(
    total,
    row,
    shape,
    posterior,
    units,
    results,
    UNIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_LATENT: tl.constexpr,
):
    """Store the rows' sums and, where there is a posterior, its divergence and the sum of both."""
    rows, n = shape
    reconstruction, kl, negative_elbo = results
    tl.store(reconstruction + row, total, mask=row < rows)
    if kl is not None:
        divergence = row_divergence(row, shape, posterior, units, UNIT, BLOCK_ROWS, BLOCK_LATENT)
        tl.store(negative_elbo + row, total + divergence, mask=row < rows)
        tl.store(kl + row, divergence, mask=row < n)


_SIZES = ["rows", "n", "units", "output_units", "x_units", "logvar_units", "mask_units", "pieces", "groups", "share"]
_LATENT_SIZES = ["latent_units", "mean_units", "posterior_logvar_units"]


@triton.jit(do_not_specialize=[*_SIZES, *_LATENT_SIZES])
def row_scores_kernel(
    output,
    x,
    logvar,
    mask,
    mean,
    posterior_logvar,
    reconstruction,
    kl,
    negative_elbo,
    partials,
    rows: tl.int64,
    n: tl.int64,
    units: tl.int32,
    output_units: tl.int64,
    x_units: tl.int64,
    logvar_units: tl.int64,
    mask_units: tl.int64,
    pieces: tl.int32,
    groups: tl.int32,
    share: tl.int32,
    latent_units: tl.int32,
    mean_units: tl.int64,
    posterior_logvar_units: tl.int64,
    LIKELIHOOD: tl.constexpr,
    LOGVAR: tl.constexpr,
    FAST: tl.constexpr,
    UNIT: tl.constexpr,
    LATENT_UNIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_LATENT: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """output [rows, dim], x and mask [n, dim], mean and posterior_logvar [n, latent] -> sums of the rows' scores.

    Row r is scored against data row r % n. LOGVAR says what logvar is: "none", "scalar", "shared" [dim] or "row"
    [rows, dim]. Row lengths and strides are in units of UNIT (the posterior's, of LATENT_UNIT) elements, so that the
    compiler can see how far rows are aligned. A piece is `groups` times UNROLL blocks of BLOCK_COLUMNS columns.

    If partials is None a program takes every piece of BLOCK_ROWS rows and writes reconstruction [rows] and, unless kl
    is None, kl [n] and negative_elbo [rows]. Else it takes `share` pieces and writes their sums to partials
    [pieces, rows], for finish_kernel.
    """
    dim = units * UNIT
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    data_row = row % n
    of_output = output + (row * output_units * UNIT)[:, None]
    of_x = x + (data_row * x_units * UNIT)[:, None]
    if LOGVAR == "scalar":
        only_logvar = tl.load(logvar).to(tl.float32)
    elif LOGVAR == "row":
        of_logvar = logvar + (row * logvar_units * UNIT)[:, None]
    if mask is not None:
        of_mask = mask + (data_row * mask_units * UNIT)[:, None]
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    first_piece = tl.program_id(1) * share
    for piece in range(first_piece, tl.minimum(first_piece + share, pieces)):
        acc = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
        for group in range(piece * groups, (piece + 1) * groups):
            for block in tl.static_range(UNROLL):
                column = (group * UNROLL + block) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
                inside = (row < rows)[:, None] & (column < dim)[None, :]
                o = tl.load(of_output + column[None, :], mask=inside, other=0.0).to(tl.float32)
                d = tl.load(of_x + column[None, :], mask=inside, other=0.0).to(tl.float32)
                if LOGVAR == "row":
                    v = tl.load(of_logvar + column[None, :], mask=inside, other=0.0).to(tl.float32)
                elif LOGVAR == "shared":
                    v = tl.load(logvar + column, mask=column < dim, other=0.0).to(tl.float32)[None, :]
                elif LOGVAR == "scalar":
                    v = only_logvar
                else:
                    v = 0.0
                counts = inside
                if mask is not None:
                    counts = inside & (tl.load(of_mask + column[None, :], mask=inside, other=0) != 0)
                acc += tl.where(counts, entry_score(o, v, d, LIKELIHOOD, FAST), 0.0)
        if partials is not None:
            tl.store(partials + piece * rows + row, tree_sum(acc), mask=row < rows)
        else:
            total += tree_sum(acc)
    if partials is None:
        latent_sizes = (latent_units, mean_units, posterior_logvar_units)
        results = (reconstruction, kl, negative_elbo)
        posterior = (mean, posterior_logvar)
        _write(total, row, (rows, n), posterior, latent_sizes, results, LATENT_UNIT, BLOCK_ROWS, BLOCK_LATENT)


@triton.jit(do_not_specialize=["rows", "n", *_LATENT_SIZES])
def finish_kernel(
    partials,
    mean,
    posterior_logvar,
    reconstruction,
    kl,
    negative_elbo,
    rows: tl.int64,
    n: tl.int64,
    latent_units: tl.int32,
    mean_units: tl.int64,
    posterior_logvar_units: tl.int64,
    LATENT_UNIT: tl.constexpr,
    PIECES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_LATENT: tl.constexpr,
):
    """partials [PIECES, rows] -> what row_scores_kernel writes when one program takes every piece."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    for piece in tl.static_range(PIECES):
        total += tl.load(partials + piece * rows + row, mask=row < rows, other=0.0)
    latent_sizes = (latent_units, mean_units, posterior_logvar_units)
    results = (reconstruction, kl, negative_elbo)
    posterior = (mean, posterior_logvar)
    _write(total, row, (rows, n), posterior, latent_sizes, results, LATENT_UNIT, BLOCK_ROWS, BLOCK_LATENT)


def launch(
    output: Tensor,
    x: Tensor,
    logvar: Tensor | None,
    mask: Tensor | None,
    posterior: tuple[Tensor, Tensor] | None,
    reconstruction: Tensor,
    kl: Tensor | None,
    negative_elbo: Tensor | None,
    *,
    likelihood: str,
    config: RowScoreConfig,
    share: int | None = None,
) -> None:
    """Fill reconstruction [rows] and, with a posterior, kl [n] and negative_elbo [rows], all contiguous float32.

    output: [rows, dim]; x: [n, dim]; mask: uint8 [n, dim], non-zero where an entry counts; logvar: None, [], [dim] or
    [rows, dim]; posterior: mean and logvar [n, latent]. Any row stride, unit inner stride. n is not 0. likelihood:
    "bernoulli", "continuous_bernoulli", "gaussian", "laplace" (whose log-scale is logvar) or "squared_error". share:
    the pieces of a row a program takes, by default what fills the device; no bit depends on it.
    """
    (rows, dim), n = output.shape, x.shape[0]
    cut = row_pieces(dim, config)
    kind = "none" if logvar is None else ("scalar", "shared", "row")[logvar.dim()]
    strides = [t.stride(0) if t is not None and t.dim() == 2 else 0 for t in (output, x, logvar, mask)]
    unit = row_unit(dim, *strides)
    latent = [0, 0, 0] if posterior is None else [posterior[0].shape[1], *(t.stride(0) for t in posterior)]
    latent_unit = row_unit(*latent)
    latent_units = [size // latent_unit for size in latent]
    block_latent = min(power_of_2(latent[0]), cut.block_columns)
    all_rows = rows if posterior is None else max(rows, n)
    share = share or pieces_per_program(all_rows, cut, part_of(output.device).processors, config)
    shares = ceil_div(max(cut.pieces, 1), share)
    partials = output.new_empty(cut.pieces, rows, dtype=torch.float32) if shares > 1 else None
    blocks = ceil_div(all_rows, cut.block_rows)
    results = (reconstruction, kl, negative_elbo)
    row_scores_kernel[(blocks, shares)](
        output,
        x,
        logvar,
        mask,
        *(posterior or (None, None)),
        *results,
        partials,
        rows,
        n,
        dim // unit,
        *(stride // unit for stride in strides),
        cut.pieces,
        cut.groups,
        share,
        *latent_units,
        LIKELIHOOD=likelihood,
        LOGVAR=kind,
        FAST=output.dtype.itemsize < 4,
        UNIT=unit,
        LATENT_UNIT=latent_unit,
        BLOCK_ROWS=cut.block_rows,
        BLOCK_COLUMNS=cut.block_columns,
        BLOCK_LATENT=block_latent,
        UNROLL=cut.unroll,
        num_warps=config.num_warps,
    )
    if partials is not None:
        finish_kernel[(blocks,)](
            partials,
            *(posterior or (None, None)),
            *results,
            rows,
            n,
            *latent_units,
            LATENT_UNIT=latent_unit,
            PIECES=cut.pieces,
            BLOCK_ROWS=cut.block_rows,
            BLOCK_LATENT=block_latent,
            num_warps=config.num_warps,
        )


def _score(
    likelihood: str,
    output: Tensor,
    x: Tensor,
    logvar: Tensor | None,
    mask: Tensor | None,
    posterior: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """reconstruction and, with a posterior, kl and negative_elbo."""
    rows, n = output.shape[0], x.shape[0]
    config = config_for("row_scores", output.device)
    assert isinstance(config, RowScoreConfig)
    reconstruction = output.new_empty(rows, dtype=torch.float32)
    kl = negative_elbo = None
    if posterior is not None:
        kl, negative_elbo = output.new_empty(n, dtype=torch.float32), torch.empty_like(reconstruction)
        posterior = (unit_inner_stride(posterior[0]), unit_inner_stride(posterior[1]))
    if rows or (posterior is not None and n):
        launch(
            flat_rows(output, output),
            flat_rows(output, x),
            logvar if logvar is None or logvar.dim() == 0 else flat_rows(output, logvar),
            None if mask is None else flat_rows(output, mask.view(torch.uint8)),
            posterior,
            reconstruction,
            kl,
            negative_elbo,
            likelihood=likelihood,
            config=config,
        )
    return reconstruction, kl, negative_elbo


def bernoulli_nll(logits: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """As the reference defines it."""
    return _score("bernoulli", logits, x, None, mask)[0]


def gaussian_nll(mean: Tensor, logvar: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """As the reference defines it."""
    return _score("gaussian", mean, x, logvar, mask)[0]


def laplace_nll(location: Tensor, log_scale: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """As the reference defines it."""
    return _score("laplace", location, x, log_scale, mask)[0]


def continuous_bernoulli_nll(logits: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """As the reference defines it."""
    return _score("continuous_bernoulli", logits, x, None, mask)[0]


def squared_error(output: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """As the reference defines it."""
    return _score("squared_error", output, x, None, mask)[0]


def row_scores(
    likelihood: str, output: Tensor, data: Tensor, output_logvar: Tensor | None, mask: Tensor | None
) -> Tensor:
    """The reconstruction alone of what `elbo` gives."""
    return _score(likelihood, output, data, output_logvar, mask)[0]


def elbo(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    likelihood: str,
    output_logvar: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference defines it: reconstruction and kl in one pass over everything that is read."""
    reconstruction, kl, negative_elbo = _score(likelihood, output, data, output_logvar, mask, (mean, logvar))
    assert kl is not None
    assert negative_elbo is not None
    return negative_elbo, reconstruction, kl
