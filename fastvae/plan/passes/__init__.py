"""Passes: small pure functions from a plan to a plan with the same outputs, one file each."""

from fastvae.plan.passes.align_linear import align_linear
from fastvae.plan.passes.cast import cast
from fastvae.plan.passes.choose_layout import choose_layout
from fastvae.plan.passes.fold_affine import fold_affine
from fastvae.plan.passes.fold_input_affine import fold_input_affine
from fastvae.plan.passes.fold_upsample import fold_upsample
from fastvae.plan.passes.fold_value import fold_value
from fastvae.plan.passes.fuse_activation import fuse_activation
from fastvae.plan.passes.fuse_bottleneck import fuse_bottleneck
from fastvae.plan.passes.fuse_head import fuse_head
from fastvae.plan.passes.fuse_pixels import fuse_pixels
from fastvae.plan.passes.fuse_prior import fuse_prior
from fastvae.plan.passes.fuse_residual import fuse_image_residual, fuse_residual
from fastvae.plan.passes.fuse_score import fuse_score
from fastvae.plan.passes.fuse_statistics import fuse_statistics
from fastvae.plan.passes.merge_heads import merge_heads
from fastvae.plan.passes.prune import prune
from fastvae.plan.passes.rescale import rescale
from fastvae.plan.passes.use_tf32 import use_tf32

__all__ = [
    "FUSED_PASSES",
    "IMAGE_PASSES",
    "PASSES",
    "align_linear",
    "cast",
    "choose_layout",
    "fold_affine",
    "fold_input_affine",
    "fold_upsample",
    "fold_value",
    "fuse_activation",
    "fuse_bottleneck",
    "fuse_head",
    "fuse_image_residual",
    "fuse_pixels",
    "fuse_prior",
    "fuse_residual",
    "fuse_score",
    "fuse_statistics",
    "merge_heads",
    "prune",
    "rescale",
    "use_tf32",
]

# In this order: affines fold backwards before activations stand in their way, and forwards once merged heads have left
# them a single reader.
PASSES = (
    prune,
    fold_affine,
    fold_upsample,
    fold_value,
    fuse_activation,
    fuse_residual,
    merge_heads,
    fold_input_affine,
)
# For kernels of image ops; they keep a row's bits its own.
IMAGE_PASSES = (fuse_image_residual, fuse_pixels, choose_layout, fuse_statistics)
# Into ops that compute more in one launch than any layer does; worth it where those have kernels of their own.
FUSED_PASSES = (fuse_head, fuse_bottleneck, fuse_score, fuse_prior)
