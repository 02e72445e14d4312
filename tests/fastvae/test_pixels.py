"""E[x|z] as the bytes of pixels: by definition, in every implementation, on every way to them."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

import fastvae
from fastvae.errors import InputError, NumericsError, UnsupportedError
from fastvae.layers import Conv2d, Linear
from fastvae.model import Model
from fastvae.plan import MEAN_VERBS, PIXEL_VERBS, build_plan, plan_cost
from fastvae.plan.passes import FUSED_PASSES, IMAGE_PASSES, PASSES, cast, fuse_pixels
from fastvae.plan.pixels import black_and_white, levels, output_dtypes
from fastvae.plan.verbs import translate
from fastvae.runtime import Settings
from fastvae.runtime.executor import Executor
from fastvae.spec import Bernoulli, FixedGaussian, GaussianHead, ModelSpec
from tests.fastvae.image_specs import image_spec
from tests.fastvae.strategies import specs
from tests.fastvae.support import conv_spec, data_for, inputs_of, mlp_spec, random_model, run_plan, vae

Pixels = NDArray[np.uint8]
IMAGES = replace(image_spec(), pixel_range=(-1.0, 1.0))
SPECS = {"mlp": mlp_spec(likelihood=Bernoulli()), "conv": conv_spec(), "images": IMAGES}
# What runs a model here: sessions, the ops' references, kernels under Triton's interpreter.
WAYS: tuple[dict[str, Any], ...] = (
    {"impl": "onnxruntime"},
    {"impl": "onnxruntime", "batch_invariant": True},
    {"impl": "reference"},
    {"impl": "reference", "precision": "float64"},
)


def defined(means: Any, spec: ModelSpec) -> Pixels:
    """Bytes of float32 means as NumPy rounds them, in the operations of the definition."""
    scaled = np.asarray(means) * np.float32(0.5) + np.float32(0.5) if spec.pixel_range == (-1, 1) else np.asarray(means)
    whole = np.rint(np.clip(scaled, 0, 1) * np.float32(255)).astype(np.uint8)
    return np.moveaxis(whole, 1, -1) if whole.ndim == 4 else whole


@functools.cache
def model(name: str, **how: Any) -> fastvae.VAE:
    return vae(SPECS[name], **how)


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_pixels_are_the_means_rounded(name: str, how: dict[str, Any]) -> None:
    """One plan ends where the other goes on, so that the means have the same bits."""
    found = model(name, **how)
    z = np.random.default_rng(0).standard_normal((9, *found.spec.latent_shape)).astype(np.float32)
    x = data_for(found.spec, 9).astype(np.float32)
    calls: list[Any] = [functools.partial(found.decode, z), functools.partial(found.reconstruct, x)]
    calls += [functools.partial(found.generate, 9, 3, 5), lambda output: next(found.stream(9, seed=3, output=output))]
    for call in calls:
        pixels, means = call(output="uint8"), call(output="mean")
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, defined(means, found.spec))
    assert torch.equal(found.decode(torch.from_numpy(z), output="uint8"), torch.from_numpy(calls[0](output="uint8")))
    assert found.decode(z[:0], output="uint8").shape == (0, *pixels.shape[1:])


def test_diffusers_makes_the_same_pictures() -> None:
    processor = pytest.importorskip("diffusers.image_processor").VaeImageProcessor()
    found = model("images", impl="reference")
    z = 3 * np.random.default_rng(0).standard_normal((2, *found.spec.latent_shape)).astype(np.float32)
    means = torch.from_numpy(np.array(found.decode(z)))
    assert (means.abs() > 1).any()
    pictures = processor.postprocess(means, output_type="pil")
    np.testing.assert_array_equal(found.decode(z, output="uint8"), np.stack([np.asarray(each) for each in pictures]))


def test_flattened_images_of_another_size_in_many_batches_and_of_labels() -> None:
    found = vae(IMAGES, batch_size=3)
    x = data_for(IMAGES, 7).astype(np.float32)
    means = found.reconstruct(x)
    np.testing.assert_array_equal(found.reconstruct(x.reshape(7, -1), output="uint8"), defined(means, IMAGES))
    wide = np.random.default_rng(0).random((5, 3, 8, 12), np.float32)
    np.testing.assert_array_equal(found.reconstruct(wide, output="uint8"), defined(found.reconstruct(wide), IMAGES))
    many = vae(SPECS["mlp"], batch_size=3)
    np.testing.assert_array_equal(many.generate(10, output="uint8"), defined(many.generate(10), many.spec))


def test_samples_that_no_plan_draws() -> None:
    """Where images may be cut into tiles, samples are latents decoded."""
    found = vae(IMAGES, max_memory=2**26)
    np.testing.assert_array_equal(found.generate(3, output="uint8"), defined(found.generate(3), IMAGES))
    found.warmup((1,), ("decode_uint8", "generate_uint8", "reconstruct_uint8"))


def test_bits_do_not_depend_on_the_batch() -> None:
    for name in SPECS:
        found = model(name, impl="onnxruntime", batch_invariant=True)
        z = np.random.default_rng(1).standard_normal((130, *found.spec.latent_shape)).astype(np.float32)
        whole = found.decode(z, output="uint8")
        np.testing.assert_array_equal(whole[127:], found.decode(z[127:], output="uint8"))


def test_scaled_latents() -> None:
    spec = replace(IMAGES, latent_scaling=fastvae.LatentScaling(0.5, 0.25))
    plain, scaled = (vae(spec, scaled_latents=how) for how in (False, True))
    z = np.random.default_rng(0).standard_normal((3, *spec.latent_shape)).astype(np.float32)
    means = scaled.decode((z - 0.25) * 0.5)
    np.testing.assert_array_equal(scaled.decode((z - 0.25) * 0.5, output="uint8"), defined(means, spec))
    np.testing.assert_allclose(means, plain.decode(z), atol=1e-5)


def overflowing() -> Model:
    """Decodes z to infinity minus infinity where z is above 2, and to 0 elsewhere."""
    head = GaussianHead("separate", mean=(Linear("m", 4, 1),), scale=(Linear("s", 4, 1),))
    spec = ModelSpec((4,), (1,), (), head, (Linear("d", 1, 2), Linear("e", 2, 4)), Bernoulli())
    weights = {name: torch.zeros(shape) for name, shape in spec.tensors().items()}
    weights["d.weight"] = torch.full((2, 1), 1.7e38)
    weights["e.weight"] = torch.tensor([[1.0, -1.0]] * 4)
    return Model(spec, weights)


@pytest.mark.parametrize("how", WAYS[:3], ids=str)
def test_a_nan_is_an_error(how: dict[str, Any]) -> None:
    """On the short way and the long one; other rows of the call do not hide it, nor do calls without one suffer."""
    found = fastvae.VAE(overflowing(), Settings(**how))
    fine, bad = np.zeros((6, 1), np.float32), np.array([[0], [0], [3], [1]], np.float32)
    assert found.decode(fine, output="uint8").tolist() == [[128] * 4] * 6
    assert np.isnan(found.decode(bad)).any(1).tolist() == [False, False, True, False]
    for z in (bad, bad.astype(np.float64), torch.from_numpy(bad)):
        with pytest.raises(NumericsError, match="decode_uint8: a result is not finite in precision 'ieee'"):
            found.decode(z, output="uint8")
    rows = next(seed for seed in range(999) if (found.generate(64, seed) != found.generate(64, seed)).any())
    with pytest.raises(NumericsError, match="_uint8: a result is not finite"):
        found.generate(64, rows, output="uint8")
    assert found.decode(fine, output="uint8").tolist() == [[128] * 4] * 6


def test_what_has_no_pixels() -> None:
    found = vae(mlp_spec(likelihood=FixedGaussian(0.5)))
    z, x = np.zeros((2, *found.spec.latent_shape), np.float32), data_for(found.spec, 2)
    calls: list[Any] = [functools.partial(found.decode, z), functools.partial(found.reconstruct, x)]
    for call in [*calls, functools.partial(found.generate, 2), functools.partial(found.stream, 2)]:
        with pytest.raises(UnsupportedError, match=r"nothing says which values are black and white.*pixel_range"):
            call(output="uint8")
    for call in calls:
        with pytest.raises(InputError, match="output: expected 'mean' or 'uint8', got 'int8'"):
            call(output="int8")
    with pytest.raises(InputError, match="invalid: no byte shows a bad row"):
        model("mlp").reconstruct(data_for(SPECS["mlp"], 2), invalid="mask", output="uint8")
    assert black_and_white(found.spec) is None
    assert levels(replace(found.spec, pixel_range=(0.25, 0.75))) == {"scale": 2.0, "shift": -0.5}
    assert black_and_white(replace(SPECS["mlp"], pixel_range=(-1.0, 1.0))) == (0, 1)


def with_pixels(spec: ModelSpec, low: float, width: float) -> ModelSpec:
    return replace(spec, dtype="float64", pixel_range=(low, low + width))


@pytest.mark.parametrize("verb", ["decode_uint8", "reconstruct_uint8"])
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(spec=st.builds(with_pixels, specs(), st.sampled_from((-1.0, 0.0, 0.3)), st.sampled_from((1.0, 2.0, 0.7))))
def test_each_pass_keeps_pixels_and_costs_no_more(verb: str, spec: ModelSpec) -> None:
    """In float64: a level may only turn where a number lies on a tie, as 0 does between black and white."""
    made, inputs = random_model(spec), inputs_of(spec)
    plan = translate(made, verb)
    expected, nan = run_plan(cast(plan, dtype=torch.float64, device="cpu"), inputs)
    assert output_dtypes(plan, torch.float64) == (expected.dtype, nan.dtype) == (torch.uint8, torch.bool)
    for improve in (*PASSES, *IMAGE_PASSES, *FUSED_PASSES):
        improved = improve(plan)
        found, marks = run_plan(cast(improved, dtype=torch.float64, device="cpu"), inputs)
        assert found.shape == expected.shape
        assert (found.int() - expected.int()).abs().max() <= 1
        assert torch.equal(marks, nan)
        if improve.__name__ != "choose_layout":
            assert plan_cost(improved).bytes <= plan_cost(plan).bytes
        plan = improved


def test_the_last_convolution_makes_bytes() -> None:
    plan = translate(random_model(IMAGES), "decode_uint8")
    fused = fuse_pixels(plan)
    assert [step.op for step in plan.steps[-2:]] == ["conv2d", "to_bytes"]
    assert fused.steps[-1].op == "conv_image"
    assert len(fused.steps) == len(plan.steps) - 1
    assert plan_cost(fused).bytes < plan_cost(plan).bytes
    assert plan_cost(fused, workspace=False).peak_bytes <= plan_cost(plan, workspace=False).peak_bytes
    last = IMAGES.decoder[-1]
    assert isinstance(last, Conv2d)
    grouped = replace(IMAGES, decoder=(*IMAGES.decoder, Conv2d("g", 3, 3, (1, 1), groups=3)))
    assert fuse_pixels(translate(random_model(grouped), "decode_uint8")).steps[-1].op == "to_bytes"


def test_the_kernels_plan_makes_the_same_pixels() -> None:
    """As a GPU has it: the fused convolution, images with channels innermost."""
    made = random_model(replace(IMAGES, dtype="float64"))
    z = inputs_of(IMAGES)
    found: dict[str, Tensor] = {}
    for target in ("reference", "triton"):
        plan = build_plan(made, "decode_uint8", target=target, dtype=torch.float64)  # type: ignore[arg-type]
        found[target] = run_plan(plan, z)[0]
    assert plan.steps[-1].op == "conv_image"
    assert plan.weights[str(plan.steps[-1].inputs[1])].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found["triton"], found["reference"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_means_of_16_bits_are_not_rounded_before(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are those nearest to what the last convolution sums, in every plan; of rounded means some would not be."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    last = Conv2d("d", 2, 3, (3, 3), padding=(1, 1))
    spec = replace(IMAGES, input_shape=(3, 4, 4), encoder=(Conv2d("e", 3, 4, (1, 1)),), decoder=(last,))
    z = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    made = random_model(spec)
    weight, bias = (made.weights[f"d.{name}"].to(device, dtype).double() for name in ("weight", "bias"))
    means = torch.nn.functional.conv2d(z.double(), weight, bias, padding=1).permute(0, 2, 3, 1)
    exact, rounded = (255 * (each.double() / 2 + 0.5).clamp(0, 1) for each in (means, means.to(dtype)))
    assert ((rounded.round() - exact).abs() > 0.51).any()
    for target, impl in (("reference", "reference"), ("triton", "reference"), ("triton", "triton")):
        plan = build_plan(made, "decode_uint8", target=target, dtype=dtype, device=device)  # type: ignore[arg-type]
        pixels, _ = Executor(plan, impl=impl, device=device, dtype=dtype)({"z": z})
        assert ((pixels.double() - exact).abs() < 0.501).all()


@pytest.mark.parametrize("verb", sorted(MEAN_VERBS))
def test_exported_graphs(verb: str, tmp_path: Path) -> None:
    import onnxruntime

    spec = replace(conv_spec(), latent_scaling=fastvae.LatentScaling(0.5))
    found = vae(spec)
    found.export(tmp_path / "m.onnx", verb)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    assert [value.name for value in session.get_outputs()] == ["pixels", "nan"]
    (given,) = session.get_inputs()
    data = np.random.default_rng(0).random((3, *given.shape[1:]), np.float32)
    pixels, nan = session.run(None, {given.name: data})
    assert not nan.any()
    if verb == PIXEL_VERBS["decode"]:
        np.testing.assert_array_equal(pixels, found.decode(data, output="uint8"))
    assert pixels.shape == (3, *spec.input_shape[1:], spec.input_shape[0])


def test_explained() -> None:
    text = str(model("images").explain("decode_uint8", rows=2, device="H100"))
    assert "conv_image" in text
    assert "8x8x3 + 1" in text
