"""Triton kernels launched by hand: memory around outputs, large strides, and that configuration is invisible."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fastvae_kernels import reparameterize, sample_normal
from fastvae_kernels.attention_tiling import attention_tiles
from fastvae_kernels.parts import PARTS
from fastvae_kernels.tiling import measured_devices, shipped_tiles
from fastvae_kernels.triton import reparameterize as reparameterize_module
from fastvae_kernels.triton import sample_normal as sample_module
from fastvae_kernels.triton.reparameterize import block_shape, row_unit
from fastvae_kernels.tuning import ReparameterizeConfig, SampleConfig, config_for, shipped_configs

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
SENTINEL = -12345.0
PAD = 64
SAMPLE_CONFIGS = [SampleConfig(quads, 4, 128) for quads in (4, 16, 256)]
REPARAMETERIZE_CONFIGS = [
    ReparameterizeConfig(elements, dims, samples, 4, 128)
    for elements, dims, samples in ((16, 4, 1), (32, 8, 2), (64, 16, 3), (512, 256, 32))
]


def guarded(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A contiguous NaN tensor in the middle of sentinels, and those sentinels."""
    size = int(np.prod(shape))
    memory = torch.full((size + 2 * PAD,), SENTINEL, dtype=dtype, device=DEVICE)
    memory[PAD : PAD + size] = float("nan")
    return memory[PAD : PAD + size].view(shape), memory


def assert_guards_stand(memory: Tensor) -> None:
    sentinel = torch.full((PAD,), SENTINEL, dtype=memory.dtype, device=DEVICE)
    assert torch.equal(memory[:PAD], sentinel)
    assert torch.equal(memory[-PAD:], sentinel)


@pytest.mark.parametrize("config", SAMPLE_CONFIGS, ids=lambda c: str(c.block_quads))
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 3), (3, 7, 8), (1, 19, 20), (2, 2, 33)], ids=str)
def test_sample_writes_its_output_and_nothing_else(shape: tuple[int, int, int], config: SampleConfig) -> None:
    out, memory = guarded(*shape)
    sample_module.launch(out, 7, 3, 1, uniform=False, config=config)
    assert_guards_stand(memory)
    samples, n, dim = shape
    expected = sample_normal(n, dim, seed=7, start=3, stream=1, samples=samples, device=DEVICE, impl="triton")
    assert torch.equal(out, expected)


@pytest.mark.parametrize("config", REPARAMETERIZE_CONFIGS, ids=lambda c: f"{c.block_elements}")
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 3), (4, 3, 8), (1, 9, 20), (3, 2, 33)], ids=str)
def test_reparameterize_writes_its_outputs_and_nothing_else(
    shape: tuple[int, int, int], config: ReparameterizeConfig
) -> None:
    samples, n, dim = shape
    z, z_memory = guarded(*shape)
    kl, kl_memory = guarded(n)
    mean = torch.randn(n, dim, device=DEVICE)
    logvar = torch.randn(n, dim, device=DEVICE)
    reparameterize_module.launch(mean, logvar, z, kl, 7, 3, 1, config=config)
    assert_guards_stand(z_memory)
    assert_guards_stand(kl_memory)
    where = {"seed": 7, "start": 3, "stream": 1, "samples": samples, "impl": "triton"}
    expected_z, expected_kl = reparameterize(mean, logvar, **where)
    assert torch.equal(z, expected_z)
    # The tile decides the order of a sum of `dim` positive terms.
    assert ((kl - expected_kl).abs() <= dim * 2.0**-23 * expected_kl).all()


def test_reads_stay_inside_the_inputs() -> None:
    """Infinity beside every row: a read that strays shows in kl."""
    wide = torch.full((6, 40), float("inf"), device=DEVICE)
    mean, logvar = wide[1:4, 3:10], wide[1:4, 20:27]
    mean.zero_()
    logvar.zero_()
    z, kl = reparameterize(mean, logvar, seed=1, impl="triton")
    assert torch.equal(kl, torch.zeros(3, device=DEVICE))
    assert torch.equal(z, sample_normal(3, 7, seed=1, device=DEVICE, impl="triton"))


@pytest.mark.parametrize("dim", [5, 8])
def test_mean_and_logvar_have_their_own_strides(dim: int) -> None:
    """As halves of a merged head, as a broadcast row, column by column: each beside a contiguous partner."""
    head = torch.randn(6, 2 * dim, device=DEVICE)
    views = [head[:, :dim], head[:1, :dim].expand(6, dim), head[:, ::2], head[:, :dim].T.contiguous().T]
    dense = torch.randn(6, dim, device=DEVICE)
    for view in views:
        for pair in ((view, dense), (dense, view)):
            strided = reparameterize(*pair, seed=1, impl="triton")
            plain = reparameterize(*(t.contiguous() for t in pair), seed=1, impl="triton")
            assert torch.equal(strided[0], plain[0])
            assert torch.allclose(strided[1], plain[1], rtol=dim * 2.0**-23, atol=0)


@pytest.fixture
def far_rows() -> Tensor:
    """Two rows whose distance does not fit int32: 4 GiB of zeros that no machine backs until they are touched."""
    if CUDA:
        memory = torch.zeros(2**31 + 64, dtype=torch.float16, device=DEVICE)
    else:
        memory = torch.from_numpy(np.zeros(2**31 + 64, dtype=np.float16))
    return memory.as_strided((2, 8), (2**31 + 8, 1))


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_row_offsets_beyond_32_bits(far_rows: Tensor, impl: str) -> None:
    far_rows[1] = 5.0
    z, kl = reparameterize(far_rows, far_rows, seed=1, impl=impl)
    near = far_rows.contiguous()
    expected_z, expected_kl = reparameterize(near, near, seed=1, impl=impl)
    assert torch.equal(z, expected_z)
    assert torch.equal(kl, expected_kl)


def test_shapes_beyond_32_bits() -> None:
    big = sample_normal(2**33, 64, seed=0, samples=3, device="meta")
    assert big.shape == (3, 2**33, 64)
    row = torch.empty(1, 64, device="meta").expand(2**33, 64)
    z, kl = reparameterize(row, row, seed=0, samples=2)
    assert z.shape == (2, 2**33, 64)
    assert kl.shape == (2**33,)


@pytest.mark.parametrize(("sizes", "unit"), [((8, 16), 8), ((20, 40), 4), ((6, 8), 2), ((7, 14), 1), ((8, 8, 3), 1)])
def test_row_unit(sizes: tuple[int, ...], unit: int) -> None:
    assert row_unit(*sizes) == unit


@pytest.mark.parametrize("dim", [1, 3, 4, 5, 16, 200, 5000])
def test_block_shape_is_powers_of_two_that_fill_the_tile(dim: int) -> None:
    config = shipped_configs("reparameterize")["default"]
    assert isinstance(config, ReparameterizeConfig)
    rows, dims = block_shape(dim, config)
    assert rows * dims == config.block_elements
    assert dims & (dims - 1) == 0
    assert 4 <= dims <= config.max_block_dims


@pytest.mark.parametrize("op", ["sample_normal", "reparameterize"])
def test_every_config_file_has_a_default(op: str) -> None:
    assert config_for(op, torch.device("cpu")) == shipped_configs(op)["default"]


def test_every_config_file_belongs_to_a_kernel() -> None:
    folder = Path(sample_module.__file__).parents[1] / "configs"
    for file in folder.glob("*.json"):
        table = json.loads(file.read_text())
        if file.stem in ("linear", "linear_prior", "linear_score", "gaussian_head", "bottleneck", "conv2d"):
            assert {*table} - {"default", *PARTS} == {*measured_devices(file.stem)}
            assert shipped_tiles(file.stem, "sm_90")
        elif file.stem == "attention":
            assert {*table} <= {"default", *PARTS}
            assert all(attention_tiles(target).keys() == {"bf16", "ieee"} for target in PARTS)
        else:
            assert set(shipped_configs(file.stem)) == set(table)
