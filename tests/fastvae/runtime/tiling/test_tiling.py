"""Image autoencoders in tiles give what they give as a whole, within a memory that was predicted."""

from __future__ import annotations

import functools
import logging
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import fastvae
from fastvae.errors import InputError, UnsupportedError
from fastvae.formats.diffusers import configured
from fastvae.layers import Conv2d
from fastvae.model import Model, memory_bytes
from fastvae.plan import Plan, build_plan
from fastvae.runtime import Settings
from fastvae.runtime.executor import Executor
from fastvae.runtime.ort import OnnxExecutor
from fastvae.runtime.pixels import PixelExecutor
from fastvae.runtime.sizes import resized
from fastvae.runtime.tiling import Costs, TiledExecutor, choose, references, sessions, tile
from fastvae.spec import FixedGaussian, ModelSpec, PointHead
from tests.fastvae.formats.made_autoencoders import autoencoder_tiny, small_kl
from tests.fastvae.support import random_model

CPU = torch.device("cpu")
SIZE = (21, 26)
LIMIT = 3 * 10**5


@functools.cache
def model(name: str, dtype: torch.dtype = torch.float64) -> Model:
    """A small AutoencoderKL of three levels, or AutoencoderTiny, with latents of about one."""
    if name == "kl":
        module = small_kl(block_out_channels=(8, 16, 16), norm_num_groups=4, layers_per_block=1)
    else:
        widths: dict[str, Any] = {f"{side}_block_out_channels": (8, 8, 8) for side in ("encoder", "decoder")}
        module = autoencoder_tiny(**widths, num_encoder_blocks=(1, 2, 1), num_decoder_blocks=(2, 1, 1))
        for parameter in module.parameters():  # or images are of a hundred
            parameter.data = parameter.data / 2
    module = module.to(dtype)
    owner = type(module).__name__
    weights = {key: weight.detach() for key, weight in module.state_dict().items()}
    return configured({**module.config, "_class_name": owner}, weights, Path(owner))


def vae(name: str, dtype: torch.dtype = torch.float32, **settings: Any) -> fastvae.VAE:
    return fastvae.VAE(model(name, dtype), Settings(**settings))


def latents(rows: int = 1, size: tuple[int, int] = SIZE) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((rows, 4, *size), dtype=np.float32)


def images(rows: int = 1, size: tuple[int, int] = (84, 104)) -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(-1, 1, (rows, 3, *size)).astype(np.float32)


def plan_at(name: str, verb: str, target: Any, dtype: torch.dtype) -> tuple[Plan, Plan]:
    """The plan for the model's own size, and for latents of SIZE."""
    plan = build_plan(model(name), verb, target=target, dtype=dtype)
    spec = model(name).spec.decoding(*SIZE)
    return plan, resized(plan, {"x": spec.input_shape, "z": spec.latent_shape}, dtype)


def least(call: Any) -> int:
    """The least max_memory that its error names."""
    with pytest.raises(InputError, match=r"max_memory: .* takes at least ([\d,]+) bytes, got") as caught:
        call()
    found = re.search(r"at least ([\d,]+)", str(caught.value))
    assert found is not None
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("name", ["kl", "tiny"])
@pytest.mark.parametrize("verb", ["decode", "encode"])
@pytest.mark.parametrize(("rows", "most_halo"), [(7, 4), (16, 12)])
def test_references_in_bands_are_exact(name: str, verb: str, rows: int, most_halo: int) -> None:
    _, plan = plan_at(name, verb, "reference", torch.float64)
    given = {key: torch.from_numpy({"x": images(), "z": latents()}[key]).double() for key in plan.inputs}
    expected = Executor(plan, impl="reference", device=CPU, dtype=torch.float64)(given)
    tiling = tile(plan, Costs(0, 8, sessions=False), 0, most_halo=most_halo, rows=rows)
    assert tiling.bands > len(tiling.sweeps)
    found = TiledExecutor(plan, tiling, references("reference", CPU, torch.float64))(given)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["kl", "tiny"])
@pytest.mark.parametrize("verb", ["decode", "embed"])
def test_sessions_in_bands_are_exact_to_rounding(name: str, verb: str) -> None:
    own, plan = plan_at(name, verb, "onnx", torch.float32)
    given = {key: torch.from_numpy({"x": images(), "z": latents()}[key]) for key in plan.inputs}
    whole = OnnxExecutor(own, threads=1, arena=False, batch_invariant=False, any_size=True).resized(plan)
    expected = whole(given)[0]
    for rows in (9, 24, 64):
        tiling = tile(plan, Costs(0, 4, sessions=True), 0, rows=rows)
        found = TiledExecutor(plan, tiling, sessions(1))(given)[0]
        assert float((found - expected).abs().max()) <= 2e-5


@pytest.mark.parametrize("impl", ["onnxruntime", "reference"])
def test_verbs_run_in_tiles_where_memory_is_short(impl: str, caplog: pytest.LogCaptureFixture) -> None:
    z, x = latents(2), images(2)
    whole = vae("kl", impl=impl)
    few = least(lambda: vae("kl", impl=impl, max_memory=LIMIT).decode(z))
    assert LIMIT < few < 20 * LIMIT
    limit = 3 * few // 2
    with caplog.at_level(logging.INFO, logger="fastvae"):
        tiled = vae("kl", impl=impl, max_memory=limit)
        decoded = tiled.decode(z)
    (said,) = [record for record in caplog.records if hasattr(record, "peak_bytes")]
    assert re.match(r"decode of 21x26: \d+ sweeps, \d+ bands, predicted peak [\d,]+ of [\d,]+ bytes", said.message)
    assert said.peak_bytes <= limit
    for found, expected in (
        (decoded, whole.decode(z)),
        (tiled.embed(x), whole.embed(x)),
        (tiled.encode(x).logvar, whole.encode(x).logvar),
        (tiled.reconstruct(x[:1]), whole.reconstruct(x[:1])),
        (tiled.interpolate(z[:1], z[1:], 3, space="latent"), whole.interpolate(z[:1], z[1:], 3, space="latent")),
        (torch.from_numpy(tiled.decode(torch.from_numpy(z)).numpy()), whole.decode(torch.from_numpy(z))),
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_the_least_that_is_named_is_enough() -> None:
    """So short that images are computed again rather than kept."""
    z = latents()
    expected = vae("kl").decode(z)
    few = least(lambda: vae("kl", max_memory=1).decode(z))
    tight = vae("kl", max_memory=few)
    np.testing.assert_allclose(tight.decode(z), expected, rtol=0, atol=2e-5)
    engine = tight._engine.at(tight.spec.decoding(*SIZE))
    executor = engine.executors.of("decode")
    assert isinstance(executor, TiledExecutor)
    assert any(set(sweep.plan.outputs) - set(sweep.kept) for sweep in executor.tiling.sweeps)
    assert least(lambda: vae("kl", max_memory=few // 2).decode(z)) <= 1.05 * few


def test_what_fits_runs_whole() -> None:
    """Each size is looked at by itself; whole images may come in batches of 32 MiB, so less memory never has them."""
    small, large = latents(size=(8, 8)), latents(size=(96, 128))
    bounded, free = vae("kl", max_memory="36MB"), vae("kl")
    for z in (small, large, small):
        expected = free.decode(z)  # of random weights, up to 6
        np.testing.assert_allclose(bounded.decode(z), expected, rtol=0, atol=2e-5 * max(1.0, np.abs(expected).max()))
    np.testing.assert_allclose(bounded.generate(2, seed=3), free.generate(2, seed=3), rtol=0, atol=2e-5)
    kinds = [type(engine.executors.of("decode")) for engine in bounded._engine._sizes.values()]
    assert kinds == [TiledExecutor, OnnxExecutor]


def test_what_does_not_run_in_tiles_is_refused() -> None:
    bounded = vae("kl", max_memory=3 * LIMIT)
    with pytest.raises(InputError, match=r"max_memory: elbo of 84x104 takes about [\d,]+ bytes and does not run in"):
        bounded.score(images(), "elbo")
    valid = Conv2d("e", 3, 4, (3, 3)), Conv2d("d", 4, 3, (3, 3), padding=(2, 2))
    spec = ModelSpec((3, 64, 64), (4, 62, 62), valid[:1], PointHead(), valid[1:], FixedGaussian())
    narrow = fastvae.VAE(random_model(spec), Settings(max_memory=1000))
    with pytest.raises(UnsupportedError, match="max_memory: an image cannot be cut into bands for conv2d"):
        narrow.embed(np.zeros((1, 3, 64, 64), np.float32))


def test_float64_and_batch_invariance_run_in_tiles() -> None:
    z = latents()
    settings: dict[str, Any] = {"precision": "float64", "batch_invariant": True}
    whole = vae("tiny", torch.float64, **settings)
    few = least(lambda: vae("tiny", torch.float64, max_memory=1, **settings).decode(z))
    found = vae("tiny", torch.float64, max_memory=few, **settings).decode(z)
    np.testing.assert_allclose(found, whole.decode(z), rtol=0, atol=1e-12)


def test_scaled_latents_in_tiles(caplog: pytest.LogCaptureFixture) -> None:
    """Two ways to run a verb that were made apart: tiles know the plans of scaled verbs too."""
    tiled = vae("kl", max_memory="1.2MB", scaled_latents=True)
    whole = vae("kl")
    scaling = whole.spec.latent_scaling
    assert scaling is not None
    z, factor = latents(), scaling.scaling_factor
    with caplog.at_level(logging.INFO, logger="fastvae"):
        np.testing.assert_allclose(tiled.decode(z * np.float32(factor)), whole.decode(z), rtol=0, atol=2e-5)
    assert "decode_scaled of 21x26" in caplog.text
    np.testing.assert_allclose(tiled.embed(images()), factor * whole.embed(images()), rtol=0, atol=2e-5)


def test_threads_take_their_turns() -> None:
    z = latents()
    few = least(lambda: vae("tiny", max_memory=1).decode(z))
    tiled = vae("tiny", max_memory=few)
    expected = tiled.decode(z)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(tiled.decode(z))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for result in found:
        np.testing.assert_array_equal(result, expected)


def test_more_memory_takes_fewer_operations() -> None:
    _, plan = plan_at("kl", "decode", "reference", torch.float32)
    costs = Costs(0, 4, sessions=False)
    smallest = choose(plan, costs, 1)
    tilings = [choose(plan, costs, int(share * smallest.peak_bytes)) for share in (1.05, 1.5, 4)]
    for share, tiling in zip((1.05, 1.5, 4), tilings, strict=True):
        assert tiling.peak_bytes <= share * smallest.peak_bytes
    work = [tiling.flops for tiling in tilings]
    assert work == sorted(work, reverse=True)
    assert work[-1] < work[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("512m", 512 * 10**6), ("17", 17), (17, 17), ("3 KiB", 3072)],
)
def test_amounts_of_memory(text: object, expected: int) -> None:
    assert memory_bytes(text) == expected


@pytest.mark.parametrize("text", ["much", "-1GB", "", "1e9", None, -1, float("inf"), True, "2 G B"])
def test_other_amounts_are_refused(text: object) -> None:
    with pytest.raises(InputError, match="max_memory: expected a number of bytes, or text such as"):
        memory_bytes(text)


@pytest.mark.parametrize("impl", ["onnxruntime", "reference"])
def test_bytes_of_tiles(impl: str) -> None:
    """Levels are those of a whole image but where rounding errors of the numbers, at most 2e-5, cross a tie."""
    whole, tiled = vae("kl", impl=impl), vae("kl", impl=impl, max_memory=2**22)
    found = tiled.decode(latents(2), output="uint8")
    executors = tiled._engine.at(whole.spec.decoding(*SIZE)).executors
    assert isinstance(executors.of("decode_uint8"), PixelExecutor)
    off = np.abs(found.astype(int) - whole.decode(latents(2), output="uint8"))
    assert off.max() <= 1
    assert off.mean() < 0.01
