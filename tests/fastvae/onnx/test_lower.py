"""Every plan as an ONNX graph: valid, and equal to the reference in float64 within a derived budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

import fastvae
from fastvae.embedded import resolve
from fastvae.errors import InputError, UnsupportedError
from fastvae.formats import native, read_checkpoint
from fastvae.layers import Activation, Linear
from fastvae.model import Model
from fastvae.onnx import NOISE, lower, output_names, to_onnx
from fastvae.plan import VERBS, Plan, Step, build_plan
from fastvae.runtime.executor import Draw, Executor
from fastvae.spec import Bernoulli, FixedGaussian, GaussianHead, ModelSpec, PerDimensionGaussian
from fastvae_kernels import ACTIVATIONS, sample_normal
from tests.fastvae.support import SPECS, condition_for, data_for, gaussian_head, mlp_spec, random_model

CPU = torch.device("cpu")
ROWS, SAMPLES = 37, 3
SHARED = Path(__file__).parents[3].parent / "shared" / "checkpoints"
CHECKPOINTS = [path for path in (SHARED / "disvae_mnist_vae", SHARED / "disvae_celeba_btcvae") if path.exists()]


def inputs_for(model: Model, plan: Plan, rows: int) -> dict[str, Tensor]:
    """Inputs of a plan in float64; z holds several draws for each row of x where both are there."""
    spec = model.spec
    draws = SAMPLES if {"x", "z"} <= set(plan.inputs) else 1
    generator = np.random.default_rng(rows)
    values: dict[str, Any] = {
        "x": data_for(spec, rows),
        "z": generator.normal(size=(draws * rows, *spec.latent_shape)),
        "mask": generator.random((rows, *spec.input_shape)) < 0.5,
        "condition": condition_for(spec, draws * rows if "z" in plan.inputs else rows),
    }
    return {name: torch.from_numpy(values[name]) for name in plan.inputs}


def budget(plan: Plan) -> float:
    """Relative to the largest value: each step rounds sums of up to so many terms, whose errors add like noise."""
    widest = max(math.prod(shape) for shape in plan.shapes.values())
    return (1 + len(plan.steps)) * math.sqrt(widest) * 2.0**-23


def run(model: onnx.ModelProto, inputs: Mapping[str, Tensor]) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {name: (x.float() if x.is_floating_point() else x).numpy() for name, x in inputs.items()}
    results: list[np.ndarray[Any, Any]] = session.run(None, feeds)
    return results


def check(model: Model, verb: str, rows: int, **how: bool) -> None:
    plan = build_plan(model, verb)
    made = to_onnx(plan, **how)
    onnx.checker.check_model(made, full_check=True)
    exact = build_plan(model, verb, dtype=torch.float64)
    inputs = inputs_for(model, plan, rows)
    draw = Draw(rows, 3, 0, CPU, torch.float64)
    expected = Executor(exact, impl="reference", device=CPU, dtype=torch.float64)(inputs, draw)
    if verb == "generate":
        inputs[NOISE] = sample_normal(rows, model.spec.latent_dim, seed=3)
    found = run(made, inputs)
    assert [value.name for value in made.graph.output] == list(output_names(plan))
    for name, one, other in zip(output_names(plan), found, expected, strict=True):
        assert one.dtype == np.float32
        assert one.shape == tuple(other.shape)
        difference = np.abs(one - other.numpy()).max()
        assert difference <= budget(plan) * np.abs(other.numpy()).max(), (name, difference)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", SPECS)
def test_every_plan_equals_the_reference(name: str, verb: str) -> None:
    check(random_model(SPECS[name]), verb, ROWS)
    check(random_model(SPECS[name]), verb, 1, batch_invariant=True)


@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["digits", "mnist", "breast_cancer"])
def test_embedded_models_equal_the_reference(name: str, verb: str, rows: int) -> None:
    check(native.read(resolve(name)), verb, rows)


@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.name)
def test_checkpoints_equal_the_reference(path: Path, verb: str, rows: int) -> None:
    check(read_checkpoint(path), verb, rows)


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_activations_over_the_whole_range(function: str) -> None:
    """Through a weight of one and none of bias: act(x) for x from -1e4 to 1e4, relative to |x| and 1e-6."""
    x = torch.cat([-torch.logspace(-8, 4, 97), torch.zeros(1), torch.logspace(-8, 4, 97)])[:, None]
    spec = ModelSpec(
        (1,), (1,), (Linear("e", 1, 1, bias=False), Activation(function)), _identity(), (), FixedGaussian()
    )
    model = Model(spec, {"e.weight": torch.ones(1, 1)})
    plan = build_plan(model, "embed")
    (found,) = run(to_onnx(plan), {"x": x})
    exact = build_plan(model, "embed", dtype=torch.float64)
    (expected,) = Executor(exact, impl="reference", device=CPU, dtype=torch.float64)({"x": x.double()})
    assert np.isfinite(found).all()
    # Rational approximations of tanh, erf and the logistic function: a few units in the last place of 1.
    bound = 4 * 2.0**-23 * np.maximum(1.0, np.abs(x.numpy()))
    assert (np.abs(found - expected.numpy()) <= bound).all()


def _identity() -> GaussianHead:
    return GaussianHead("separate", mean=(), scale=())


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize("parametrization", ["softplus_std", "variance"])
def test_log_variances_of_extreme_heads(parametrization: str, eps: float) -> None:
    """Neither infinite nor inaccurate where softplus underflows or the variance is none."""
    underflowing = torch.linspace(-110, -5, 211)  # its exponential, then its softplus and at last neither is normal
    raw = torch.cat([-torch.logspace(-4, 3, 60), underflowing, torch.zeros(1), torch.logspace(-4, 3, 60)])[:, None]
    head = GaussianHead("separate", mean=(), scale=(), parametrization=parametrization, eps=eps)  # type: ignore[arg-type]
    model = Model(ModelSpec((1,), (1,), (), head, (), FixedGaussian()), {})
    found = run(to_onnx(build_plan(model, "encode")), {"x": raw})[1]
    exact = build_plan(model, "encode", dtype=torch.float64)
    expected = Executor(exact, impl="reference", device=CPU, dtype=torch.float64)({"x": raw.double()})[1].numpy()
    assert np.isfinite(found).all()
    if parametrization == "variance":  # the smallest normal number is another one in float64; 1e-6 + raw may cancel
        keep = (raw.double().numpy() + eps) > 1e-3
        found, expected = found[keep], expected[keep]
    assert (np.abs(found - expected) <= 1e-5 * np.maximum(1.0, np.abs(expected))).all()


@pytest.mark.parametrize("size", [1, 7, 64, 67, 784])
def test_bernoulli_of_confident_logits(size: int) -> None:
    """The product of sigmoids that stands for a sum of logarithms neither underflows nor overflows."""
    spec = ModelSpec((size,), (size,), (), _identity(), (), Bernoulli())
    plan = build_plan(Model(spec, {}), "score")
    for level in (-90.0, -20.0, -1e-3, 0.0, 1e-3, 20.0, 90.0):
        z = torch.full((2, size), level)
        x = torch.stack([torch.zeros(size), torch.ones(size)])
        (found,) = run(to_onnx(plan), {"z": z, "x": x})
        expected = torch.nn.functional.binary_cross_entropy_with_logits(z.double(), x.double(), reduction="none")
        # Absolute: sigmoid(|l|) is right to a few units in the last place of 1, and there are `size` of them.
        bound = 4 * size * 2.0**-24 * np.maximum(1.0, expected.numpy().max(1))
        assert (np.abs(found - expected.sum(1).numpy()) <= bound).all()


def test_gaussian_of_extreme_variances_stays_finite() -> None:
    spec = mlp_spec(PerDimensionGaussian())
    model = random_model(spec)
    weights = {**model.weights, "likelihood.logvar": torch.linspace(-60, 60, 6)}
    check(Model(spec, weights), "score", 5)


def test_the_divergence_of_a_variance_beyond_float32_stays_finite() -> None:
    """So that a beta of 0 leaves nothing of it, not even NaN."""
    model = Model(ModelSpec((1,), (1,), (), _identity(), (), FixedGaussian()), {})
    found = run(to_onnx(build_plan(model, "kl")), {"x": torch.tensor([[88.0], [89.0], [1e4]])})[0]
    np.testing.assert_allclose(found, [math.exp(88) / 2 + 88**2 / 2, *[np.finfo(np.float32).max / 2] * 2], rtol=1e-4)


def test_a_head_whose_halves_are_one_buffer() -> None:
    """An encoder without layers: mean, log-variance and x are the same values under different names."""
    model = Model(ModelSpec((3,), (3,), (), _identity(), (), FixedGaussian()), {})
    for verb in ("encode", "reconstruct", "elbo"):
        check(model, verb, 4)


def test_an_op_without_a_form_is_named() -> None:
    plan = build_plan(random_model(mlp_spec()), "encode")
    odd = Plan(plan.verb, plan.inputs, ("y",), (Step("fold", ("x",), ("y",)),), {}, {**plan.shapes, "y": (1,)})
    with pytest.raises(UnsupportedError, match="'fold' has no ONNX form"):
        to_onnx(odd)


def test_weights_beyond_one_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower, "LIMIT", 100)
    with pytest.raises(UnsupportedError, match="2 GiB"):
        to_onnx(build_plan(random_model(mlp_spec()), "encode"))


def test_export_writes_a_described_file(tmp_path: Path) -> None:
    vae = fastvae.load("digits", impl="onnxruntime")
    vae.export(tmp_path / "decoder.onnx")
    vae.export(tmp_path / "generator.onnx", "generate")
    decoder, generator = (onnx.load(tmp_path / f"{name}.onnx") for name in ("decoder", "generator"))
    facts = {entry.key: entry.value for entry in generator.metadata_props}
    assert facts["fastvae.verb"] == "generate"
    assert NOISE in facts["fastvae.noise"]
    assert [value.name for value in generator.graph.input] == [NOISE]
    assert decoder.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "rows"
    assert next(entry.version for entry in decoder.opset_import if not entry.domain) >= 20
    assert decoder.ir_version == onnx.helper.find_min_ir_version_for(decoder.opset_import)
    z = sample_normal(5, 16, seed=1)
    (found,) = run(decoder, {"z": z})
    np.testing.assert_array_equal(found, vae.decode(z.numpy()))
    with pytest.raises(InputError, match=r"ends in \.onnx"):
        vae.export(tmp_path / "decoder.pb")
    with pytest.raises(UnsupportedError, match="verb: expected one of"):
        vae.export(tmp_path / "x.onnx", "dream")
    assert not (tmp_path / "x.onnx").exists()


def test_a_joint_head_of_every_layout_is_split() -> None:
    for layout in ("chunked", "interleaved"):
        head = gaussian_head("q", 4, 3, layout)
        spec = ModelSpec((4,), (3,), (), head, (Linear("d", 3, 4),), FixedGaussian())
        check(random_model(spec), "encode", 3)
