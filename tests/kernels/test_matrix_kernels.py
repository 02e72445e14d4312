"""The matrix-product kernels launched by hand: memory around them, every way of loading, and a row's bits."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastvae_kernels import linear, linear_prior, linear_score, quantize_rows, sample_normal
from fastvae_kernels.tiling import GemmConfig
from fastvae_kernels.triton import linear as linear_module
from fastvae_kernels.triton import linear_score as score_module
from fastvae_kernels.triton import quantize_rows as quantize_module
from fastvae_kernels.triton.gemm import ceil_div, on_tma, operands, row_unit
from fastvae_kernels.tuning import QuantizeConfig
from tests.kernels.support import CUDA, DEVICE, assert_guards_stand, framed, guarded

EPS = 2.0**-24
# Tiles smaller than every layer below, of unlike sides, and one wider than all; epilogues whole and in parts.
CONFIGS = [
    GemmConfig(16, 16, 16, 4, 2, group_rows=2),
    GemmConfig(32, 64, 16, 4, 2, parts=2),
    GemmConfig(64, 16, 32, 4, 3, group_rows=1),
    GemmConfig(128, 128, 64, 8, 3, parts=4),
]
SHAPES = [(1, 1, 1), (5, 7, 3), (37, 40, 24), (70, 33, 50)]


def bound(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Twice the rounding of a sum of products and a bias, added in any order."""
    terms = x.double().abs() @ weight.double().abs().T
    terms = terms if bias is None else terms + bias.double().abs()
    return 2 * (x.shape[1] + 4) * EPS * terms + 1e-37


def launch_linear(x: Tensor, weight: Tensor, config: GemmConfig, tma: bool = False, **extras: Any) -> Tensor:
    """`launch` into guarded memory, with defaults for what is not given."""
    out, memory = guarded(x.shape[0], weight.shape[0], dtype=extras.pop("dtype", x.dtype))
    given = {name: extras.get(name) for name in ("bias", "residual", "x_scale", "weight_scale")}
    linear_module.launch(
        x, weight, *given.values(), out, extras.get("activation", "identity"), None, "ieee", config=config, tma=tma
    )
    assert_guards_stand(memory)
    return out


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: str(c.tile))
@pytest.mark.parametrize(("n", "inputs", "outputs"), SHAPES)
def test_linear_in_any_tile(n: int, inputs: int, outputs: int, config: GemmConfig) -> None:
    x, weight = framed(n, inputs), framed(outputs, inputs)
    bias, residual = torch.randn(outputs, device=DEVICE), framed(n, outputs)
    out = launch_linear(x, weight, config, bias=bias, residual=residual, activation="relu")
    product = x.double() @ weight.double().T + bias.double()
    error = (out.double() - (product.relu() + residual.double())).abs()
    assert (error <= bound(x, weight, bias) + 2 * EPS * residual.double().abs()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("config", CONFIGS[1:], ids=lambda c: str(c.tile))
def test_the_copy_engine_gives_the_same_bits(config: GemmConfig, dtype: torch.dtype) -> None:
    """Rows of 48 and 80 entries are whole 16-byte units in every dtype; ends do not fall on tiles."""
    x, weight = (torch.randn(rows, 48, device=DEVICE).to(dtype) for rows in (150, 80))
    extras: dict[str, Any] = {"bias": torch.randn(80, device=DEVICE), "activation": "silu", "dtype": torch.float32}
    if dtype == torch.float8_e4m3fn:
        extras |= {"x_scale": torch.rand(150, device=DEVICE), "weight_scale": torch.rand(80, device=DEVICE)}
    assert on_tma(x, weight)
    plain = launch_linear(x, weight, config, **extras)
    assert torch.equal(launch_linear(x, weight, config, tma=True, **extras), plain)


def test_the_copy_engine_is_not_asked_what_it_cannot_do() -> None:
    x = torch.zeros(8, 64, device=DEVICE)
    assert on_tma(x, x[:, :32], x[2:])
    assert not on_tma(x, x[:, 1:33])  # a base between 16-byte units
    assert not on_tma(torch.zeros(8, 33, device=DEVICE))  # rows that are not whole units
    assert not on_tma(x[:0])
    assert not on_tma(torch.empty(2**31, 8, device="meta"))


@pytest.mark.parametrize("tma", [False, True])
def test_a_row_has_the_same_bits_in_any_batch(tma: bool) -> None:
    config = CONFIGS[1]
    x, weight = torch.randn(150, 48, device=DEVICE), torch.randn(80, 48, device=DEVICE)
    data = torch.rand(150, 80, device=DEVICE)
    whole = launch_linear(x, weight, config, tma=tma)
    scores = launch_score(x, weight, data, config, tma=tma, split=False)
    for part in (slice(0, 1), slice(149, 150), slice(31, 97)):
        assert torch.equal(launch_linear(x[part], weight, config), whole[part])
        assert torch.equal(launch_score(x[part], weight, data[part], config, split=True), scores[part])


def launch_score(x: Tensor, weight: Tensor, data: Tensor, config: GemmConfig, split: bool, **extras: Any) -> Tensor:
    """`launch` into guarded memory; the tiles' sums of the split form are added by its second kernel."""
    rows, pieces = x.shape[0], ceil_div(weight.shape[0], config.block_columns)
    out, memory = guarded(*((pieces, rows) if split else (rows,)))
    given = [extras.get(name) for name in ("likelihood", "logvar", "mask")]
    likelihood, logvar, mask = given[0] or "bernoulli", given[1], given[2]
    score_module.launch(
        x, weight, extras.get("bias"), data, likelihood, logvar, mask, extras.get("activation", "identity"), None,
        "ieee", None, None, out, split=split, config=config, tma=extras.get("tma", False),
    )  # fmt: skip
    assert_guards_stand(memory)
    return score_module.add_pieces(out) if split else out


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: str(c.tile))
@pytest.mark.parametrize(("n", "inputs", "outputs"), SHAPES)
def test_score_in_any_tile(n: int, inputs: int, outputs: int, config: GemmConfig, split: bool) -> None:
    x, weight, data = framed(2 * n, inputs), framed(outputs, inputs), framed(n, outputs)
    bias = torch.randn(outputs, device=DEVICE)
    score = launch_score(x, weight, data, config, split, bias=bias, likelihood="squared_error")
    output = x.double() @ weight.double().T + bias.double()
    d = data.double().repeat(2, 1) - output
    # (d + e)² - d² for an error e of d, and the sum of `outputs` squares.
    e = bound(x, weight, bias) + 2 * EPS * d.abs()
    budget = (2 * d.abs() * e + e**2).sum(1) + (outputs + 4) * EPS * (d**2).sum(1)
    assert ((score.double() - (d**2).sum(1)).abs() <= budget).all()


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "squared_error"])
def test_score_split_or_whole_has_the_same_bits(likelihood: str, parts: int) -> None:
    config = GemmConfig(32, 16, 16, 4, 2, parts=parts)
    x, weight, data = framed(50, 20), framed(70, 20), framed(25, 70).sigmoid()
    extras: dict[str, Any] = {"likelihood": likelihood, "bias": torch.randn(70, device=DEVICE)}
    extras["mask"] = (torch.rand(25, 70, device=DEVICE) < 0.7).view(torch.uint8)
    if likelihood == "gaussian":
        extras |= {"logvar": torch.randn(70, device=DEVICE), "activation": "tanh"}
    whole = launch_score(x, weight, data, config, False, **extras)
    assert torch.equal(launch_score(x, weight, data, config, True, **extras), whole)
    assert whole.isfinite().all()


@pytest.mark.parametrize("dim", [1, 3, 20, 40])
def test_latents_of_the_prior_are_those_of_sample_normal(dim: int) -> None:
    """Row o of the weight picks dimension o, so that the product is the noise itself."""
    where = {"seed": 2**63 + 5, "start": 2**32 - 3, "stream": 7, "impl": "triton"}
    weight = torch.eye(dim, device=DEVICE)
    z = linear_prior(9, weight, **where)
    assert torch.equal(z, sample_normal(9, dim, **where, device=DEVICE))


@pytest.fixture
def far_rows() -> Tensor:
    """Two rows whose distance does not fit int32: 4 GiB of zeros that no machine backs until they are touched."""
    if CUDA:
        memory = torch.zeros(2**31 + 64, dtype=torch.float16, device=DEVICE)
    else:
        memory = torch.from_numpy(np.zeros(2**31 + 64, dtype=np.float16))
    return memory.as_strided((2, 8), (2**31 + 8, 1))


def test_row_offsets_beyond_32_bits(far_rows: Tensor) -> None:
    far_rows.copy_(torch.arange(16, device=DEVICE).view(2, 8) / 8)
    near, weight = far_rows.contiguous(), torch.randn(8, 8, device=DEVICE).half()
    for residual in (far_rows, None):
        far = linear(far_rows, weight, residual=residual, impl="triton")
        assert torch.equal(far, linear(near, weight, residual=None if residual is None else near, impl="triton"))
    assert torch.equal(linear(near, far_rows, impl="triton"), linear(near, near, impl="triton"))
    score = linear_score(far_rows, weight, None, far_rows, impl="triton")
    assert torch.equal(score, linear_score(near, weight, None, near, impl="triton"))
    q, scale = quantize_rows(far_rows, impl="triton")
    expected, expected_scale = quantize_rows(near, impl="triton")
    assert torch.equal(q.float(), expected.float())
    assert torch.equal(scale, expected_scale)


@pytest.mark.parametrize("config", [QuantizeConfig(16, 4), QuantizeConfig(64, 4), QuantizeConfig(4096, 8)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 64), (9, 130)], ids=str)
def test_quantize_writes_its_outputs_and_nothing_else(shape: tuple[int, int], config: QuantizeConfig) -> None:
    x = framed(*shape)
    q, q_memory = guarded(*shape, dtype=torch.float8_e4m3fn)
    scale, memory = guarded(shape[0])
    quantize_module.launch(x, q, scale, config=config)
    assert_guards_stand(memory)
    assert_guards_stand(q_memory)
    expected, expected_scale = quantize_rows(x, impl="reference")
    assert torch.equal(q.float(), expected.float())
    assert torch.equal(scale, expected_scale)


def test_quantize_rounds_every_gap_of_e4m3_to_even() -> None:
    """All 254 finite numbers, the midpoints between neighbours, and a float32 to either side of each."""
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    values = values[values.isfinite()].sort().values
    middles = (values[1:] + values[:-1]) / 2
    beside = [torch.nextafter(middles, torch.full_like(middles, side * math.inf)) for side in (-1, 1)]
    row = torch.cat([values, middles, *beside]).to(DEVICE)[None]
    q, scale = quantize_rows(row, impl="triton")
    assert scale.item() == 1.0
    assert torch.equal(q.float(), row.to(torch.float8_e4m3fn).float())
    assert torch.equal(q.float().signbit(), row.signbit())


@pytest.mark.parametrize(("sizes", "unit"), [((8, 16), 8), ((20, 40), 4), ((6, 8), 2), ((7, 14), 1), ((0, 8), 8)])
def test_row_unit(sizes: tuple[int, ...], unit: int) -> None:
    assert row_unit(*sizes) == unit
    assert row_unit(*(2 * size for size in sizes), largest=16) == 2 * unit


def test_operands_of_each_precision() -> None:
    x = torch.zeros(4, 64)
    assert operands(x, x, "tf32", 32) == (8, True, "tf32", 0, False)
    assert operands(x.half(), x.half(), "ieee", 48) == (8, False, "ieee", 0, False)
    assert operands(x.bfloat16(), x.bfloat16(), "ieee", 32).widen
    eight = x.to(torch.float8_e4m3fn)
    assert operands(eight, eight, "ieee", 256) == (16, False, "ieee", 128, False)
    assert ceil_div(7, 3) == 3


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "softplus", "elu", "selu"])
def test_activations_over_their_whole_range(activation: str) -> None:
    """Each against float64 on [-30, 30]: a few roundings of the result, and of a tail's argument, magnified by x²."""
    x = torch.linspace(-30, 30, 1023, device=DEVICE)
    y = linear(torch.ones(1, 1, device=DEVICE), x[:, None], activation=activation, impl="triton")[0].double()
    wide = x.double()
    exact = {
        "gelu": lambda: wide * 0.5 * torch.special.erfc(-wide * 0.5**0.5),
        "gelu_tanh": lambda: wide * torch.sigmoid(2 * (2 / math.pi) ** 0.5 * (wide + 0.044715 * wide**3)),
        "silu": lambda: wide * torch.sigmoid(wide),
        "softplus": lambda: torch.logaddexp(wide, torch.zeros_like(wide)),
        "elu": lambda: F.elu(wide),
        "selu": lambda: F.selu(wide),
        "tanh": lambda: torch.tanh(wide),
        "sigmoid": lambda: torch.sigmoid(wide),
    }[activation]()
    tail = {"gelu": wide**2, "gelu_tanh": 2 * 0.8 * wide.abs() ** 3, "silu": wide.abs()}.get(activation, 0.0)
    assert ((y - exact).abs() <= (8 + tail) * EPS * exact.abs() + 1e-37).all()
