"""The layers a model is made of, as frozen dataclasses.

A layer knows the shape it makes of a row (channels first, no batch axis) and the tensors it needs, each
named ``<layer name>.<role>`` as PyTorch's state dicts do.
"""

from fastvae.layers.checks import Shape, check, check_positive
from fastvae.layers.convolutions import Conv2d, ConvTranspose2d
from fastvae.layers.elementary import Activation, Affine, BatchNorm, Flatten, Linear, Reshape
from fastvae.layers.images import Attention, GroupNorm, Upsample
from fastvae.layers.stack import (
    MAX_RESIDUAL_DEPTH,
    Layer,
    Residual,
    Stack,
    leaves,
    stack_shape,
    stack_tensors,
)

__all__ = [
    "MAX_RESIDUAL_DEPTH",
    "Activation",
    "Affine",
    "Attention",
    "BatchNorm",
    "Conv2d",
    "ConvTranspose2d",
    "Flatten",
    "GroupNorm",
    "Layer",
    "Linear",
    "Reshape",
    "Residual",
    "Shape",
    "Stack",
    "Upsample",
    "check",
    "check_positive",
    "leaves",
    "stack_shape",
    "stack_tensors",
]
