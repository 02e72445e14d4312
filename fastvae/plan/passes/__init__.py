"""Passes: small pure functions from a plan to a plan with the same outputs, one file each."""

from fastvae.plan.passes.align_linear import align_linear
from fastvae.plan.passes.cast import cast
from fastvae.plan.passes.fold_affine import fold_affine
from fastvae.plan.passes.fuse_activation import fuse_activation
from fastvae.plan.passes.fuse_residual import fuse_residual
from fastvae.plan.passes.prune import prune

__all__ = ["align_linear", "cast", "fold_affine", "fuse_activation", "fuse_residual", "prune"]
