"""What kernels around a matrix product share: the product, the order of tiles, and how operands are laid out.

Every product is x @ weight.T with both operands contiguous along the inputs, accumulated in float32 from the first
input to the last by one program: a row's bits cannot depend on the rows beside it.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.noise import normals

__all__ = [
    "NARROW",
    "Operands",
    "ceil_div",
    "contiguous",
    "default_alpha",
    "dot",
    "on_tma",
    "operands",
    "product",
    "row_unit",
    "rows_of",
    "tile_origin",
    "unit_inner_stride",
]

NARROW = (torch.bfloat16, torch.float16, torch.float8_e4m3fn)


@triton.jit
def tile_origin(tile, row_tiles, column_tiles, GROUP_ROWS: tl.constexpr):
    """Row and column tile of the `tile`-th program: GROUP_ROWS row tiles share each column tile while it is cached."""
    group = tile // (GROUP_ROWS * column_tiles)
    first = group * GROUP_ROWS
    height = tl.minimum(row_tiles - first, GROUP_ROWS)
    within = tile - group * GROUP_ROWS * column_tiles
    return first + within % height, within // height


@triton.jit
def rows_of(base, first, count, stride, BLOCK: tl.constexpr):
    """Pointers [BLOCK, 1] to rows first.. of a matrix; those past `count` point at its last row."""
    row = tl.minimum(first + tl.arange(0, BLOCK).to(tl.int64), count - 1)
    return base + (row * stride)[:, None]


@triton.jit
def dot(a, b, acc, OPERANDS: tl.constexpr):
    """acc + a @ b.T, as OPERANDS, made by `operands`, says."""
    PRECISION: tl.constexpr = OPERANDS[2]
    PROMOTE: tl.constexpr = OPERANDS[3]
    WIDEN: tl.constexpr = OPERANDS[4]
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    if PROMOTE > 0:
        acc = tl.dot(a, tl.trans(b), acc, input_precision=PRECISION, max_num_imprecise_acc=PROMOTE)
    else:
        acc = tl.dot(a, tl.trans(b), acc, input_precision=PRECISION)
    return acc


@triton.jit
def product(x, weight, origin, shape, units, noise, SOURCE: tl.constexpr, OPERANDS: tl.constexpr, TILE: tl.constexpr):
    """Rows origin[0].. of x times rows origin[1].. of weight, as a float32 tile [TILE[0], TILE[1]].

    x [n, inputs], weight [outputs, inputs]; shape is (n, outputs). units is (inputs, row stride of x, row stride of
    weight), counted in OPERANDS.unit elements, so that the compiler can see how far rows are aligned. SOURCE says
    where x comes from: "memory", pointers; "tma", where x and weight are tensor descriptors; "prior", where x is
    not read but row i of it is the noise of index start + i, and noise is (seed, start, stream). Rows and columns past
    the ends hold numbers to be ignored.
    """
    UNIT: tl.constexpr = OPERANDS[0]
    EVEN: tl.constexpr = OPERANDS[1]
    BLOCK_ROWS: tl.constexpr = TILE[0]
    BLOCK_COLUMNS: tl.constexpr = TILE[1]
    BLOCK_INPUTS: tl.constexpr = TILE[2]
    first_row, first_column = origin
    n, outputs = shape
    inputs = units[0] * UNIT
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    if SOURCE == "tma":
        for k in range(0, inputs, BLOCK_INPUTS):
            acc = dot(x.load([first_row, k]), weight.load([first_column, k]), acc, OPERANDS)
    else:
        at = tl.arange(0, BLOCK_INPUTS)[None, :]
        of_weight = rows_of(weight, first_column, outputs, tl.cast(units[2], tl.int64) * UNIT, BLOCK_COLUMNS)
        if SOURCE == "prior":
            seed, start, stream = noise
            index = (first_row + start + tl.arange(0, BLOCK_ROWS).to(tl.int64))[:, None]
            quad = tl.arange(0, BLOCK_INPUTS // 4)[None, :]
            for k in range(0, inputs, BLOCK_INPUTS):
                b = tl.load(of_weight + (k + at), mask=at < inputs - k, other=0.0)
                drawn = normals(index, quad + k // 4, seed, stream)
                a = tl.reshape(drawn, (BLOCK_ROWS, BLOCK_INPUTS)).to(b.dtype)
                acc = dot(a, b, acc, OPERANDS)
        else:
            of_x = rows_of(x, first_row, n, tl.cast(units[1], tl.int64) * UNIT, BLOCK_ROWS)
            for k in range(0, inputs, BLOCK_INPUTS):
                if EVEN:
                    a = tl.load(of_x + (k + at))
                    b = tl.load(of_weight + (k + at))
                else:
                    a = tl.load(of_x + (k + at), mask=at < inputs - k, other=0.0)
                    b = tl.load(of_weight + (k + at), mask=at < inputs - k, other=0.0)
                acc = dot(a, b, acc, OPERANDS)
    return acc


@lru_cache(maxsize=4096)
def row_unit(*sizes: int, largest: int = 8) -> int:
    """The largest power of two up to `largest` that divides all of a row's length and row strides."""
    unit = largest
    while any(size % unit for size in sizes):
        unit //= 2
    return unit


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up; Triton's own takes microseconds on the host."""
    return -(-a // b)


def unit_inner_stride(x: Tensor) -> Tensor:
    """`x` itself if its last axis is contiguous, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def contiguous(x: Tensor | None) -> Tensor | None:
    """An optional operand without gaps."""
    return None if x is None else x.contiguous()


def default_alpha(activation: str) -> float:
    """What alpha None means for leaky_relu and elu; of no account for the others."""
    return 0.01 if activation == "leaky_relu" else 1.0


def on_tma(*matrices: Tensor) -> bool:
    """Whether the copy engine can address all of these: 16-byte rows and bases, and row numbers of 32 bits."""
    if any(m.shape[0] >= 2**31 or m.numel() == 0 for m in matrices):
        return False
    return all((m.stride(0) * m.itemsize) % 16 == 0 and m.data_ptr() % 16 == 0 for m in matrices)


class Operands(NamedTuple):
    """How `product` may read and multiply its operands: constants of a kernel.

    unit: row lengths and strides are multiples of it. even: so are the inputs of the tile's. precision: "ieee" or
    "tf32" for float32. promote: how many products an fp8 matrix unit may add up before the sum moves to float32,
    0 for other dtypes. widen: multiply as float32, because Triton's interpreter, which runs kernels on CPU tensors,
    multiplies bfloat16 as if its bits were integers.
    """

    unit: int
    even: bool
    precision: str
    promote: int
    widen: bool


@lru_cache(maxsize=4096)
def _operands(
    inputs: int, x_stride: int, weight_stride: int, dtype: torch.dtype, cpu: bool, precision: str, block_inputs: int
) -> Operands:
    fp8 = dtype == torch.float8_e4m3fn
    return Operands(
        unit=row_unit(inputs, x_stride, weight_stride, largest=16 if fp8 else 8),
        even=inputs % block_inputs == 0,
        precision=precision if dtype == torch.float32 else "ieee",
        promote=min(block_inputs, 128) if fp8 else 0,
        widen=cpu and dtype == torch.bfloat16,
    )


def operands(x: Tensor, weight: Tensor, precision: str, block_inputs: int) -> Operands:
    """What the compiler may assume of x [n, inputs] and weight [outputs, inputs], both of unit inner stride."""
    cpu = weight.device.type == "cpu"
    return _operands(weight.shape[1], x.stride(0), weight.stride(0), weight.dtype, cpu, precision, block_inputs)
