"""Which builds tools/aot.py makes: every kernel, as every shipped configuration launches it, for every target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fastvae_kernels.parts import PARTS
from fastvae_kernels.pieces import row_pieces
from fastvae_kernels.triton import gemm
from fastvae_kernels.triton import quantize_rows as quantize
from fastvae_kernels.triton import reparameterize as reparam
from fastvae_kernels.tuning import QuantizeConfig, ReparameterizeConfig, RowScoreConfig, SampleConfig
from tools import aot_convolutions, aot_gemms, aot_images, aot_latent, aot_pointwise, aot_scores
from tools.aot_build import Build, Builder
from tools.aot_gemms import target_configs

__all__ = ["KERNELS", "all_builds"]

# The target that every build is compiled for every day; of each kernel the others have one, the first and largest.
WHOLE = "sm_90"
ALIKE = f"compiled for {WHOLE}, and its like for this target"
NARROW = "16-bit variant, and its like is compiled"
BITS = {"fp32": 32, "bf16": 16, "fp16": 16}


def sample_builds(target: str) -> Iterator[Build]:
    for device, config in target_configs("sample_normal", target):
        assert isinstance(config, SampleConfig)
        for dtype, bits in BITS.items():
            variants = [(False, True), (False, False)] + [(True, True)] * (dtype == "fp32")
            for uniform, aligned in variants:
                yield Build(
                    name=f"{device} {'uniform' if uniform else 'normal'} {dtype} {'4|dim' if aligned else 'any dim'}",
                    arguments={"out": f"*{dtype}"},
                    constants={"UNIFORM": uniform, "ALIGNED": aligned, "BLOCK": config.block_quads},
                    num_warps=config.num_warps,
                    store_bits=config.store_bits * bits // 32 if aligned else 0,
                    extra=NARROW if dtype == "fp16" or (dtype, aligned) == ("bf16", False) else "",
                )


def reparameterize_builds(target: str) -> Iterator[Build]:
    for device, config in target_configs("reparameterize", target):
        assert isinstance(config, ReparameterizeConfig)
        for dtype, bits in BITS.items():
            for dim in (256,) if dtype == "fp16" else (7, 20, 256):
                unit = gemm.row_unit(dim, dim)
                rows, dims = reparam.block_shape(dim, config)
                yield Build(
                    name=f"{device} {dtype} dim {dim}",
                    arguments={**dict.fromkeys(("mean", "logvar", "z"), f"*{dtype}"), "kl": "*fp32"},
                    constants={
                        "UNIT": unit,
                        "SAMPLES_PER_PROGRAM": config.samples_per_program,
                        "BLOCK_ROWS": rows,
                        "BLOCK_DIMS": dims,
                    },
                    num_warps=config.num_warps,
                    store_bits=config.store_bits * bits // 32 if unit >= 4 else 0,
                    extra=NARROW if dtype == "fp16" or (dtype, dim) == ("bf16", 20) else "",
                )


def quantize_builds(target: str) -> Iterator[Build]:
    lacks = "" if "fp8" in PARTS[target].flops else "no float8_e4m3fn on this target"
    for device, config in target_configs("quantize_rows", target):
        assert isinstance(config, QuantizeConfig)
        for dtype, k in (("fp32", 784), ("bf16", 784), ("bf16", 2 * config.block_elements), ("bf16", 101)):
            unit = gemm.row_unit(k, k, largest=16)
            rows, columns = quantize.block_shape(k, config)
            yield Build(
                name=f"{device} {dtype} k {k}",
                arguments={"x": f"*{dtype}", "q": "*fp8e4nv", "scale": "*fp32"},
                constants={"UNIT": unit, "SINGLE": k <= columns, "BLOCK_ROWS": rows, "BLOCK_COLUMNS": columns},
                num_warps=config.num_warps,
                load_bits=128 if unit == 16 else 0,
                store_bits=32 if unit == 16 else 0,
                impossible=lacks,
            )


def row_score_build(
    name: str, config: RowScoreConfig, likelihood: str, dtype: str, dim: int, logvar: str = "none", **present: bool
) -> Build:
    """One build of row_scores_kernel; present: whether there are a mask, a posterior, and partials to share a row."""
    cut = row_pieces(dim, config)
    posterior = present.get("posterior", False)
    unit = gemm.row_unit(dim)
    data, results = f"*{dtype}", "*fp32" if posterior else None
    return Build(
        name=f"{name} {likelihood} {dtype} dim {dim} logvar {logvar}" + "".join(f" {each}" for each in present),
        arguments={
            **dict.fromkeys(("output", "x"), data),
            "logvar": None if logvar == "none" else data,
            "mask": "*u8" if present.get("mask") else None,
            **dict.fromkeys(("mean", "posterior_logvar"), data if posterior else None),
            "reconstruction": "*fp32",
            **dict.fromkeys(("kl", "negative_elbo"), results),
            "partials": "*fp32" if present.get("partials") else None,
        },
        constants={
            "LIKELIHOOD": likelihood,
            "LOGVAR": logvar,
            "FAST": dtype != "fp32",
            "UNIT": unit,
            "LATENT_UNIT": 8,
            "BLOCK_ROWS": cut.block_rows,
            "BLOCK_COLUMNS": cut.block_columns,
            "BLOCK_LATENT": min(32, cut.block_columns),
            "UNROLL": cut.unroll,
        },
        num_warps=config.num_warps,
        load_bits=config.load_bits * BITS[dtype] // 32 if unit == 8 else 0,
    )


def row_score_builds(target: str) -> Iterator[Build]:
    for device, config in target_configs("row_scores", target):
        assert isinstance(config, RowScoreConfig)
        yield row_score_build(device, config, "bernoulli", "bf16", 784)
        yield row_score_build(device, config, "bernoulli", "fp32", 784, mask=True, posterior=True)
        yield row_score_build(device, config, "bernoulli", "bf16", 12288, partials=True)
        yield row_score_build(device, config, "gaussian", "fp32", 784, "row", mask=True, posterior=True)
        yield row_score_build(device, config, "gaussian", "bf16", 101, "shared", posterior=True)
        yield row_score_build(device, config, "squared_error", "fp32", 30)
        yield row_score_build(device, config, "laplace", "fp32", 784, "row", mask=True)
        yield row_score_build(device, config, "continuous_bernoulli", "bf16", 784)


def finish_builds(target: str) -> Iterator[Build]:
    for device, config in target_configs("row_scores", target):
        assert isinstance(config, RowScoreConfig)
        cut = row_pieces(12288, config)
        results = ("partials", "reconstruction", "kl", "negative_elbo")
        yield Build(
            name=f"{device} dim 12288 posterior",
            arguments={**dict.fromkeys(results, "*fp32"), **dict.fromkeys(("mean", "posterior_logvar"), "*bf16")},
            constants={
                "LATENT_UNIT": 8,
                "PIECES": cut.pieces,
                "BLOCK_ROWS": cut.block_rows,
                "BLOCK_LATENT": min(32, cut.block_columns),
            },
            num_warps=config.num_warps,
        )


def gradient_builds(target: str) -> Iterator[Build]:
    """Those of elbo_loss.gradient_kernel, which reads and writes rows as row_scores_kernel reads them."""
    for device, config in target_configs("row_scores", target):
        assert isinstance(config, RowScoreConfig)
        for likelihood, dtype, dim, logvar in (
            ("bernoulli", "bf16", 784, "none"),
            ("bernoulli", "fp32", 784, "none"),
            ("gaussian", "fp32", 784, "row"),
            ("gaussian", "bf16", 101, "shared"),
        ):
            cut, unit, data = row_pieces(dim, config), gemm.row_unit(dim), f"*{dtype}"
            wide = config.load_bits * BITS[dtype] // 32 if unit == 8 else 0
            yield Build(
                name=f"{device} {likelihood} {dtype} dim {dim} logvar {logvar}",
                arguments={
                    **dict.fromkeys(("output", "x", "of_output"), data),
                    **dict.fromkeys(("logvar", "of_logvar"), None if logvar == "none" else data),
                    **({"of_logvar": "*fp32"} if logvar == "shared" else {}),
                    "weight": "*fp32",
                    "mask": None,
                },
                constants={
                    "LIKELIHOOD": likelihood,
                    "LOGVAR": logvar,
                    "FAST": dtype != "fp32",
                    "UNIT": unit,
                    "BLOCK_ROWS": cut.block_rows,
                    "BLOCK_COLUMNS": cut.block_columns,
                },
                num_warps=config.num_warps,
                load_bits=wide,
                store_bits=wide,
            )


KERNELS: dict[str, tuple[Builder, ...]] = {
    "sample_normal.sample_kernel": (sample_builds,),
    "reparameterize.reparameterize_kernel": (reparameterize_builds,),
    "quantize_rows.quantize_rows_kernel": (quantize_builds,),
    "row_scores.row_scores_kernel": (row_score_builds,),
    "row_scores.finish_kernel": (finish_builds,),
    "head_scores.head_scores_kernel": (aot_scores.head_score_builds,),
    "categorical_nll.categorical_nll_kernel": (aot_scores.categorical_builds,),
    "elbo_loss.gradient_kernel": (gradient_builds,),
    "linear.linear_kernel": (aot_gemms.linear_builds, aot_gemms.linear_prior_builds),
    "linear_score.linear_score_kernel": (aot_gemms.linear_score_builds,),
    "gaussian_head.gaussian_head_kernel": (aot_latent.gaussian_head_builds,),
    "bottleneck.bottleneck_kernel": (aot_latent.bottleneck_builds,),
    "linear_score.add_pieces_kernel": (aot_gemms.add_pieces_builds,),
    "convolution.convolution_kernel": (aot_convolutions.convolution_builds,),
    "affine.affine_kernel": (aot_pointwise.affine_builds,),
    "logvar.logvar_kernel": (aot_pointwise.logvar_builds,),
    "to_bytes.to_bytes_kernel": (aot_pointwise.to_bytes_builds,),
    "channel_statistics.channel_statistics_kernel": (aot_images.statistics_builds,),
    "norm_affine.norm_affine_kernel": (aot_images.norm_affine_builds,),
    "attention.attention_kernel": (aot_images.attention_builds,),
    "norm_apply.norm_apply_kernel": (aot_images.norm_apply_builds,),
    "conv_score.conv_score_kernel": (aot_convolutions.conv_score_builds,),
    "conv_score.add_tiles_kernel": (aot_convolutions.add_tiles_builds,),
}
"""For each "<file of fastvae_kernels/triton>.<kernel>" what makes its builds for a target."""


def all_builds(target: str) -> list[Build]:
    """Every build for a target, those that cannot be or need not be made every time included."""
    found = [
        replace(build, target=target, kernel=kernel)
        for kernel, builders in KERNELS.items()
        for builder in builders
        for build in builder(target)
    ]
    if target == WHOLE:
        return found
    seen: set[str] = set()
    result = []
    for build in found:
        if not (build.impossible or build.extra):
            build = replace(build, extra=ALIKE) if build.kernel in seen else build
            seen.add(build.kernel)
        result.append(build)
    return result
