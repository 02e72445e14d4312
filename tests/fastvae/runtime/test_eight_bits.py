"""precision="fp8": what is measured, what is kept in 16 bits, how far results are off, what is refused."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fastvae.api import VAE
from fastvae.errors import UnsupportedError
from fastvae.model import Model
from fastvae.plan import build_plan
from fastvae.plan.passes.use_fp8 import norms_before_convolutions, use_fp8
from fastvae.runtime import Settings
from fastvae.runtime.eight_bits import TOLERANCE, in_eight_bits, measured_errors
from fastvae.runtime.executor import Executor
from tests.fastvae.image_specs import wide_image_spec
from tests.fastvae.support import conv_spec, data_for, random_model, vae

SPEC = wide_image_spec()
HERE: dict[str, Any] = {"impl": "reference", "device": torch.device("cpu"), "dtype": torch.bfloat16}
# Two roundings to four significant bits, each off by a uniform 1/16 at most, of independent terms.
ROUNDING = math.sqrt(2 / 3) / 16


def latents(rows: int = 2) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=(rows, 2, 8, 8)).astype(np.float32)


def relative(found: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> float:
    """In the root mean square."""
    return float(np.sqrt(np.square(found - exact).mean() / np.square(exact).mean()))


def test_images_are_as_near_as_two_roundings_for_each_layer() -> None:
    """Relative to the image. Errors of layers are independent and add by their squares."""
    model = vae(SPEC, precision="fp8", impl="reference")
    found, exact = model.decode(latents()), vae(SPEC, impl="reference").decode(latents())
    layers = sum("scale" in step.keywords for step in model._engine.executors.of("decode").plan.steps)
    assert layers == 4
    assert 1e-3 < relative(found, exact) <= math.sqrt(layers) * ROUNDING
    psnr = 20 * math.log10(float(np.ptp(exact)) / math.sqrt(float(np.square(found - exact).mean())))
    assert psnr >= 20 * math.log10(float(np.ptp(exact) / np.sqrt(np.square(exact).mean())) / (2 * ROUNDING))


def test_kernels_compute_the_same_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the roundings of bfloat16, of which a unit may tip another one of e4m3."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec = wide_image_spec(16)
    plan = build_plan(random_model(spec), "decode", target="triton", dtype=torch.bfloat16, device=device)
    plan = use_fp8(plan, norms_before_convolutions(plan))
    z = {"z": torch.from_numpy(latents(1)).to(device, torch.bfloat16)}
    found, same = (
        Executor(plan, impl=impl, device=device, dtype=torch.bfloat16)(z)[0].float().cpu().numpy()
        for impl in ("triton", "reference")
    )
    exact = vae(spec, impl="reference").decode(latents(1))
    assert relative(found, same) <= 2 * ROUNDING
    assert relative(found, exact) <= 2 * ROUNDING


def test_measured_errors_are_those_of_rounding() -> None:
    """Terms of random weights are independent; the smallest normal numbers of e4m3 add a little to either side."""
    plan = build_plan(random_model(SPEC), "reconstruct", dtype=torch.bfloat16)
    errors = measured_errors(plan, norms_before_convolutions(plan), **HERE)
    assert len(errors) == 6
    assert all(ROUNDING / 4 < error < ROUNDING for error in errors.values())
    assert TOLERANCE > ROUNDING


def cancelling() -> Model:
    """A convolution of constant channels whose weights add up to nothing: what is left of them is error alone."""
    model = random_model(SPEC)
    weight = model.weights["d.1.c1.weight"]
    constant = {"d.1.n1.weight": torch.zeros(32), "d.1.n1.bias": torch.ones(32)}
    return replace(model, weights={**model.weights, **constant, "d.1.c1.weight": weight - weight.mean(1, keepdim=True)})


def test_a_layer_whose_error_is_large_stays_in_16_bits(caplog: pytest.LogCaptureFixture) -> None:
    plan = build_plan(cancelling(), "decode", dtype=torch.bfloat16)
    norms = norms_before_convolutions(plan)
    errors = measured_errors(plan, norms, **HERE)
    assert errors[norms[0]] > 1
    with caplog.at_level(logging.INFO, logger="fastvae"):
        found = in_eight_bits(plan, **HERE)
    assert f"3 of 4 norms of decode in 8 bits; in 16, for their convolutions' error: {norms[0]}" in caplog.text
    scaled = [step.inputs[0] for step in found.steps if "scale" in step.keywords]
    assert scaled == list(norms[1:])


@pytest.mark.parametrize("verb", ["encode", "elbo", "generate", "impute", "parameters"])
def test_every_verb_measures_on_rows_of_its_own(verb: str) -> None:
    plan = build_plan(random_model(SPEC), verb, target="triton", dtype=torch.bfloat16)
    made = in_eight_bits(plan, **HERE)
    assert sum("scale" in step.keywords for step in made.steps) == {"encode": 2, "elbo": 6}.get(verb, 4)


def test_images_of_other_sizes_take_the_same_layers() -> None:
    model = vae(SPEC, precision="fp8", impl="reference")
    small = model.decode(latents())
    large = model.decode(np.concatenate([latents(), latents()], axis=3))
    assert large.shape == (2, 3, 16, 32)
    exact = vae(SPEC, impl="reference").decode(np.concatenate([latents(), latents()], axis=3))
    assert relative(large, exact) <= 2 * ROUNDING
    assert small.shape == (2, 3, 16, 16)
    x = data_for(SPEC, 2).astype(np.float32)
    assert np.isfinite(model.score(x)).all()


def test_rows_have_their_bits_in_batch_invariant_mode() -> None:
    model = vae(SPEC, precision="fp8", impl="reference", batch_invariant=True)
    np.testing.assert_array_equal(model.decode(latents(3))[2:], model.decode(latents(3)[2:]))


def test_an_explanation_is_that_of_16_bits() -> None:
    model = vae(SPEC, precision="fp8", impl="reference")
    assert model.explain("decode", 1, device="H100").precision == "bf16"


def test_what_cannot_multiply_in_8_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match=r"^precision: 'fp8' is for convolutions after group norms.*has none"):
        vae(conv_spec(), precision="fp8", impl="reference")
    with pytest.raises(UnsupportedError, match=r"^precision: 'fp8' has no tiles for large images"):
        vae(SPEC, precision="fp8", max_memory="1GB")
    with pytest.raises(UnsupportedError, match="impl: 'onnxruntime' cannot run: it computes in float32"):
        VAE(random_model(SPEC), Settings(precision="fp8", impl="onnxruntime"))


def test_a_gpu_without_e4m3_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastvae.runtime.settings import check_fp8
    from fastvae_kernels import dispatch

    monkeypatch.setattr(dispatch, "_has_e4m3", lambda device: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    dispatch._resolve.cache_clear()
    with pytest.raises(UnsupportedError, match=r"^precision: 'fp8' cannot run: .*8\.9; found NVIDIA A100.*use 'bf16'"):
        check_fp8(SPEC, torch.device("cuda"))
    dispatch._resolve.cache_clear()
