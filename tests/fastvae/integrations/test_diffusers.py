"""An accelerated diffusers autoencoder answers every call as it did before."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import fastvae
from fastvae.errors import ClosedError, InputError, UnsupportedError
from fastvae.runtime.tiling import TiledExecutor

diffusers = pytest.importorskip("diffusers")

from fastvae.integrations.diffusers import _memory, accelerate  # noqa: E402

ROUNDINGS = 64 * 2.0**-24


def kl(**options: Any) -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        sample_size=16,
        **options,
    ).eval()


def tiny() -> Any:
    torch.manual_seed(0)
    widths: dict[str, Any] = {f"{side}_block_out_channels": (8, 8) for side in ("encoder", "decoder")}
    return diffusers.AutoencoderTiny(**widths, num_encoder_blocks=(1, 2), num_decoder_blocks=(2, 1)).eval()


@pytest.fixture(params=["kl", "tiny"])
def module(request: pytest.FixtureRequest) -> Any:
    return {"kl": kl, "tiny": tiny}[request.param]()


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def close(found: Tensor, expected: Tensor, units: float = 1.0) -> None:
    """Of one dtype, and apart by no more than so many times 64 roundings of the largest value."""
    assert found.dtype == expected.dtype
    bound = units * ROUNDINGS * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


def parts(result: Any) -> Tensor:
    """The tensor of an encoder's result."""
    first = result[0] if isinstance(result, tuple) else getattr(result, "latents", None)
    if first is None:
        first = result.latent_dist
    return first if isinstance(first, Tensor) else first.parameters


@pytest.mark.parametrize("size", [(16, 16), (24, 32)])
def test_calls_give_what_they_gave(module: Any, size: tuple[int, int]) -> None:
    x = torch.rand(3, 3, *size) * 2 - 1
    encoded, plain = module.encode(x), module.encode(x, return_dict=False)
    z = torch.randn(2, 4, size[0] // 2, size[1] // 2)
    decoded, tuples = module.decode(z), module.decode(z, return_dict=False)
    whole = module(x)
    with accelerate(module) as accelerated:
        for found, expected in ((module.encode(x), encoded), (module.encode(x, return_dict=False), plain)):
            assert type(found) is type(expected)
            close(parts(found), parts(expected))
        for found, expected in ((module.decode(z), decoded), (module.decode(z, return_dict=False), tuples)):
            assert type(found) is type(expected)
            close(found[0], expected[0])
        close(module(x).sample, whole.sample)
        assert isinstance(accelerated.vae, fastvae.VAE)
    assert not {"encode", "decode"} & set(vars(module))
    assert torch.equal(module.decode(z).sample, decoded.sample)


def test_enabled_tiling_is_exact(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tiles of fastvae's, which show no seams, unlike the module's own; and only while it is enabled."""
    monkeypatch.setattr("fastvae.integrations.diffusers.TILING_SHARE", 0.0)
    x, z = torch.rand(1, 3, 48, 32) * 2 - 1, torch.randn(1, 4, 24, 16)
    encoded, decoded = parts(module.encode(x)), module.decode(z).sample
    with accelerate(module) as accelerated:
        module.enable_tiling()
        with pytest.raises(InputError, match="max_memory: decode of 24x16 takes at least") as caught:
            module.decode(z)
        least = int(str(caught.value).split(" bytes")[0].split()[-1].replace(",", ""))
        memory = _memory(torch.device("cpu"))
        monkeypatch.setattr("fastvae.integrations.diffusers.TILING_SHARE", 1.5 * least / memory)
        accelerated._tiled = None
        close(module.decode(z).sample, decoded)
        close(parts(module.encode(x)), encoded)
        tiled = accelerated._tiled
        assert tiled is not None
        engine = tiled._engine.at(tiled.spec.decoding(24, 16))
        assert isinstance(engine.executors.of("decode"), TiledExecutor)
        module.disable_tiling()
        close(module.decode(z).sample, decoded)
        assert not accelerated.vae._engine.in_use.closed
    assert tiled._engine.in_use.closed


def test_places_of_arguments_are_those_of_each_class() -> None:
    z = torch.randn(1, 4, 8, 8)
    with accelerate(kl()) as accelerated:
        assert isinstance(accelerated.module.decode(z, False, torch.Generator()), tuple)
        assert isinstance(accelerated.module.decode(z=z, generator=None, return_dict=False), tuple)
    with accelerate(tiny()) as accelerated:
        assert isinstance(accelerated.module.decode(z, torch.Generator(), False), tuple)
        assert isinstance(accelerated.module.decode(x=z, return_dict=False), tuple)


def test_the_distribution_draws_as_before() -> None:
    module, x = kl(), torch.rand(2, 3, 16, 16)
    expected = module.encode(x).latent_dist
    with accelerate(module):
        found = module.encode(x).latent_dist
        close(found.sample(torch.Generator().manual_seed(1)), expected.sample(torch.Generator().manual_seed(1)))
        close(found.kl(), expected.kl(), units=64)
        assert torch.equal(found.mode(), found.mean)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_results_have_the_module_s_dtype(module: Any, dtype: torch.dtype) -> None:
    module.to(dtype)
    z = torch.randn(1, 4, 8, 8, dtype=dtype)
    expected = module.decode(z).sample
    with accelerate(module) as accelerated:
        assert accelerated.vae.precision == {torch.float64: "float64", torch.bfloat16: "bf16"}[dtype]
        # Every layer of the module rounds to bfloat16, ours accumulates in float32.
        close(module.decode(z).sample, expected, units=1 if dtype == torch.float64 else 2.0**16)


def test_what_needs_gradients_is_left_to_the_module(module: Any) -> None:
    z = torch.randn(1, 4, 8, 8, requires_grad=True)
    with torch.enable_grad(), accelerate(module):
        module.decode(z).sample.sum().backward()
        assert z.grad is not None
        module.train()
        assert parts(module.encode(torch.rand(1, 3, 16, 16))).requires_grad
        assert module.decode(z.detach()).sample.requires_grad


def test_a_pipeline_s_autoencoder_is_found_and_said(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = SimpleNamespace(vae=kl())
    with caplog.at_level(logging.INFO, logger="fastvae"), accelerate(pipeline, threads=1) as accelerated:
        assert accelerated.module is pipeline.vae
    assert "AutoencoderKL: encode and decode now run in fastvae" in caplog.messages[-1]


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="expected a diffusers AutoencoderKL"):
        accelerate(torch.nn.Linear(1, 1))
    module = kl()
    with pytest.raises(InputError, match="settings:"):
        accelerate(module, colour="red")
    with pytest.raises(InputError, match="scaled_latents: latents stay as they were"):
        accelerate(module, scaled_latents=True)
    with accelerate(module), pytest.raises(InputError, match="replaced already"):
        accelerate(module)
    assert not {"encode", "decode"} & set(vars(module))
    accelerated = accelerate(module)
    accelerated.restore()
    accelerated.restore()
    with pytest.raises(ClosedError):
        accelerated.vae.decode(torch.zeros(1, 4, 8, 8))


def test_a_block_without_a_layer_is_refused() -> None:
    module = diffusers.AutoencoderKL(
        down_block_types=("AttnDownEncoderBlock2D",), block_out_channels=(8,), norm_num_groups=4
    )
    with pytest.raises(UnsupportedError, match="AttnDownEncoderBlock2D"):
        accelerate(module)
    assert "encode" not in vars(module)


def test_without_diffusers_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fastvae.integrations.diffusers")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UnsupportedError, match=r"package diffusers: pip install .fastvae-engine\[diffusers\]"):
        importlib.import_module("fastvae.integrations.diffusers")
