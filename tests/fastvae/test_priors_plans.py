"""What is exported and explained of models whose latents have a mixture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession

from fastvae import VAE
from fastvae.errors import UnsupportedError
from fastvae.heads import GaussianMixture
from fastvae.plan import build_plan
from fastvae.priors import DRAWS
from fastvae_kernels import sample_normal, sample_uniform
from tests.fastvae.support import mlp_spec
from tests.fastvae.test_priors import PRIORS, model_of, with_prior

SAMPLER = GaussianMixture(4, "sampler", covariance="full")
COMPONENT_STREAM = 7 << 24


def with_sampler(**settings: Any) -> VAE:
    return VAE(model_of(mlp_spec(), sampler=SAMPLER))


def latents_as_described(vae: VAE, rows: int, seed: int) -> torch.Tensor:
    """z of an exported file's metadata, in float64."""
    drawn = vae.spec.sampler or vae.spec.prior
    assert drawn is not None
    tensors = {name.removeprefix(f"{drawn.name}."): value.double() for name, value in vae._model.weights.items()}
    noise = sample_normal(rows, 3, seed=seed, start=0).double()
    given = tensors.get("weights", torch.ones(drawn.components).double())
    shares = given.softmax(0) if drawn.weights == "logits" else given / given.sum()
    uniform = sample_uniform(rows, 1, seed=seed, start=0, stream=COMPONENT_STREAM).double()
    chosen = (shares.cumsum(0)[None] <= uniform).sum(1)
    if "factors" in tensors:
        return tensors["means"][chosen] + (tensors["factors"][chosen] @ noise[:, :, None])[:, :, 0]
    if "pseudo_inputs" in tensors:
        at = vae.encode(tensors["pseudo_inputs"].float())
        return at.mean[chosen] + (at.logvar / 2).exp()[chosen] * noise
    return tensors["means"][chosen] + (tensors["logvars"] / 2).exp()[chosen] * noise


def test_pixels_of_a_mixture(tmp_path: Path) -> None:
    """No plan draws its latents: they are decoded, in exported files and explanations too."""
    vae = VAE(model_of(replace(mlp_spec(), pixel_range=(-1.0, 1.0)), sampler=SAMPLER))
    levels = np.rint(np.clip(vae.generate(5) * np.float32(0.5) + np.float32(0.5), 0, 1) * np.float32(255))
    np.testing.assert_array_equal(vae.generate(5, output="uint8"), levels)
    vae.export(tmp_path / "generate.onnx", "generate_uint8")
    session = InferenceSession(str(tmp_path / "generate.onnx"))
    assert [value.name for value in (*session.get_inputs(), *session.get_outputs())] == ["z", "pixels", "nan"]
    assert [step.op for step in vae.explain("generate_uint8").steps][:1] == ["draw_mixture"]


@pytest.mark.parametrize("name", ["gaussian_mixture", "logits", "vamp_prior", "weighted_vamp", "sampler"])
def test_generate_is_exported_with_its_draws_outside(name: str, tmp_path: Path) -> None:
    vae = with_sampler() if name == "sampler" else with_prior(name)
    vae.export(tmp_path / "generate.onnx", "generate")
    file = onnx.load(tmp_path / "generate.onnx")
    facts = {entry.key: entry.value for entry in file.metadata_props}
    drawn = "sampler" if name == "sampler" else "prior"
    assert facts["fastvae.verb"] == "generate"
    assert facts["fastvae.noise"].startswith(
        f"input 'z', (rows, *latent_shape) draws from the {PRIORS.get(name, SAMPLER).kind}"
    )
    assert f"{drawn}." in facts["fastvae.noise"]
    assert f"stream={COMPONENT_STREAM}" in facts["fastvae.noise"]
    assert [value.name for value in file.graph.input] == ["z"]
    z = latents_as_described(vae, 50, seed=4).float().numpy()
    (found,) = InferenceSession(tmp_path / "generate.onnx").run(None, {"z": z})
    np.testing.assert_allclose(found, vae.generate(50, seed=4), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "H100"])
def test_generate_is_explained_as_a_draw_and_decode(device: str) -> None:
    vae = with_prior("vamp_prior")
    found, decode = vae.explain("generate", 1000, device), vae.explain("decode", 1000, device)
    assert found.verb == "generate"
    assert [step.op for step in found.steps] == ["draw_mixture", *(step.op for step in decode.steps)]
    assert found.flops == decode.flops + found.steps[0].flops == sum(step.flops for step in found.steps)
    assert found.steps[0].flops == 2 * 3 * 1000
    assert found.steps[0].bytes == 1000 * (3 * 4 * 3 + 4 * (1 + 3 + 3))
    assert found.weight_bytes == decode.weight_bytes
    assert sum(step.share for step in found.steps) == pytest.approx(1)
    assert "draw_mixture" in str(found)


def test_a_full_covariance_costs_its_square() -> None:
    step = with_sampler().explain("generate", 10, "H100").steps[0]
    assert (step.op, step.shapes, step.flops) == ("draw_mixture", "-> 3", 10 * 2 * 9)


@pytest.mark.parametrize(("verb", "parts"), [("kl", ("encode",)), ("elbo", ("encode", "score"))])
def test_divergences_are_explained_as_draws(verb: str, parts: tuple[str, ...]) -> None:
    vae = with_prior("gaussian_mixture")
    found = vae.explain(verb, 100, "H100")
    own = [step for part in parts for step in vae.explain(part, 100, "H100").steps]
    assert [step.op for step in found.steps] == [*(step.op for step in own), f"kl_of_{DRAWS}_draws"]
    assert found.weight_bytes == sum(vae.explain(part, 100, "H100").weight_bytes for part in parts)
    assert found.peak_bytes == max(vae.explain(part, 100, "H100").peak_bytes for part in parts)
    more = VAE(model_of(mlp_spec(), prior=GaussianMixture(40))).explain(verb, 100, "H100")
    assert more.steps[-1].bytes > 9 * found.steps[-1].bytes
    assert more.steps[-1].flops == 100 * DRAWS * 3 * (5 + 5 * 40)


def test_a_sampler_leaves_divergences_as_they_are() -> None:
    vae = with_sampler()
    assert not any("draws" in step.op for step in vae.explain("elbo").steps)


@pytest.mark.parametrize("verb", ["kl", "elbo"])
def test_divergences_without_a_graph_say_what_to_take(verb: str, tmp_path: Path) -> None:
    vae = with_prior("gaussian_mixture")
    with pytest.raises(UnsupportedError, match=r"VAE\.score makes it of draws and the plans 'encode' and 'score'"):
        vae.export(tmp_path / "x.onnx", verb)
    with pytest.raises(UnsupportedError, match="take 'decode'"):
        build_plan(vae._model, "generate")
    assert not (tmp_path / "x.onnx").exists()
