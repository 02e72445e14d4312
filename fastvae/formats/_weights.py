"""Reads the tensors of a file by its suffix, through the readers that trust nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastvae.errors import WeightMismatchError
from fastvae.formats._safetensors import read_safetensors
from fastvae.formats._torch import read_torch, state_dict_of
from fastvae.layers import Shape
from fastvae.spec import DTYPE_BYTES, DType

__all__ = ["TORCH_SUFFIXES", "WEIGHT_SUFFIXES", "common_dtype", "read_tensors", "shape_of", "widened"]

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
WEIGHT_SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in the ``.safetensors`` file, or the state dict in the PyTorch file, at ``path``.

    Raises:
        InputError, WeightFormatError, UnsafeFileError: see the two readers.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path).tensors
    return state_dict_of(read_torch(path), path)


def common_dtype(weights: Mapping[str, Tensor]) -> DType:
    """The dtype of all ``weights``; of several the widest, so that those of another are only loaded by a cast.

    Float16 and bfloat16 side by side make float32, and so does anything that is no float.
    """
    found = {str(weight.dtype).removeprefix("torch.") for weight in weights.values()}
    for name in ("float64", "float32", "float16", "bfloat16"):
        if found == {name}:
            return name
    return "float64" if "float64" in found and found <= DTYPE_BYTES.keys() else "float32"


def widened(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ``weights``, those of 16 bits as float32, which holds their values exactly."""
    narrow = (torch.float16, torch.bfloat16)
    return {name: weight.float() if weight.dtype in narrow else weight for name, weight in weights.items()}


def shape_of(weights: Mapping[str, Tensor], name: str, rank: int, source: Path) -> Shape:
    """The shape of a tensor that a model's shapes are inferred from.

    Raises:
        WeightMismatchError: there is none of that name, it has another rank than ``rank``, or no elements.
    """
    if name not in weights:
        raise WeightMismatchError(f"{source}: expected a tensor {name!r}, found none")
    shape = tuple(weights[name].shape)
    if len(shape) != rank or 0 in shape:
        raise WeightMismatchError(f"{source}: tensor {name!r}: expected {rank} dimensions, none empty, found {shape}")
    return shape
