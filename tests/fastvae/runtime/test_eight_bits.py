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
from fastvae.plan.passes.use_fp8 import layer_of, norms_before_convolutions, use_fp8
from fastvae.runtime import Settings, eight_bits
from fastvae.runtime.eight_bits import TOLERANCE, in_eight_bits, layers_that_bear, measured_errors
from fastvae.runtime.executor import Executor
from fastvae.runtime.tiling import TiledExecutor
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


def eight_bit_layers(model: VAE, verb: str) -> set[str]:
    """The norms that write 8 bits where ``verb`` runs."""
    plan = model._engine.executors.of(verb).plan
    return {layer_of(plan, step.outputs[0]) for step in plan.steps if "out_scale" in step.attributes}


def test_a_layer_whose_error_is_large_stays_in_16_bits(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fastvae"):
        good = layers_that_bear(cancelling(), **HERE)
    assert "5 of 6 norms in 8 bits; in 16, for their convolutions' error: d.1.n1 (" in caplog.text
    assert "w:d.1.n1.weight" not in good
    plan = build_plan(cancelling(), "decode", dtype=torch.bfloat16)
    norms = norms_before_convolutions(plan)
    assert measured_errors(plan, norms, **HERE)[norms[0]] > 1
    scaled = [step.inputs[0] for step in in_eight_bits(plan, good).steps if "scale" in step.keywords]
    assert scaled == list(norms[1:])


def test_all_verbs_choose_the_same_layers() -> None:
    """Errors are measured once, not by what a verb's plan makes of noise; an explanation knows them too."""
    model = VAE(cancelling(), Settings(precision="fp8", impl="reference"))
    encoder, decoder = {f"w:e.1.n{i}.weight" for i in (1, 2)}, {f"w:d.{i}.weight" for i in ("1.n2", "3.n1", "3.n2")}
    found = {verb: eight_bit_layers(model, verb) for verb in ("encode", "decode", "reconstruct", "elbo", "generate")}
    both = encoder | decoder
    assert found == {"encode": encoder, "decode": decoder, "reconstruct": both, "elbo": both, "generate": decoder}
    told = model.explain("reconstruct", 1, device="H100")
    assert [step.precision for step in told.steps].count("fp8") == len(both)


@pytest.mark.parametrize("verb", ["encode", "elbo", "generate", "impute", "parameters"])
def test_every_verb_has_its_layers(verb: str) -> None:
    plan = build_plan(random_model(SPEC), verb, target="triton", dtype=torch.bfloat16)
    made = in_eight_bits(plan, layers_that_bear(random_model(SPEC), **HERE))
    assert sum("scale" in step.keywords for step in made.steps) == {"encode": 2, "elbo": 6}.get(verb, 4)


@pytest.mark.parametrize("size", [(8, 8), (5, 40)])
def test_a_small_image_is_measured(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of at most eight latents in each direction; of its own size where a model knows but that."""
    seen = []
    monkeypatch.setattr(eight_bits, "measured_errors", lambda plan, *_, **__: seen.append(plan.shapes) or {})
    layers_that_bear(replace(random_model(SPEC), spec=SPEC.decoding(*size)), **HERE)
    assert [shapes.get("z", shapes.get("x")) for shapes in seen] == [(3, 2 * size[0], 16), (2, size[0], 8)]


@pytest.mark.parametrize(
    ("precision", "model"), [("bf16", random_model(SPEC)), ("fp8", random_model(SPEC)), ("fp8", cancelling())]
)
def test_tiles_give_what_a_whole_image_gives(precision: str, model: Model) -> None:
    """To a unit or two in the last place of bfloat16, in 8 bits as in 16."""
    z = np.random.default_rng(0).normal(size=(1, 2, 40, 32)).astype(np.float32)
    whole, tiled = (
        VAE(model, Settings(precision=precision, impl="reference", max_memory=limit)) for limit in (None, "3MB")
    )
    found, expected = tiled.decode(z), whole.decode(z)
    executor = tiled._engine.at(SPEC.decoding(40, 32)).executors.of("decode")
    assert isinstance(executor, TiledExecutor)
    assert sum("scale" in step.keywords for step in executor.plan.steps) == len(eight_bit_layers(whole, "decode"))
    assert eight_bit_layers(tiled, "decode") == eight_bit_layers(whole, "decode")
    assert np.abs(found - expected).max() <= 2**-7 * np.abs(expected).max()
    assert relative(found, expected) <= 2**-10
    x = np.random.default_rng(1).uniform(size=(1, 3, 80, 64)).astype(np.float32)
    assert relative(tiled.reconstruct(x), whole.reconstruct(x)) <= 2**-7


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


def test_an_explanation_tells_layers_in_8_bits() -> None:
    fp8, bf16 = (
        vae(SPEC, precision=precision, impl="reference").explain("decode", 10_000, device="H100")
        for precision in ("fp8", "bf16")
    )
    assert (fp8.precision, bf16.precision) == ("fp8", "bf16")
    assert [step.op for step in fp8.steps] == [step.op for step in bf16.steps]
    pairs = [(a, b) for a, b in zip(fp8.steps, bf16.steps, strict=True) if a.precision == "fp8"]
    assert len(pairs) == 4
    assert all(a.microseconds < b.microseconds and a.bytes < b.bytes for a, b in pairs)
    assert "conv2d_statistics (fp8)" in str(fp8)
    assert bf16.weight_bytes - fp8.weight_bytes == 4 * (32 * 32 * 9 - 2 * 32)  # a byte less each, and the scales
    with pytest.raises(UnsupportedError, match="A100 has rates for ieee, tf32, bf16, fp16, not for 'fp8'"):
        vae(SPEC, precision="fp8", impl="reference").explain("decode", 1, device="A100")


def test_what_cannot_multiply_in_8_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match=r"^precision: 'fp8' is for convolutions after group norms.*has none"):
        vae(conv_spec(), precision="fp8", impl="reference")
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
