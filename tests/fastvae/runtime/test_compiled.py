"""Whole plans in the compiled kernels: the reference's results, and who is left to sessions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastvae
from fastvae.api import VAE
from fastvae.layers import Activation, Conv2d, ConvTranspose2d, Flatten, Linear, Reshape
from fastvae.model import Model
from fastvae.plan import build_plan
from fastvae.runtime import Settings
from fastvae.runtime import compiled as compiled_plans
from fastvae.runtime.compiled import CompiledExecutor, compiled_steps
from fastvae.runtime.compiled_call import CompiledCall
from fastvae.runtime.executor import Draw
from fastvae.runtime.ort import OnnxExecutor
from fastvae.spec import Bernoulli, GaussianHead, ModelSpec
from fastvae_kernels.cpu import has_wide_products
from tests.fastvae.strategies import specs
from tests.fastvae.support import SPECS, data_for, gaussian_head, inputs_of, mlp_spec, random_model, run_plan

pytestmark = pytest.mark.skipif(not has_wide_products(), reason="no wide products on this CPU")

CPU = torch.device("cpu")
PLAIN = ("encode", "embed", "decode", "generate", "reconstruct", "parameters")
SCORES = ("elbo", "kl", "distance", "score", "squared_error")
PIXELS = ("decode_uint8", "generate_uint8", "reconstruct_uint8")
EMBEDDED = ("digits", "mnist", "breast_cancer")
RELU = Activation("relu")


def images_spec() -> ModelSpec:
    """Every way to convolve: images read and made side by side or one by one, strides, sides of unequal padding.

    The first image is read by one convolution that pads and, behind it, an odd one; a result of three channels and 8
    columns or more is made channel by channel, from what another convolution made, and once from such a result.
    """
    return ModelSpec(
        input_shape=(3, 9, 10),
        latent_shape=(6,),
        encoder=(
            Conv2d("e.0", 3, 18, (3, 3), (2, 2), (1, 1), padding_end=(0, 1)),
            Activation("elu"),
            Conv2d("e.1", 18, 5, (2, 3), (1, 2), (0, 2)),
            Activation("leaky_relu", 0.2),
            Flatten(),
        ),
        posterior=gaussian_head("q", 60, 6, "interleaved"),
        decoder=(
            Linear("d.0", 6, 85),
            RELU,
            Reshape((17, 1, 5)),
            ConvTranspose2d("d.1", 17, 20, (3, 3), (3, 2), (0, 1), output_padding=(0, 1)),
            Activation("silu"),
            Conv2d("d.2", 20, 3, (1, 3), padding=(3, 1), padding_end=(3, 1)),
            Activation("tanh"),
            Conv2d("d.3", 3, 3, (3, 3), padding=(1, 1), padding_end=(1, 1)),
        ),
        likelihood=Bernoulli(),
    )


def image_latents_spec(layout: str) -> ModelSpec:
    """Latents that are images, whose means and log-variances are channels of one."""
    return ModelSpec(
        input_shape=(1, 4, 5),
        latent_shape=(2, 4, 5),
        encoder=(Conv2d("e", 1, 5, (3, 3), padding=(1, 1)), RELU),
        posterior=GaussianHead(layout, joint=(Conv2d("q", 5, 4, (3, 3), padding=(1, 1)),)),  # type: ignore[arg-type]
        decoder=(Conv2d("d", 2, 1, (3, 3), padding=(1, 1)),),
        likelihood=Bernoulli(),
    )


OWN = {"images": images_spec()} | {layout: image_latents_spec(layout) for layout in ("chunked", "interleaved")}


def named(name: str) -> Model:
    if name in EMBEDDED:
        return fastvae.load(name)._model
    return random_model((SPECS | OWN)[name])


def on(name: str, **settings: Any) -> VAE:
    return VAE(named(name), Settings(**settings))


def call_of(model: VAE, verb: str) -> CompiledCall:
    """The short way of a verb, which is the compiled kernels'."""
    assert isinstance(model._engine.executors.of(verb), CompiledExecutor)
    call = model._engine._short_ways.of(verb)
    assert isinstance(call, CompiledCall)
    return call


def agrees(model: Model, verb: str, rows: int, threads: int, band: int) -> bool:
    """Whether the compiled kernels take the plan; what they make is then looked at, ``band`` the roundings it may have.

    Data has fewer rows than there are latents, where both are given: several samples of each.
    """
    plan = build_plan(model, verb, target="onnx", dtype=torch.float32, device="cpu")
    steps = compiled_steps(plan, 1)
    if steps is None:
        return False
    inputs = {name: value.float() for name, value in inputs_of(model.spec, rows).items()}
    samples = 2 if {"x", "z"} <= set(plan.inputs) else 1
    inputs["z"] = torch.cat([inputs["z"] + sample for sample in range(samples)])
    found = CompiledExecutor(plan, steps, threads)(inputs, Draw(rows, 3, 0, CPU, torch.float32))
    wide = {name: value.double() for name, value in inputs.items()}
    wide["x"] = torch.cat([wide["x"]] * samples)
    exact = build_plan(model, verb.removesuffix("_uint8"), target="reference", dtype=torch.float64, device="cpu")
    expected = run_plan(exact, wide, rows)
    for part, values in zip(found, expected, strict=False):
        budget = band * 2.0**-24 * max(1.0, float(values.abs().max()))
        if part.dtype == torch.uint8:
            assert not found[1].any()
            levels = 255 * values.clamp(0, 1)
            shown = part.double() if values.ndim == 2 else part.double().movedim(-1, 1)
            np.testing.assert_allclose(shown, levels, rtol=0, atol=0.5 + 255 * budget)
        else:
            np.testing.assert_allclose(part, values, rtol=0, atol=budget)
    return True


@given(spec=specs(), seed=st.integers(0, 99), verb=st.sampled_from((*PLAIN, *SCORES)), threads=st.integers(1, 3))
@settings(max_examples=100)
def test_any_plan_equals_the_reference_or_is_left_to_a_session(
    spec: ModelSpec, seed: int, verb: str, threads: int
) -> None:
    # Sums of at most 36 terms in a dozen layers, each error magnified by what follows: seldom above 4 u in all.
    agrees(random_model(spec, seed), verb, 5, threads, band=256)


# Verbs of each that are sessions': steps without a form, convolutions in groups, conditions.
SESSIONS: dict[str, tuple[str, ...]] = dict.fromkeys((*EMBEDDED, *SPECS, *OWN), ()) | {
    "mlp_predicted": ("parameters", "elbo", "score"),
    "mlp_softplus_chunked": ("encode", "elbo", "kl"),
    "mlp_conditional": (*PLAIN, *SCORES),
    "mlp_conditional_decoder": tuple({*PLAIN, *SCORES} - {"encode", "embed", "kl"}),
    "conv": ("encode", "embed", "reconstruct", "elbo", "kl", "distance", "reconstruct_uint8"),
    "conv_conditional": (*PLAIN, *SCORES, *PIXELS),
    "conv_standardised": tuple({*PLAIN, *SCORES} - {"encode", "embed", "kl"}),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_who_is_compiled_and_equals_the_reference(name: str) -> None:
    model = named(name)
    verbs = (*PLAIN, *SCORES, *(PIXELS if isinstance(model.spec.likelihood, Bernoulli) else ()))
    # Half the random walk of 1024 terms, the longest sum, in each of mnist's ten layers and its scores.
    left = {verb for verb in verbs if not agrees(model, verb, 7, 2, band=512)}
    assert left == set(SESSIONS[name])
    assert not agrees(model, "impute", 7, 2, band=512)


def test_outputs_that_are_parts_of_another_or_read_in_part_or_wanted_twice() -> None:
    """Results are made where the caller wants them, where nothing else is wanted of the same memory."""
    model = random_model(mlp_spec(layout="chunked"))
    plan = build_plan(model, "kl", target="onnx", dtype=torch.float32, device="cpu")
    exact = build_plan(model, "kl", target="onnx", dtype=torch.float64, device="cpu")
    step = next(step for step in plan.steps if step.op == "split")
    (joint,), halves, (kl,) = step.inputs, step.outputs, plan.outputs
    inputs = inputs_of(model.spec)
    for outputs in ((joint, kl), (joint, *halves), (*halves, kl), (kl, kl, joint, joint), ("x", kl)):
        own = replace(plan, outputs=outputs)
        steps = compiled_steps(own, 1)
        assert steps is not None
        found = CompiledExecutor(own, steps, 1)({name: value.float() for name, value in inputs.items()})
        for part, values in zip(found, run_plan(replace(exact, outputs=outputs), inputs), strict=True):
            np.testing.assert_allclose(part, values, rtol=0, atol=64 * 2.0**-24 * max(1.0, float(values.abs().max())))


@pytest.mark.parametrize("limit", ["MOST_FLOPS", "MOST_WEIGHT_BYTES", "MOST_SCRATCH_BYTES"])
def test_large_models_are_left_to_sessions(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = on("images")
    executor = before._engine.executors.of("reconstruct")
    assert isinstance(executor, CompiledExecutor)
    monkeypatch.setattr(compiled_plans, limit, 0)
    model = on("images")
    assert isinstance(model._engine.executors.of("reconstruct"), OnnxExecutor)
    x = data_for(model.spec, 3).astype(np.float32)
    np.testing.assert_allclose(model.reconstruct(x), before.reconstruct(x), atol=1e-5)


def test_who_has_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(on("digits", impl="onnxruntime")._engine.executors.of("embed"), OnnxExecutor)
    assert isinstance(on("digits", batch_invariant=True)._engine.executors.of("embed"), CompiledExecutor)
    assert not isinstance(on("digits", impl="reference")._engine.executors.of("embed"), CompiledExecutor)
    assert not isinstance(on("digits", precision="bf16")._engine.executors.of("embed"), CompiledExecutor)
    monkeypatch.setattr("fastvae.runtime.compiled.has_wide_products", lambda: False)
    model = on("digits")
    assert isinstance(model._engine.executors.of("embed"), OnnxExecutor)
    x = data_for(model.spec, 3).astype(np.float32)
    np.testing.assert_allclose(model.embed(x), fastvae.load("digits").embed(x), atol=1e-5)
