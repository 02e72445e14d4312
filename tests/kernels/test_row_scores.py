"""The row sums in Triton: memory around them, layouts, and bits that depend on nothing but the row."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastvae_kernels import bernoulli_nll, elbo, gaussian_nll, squared_error
from fastvae_kernels.layout import flat_rows
from fastvae_kernels.pieces import pieces_per_program, row_pieces
from fastvae_kernels.triton import row_scores
from fastvae_kernels.tuning import RowScoreConfig, config_for, shipped_configs
from tests.kernels.support import CUDA, DEVICE, assert_guards_stand, guarded

DEFAULT = shipped_configs("row_scores")["default"]
assert isinstance(DEFAULT, RowScoreConfig)
# Of 4 columns, so that a few dozen make many pieces; of 3 pieces at most; and the shipped one.
CONFIGS = [
    RowScoreConfig(16, 4, 4, 1, 64, 1, 2, 4, 128),
    RowScoreConfig(64, 64, 8, 2, 3, 1, 2, 4, 128),
    DEFAULT,
]
LIKELIHOODS = ("bernoulli", "gaussian", "squared_error")
EPS = 2.0**-24


def make(
    likelihood: str,
    rows: int,
    n: int,
    dim: int,
    latent: int = 3,
    *,
    spread: str = "row",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Arguments of `elbo`, with a mask."""
    generator = torch.Generator().manual_seed(rows * 1000 + dim)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE, dtype)

    shapes = {"row": (rows, dim), "shared": (dim,), "scalar": ()}
    return {
        "output": normal(rows, dim),
        "data": normal(n, dim).sigmoid(),
        "mean": normal(n, latent),
        "logvar": normal(n, latent),
        "likelihood": likelihood,
        "output_logvar": normal(*shapes[spread]) if likelihood == "gaussian" else None,
        "mask": (torch.rand(n, dim, generator=generator) < 0.7).to(DEVICE),
    }


def by_hand(a: dict[str, Any], config: RowScoreConfig, share: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """`launch` on two-dimensional arguments of `elbo`, into guarded outputs -> (negative_elbo, reconstruction, kl)."""
    rows, n = a["output"].shape[0], a["data"].shape[0]
    results = [guarded(size) for size in (rows, n, rows)]
    mask = None if a["mask"] is None else a["mask"].view(torch.uint8)
    row_scores.launch(
        *(a["output"], a["data"], a["output_logvar"], mask, (a["mean"], a["logvar"])),
        *(view for view, _ in results),
        likelihood=a["likelihood"],
        config=config,
        share=share,
    )
    for _, memory in results:
        assert_guards_stand(memory)
    (reconstruction, _), (kl, _), (negative_elbo, _) = results
    return negative_elbo, reconstruction, kl


def exact(a: dict[str, Any]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Reconstruction and kl in float64, each with the sum of the sizes of what it adds up."""
    output, data, mean, logvar = (a[name].double() for name in ("output", "data", "mean", "logvar"))
    data = data.repeat(output.shape[0] // data.shape[0], 1)
    if a["likelihood"] == "bernoulli":
        parts = [output.clamp_min(0), -data * output, torch.log1p(torch.exp(-output.abs()))]
    elif a["likelihood"] == "gaussian":
        v = a["output_logvar"].double().expand_as(output)
        constant = torch.full_like(output, 0.5 * math.log(2 * math.pi))
        parts = [constant, 0.5 * v, 0.5 * (data - output) ** 2 * torch.exp(-v)]
    else:
        parts = [(data - output) ** 2]
    mask = torch.ones_like(data) if a["mask"] is None else a["mask"].repeat(output.shape[0] // a["mask"].shape[0], 1)
    divergence = [0.5 * (torch.expm1(logvar) - logvar), 0.5 * mean**2]
    sums = ((sum(parts) * mask).sum(1), (sum(p.abs() for p in parts) * mask).sum(1))
    return sums, (sum(divergence).sum(1), sum(divergence).sum(1))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: str(c.max_block_columns))
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (6, 3, 7, 5), (4, 4, 8, 4), (10, 5, 33, 20), (2, 1, 40, 0)], ids=str)
def test_writes_its_outputs_and_nothing_else(
    shape: tuple[int, int, int, int], config: RowScoreConfig, likelihood: str
) -> None:
    rows, n, dim, latent = shape
    arguments = make(likelihood, *shape, spread=("row", "shared", "scalar")[dim % 3])
    negative_elbo, reconstruction, kl = by_hand(arguments, config)
    (exact_sum, size), (exact_kl, kl_size) = exact(arguments)
    # An entry's score: 8 roundings at most; its way through the sum: one for every block, level and piece.
    assert ((reconstruction - exact_sum).abs() <= (8 + dim) * EPS * size).all()
    assert ((kl - exact_kl).abs() <= (8 + latent) * EPS * kl_size).all()
    assert torch.equal(negative_elbo, reconstruction + kl.repeat(rows // n))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("config", CONFIGS[:2], ids=lambda c: str(c.max_block_columns))
@pytest.mark.parametrize("dim", [17, 40])
def test_sharing_rows_out_changes_no_bit(dim: int, config: RowScoreConfig, likelihood: str) -> None:
    arguments = make(likelihood, 6, 3, dim)
    pieces = row_pieces(dim, config).pieces
    assert pieces > 1
    whole = by_hand(arguments, config, pieces)
    for share in {1, 2, pieces - 1}:
        for result, expected in zip(by_hand(arguments, config, share), whole, strict=True):
            assert torch.equal(result, expected)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_rows_of_a_tile_change_no_bit(likelihood: str) -> None:
    arguments = make(likelihood, 14, 7, 21)
    narrow, wide = RowScoreConfig(8, 1, 8, 2, 4, 1, 2, 4, 128), RowScoreConfig(128, 16, 8, 2, 4, 1, 2, 4, 128)
    for result, expected in zip(by_hand(arguments, narrow), by_hand(arguments, wide), strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize(
    ("likelihood", "dtype", "dim"),
    [
        ("bernoulli", torch.float32, 20),
        ("gaussian", torch.bfloat16, 20),
        ("squared_error", torch.float32, 20),
        ("bernoulli", torch.bfloat16, 1100),
    ],
    ids=str,
)
def test_a_row_alone_has_the_bits_it_has_in_a_batch(likelihood: str, dtype: torch.dtype, dim: int) -> None:
    """As a slice, whose memory is aligned otherwise, as a copy, and one place further down."""
    n = 6
    batch = make(likelihood, n, n, dim, 5, dtype=dtype)
    together = elbo(**batch, impl="triton")
    per_row = [name for name, value in batch.items() if isinstance(value, Tensor)]
    moved = elbo(**(batch | {name: batch[name].roll(1, 0) for name in per_row}), impl="triton")
    for result, expected in zip(moved, together, strict=True):
        assert torch.equal(result.roll(-1, 0), expected)
    for i in (0, 3, n - 1):
        slices = {name: batch[name][i : i + 1] for name in per_row}
        copies = {name: view.clone() for name, view in slices.items()}
        for row in (slices, copies):
            for result, expected in zip(elbo(**(batch | row), impl="triton"), together, strict=True):
                assert torch.equal(result, expected[i : i + 1])


def test_the_single_scores_are_the_elbos_reconstruction() -> None:
    for likelihood in LIKELIHOODS:
        a = make(likelihood, 6, 3, 50) | {"mask": None}
        score = {
            "bernoulli": lambda a: bernoulli_nll(a["output"], a["data"], impl="triton"),
            "gaussian": lambda a: gaussian_nll(a["output"], a["output_logvar"], a["data"], impl="triton"),
            "squared_error": lambda a: squared_error(a["output"], a["data"], impl="triton"),
        }[likelihood]
        assert torch.equal(score(a), elbo(**a, impl="triton")[1])


@pytest.mark.parametrize("dim", [5, 8])
@pytest.mark.parametrize("name", ["output", "data", "output_logvar", "mask", "mean", "logvar"])
def test_every_input_has_its_own_strides(name: str, dim: int) -> None:
    """As half of a wider tensor, as a broadcast row, every other column, column by column: the bits of a copy."""
    arguments = make("gaussian", 6, 6, dim, dim)
    wide = torch.randn(6, 2 * dim, device=DEVICE)
    wide = wide > 0 if name == "mask" else wide
    for view in (wide[:, :dim], wide[:1, dim:].expand(6, dim), wide[:, ::2], wide[:, :dim].T.contiguous().T):
        strided = elbo(**(arguments | {name: view}), impl="triton")
        plain = elbo(**(arguments | {name: view.contiguous()}), impl="triton")
        for result, expected in zip(strided, plain, strict=True):
            assert torch.equal(result, expected)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: str(c.max_block_columns))
def test_reads_stay_inside_the_inputs(config: RowScoreConfig, likelihood: str) -> None:
    """Infinity beside every row and column: a read that strays and counts shows."""
    arguments = make(likelihood, 3, 3, 7, 5)
    arguments["mask"] = None
    surrounded = dict(arguments)
    for name in ("output", "data", "output_logvar", "mean", "logvar"):
        if arguments[name] is not None:
            rows, columns = arguments[name].shape
            sea = torch.full((rows + 2, columns + 20), float("inf"), device=DEVICE)
            sea[1:-1, 3 : 3 + columns] = arguments[name]
            surrounded[name] = sea[1:-1, 3 : 3 + columns]
    for result, expected in zip(by_hand(surrounded, config), by_hand(arguments, config), strict=True):
        assert torch.equal(result, expected)


def far_rows(dtype: Any, columns: int) -> Tensor:
    """Two rows whose distance does not fit int32: zeros that no machine backs until they are touched."""
    if CUDA:
        memory = torch.zeros(2**31 + 64, dtype=getattr(torch, dtype), device=DEVICE)
    else:
        memory = torch.from_numpy(np.zeros(2**31 + 64, dtype=dtype))
    return memory.as_strided((2, columns), (2**31 + 8, 1))


@pytest.mark.parametrize("name", ["output", "data", "output_logvar", "mask", "mean", "logvar"])
def test_row_offsets_beyond_32_bits(name: str) -> None:
    arguments = make("gaussian", 2, 2, 8, 8, dtype=torch.float16)
    far = far_rows("bool" if name == "mask" else "float16", 8)
    far.copy_(arguments[name])
    near = elbo(**arguments, impl="triton")
    for result, expected in zip(elbo(**(arguments | {name: far}), impl="triton"), near, strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize(("rows", "n", "dim", "latent"), [(0, 0, 3, 2), (0, 3, 4, 2), (4, 2, 0, 3), (3, 3, 5, 0)])
def test_nothing_to_add_is_zero(rows: int, n: int, dim: int, latent: int) -> None:
    """No rows, no samples, no columns, no latent: what is left is still computed."""
    for likelihood in LIKELIHOODS:
        arguments = make(likelihood, rows, n, dim, latent)
        results = [elbo(**arguments, impl=impl) for impl in ("triton", "reference")]
        for result, expected in zip(*results, strict=True):
            assert result.shape == expected.shape
            assert torch.allclose(result, expected, rtol=1e-6, atol=0)


def images(*shape: int, last: bool) -> Tensor:
    return torch.rand(shape, device=DEVICE).contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format
    )


@pytest.mark.parametrize("last", [True, False])
def test_images_of_one_layout_are_read_where_they_are(last: bool) -> None:
    x = images(2, 3, 5, 4, last=last)
    assert flat_rows(x, x).data_ptr() == x.data_ptr()
    mask = x > 0.5
    assert flat_rows(x, mask).data_ptr() == mask.data_ptr()


@pytest.mark.parametrize("lasts", [(True, True), (True, False), (False, True)], ids=str)
def test_images_of_two_layouts_are_paired_entry_by_entry(lasts: tuple[bool, bool]) -> None:
    output, x = images(4, 3, 5, 4, last=lasts[0]), images(2, 3, 5, 4, last=lasts[1])
    mask = images(2, 3, 5, 4, last=lasts[1]) < 0.7
    for logvar in (images(4, 3, 5, 4, last=lasts[1]), torch.rand(3, 5, 4, device=DEVICE)):
        nll = gaussian_nll(output, logvar, x, mask, impl="triton")
        expected = gaussian_nll(output.double(), logvar, x, mask)
        torch.testing.assert_close(nll.double(), expected, rtol=70 * EPS, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_confident_bernoulli_keeps_its_relative_accuracy(dtype: torch.dtype) -> None:
    logits = torch.linspace(-87, 87, 4001, device=DEVICE).to(dtype)[:, None]
    nll = bernoulli_nll(logits, (logits > 0).to(dtype), impl="triton")
    size = logits.double().abs()[:, 0]
    tail = torch.log1p(torch.exp(-size))
    hardware = 0.0 if dtype == torch.float32 else size * torch.exp(-size) * EPS
    assert ((nll.double() - tail).abs() <= 4 * 2.0**-23 * tail + hardware).all()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: str(c.max_block_columns))
@pytest.mark.parametrize("dim", [0, 1, 4, 5, 16, 200, 784, 5000, 12288, 196608, 10**6])
def test_pieces_cover_a_row(dim: int, config: RowScoreConfig) -> None:
    cut = row_pieces(dim, config)
    piece = cut.block_columns * cut.unroll * cut.groups
    assert (cut.pieces - 1) * piece < max(dim, 1) <= max(cut.pieces, 1) * piece
    assert cut.pieces <= config.max_pieces
    assert cut.block_rows * cut.block_columns <= config.block_elements
    for size in (cut.block_rows, cut.block_columns):
        assert size & (size - 1) == 0
    for rows in (1, 100, 10**6):
        share = pieces_per_program(rows, cut, 132, config)
        assert 1 <= share <= max(cut.pieces, 1)
        if rows == 10**6:
            assert share == max(cut.pieces, 1)
        elif dim == 196608 and rows == 1:
            assert share < cut.pieces


def test_the_default_shares_out_large_images() -> None:
    config = config_for("row_scores", torch.device("cpu"))
    assert isinstance(config, RowScoreConfig)
    cut = row_pieces(3 * 64 * 64, config)
    assert cut.pieces * cut.unroll * cut.block_columns == 3 * 64 * 64
    assert pieces_per_program(1, cut, 132, config) == 1
    assert pieces_per_program(4096, cut, 132, config) == cut.pieces
