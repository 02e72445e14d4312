"""Every pass keeps every output, over random models in float64; each pays on the example it is for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from fastvae.layers import (
    Activation,
    Affine,
    Attention,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    GroupNorm,
    Linear,
    Reshape,
    Residual,
    Upsample,
)
from fastvae.plan import VERBS, Plan, Target, build_plan, plan_cost
from fastvae.plan.passes import (
    FUSED_PASSES,
    IMAGE_PASSES,
    PASSES,
    align_linear,
    cast,
    choose_layout,
    fold_affine,
    fold_input_affine,
    fold_upsample,
    fold_value,
    fuse_activation,
    fuse_bottleneck,
    fuse_head,
    fuse_image_residual,
    fuse_pixels,
    fuse_prior,
    fuse_residual,
    fuse_score,
    fuse_statistics,
    merge_heads,
    prune,
)
from fastvae.plan.passes.fuse_bottleneck import MAX_LATENT, MAX_OUTPUTS
from fastvae.plan.verbs import translate
from fastvae.spec import (
    Bernoulli,
    FixedGaussian,
    GaussianHead,
    Likelihood,
    ModelSpec,
    PerDimensionGaussian,
    PredictedGaussian,
)
from fastvae_kernels.parts import PARTS
from fastvae_kernels.tiling import shipped_tiles
from tests.fastvae.image_specs import image_spec
from tests.fastvae.strategies import specs
from tests.fastvae.support import conv_spec, inputs_of, mlp_spec, predicted_gaussian, random_model, run_plan

Pass = Callable[[Plan], Plan]
ALL: tuple[Pass, ...] = (*PASSES, *IMAGE_PASSES, *FUSED_PASSES, align_linear)
# What they add, kernels save: products whose widths are aligned, and copies that no plan counts.
FOR_KERNELS: tuple[Pass, ...] = (align_linear, choose_layout)


def in_float64(plan: Plan) -> Plan:
    return cast(plan, dtype=torch.float64, device="cpu")


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Equal to 1e-12 of the largest value of each output."""
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        a, b = a.double(), b.double()
        scale = max(1.0, float(b.abs().max()))
        torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize("verb", VERBS)
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(spec=specs())
def test_each_pass_keeps_every_output_and_costs_no_more(verb: str, spec: ModelSpec) -> None:
    model, inputs = random_model(replace(spec, dtype="float64")), inputs_of(spec)
    plan = translate(model, verb)
    expected = run_plan(in_float64(plan), inputs)
    for improve in ALL:
        improved = improve(plan)
        assert_same(run_plan(in_float64(improved), inputs), expected)
        assert improved.outputs == plan.outputs
        written = [name for step in improved.steps for name in step.outputs]
        assert len(written) == len(set(written))
        assert set(improved.shapes) == {*written, *improved.inputs}
        assert set(improved.weights) == {name for step in improved.steps for name in step.reads} - set(improved.shapes)
        if improve not in FOR_KERNELS:
            before, after = plan_cost(plan), plan_cost(improved)
            assert (after.flops, after.bytes) <= (before.flops, before.bytes)
            assert after.bytes <= before.bytes
        plan = improved


RELU = Activation("relu")
HEAD = GaussianHead("separate", mean=(Linear("mean", 8, 3),), scale=(Linear("scale", 8, 3),))


def flat_model(*encoder: object, decoder: tuple[object, ...] = (), likelihood: object = None) -> ModelSpec:
    """Rows of 6, features of 8, latents of 3: these encoder layers, HEAD, and this decoder, by default a linear one."""
    decoder = decoder or (Linear("d.0", 3, 8), RELU, Linear("d.1", 8, 6))
    return ModelSpec((6,), (3,), encoder, HEAD, decoder, likelihood or Bernoulli())  # type: ignore[arg-type]


def image_model(*decoder: object, likelihood: object = None) -> ModelSpec:
    """Images 2x4x4 from latents of 3, by these decoder layers."""
    encoder = (Flatten(), Linear("e", 32, 8))
    return ModelSpec((2, 4, 4), (3,), encoder, HEAD, decoder, likelihood or Bernoulli())  # type: ignore[arg-type]


CONV_HEADS = ModelSpec(
    input_shape=(2, 4, 4),
    latent_shape=(3, 4, 4),
    encoder=(),
    posterior=GaussianHead("separate", mean=(Conv2d("mean", 2, 3, (1, 1)),), scale=(Conv2d("scale", 2, 3, (1, 1)),)),
    decoder=(ConvTranspose2d("d", 3, 2, (1, 1)),),
    likelihood=FixedGaussian(),
)
TO_IMAGE = (Linear("d.0", 3, 32), Reshape((2, 4, 4)))
LAST = Conv2d("d.1", 2, 2, (3, 3), padding=(1, 1))
CLAMPED = replace(HEAD, logvar_min=-1.0, logvar_max=1.0)


@dataclass(frozen=True)
class Example:
    """A model and a verb on which ``improve`` pays, and the op it is to be rid of, or None."""

    improve: Pass
    spec: ModelSpec
    verb: str
    gone: str | None = None


EXAMPLES = {
    "unread head": Example(prune, mlp_spec(), "embed"),
    "batch norm": Example(fold_affine, mlp_spec(), "encode"),
    "bytes of images": Example(fuse_pixels, replace(image_spec(), pixel_range=(-1.0, 1.0)), "decode_uint8", "to_bytes"),
    "batch norm of images": Example(fold_affine, conv_spec(), "decode"),
    "grouped transposed convolution": Example(
        fold_affine,
        image_model(
            *(Linear("d.0", 3, 64), Reshape((4, 4, 4))),
            *(ConvTranspose2d("d.1", 4, 2, (1, 1), groups=2), BatchNorm("d.2", 2)),
            likelihood=FixedGaussian(),
        ),
        "decode",
        "affine",
    ),
    "data units per pixel": Example(
        fold_affine, image_model(*TO_IMAGE, Affine("out", (2, 4, 4)), likelihood=FixedGaussian()), "decode", "affine"
    ),
    "data units per channel": Example(
        fold_affine, image_model(*TO_IMAGE, Affine("out", (2,)), likelihood=FixedGaussian()), "decode", "affine"
    ),
    "upsampling": Example(
        fold_upsample,
        image_model(
            *(Linear("d.0", 3, 12), Reshape((3, 2, 2)), Upsample(), Conv2d("d.1", 3, 2, (3, 3), padding=(1, 1)))
        ),
        "decode",
        "upsample",
    ),
    "output projection": Example(
        fold_value,
        image_model(*TO_IMAGE, Residual((Attention("d.a", 2),)), Conv2d("d.1", 2, 2, (1, 1))),
        "decode",
    ),
    "activation": Example(fuse_activation, mlp_spec(), "decode", "affine"),
    "activation behind a reshape": Example(fuse_activation, image_model(*TO_IMAGE), "decode", "affine"),
    "residual": Example(fuse_residual, flat_model(Linear("e", 6, 8), Residual((Linear("r", 8, 8),))), "embed", "add"),
    "residual of images": Example(
        fuse_image_residual,
        image_model(*TO_IMAGE, Residual((Conv2d("d.1", 2, 2, (3, 3), padding=(1, 1)),))),
        "decode",
        "add",
    ),
    "statistics": Example(
        fuse_statistics,
        image_model(*TO_IMAGE, Conv2d("d.1", 2, 2, (3, 3), padding=(1, 1)), GroupNorm("d.2", 2, 1), RELU),
        "decode",
        "group_norm",
    ),
    "linear heads": Example(merge_heads, mlp_spec(), "encode"),
    "convolutional heads": Example(merge_heads, CONV_HEADS, "encode"),
    "heads of a likelihood": Example(
        merge_heads,
        mlp_spec(
            replace(predicted_gaussian(), head=GaussianHead("separate", (Linear("m", 8, 6),), (Linear("s", 8, 6),)))
        ),
        "score",
    ),
    "heads with a flatten each": Example(
        merge_heads,
        replace(
            CONV_HEADS,
            latent_shape=(3,),
            posterior=GaussianHead("separate", (Flatten(), Linear("m", 32, 3)), (Flatten(), Linear("s", 32, 3))),
            decoder=(Linear("d", 3, 32), Reshape((2, 4, 4))),
        ),
        "encode",
    ),
    "standardisation": Example(fold_input_affine, flat_model(Affine("in", (6,)), Linear("e", 6, 8)), "embed", "affine"),
    "standardisation of pixels": Example(
        fold_input_affine,
        replace(image_model(*TO_IMAGE), encoder=(Affine("in", (2, 4, 4)), Flatten(), Linear("e", 32, 8))),
        "embed",
        "affine",
    ),
    "batch norm after an activation": Example(
        fold_input_affine, flat_model(Linear("e", 6, 8), RELU, BatchNorm("n", 8)), "encode", "affine"
    ),
    "standardisation before a convolution": Example(
        fold_input_affine,
        replace(image_model(*TO_IMAGE), encoder=(Affine("in", (2,)), Conv2d("e", 2, 4, (4, 3), groups=2), Flatten())),
        "embed",
        "affine",
    ),
    "divergence": Example(fuse_head, mlp_spec(), "kl", "kl"),
    "divergence of a clamped head": Example(
        fuse_head, replace(flat_model(Linear("e", 6, 8)), posterior=CLAMPED), "kl", "logvar"
    ),
    "divergence of an interleaved head": Example(fuse_head, mlp_spec(layout="interleaved"), "elbo", "kl"),
    "bottleneck": Example(fuse_bottleneck, mlp_spec(), "elbo", "gaussian_head"),
    "Bernoulli score": Example(fuse_score, mlp_spec(Bernoulli()), "score", "bernoulli_nll"),
    "Gaussian score": Example(fuse_score, mlp_spec(PerDimensionGaussian()), "elbo", "gaussian_nll"),
    "Gaussian score of images": Example(
        fuse_score, image_model(*TO_IMAGE, likelihood=PerDimensionGaussian()), "score", "gaussian_nll"
    ),
    "squared error through a sigmoid": Example(fuse_score, image_model(*TO_IMAGE), "distance", "squared_error"),
    "Bernoulli score of a convolution": Example(fuse_score, image_model(*TO_IMAGE, LAST), "score", "bernoulli_nll"),
    "Gaussian score of a convolution": Example(
        fuse_score, image_model(*TO_IMAGE, LAST, likelihood=FixedGaussian()), "elbo", "gaussian_nll"
    ),
    "squared error of a convolution through a sigmoid": Example(
        fuse_score, image_model(*TO_IMAGE, LAST), "distance", "squared_error"
    ),
    "score of a convolution to flat rows": Example(
        fuse_score,
        replace(flat_model(Linear("e", 6, 8)), decoder=(*TO_IMAGE, Conv2d("d.1", 2, 6, (4, 4)), Flatten())),
        "score",
        "bernoulli_nll",
    ),
    "prior": Example(fuse_prior, mlp_spec(), "generate", "sample_normal"),
    "prior of images": Example(
        fuse_prior,
        replace(CONV_HEADS, decoder=(Flatten(), Linear("d", 48, 32), Reshape((2, 4, 4)))),
        "generate",
        "sample_normal",
    ),
}


def before_and_after(example: Example) -> tuple[Plan, Plan]:
    """The plan that the passes before ``example.improve`` leave, and what it makes of that."""
    spec = example.spec
    plan = translate(random_model(spec), example.verb)
    for improve in ALL[: ALL.index(example.improve)]:
        plan = improve(plan)
    return plan, example.improve(plan)


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_pass_pays_on_what_it_is_for(name: str) -> None:
    example = EXAMPLES[name]
    before, after = before_and_after(example)
    cost, lower = plan_cost(before), plan_cost(after)
    assert lower.bytes < cost.bytes
    assert lower.flops <= cost.flops
    if example.gone:
        assert example.gone in {step.op for step in before.steps}
        assert example.gone not in {step.op for step in after.steps}
    inputs = inputs_of(example.spec)
    assert_same(run_plan(in_float64(after), inputs), run_plan(in_float64(before), inputs))


def test_every_pass_has_an_example() -> None:
    assert {example.improve for example in EXAMPLES.values()} == {*ALL} - {*FOR_KERNELS}


def ops(spec: ModelSpec, verb: str, target: Target = "reference") -> list[str]:
    return [step.op for step in build_plan(random_model(spec), verb, target=target).steps]


def test_heads_stay_apart_in_an_onnx_graph() -> None:
    assert "split" in ops(mlp_spec(), "encode")
    assert "split" not in ops(mlp_spec(), "encode", "onnx")


def test_a_shift_before_a_padded_convolution_stays() -> None:
    """Near the border it reaches fewer outputs than inside."""
    spec = replace(CONV_HEADS, encoder=(Affine("in", (2,)), Conv2d("e", 2, 2, (3, 3), padding=(1, 1))))
    assert "affine" in ops(spec, "encode")
    model = random_model(spec)
    unshifted = replace(model, weights={**model.weights, "in.shift": torch.zeros(2)})
    assert "affine" not in [step.op for step in build_plan(unshifted, "encode").steps]


def test_a_scale_before_a_transposed_convolution_folds_where_nothing_is_shifted() -> None:
    spec = replace(CONV_HEADS, decoder=(Affine("in", (3,)), ConvTranspose2d("d", 3, 2, (3, 3), padding=(1, 1))))
    assert "affine" in ops(spec, "decode")
    model = random_model(replace(spec, dtype="float64"))
    plan = translate(replace(model, weights={**model.weights, "in.shift": torch.zeros(3)}), "decode")
    folded = fold_input_affine(plan)
    assert [step.op for step in folded.steps] == ["conv_transpose2d"]
    assert_same(run_plan(in_float64(folded), inputs_of(spec)), run_plan(in_float64(plan), inputs_of(spec)))


def test_an_affine_that_differs_within_a_channel_stays_beside_a_convolution() -> None:
    assert "affine" in ops(replace(CONV_HEADS, encoder=(Affine("in", (2, 4, 4)),)), "encode")
    assert "affine" in ops(replace(CONV_HEADS, decoder=(*CONV_HEADS.decoder, Affine("out", (2, 4, 4)))), "decode")


@pytest.mark.parametrize(
    "after",
    [
        Conv2d("d.1", 2, 2, (3, 3), padding=(1, 1), padding_end=(0, 1)),
        Conv2d("d.1", 2, 2, (3, 3), (2, 2), (1, 1)),
        Conv2d("d.1", 2, 2, (3, 3), padding=(1, 1), groups=2),
        Conv2d("d.1", 2, 2, (5, 5), padding=(2, 2)),
        ConvTranspose2d("d.1", 2, 2, (3, 3), padding=(1, 1)),
    ],
    ids=["one-sided", "strided", "grouped", "5x5", "transposed"],
)
def test_upsampling_stays_before_what_it_cannot_be_folded_into(after: Conv2d | ConvTranspose2d) -> None:
    shape = after.output_shape((2, 8, 8))
    spec = image_model(*TO_IMAGE, Upsample(), after, Flatten(), Linear("d.2", math.prod(shape), 32), Reshape((2, 4, 4)))
    assert "upsample" in ops(spec, "decode")


def test_upsampling_that_is_read_twice_stays() -> None:
    body = (Conv2d("d.1", 2, 2, (3, 3), padding=(1, 1)),)
    last = Conv2d("d.2", 2, 2, (2, 2), (2, 2))
    assert "upsample" in ops(image_model(*TO_IMAGE, Upsample(), Residual(body), last), "decode")


def test_projections_of_several_heads_stay() -> None:
    def convolutions(heads: int) -> int:
        return ops(image_model(*TO_IMAGE, Attention("d.a", 2, heads)), "decode", "onnx").count("conv2d")

    assert (convolutions(1), convolutions(2)) == (3, 4)


def test_values_that_are_read_elsewhere_stay() -> None:
    plan = translate(random_model(image_model(*TO_IMAGE, Attention("d.a", 2))), "decode")
    (attention,) = [step for step in plan.steps if step.op == "attention"]
    read_twice = replace(plan, outputs=(*plan.outputs, str(attention.inputs[2])))
    assert fold_value(read_twice) == read_twice
    assert len(fold_value(plan).steps) < len(plan.steps)


def test_a_group_norm_takes_the_activation_after_it() -> None:
    spec = image_model(*TO_IMAGE, GroupNorm("d.n", 2, 1), Activation("silu"), likelihood=FixedGaussian())
    assert ops(spec, "decode")[-1] == "group_norm"


def test_grouped_siblings_stay_apart() -> None:
    heads = (Conv2d(name, 2, 4, (1, 1), groups=2) for name in ("mean", "scale"))
    spec = replace(
        CONV_HEADS,
        latent_shape=(4, 4, 4),
        posterior=GaussianHead("separate", *((head,) for head in heads)),
        decoder=(ConvTranspose2d("d", 4, 2, (1, 1)),),
    )
    assert ops(spec, "encode") == ["conv2d", "conv2d"]


def test_siblings_that_differ_in_their_activation_stay_apart() -> None:
    scale = (Linear("scale", 6, 3), Activation("softplus"))
    spec = replace(
        mlp_spec(), encoder=(), posterior=GaussianHead("separate", mean=(Linear("mean", 6, 3),), scale=scale)
    )
    assert ops(spec, "encode") == ["linear", "linear"]


def test_siblings_that_see_other_shapes_of_one_image_stay_apart() -> None:
    scale = (Reshape((2, 2, 8)), Conv2d("scale", 2, 3, (1, 1)), Reshape((3, 4, 4)))
    spec = replace(CONV_HEADS, posterior=replace(CONV_HEADS.posterior, scale=scale))
    assert ops(spec, "encode") == ["conv2d", "reshape", "conv2d", "reshape"]


def test_a_head_that_is_no_log_variance_is_not_fused() -> None:
    assert "kl" in ops(mlp_spec(parametrization="softplus_std"), "kl", "triton")
    bounded = GaussianHead("chunked", joint=(Linear("joint", 8, 6), Activation("tanh")))
    assert "kl" in ops(replace(mlp_spec(), posterior=bounded), "kl", "triton")


def test_predicted_variances_are_not_fused_into_the_last_layer() -> None:
    apart = GaussianHead("separate", mean=(Linear("m", 8, 6),), scale=(Linear("s", 8, 6), Activation("tanh")))
    for likelihood in (predicted_gaussian(), PredictedGaussian(apart)):
        assert "gaussian_nll" in ops(mlp_spec(likelihood), "score", "triton")


def test_imputation_scores_and_returns_the_last_layer() -> None:
    assert "linear_score" not in ops(mlp_spec(), "impute", "triton")


@pytest.mark.parametrize(
    ("likelihood", "last"),
    [(PerDimensionGaussian(), LAST), (FixedGaussian(), replace(LAST, groups=2))],
    ids=["a variance per pixel", "groups"],
)
def test_convolutions_that_no_score_is_fused_into(likelihood: Likelihood, last: Conv2d) -> None:
    assert "gaussian_nll" in ops(image_model(*TO_IMAGE, last, likelihood=likelihood), "score", "triton")


def test_the_score_of_a_convolution_reads_the_images_that_the_encoder_was_given() -> None:
    """Those have their channels innermost; where no image op reads them, they are as the caller gave them."""
    spec = replace(CONV_HEADS, decoder=(Conv2d("d", 3, 2, (1, 1)),))
    plan = build_plan(random_model(spec), "elbo", target="triton")
    (score,) = [step for step in plan.steps if step.op == "conv_score"]
    assert score.inputs[3] == "x.innermost"
    alone = build_plan(random_model(spec), "score", target="triton")
    assert alone.steps[-1].inputs[3] == "x"


@pytest.mark.parametrize("last", [(), (LAST,)], ids=["linear_score", "conv_score"])
def test_the_mask_is_a_keyword_of_the_fused_score(last: tuple[Conv2d, ...]) -> None:
    """``impute`` returns its output, so it is its nll alone that shows a masked score."""
    spec = image_model(*TO_IMAGE, *last, likelihood=FixedGaussian())
    plan = translate(random_model(replace(spec, dtype="float64")), "impute")
    plan = replace(plan, outputs=plan.outputs[:1])
    fused = fuse_score(plan)
    (step,) = [step for step in fused.steps if step.op in ("linear_score", "conv_score")]
    assert set(step.keywords) == {"mask", "logvar"}
    assert fused.uses()[step.keywords["mask"]] == 1
    assert_same(run_plan(in_float64(fused), inputs_of(spec)), run_plan(in_float64(plan), inputs_of(spec)))


def test_layers_too_wide_to_chain_are_not_a_bottleneck() -> None:
    def fused(width: int) -> list[str]:
        return ops(
            flat_model(Linear("e", 6, 8), decoder=(Linear("d", 3, width), Linear("o", width, 6))), "elbo", "triton"
        )

    assert "bottleneck" in fused(MAX_OUTPUTS)
    assert "bottleneck" not in fused(MAX_OUTPUTS + 1)


@pytest.mark.parametrize("precision", ["ieee", "bf16"])
@pytest.mark.parametrize("target", PARTS)
def test_bottlenecks_of_the_stated_width_are_chained(target: str, precision: str) -> None:
    tiles = [tile for tile in shipped_tiles("bottleneck", target)[precision] if tile.block_columns >= MAX_OUTPUTS]
    assert tiles
    assert all(4 * tile.block_latent >= MAX_LATENT for tile in tiles)
