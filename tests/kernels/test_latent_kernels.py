"""The kernels around the latent, launched by hand: memory around them, layouts of a head, noise, and a row's bits."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastvae_kernels import bottleneck, gaussian_head, linear, sample_normal, split_head
from fastvae_kernels.parts import PARTS
from fastvae_kernels.tiling import GemmConfig, best_tile
from fastvae_kernels.triton import bottleneck as bottleneck_module
from fastvae_kernels.triton import gaussian_head as head_module
from fastvae_kernels.triton.bottleneck import is_chained, latent_block
from tests.kernels.support import CUDA, DEVICE, EPS32, assert_guards_stand, framed, guarded, same_bits

Head = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]
# Tiles narrower and wider than every latent below; epilogues whole and in parts.
CONFIGS = [GemmConfig(16, 16, 16, 4, 2), GemmConfig(32, 64, 32, 4, 3)]
CHAINS = [
    GemmConfig(16, 64, 16, 4, 2, block_latent=16),
    GemmConfig(32, 128, 32, 4, 3, block_latent=32, parts=4),
]
SHAPES = [(1, 1, 1), (5, 7, 3), (18, 33, 36)]
BOUNDS = {"minimum": -0.5, "maximum": 1.5}


def framed_head(n: int, inputs: int, latent: int) -> Head:
    """x, weights and biases between infinities; log-variances on either side of BOUNDS."""
    scale = inputs**-0.5
    mean_weight, logvar_weight = framed(latent, inputs), framed(latent, inputs)
    mean_weight *= scale
    logvar_weight *= scale
    return framed(n, inputs), mean_weight, framed(1, latent)[0], logvar_weight, framed(1, latent)[0]


def exact_head(head: Head) -> tuple[Tensor, ...]:
    """Mean and clamped log-variance in float64, each with twice the rounding of a sum added in any order."""
    found = []
    for weight, bias in (head[1:3], head[3:5]):
        assert bias is not None
        product = head[0].double() @ weight.double().T + bias.double()
        terms = head[0].double().abs() @ weight.double().abs().T + bias.double().abs()
        found += [product, (weight.shape[1] + 4) * EPS32 * terms]
    return found[0], found[1], found[2].clamp(BOUNDS["minimum"], BOUNDS["maximum"]), found[3]


def kl_and_bound(mean: Tensor, mean_error: Tensor, logvar: Tensor, logvar_error: Tensor) -> tuple[Tensor, Tensor]:
    """KL per row in float64; its error: the derivative's, and roundings of at most every term."""
    terms = 0.5 * (logvar.exp() - 1 - logvar + mean**2)
    error = (mean.abs() + mean_error) * mean_error + (0.5 * (logvar.exp() - 1).abs() + logvar_error) * logvar_error
    size = 1 + logvar.abs() + mean**2 + logvar.exp()
    return terms.sum(1), (error + (mean.shape[1] + 4) * EPS32 * size).sum(1)


def z_and_error(
    head: Head, seed: int | None, start: int, stream: int, samples: int
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """z [samples, n, latent] in float64 of the noise of `sample_normal`, its error, and what `exact_head` gives."""
    exact = mean, mean_error, logvar, logvar_error = exact_head(head)
    if seed is None:
        return mean[None], mean_error[None], exact
    where = {"seed": seed, "start": start, "stream": stream, "samples": samples}
    drawn = (0.5 * logvar).exp() * sample_normal(*mean.shape, **where, device=DEVICE, impl="triton").double()
    # exp of a rounded exponent, to 2 units; the product and the sum.
    error = mean_error + drawn.abs() * (0.5 * logvar_error + 3 * EPS32) + EPS32 * mean.abs()
    return mean + drawn, error, exact


def launch_head(
    head: Head,
    config: GemmConfig,
    seed: int | None,
    *where: int,
    samples: int = 1,
    posterior: bool = True,
    **bounds: Any,
) -> tuple[Tensor, ...]:
    """z, kl and, if asked for, mean and log-variance from `launch` into guarded memory."""
    n, latent = head[0].shape[0], head[1].shape[0]
    shapes = [(samples, n, latent), (n,), (n, latent), (n, latent)][: 4 if posterior else 2]
    made = [guarded(*shape) for shape in shapes]
    stored = [out for out, _ in made[2:]] if posterior else [None, None]
    limits = (bounds.get("minimum"), bounds.get("maximum"), "ieee")
    head_module.launch(*head, made[0][0], made[1][0], *stored, seed, *where, *limits, config=config)
    for _, memory in made:
        assert_guards_stand(memory)
    return tuple(out for out, _ in made)


def launch_chain(
    head: Head, weight: Tensor, bias: Tensor | None, config: GemmConfig, seed: int | None, *where: int, **bounds: Any
) -> tuple[Tensor, Tensor]:
    """y = relu(...) and kl from `launch` into guarded memory."""
    (y, y_memory), (kl, kl_memory) = guarded(head[0].shape[0], weight.shape[0]), guarded(head[0].shape[0])
    limits = (bounds.get("minimum"), bounds.get("maximum"), "ieee")
    bottleneck_module.launch(*head, weight, bias, y, kl, "relu", None, seed, *where, *limits, config=config)
    assert_guards_stand(y_memory)
    assert_guards_stand(kl_memory)
    return y, kl


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: str(c.tile))
@pytest.mark.parametrize(("n", "inputs", "latent"), SHAPES)
def test_gaussian_head_in_any_tile(n: int, inputs: int, latent: int, config: GemmConfig) -> None:
    head, where = framed_head(n, inputs, latent), (7, 2**32 - 2, 2)
    z, kl, mean, logvar = launch_head(head, config, *where, samples=3, **BOUNDS)
    exact_z, z_error, exact = z_and_error(head, *where, 3)
    exact_kl, kl_error = kl_and_bound(*exact)
    assert ((z.double() - exact_z).abs() <= z_error).all()
    assert ((kl.double() - exact_kl).abs() <= kl_error).all()
    assert ((mean.double() - exact[0]).abs() <= exact[1]).all()
    assert ((logvar.double() - exact[2]).abs() <= exact[3]).all()
    alone = launch_head(head, config, *where, posterior=False, **BOUNDS)
    assert same_bits(alone, (z[:1], kl))
    assert torch.equal(launch_head(head, config, None, 0, 0)[0][0], mean)


@pytest.mark.parametrize("config", CHAINS, ids=lambda c: str(c.tile))
@pytest.mark.parametrize("seed", [7, None])
@pytest.mark.parametrize(("n", "inputs", "latent"), SHAPES)
def test_bottleneck_in_any_tile(n: int, inputs: int, latent: int, seed: int | None, config: GemmConfig) -> None:
    head, where = framed_head(n, inputs, latent), (seed, 2**32 - 2, 2)
    for outputs in (33, 64):
        weight, bias = framed(outputs, latent), torch.randn(outputs, device=DEVICE)
        y, kl = launch_chain(head, weight, bias, config, *where, **BOUNDS)
        z, z_error, exact = z_and_error(head, *where, 1)
        exact_kl, kl_error = kl_and_bound(*exact)
        wide = weight.double()
        terms = z[0].abs() @ wide.abs().T + bias.double().abs()
        error = z_error[0] @ wide.abs().T + (latent + 4) * EPS32 * terms
        assert ((y.double() - (z[0] @ wide.T + bias.double()).relu()).abs() <= error).all()
        assert ((kl.double() - exact_kl).abs() <= kl_error).all()


@pytest.mark.parametrize("latent", [1, 3, 20, 33])
def test_heads_of_zero_give_the_prior_and_its_noise(latent: int) -> None:
    """Infinity beside every zero: a read that strays would show in z or kl."""
    x, mean_weight, _, logvar_weight, _ = framed_head(5, 7, latent)
    head = (x, mean_weight.zero_(), None, logvar_weight.zero_(), None)
    where = {"seed": 2**64 - 3, "start": 2**40, "stream": 2**32 - 3, "samples": 3}
    z, kl = gaussian_head(*head, **where, impl="triton")
    noise = sample_normal(5, latent, **where, device=DEVICE, impl="triton")
    assert torch.equal(z, noise)
    assert torch.equal(kl, torch.zeros(5, device=DEVICE))
    del where["samples"]
    y, kl = bottleneck(*head, torch.eye(latent, device=DEVICE), **where, impl="triton")
    assert torch.equal(y, noise[0])
    assert torch.equal(kl, torch.zeros(5, device=DEVICE))


@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize("latent", [5, 50])
def test_the_chain_sees_what_the_head_gives(latent: int, seed: int | None) -> None:
    """Through an identity, in the same latent blocks: z, here positive, and kl to the bit."""
    head = framed_head(19, 24, latent)
    assert head[2] is not None
    head[2].add_(100.0)
    chain = CHAINS[0]
    config = GemmConfig(16, latent_block(latent, chain), 16, 4, 2)
    z, kl, *_ = launch_head(head, config, seed, 9, 1, **BOUNDS)
    y, chained = launch_chain(head, torch.eye(latent, device=DEVICE), None, chain, seed, 9, 1, **BOUNDS)
    assert torch.equal(y, z[0])
    assert torch.equal(chained, kl)


def merged(latent: int, inputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.randn(2 * latent, inputs, device=DEVICE).to(dtype), torch.randn(2 * latent, device=DEVICE).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["chunked", "interleaved"])
@pytest.mark.parametrize(("inputs", "latent"), [(24, 32), (7, 5)])
def test_views_of_a_merged_head_give_the_bits_of_copies(
    inputs: int, latent: int, layout: str, dtype: torch.dtype
) -> None:
    x = torch.randn(9, inputs, device=DEVICE).to(dtype)
    (mean_weight, logvar_weight), (mean_bias, logvar_bias) = (
        split_head(t, layout) for t in merged(latent, inputs, dtype)
    )
    views = (mean_weight, mean_bias, logvar_weight, logvar_bias)
    copies = [t.clone(memory_format=torch.contiguous_format) for t in views]
    results = [gaussian_head(x, *head, seed=1, posterior=True, impl="triton") for head in (views, copies)]
    assert same_bits(*results)
    decoder = torch.randn(6, 2 * latent, device=DEVICE).to(dtype)[:, latent:]
    chained = [
        bottleneck(x, *head, w, seed=1, impl="triton") for head, w in ((views, decoder), (copies, decoder.clone()))
    ]
    assert same_bits(*chained)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("latent", [5, 34])
def test_a_row_has_the_same_bits_in_any_batch(latent: int, dtype: torch.dtype) -> None:
    head = [t.to(dtype) for t in framed_head(70, 20, latent) if t is not None]
    weight = torch.randn(24, latent, device=DEVICE).to(dtype)
    whole = gaussian_head(*head, seed=4, start=11, samples=2, posterior=True, impl="triton")
    chained = bottleneck(*head, weight, seed=4, start=11, impl="triton")
    for rows in (slice(0, 1), slice(62, 67)):
        part = [head[0][rows], *head[1:]]
        z, *rest = gaussian_head(*part, seed=4, start=11 + rows.start, samples=2, posterior=True, impl="triton")
        assert same_bits((z, *rest), (whole[0][:, rows], *(t[rows] for t in whole[1:])))
        found = bottleneck(*part, weight, seed=4, start=11 + rows.start, impl="triton")
        assert same_bits(found, tuple(t[rows] for t in chained))


def test_nan_passes_the_bounds_and_stays_in_its_row() -> None:
    head = framed_head(5, 12, 6)
    weight = torch.randn(4, 6, device=DEVICE)
    clean = gaussian_head(*head, seed=1, **BOUNDS, posterior=True, impl="triton")
    clean_chain = bottleneck(*head, weight, seed=1, **BOUNDS, impl="triton")
    head[0][2, 3] = math.nan
    for found, expected in (
        (gaussian_head(*head, seed=1, **BOUNDS, posterior=True, impl="triton"), clean),
        (bottleneck(*head, weight, seed=1, **BOUNDS, impl="triton"), clean_chain),
    ):
        for a, b in zip(found, expected, strict=True):
            assert a[2].isnan().all()
            assert torch.equal(a[[0, 1, 3, 4]], b[[0, 1, 3, 4]])


@pytest.mark.parametrize(
    ("latent", "outputs", "chained"), [(1, 1, True), (128, 64, True), (129, 64, False), (16, 65, False), (5, 0, False)]
)
def test_wide_layers_are_not_chained(latent: int, outputs: int, chained: bool) -> None:
    assert is_chained(latent, outputs, GemmConfig(64, 64, 64, 4, 3, block_latent=32)) == chained


@pytest.mark.parametrize("target", PARTS)
@pytest.mark.parametrize("precision", ["bf16", "ieee"])
def test_all_outputs_that_fit_a_shipped_tile_are_chained(precision: str, target: str) -> None:
    for outputs in (1, 65, 129, 256):
        for inputs in (1, 256, 4096):
            assert is_chained(32, outputs, best_tile("bottleneck", outputs, inputs, precision, PARTS[target]))


def test_latent_blocks_are_whole_where_they_fit() -> None:
    config = GemmConfig(64, 64, 64, 4, 3, block_latent=32)
    assert [latent_block(latent, config) for latent in (0, 1, 16, 17, 33, 64, 65, 500)] == [
        16,
        16,
        16,
        32,
        64,
        64,
        32,
        32,
    ]


@pytest.mark.parametrize(("latent", "outputs"), [(5, 260), (80, 3)])
def test_wide_layers_run_as_two_kernels(latent: int, outputs: int) -> None:
    x, *head = framed_head(3, 8, latent)
    weight, bias = torch.randn(outputs, latent, device=DEVICE), torch.randn(outputs, device=DEVICE)
    y, kl = bottleneck(x, *head, weight, bias, activation="silu", seed=2, **BOUNDS, impl="triton")
    z, expected_kl = gaussian_head(x, *head, seed=2, **BOUNDS, impl="triton")
    assert torch.equal(y, linear(z, weight, bias, activation="silu", impl="triton"))
    assert torch.equal(kl, expected_kl)


def test_row_offsets_beyond_32_bits() -> None:
    """Two rows whose distance does not fit int32: 4 GiB of zeros that no machine backs until they are touched."""
    size = 2**31 + 64
    zeros = (
        torch.zeros(size, dtype=torch.float16, device=DEVICE) if CUDA else torch.from_numpy(np.zeros(size, np.float16))
    )
    far = zeros.as_strided((2, 8), (2**31 + 8, 1))
    far.copy_(torch.arange(16, device=DEVICE).view(2, 8) / 8)
    near, other = far.contiguous(), torch.randn(2, 8, device=DEVICE).half()
    square = torch.randn(8, 2, device=DEVICE).half()
    for spread, dense in (
        ((far, other, other), (near, other, other)),
        ((other, far, other), (other, near, other)),
        ((other, other, far), (other, other, near)),
    ):
        results = [
            gaussian_head(x, m, None, v, None, seed=1, posterior=True, impl="triton") for x, m, v in (spread, dense)
        ]
        assert same_bits(*results)
        chains = [bottleneck(x, m, None, v, None, square, seed=1, impl="triton") for x, m, v in (spread, dense)]
        assert same_bits(*chains)
    decoder = zeros.as_strided((2, 2), (2**31 + 8, 1))
    chains = [bottleneck(other, near, None, near, None, w, seed=1, impl="triton") for w in (decoder, decoder.clone())]
    assert same_bits(*chains)
