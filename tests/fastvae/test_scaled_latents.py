"""Scaled latents: what diffusers' pipelines make of an autoencoder's, in every verb that gives or takes latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastvae
from fastvae import VAE, LatentScaling
from fastvae.errors import InputError, UnsupportedError, WeightFormatError
from fastvae.formats import read_checkpoint
from fastvae.layers import Conv2d
from fastvae.plan import PLAIN_VERBS, build_plan
from fastvae.plan.verbs import translate
from fastvae.runtime import Settings
from fastvae.spec import ModelSpec
from fastvae.spec_json import spec_from_json, spec_to_json
from tests.fastvae.formats.made_autoencoders import autoencoder_kl, autoencoder_tiny, images, saved_kl
from tests.fastvae.support import SPECS, inputs_of, mlp_spec, random_model, run_plan
from tests.fastvae.test_sizes import SPEC

EXACT = {"rtol": 0, "atol": 1e-12}
SCALING = LatentScaling(0.25, latents_mean=(0.5, -1.0, 0.0, 2.0), latents_std=(1.0, 2.0, 0.5, 4.0))
number = st.floats(-4, 4).map(lambda value: round(value, 3))
positive = st.floats(0.05, 8)
scalings = st.one_of(
    st.builds(LatentScaling, positive, number),
    st.builds(
        LatentScaling,
        positive,
        latents_mean=st.tuples(number, number, number, number),
        latents_std=st.tuples(positive, positive, positive, positive),
    ),
)


def scaled(spec: ModelSpec, scaling: LatentScaling, **settings: Any) -> tuple[VAE, VAE]:
    """A model with and without scaled latents."""
    model = random_model(replace(spec, latent_scaling=scaling))
    return VAE(model, Settings(**settings, scaled_latents=True)), VAE(model, Settings(**settings))


def as_pipelines_do(z: torch.Tensor, config: Any) -> tuple[torch.Tensor, Any]:
    """Scaled latents as diffusers' pipelines write it, and the way back."""
    factor = config.scaling_factor
    if config.latents_mean is not None:
        mean, std = (
            torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return (z - mean) * factor / std, lambda latents: latents * std / factor + mean
    shift = config.shift_factor or 0.0
    return (z - shift) * factor, lambda latents: latents / factor + shift


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"scaling_factor": 0.3611, "shift_factor": 0.1159},
        {"scaling_factor": 0.5, "latents_mean": (0.2, -1.5, 3.0, 0.0), "latents_std": (8.4, 5.4, 0.1, 1.0)},
        {"scaling_factor": 1.5305, "shift_factor": 0.0609, "use_quant_conv": False, "use_post_quant_conv": False},
    ],
    ids=("stable-diffusion", "flux", "playground", "no-quant-convs"),
)
def test_by_diffusers(config: dict[str, Any], tmp_path: Path) -> None:
    theirs = autoencoder_kl(block_out_channels=(4, 6), norm_num_groups=2, **config)
    theirs.save_pretrained(tmp_path)
    model = fastvae.load(tmp_path, precision="float64", scaled_latents=True)
    x = images(3, 12, 16)
    with torch.no_grad():
        posterior = theirs.encode(x).latent_dist
        latents, back = as_pipelines_do(posterior.mean, theirs.config)
        decoded = theirs.decode(back(latents)).sample
        spread = as_pipelines_do(posterior.mean + posterior.std, theirs.config)[0] - latents
    found = model.encode(x)
    torch.testing.assert_close(model.embed(x), latents, **EXACT)
    torch.testing.assert_close(found.mean, latents, **EXACT)
    torch.testing.assert_close((found.logvar / 2).exp(), spread, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.decode(latents), decoded, rtol=0, atol=1e-10)


def test_a_tiny_autoencoder_by_diffusers(tmp_path: Path) -> None:
    config = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
    theirs = autoencoder_tiny(
        **config, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), scaling_factor=0.5, shift_factor=0.25
    )
    theirs.save_pretrained(tmp_path)
    model = fastvae.load(tmp_path, precision="float64", scaled_latents=True)
    x = images(3, 8, 8)
    with torch.no_grad():
        latents = (theirs.encode(x).latents - 0.25) * 0.5
        decoded = theirs.decode(latents / 0.5 + 0.25).sample
    found = model.encode(x)
    torch.testing.assert_close(found.mean, latents, **EXACT)
    assert bool((found.logvar == -np.inf).all())
    torch.testing.assert_close(found.sample(3), found.mean, **EXACT)
    torch.testing.assert_close(model.decode(latents), decoded, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("impl", "size"), [("reference", (16, 16)), ("onnxruntime", (24, 8))])
def test_every_verb(impl: str, size: tuple[int, int]) -> None:
    ours, plain = scaled(SPEC, SCALING, impl=impl)
    x = np.random.default_rng(0).random((3, 3, *size), np.float32)
    offsets, factors = (np.array(v, np.float32).reshape(4, 1, 1) for v in SCALING.vectors(4))
    close: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}

    def forth(z: Any) -> Any:
        return (z - offsets) * factors

    found, expected = ours.encode(x), plain.encode(x)
    np.testing.assert_allclose(ours.embed(x), forth(plain.embed(x)), **close)
    np.testing.assert_allclose(found.mean, forth(expected.mean), **close)
    np.testing.assert_allclose(found.logvar, expected.logvar + 2 * np.log(factors), **close)
    np.testing.assert_allclose(found.sample(5, 2), forth(expected.sample(5, 2)), **close)
    np.testing.assert_allclose(found.kl(), expected.kl(), **close)
    np.testing.assert_allclose(ours.decode(forth(expected.mean)), plain.decode(expected.mean), **close)
    np.testing.assert_allclose(ours.interpolate(x[:1], x[1:2], 3), plain.interpolate(x[:1], x[1:2], 3), **close)
    ends = [forth(expected.mean[i : i + 1]) for i in (0, 1)]
    for found, own in zip(ours.encode(x).unscaled(), (expected.mean, expected.logvar), strict=True):
        np.testing.assert_allclose(found, own, **close)
    lines = plain.interpolate(expected.mean[:1], expected.mean[1:2], 3, space="latent")
    np.testing.assert_allclose(ours.interpolate(*ends, 3, space="latent"), lines, **close)
    np.testing.assert_array_equal(ours.reconstruct(x), plain.reconstruct(x))
    np.testing.assert_array_equal(ours.generate(2), plain.generate(2))
    for metric in ("elbo", "iwae"):
        np.testing.assert_array_equal(ours.score(x, metric, 2), plain.score(x, metric, 2))
    gaps = x.copy()
    gaps[0, 0, :3] = np.nan
    np.testing.assert_array_equal(ours.impute(gaps, samples=4), plain.impute(gaps, samples=4))


def test_batch_invariant_and_warm() -> None:
    ours, plain = scaled(SPEC, SCALING, batch_invariant=True)
    ours.warmup((2,), ("encode", "decode", "impute"))
    assert {"encode_scaled", "decode_scaled", "encode"} <= ours._engine._resources.executors.keys()
    x = np.random.default_rng(0).random((3, 3, 16, 16), np.float32)
    np.testing.assert_array_equal(ours.embed(x)[1:2], ours.embed(x[1:2]))
    np.testing.assert_allclose(ours.decode(ours.embed(x)), plain.reconstruct(x), rtol=1e-5, atol=1e-5)


@given(scaling=scalings, verb=st.sampled_from(sorted(PLAIN_VERBS)), name=st.sampled_from(sorted(SPECS)))
def test_passes_keep_the_outputs_of_scaled_verbs(scaling: LatentScaling, verb: str, name: str) -> None:
    spec = SPECS[name]
    if scaling.latents_mean:
        fewer = {key: getattr(scaling, key)[: spec.latent_shape[0]] for key in ("latents_mean", "latents_std")}
        scaling = replace(scaling, **{key: (value * 4)[: spec.latent_shape[0]] for key, value in fewer.items()})
    model = random_model(replace(spec, latent_scaling=scaling))
    inputs = inputs_of(spec)
    plain = translate(model, PLAIN_VERBS[verb])
    offsets, factors = (
        torch.tensor(v, dtype=torch.float64).reshape(-1, *[1] * (len(spec.latent_shape) - 1))
        for v in scaling.vectors(spec.latent_shape[0])
    )
    if verb == "decode_scaled":
        expected = run_plan(replace_weights(plain), inputs | {"z": inputs["z"] / factors + offsets})
    else:
        mean, *logvar = run_plan(replace_weights(plain), inputs)
        expected = ((mean - offsets) * factors, *(part + 2 * factors.log() for part in logvar))
    for batch_invariant in (False, True):
        plan = build_plan(model, verb, dtype=torch.float64, batch_invariant=batch_invariant)
        for found, part in zip(run_plan(plan, inputs), expected, strict=True):
            torch.testing.assert_close(found, part, rtol=1e-11, atol=1e-11)


def replace_weights(plan: Any) -> Any:
    return replace(plan, weights={name: weight.double() for name, weight in plan.weights.items()})


def test_scaling_costs_no_step_of_its_own() -> None:
    model = random_model(replace(SPEC, latent_scaling=replace(SCALING, latents_mean=(0.0,) * 4)))
    for verb in ("embed", "decode"):
        assert len(build_plan(model, f"{verb}_scaled").steps) == len(build_plan(model, verb).steps)
    assert len(build_plan(model, "encode_scaled").steps) == len(build_plan(model, "encode").steps) + 1


def test_export(tmp_path: Path) -> None:
    ours, plain = scaled(SPEC, SCALING)
    ours.export(tmp_path / "m.onnx", "encode")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    x = np.random.default_rng(0).random((2, 3, 8, 24), np.float32)
    mean, logvar = session.run(["mean", "logvar"], {"x": x})
    found = ours.encode(x)
    np.testing.assert_allclose(mean, found.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logvar, found.logvar, rtol=1e-5, atol=1e-5)
    plain.export(tmp_path / "d.onnx", "decode_scaled")
    z = found.mean
    decoded = onnxruntime.InferenceSession(tmp_path / "d.onnx").run(None, {"z": z})[0]
    np.testing.assert_allclose(decoded, ours.decode(z), rtol=1e-5, atol=1e-5)
    assert ours.explain("decode").verb == "decode_scaled"


def test_native_files_keep_the_numbers_and_old_ones_have_none(tmp_path: Path) -> None:
    ours, _ = scaled(SPEC, SCALING)
    ours.save(tmp_path / "m.safetensors")
    x = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    again = fastvae.load(tmp_path / "m.safetensors", scaled_latents=True)
    np.testing.assert_array_equal(again.embed(x), ours.embed(x))
    assert again.spec.latent_scaling == SCALING
    old = spec_to_json(SPEC).replace('"latent_scaling": null, ', "").replace('"pixel_range": null, ', "")
    assert "latent_scaling" not in old
    assert spec_from_json(old) == SPEC
    with pytest.raises(WeightFormatError, match=r"latent_scaling: .*scaling_factor must be positive and finite"):
        spec_from_json(spec_to_json(ours.spec).replace('"scaling_factor": 0.25', '"scaling_factor": -1.0'))


def test_a_model_without_numbers_says_so_and_takes_given_ones() -> None:
    with pytest.raises(UnsupportedError, match=r"does not say how to scale.*scaled_latents=fastvae\.LatentScaling"):
        fastvae.load("digits", scaled_latents=True)
    with pytest.raises(UnsupportedError, match="does not say how to scale"):
        build_plan(random_model(mlp_spec()), "decode_scaled")
    with pytest.raises(InputError, match=r"scaled_latents: expected True, False or a fastvae\.LatentScaling, got 0\.5"):
        fastvae.load("digits", scaled_latents=0.5)  # type: ignore[arg-type]
    x = fastvae.load("digits").generate(3)
    ours, plain = fastvae.load("digits", scaled_latents=LatentScaling(2.0, 1.0)), fastvae.load("digits")
    np.testing.assert_allclose(ours.embed(x), (plain.embed(x) - 1) * 2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"scaling_factor": 0.0}, "scaling_factor must be positive and finite, got 0.0"),
        ({"shift_factor": float("inf")}, "shift_factor must be finite, got inf"),
        ({"latents_mean": (1.0,)}, "latents_mean and latents_std must be as many, got 1 and 0"),
        ({"latents_mean": (0.0,), "latents_std": (0.0,)}, "latents_std must be positive"),
        ({"shift_factor": 1.0, "latents_mean": (0.0,), "latents_std": (1.0,)}, "two ways to shift"),
    ],
)
def test_wrong_numbers(numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightFormatError, match=message):
        LatentScaling(**numbers)


def test_as_many_numbers_as_channels() -> None:
    scaling = LatentScaling(latents_mean=(0.0, 1.0), latents_std=(1.0, 1.0))
    with pytest.raises(WeightFormatError, match="expected 4 numbers in latents_mean, found 2"):
        replace(SPEC, latent_scaling=scaling)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"scaling_factor": None}, LatentScaling(0.18215)),
        ({"scaling_factor": 2, "shift_factor": 0.5}, LatentScaling(2.0, 0.5)),
        (
            {"latents_mean": [1, 2, 3, 4], "latents_std": [1, 1, 1, 2]},
            LatentScaling(0.18215, 0.0, (1, 2, 3, 4), (1, 1, 1, 2)),
        ),
        ({"latents_mean": [1, 2, 3, 4]}, None),
        ({"latents_mean": [1], "latents_std": [1], "shift_factor": 0.5}, None),
    ],
)
def test_numbers_of_a_diffusers_config(config: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    spec = read_checkpoint(saved_kl(tmp_path, **config)).spec
    assert spec.latent_scaling == expected
    assert spec.pixel_range == (-1, 1)


def test_a_config_with_numbers_for_other_channels(tmp_path: Path) -> None:
    with pytest.raises(WeightFormatError, match=r"config\.json: .*expected 4 numbers in latents_mean, found 1"):
        read_checkpoint(saved_kl(tmp_path, latents_mean=[1], latents_std=[1]))


def test_padding_beside_an_offset_stays_exact() -> None:
    """A 3x3 convolution right behind the latents sees zeros at the border, not the offset."""
    assert isinstance(SPEC.decoder[0], Conv2d)
    assert max(SPEC.decoder[0].padding) == 1
    model = random_model(replace(SPEC, latent_scaling=LatentScaling(1.0, 5.0)))
    assert build_plan(model, "decode_scaled").steps[0].op == "affine"
