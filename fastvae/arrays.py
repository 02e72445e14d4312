"""What callers hand in, checked and read block by block; what they get back, in the same kind.

NumPy in, NumPy out; a tensor in, a tensor out on the same device. Nothing here copies more than one
internal batch at a time, apart from results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fastvae.errors import InputError
from fastvae.layers import Shape
from fastvae.likelihoods import UNIT_INTERVAL, Support
from fastvae.runtime.batching import blocks

Array: TypeAlias = Any  # np.ndarray or torch.Tensor: whichever came in goes out
Invalid: TypeAlias = Literal["raise", "propagate", "mask"]
INVALID = ("raise", "propagate", "mask")
CHECK_ROWS = 4096


@dataclass(frozen=True)
class Rows:
    """A caller's rows: ``source`` of shape (rows, *shape), or flattened rows if ``flat``."""

    source: Any
    shape: Shape
    device: torch.device
    dtype: torch.dtype
    flat: bool

    def __len__(self) -> int:
        return len(self.source)

    def block(self, low: int, high: int) -> Tensor:
        """Rows low to high as a (high - low, *shape) tensor of the engine's device and dtype, to be read only.

        It may share the caller's memory.
        """
        part: Any = self.source[low:high]
        if isinstance(part, np.ndarray) and self._shareable(part):
            part = torch.from_numpy(part)
        elif isinstance(part, np.ndarray):
            # A copy: PyTorch can share neither read-only nor byte-swapped nor negatively strided memory.
            wide = self.host_dtype == torch.float64
            with np.errstate(over="ignore"):
                part = torch.from_numpy(np.array(part, dtype=np.float64 if wide else np.float32, order="C"))
        # What reads a tensor's memory does not see a sign that PyTorch has left for later.
        block: Tensor = part.detach().to(device=self.device, dtype=self.dtype).resolve_neg()
        return block.reshape(high - low, *self.shape)

    def _shareable(self, part: np.ndarray[Any, Any]) -> bool:
        """Whether ``part`` can be a tensor of the engine's dtype without a copy."""
        flags = part.flags
        same = part.dtype == np.float32 and part.dtype.isnative and self.dtype == torch.float32
        return same and flags.c_contiguous and flags.writeable and flags.aligned

    @property
    def on_host(self) -> bool:
        """Whether the rows are in host memory."""
        return isinstance(self.source, np.ndarray) or self.source.device.type == "cpu"

    @property
    def host_dtype(self) -> torch.dtype:
        """Dtype in which :meth:`read` copies: a tensor's own; of NumPy rows float32, or float64 if nothing is lost."""
        if isinstance(self.source, Tensor):
            return self.source.dtype
        return torch.float64 if self.source.dtype == np.float64 and self.dtype == torch.float64 else torch.float32

    def read(self, low: int, high: int, out: Tensor) -> None:
        """Write rows low to high of host memory to ``out``: (high - low, *shape) of ``host_dtype``, contiguous."""
        part = self.source[low:high]
        flat = out.view(part.shape)
        if isinstance(part, Tensor):
            flat.copy_(part.detach())
            return
        with np.errstate(over="ignore"):
            np.copyto(flat.numpy(), part, casting="same_kind")

    def like(self, result: Tensor) -> Array:
        """``result`` in the kind the rows came in."""
        return to_kind(result, self.source)

    def unflatten(self, result: Tensor, axes: int = 1) -> Tensor:
        """``result``, whose rows follow ``axes`` leading axes, with rows as flat as the caller's were."""
        return result.flatten(axes) if self.flat else result


def to_kind(result: Tensor, example: Any) -> Array:
    """``result`` as a NumPy array if ``example`` is one, else as a tensor on ``example``'s device."""
    return result.cpu().numpy() if isinstance(example, np.ndarray) else result.to(example.device)


def check_kind(kind: str) -> str:
    """``kind``, if it is ``numpy`` or ``torch``; InputError otherwise."""
    if kind not in ("numpy", "torch"):
        raise InputError(f"kind: expected 'numpy' or 'torch', got {kind!r}")
    return kind


def of_kind(result: Tensor, kind: str) -> Array:
    """``result`` as a NumPy array for ``numpy``, else as it is."""
    return result.cpu().numpy() if kind == "numpy" else result


def check_missing(x: Any, mask: Any) -> Tensor:
    """A copy of the caller's rows, in their shape and dtype, with NaN wherever an entry is missing.

    Raises:
        InputError: ``x`` is no array of floats, or ``mask`` no boolean array of its shape.
    """
    _check_floats("x", x)
    if mask is not None:
        if not isinstance(mask, np.ndarray | Tensor) or str(mask.dtype) not in ("bool", "torch.bool"):
            raise InputError(f"mask: expected a boolean array, got {getattr(mask, 'dtype', type(mask).__name__)}")
        _check_dense("mask", mask)
        if tuple(mask.shape) != tuple(x.shape):
            raise InputError(f"mask: expected the shape of x, {tuple(x.shape)}, got {tuple(mask.shape)}")
    # A copy in native byte order: PyTorch shares neither read-only nor byte-swapped memory.
    source = x.detach().clone() if isinstance(x, Tensor) else torch.from_numpy(x.astype(x.dtype.newbyteorder("=")))
    if mask is not None:
        hidden = mask if isinstance(mask, Tensor) else torch.from_numpy(np.array(mask))
        source[hidden.to(source.device)] = math.nan
    return source


def copies(source: Tensor, count: int) -> Tensor:
    """``count`` copies of the caller's rows: (count, *shape of ``source``).

    Raises:
        InputError: they do not fit in memory.
    """
    shape = (count, *source.shape)
    try:
        return source.expand(shape).clone()
    except RuntimeError as error:
        raise InputError(f"n_imputations: a result of shape {shape} does not fit in memory; ask for fewer") from error


def _check_dense(name: str, x: Any) -> None:
    if isinstance(x, Tensor) and (x.layout != torch.strided or x.is_nested):
        found = "a nested one" if x.is_nested else f"layout {x.layout}; call to_dense()"
        raise InputError(f"{name}: expected a dense tensor, got {found}")
    if isinstance(x, Tensor) and x.is_meta:
        raise InputError(f"{name}: is on meta, a tensor without numbers")


def _check_floats(name: str, x: Any) -> None:
    if not isinstance(x, np.ndarray | Tensor):
        raise InputError(f"{name}: expected a NumPy array or a torch tensor, got {type(x).__name__}")
    if isinstance(x, np.ma.MaskedArray):
        raise InputError(f"{name}: expected a plain array, got a masked one; impute takes x.filled(nan), or mask=")
    _check_dense(name, x)
    floating = x.is_floating_point() if isinstance(x, Tensor) else (x.dtype.kind == "f" and x.dtype.itemsize <= 8)
    if not floating:
        hint = "; divide pixels by 255 first" if str(x.dtype).endswith("uint8") else ""
        raise InputError(f"{name}: expected floats, got {x.dtype}{hint}")


def check_rows(
    name: str,
    x: Any,
    shape: Shape,
    *,
    device: torch.device,
    dtype: torch.dtype,
    supports: Sequence[Support] = (),
    invalid: str = "raise",
    missing: bool = False,
    advice: str = "; pass invalid='mask' for a NaN result or 'propagate' to let it through",
) -> Rows:
    """The caller's argument ``name`` as rows of ``shape``.

    Args:
        x: a NumPy array or tensor (rows, *shape), or (rows, prod(shape)) flattened; float16 to float64.
        supports: which values they may have, of what columns.
        invalid: what to do about rows with NaN or Inf: only ``raise`` looks for them here.
        missing: NaN marks missing entries, so only Inf is refused.
        advice: what a message about NaN and Inf ends with.

    Raises:
        InputError: another type, dtype, rank or shape; NaN, Inf or values out of range.
    """
    if invalid not in INVALID:
        raise InputError(f"invalid: expected one of {', '.join(map(repr, INVALID))}, got {invalid!r}")
    _check_floats(name, x)
    if isinstance(x, Tensor) and x.device.type not in ("cpu", device.type):
        raise InputError(f"{name}: is on {x.device} but the model is on {device}; move one of them")
    flat = x.ndim == 2 and len(shape) > 1 and x.shape[1] == math.prod(shape)
    if (not flat and tuple(x.shape[1:]) != shape) or x.ndim == 0:
        expected = ", ".join(map(str, ("rows", *shape)))
        hint = "; add a row axis with x[None]" if tuple(x.shape) == shape else ""
        raise InputError(f"{name}: expected shape ({expected}), got {tuple(x.shape)}{hint}")
    rows = Rows(x, shape, device, dtype, flat)
    if missing:
        advice = "; only NaN marks missing entries"
    _check_values(name, rows, supports=supports, invalid=invalid, missing=missing, advice=advice)
    return rows


def _check_values(
    name: str, rows: Rows, *, supports: Sequence[Support], invalid: str, missing: bool, advice: str
) -> None:
    if rows.device.type != "cpu" and rows.on_host:  # checked where they are, and copied to the device once
        rows = replace(rows, device=torch.device("cpu"))
    for low, high in blocks(len(rows), CHECK_ROWS):
        whole = rows.block(low, high)
        block = whole.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf) if missing else whole
        least, most = (float(value) for value in torch.aminmax(block))
        finite = math.isfinite(least) and math.isfinite(most)
        if not finite and invalid == "raise":
            bad = low + int((~torch.isfinite(block)).flatten(1).any(1).nonzero()[0])
            what = "Inf" if missing else "NaN or Inf"
            raise InputError(f"{name}: row {bad} holds {what}, or a value beyond {rows.dtype}{advice}")
        if supports == (UNIT_INTERVAL,) and finite and least >= 0.0 and most <= 1.0:
            continue
        for support in supports:
            outside = support.outside(whole, missing=missing)
            if bool(outside.any()):
                bad = int(outside.nonzero()[0])
                raise InputError(f"{name}: {support.refusal(whole[bad : bad + 1])}; row {low + bad}")


def invalid_rows(block: Tensor) -> Tensor:
    """Boolean (rows,): which rows hold NaN or Inf."""
    return ~torch.isfinite(block).flatten(1).all(1)


@dataclass(frozen=True)
class Conditions:
    """A checked condition: vectors (rows, dim), or one (1, dim) for all rows; None where the model takes none."""

    vectors: Tensor | None

    def block(self, low: int, high: int) -> Tensor | None:
        """Conditions of rows low to high: (high - low, dim)."""
        if self.vectors is None:
            return None
        if len(self.vectors) == 1:
            return self.vectors.expand(high - low, -1)
        return self.vectors[low:high]


def check_condition(
    condition: Any, rows: int, dim: int | None, *, device: torch.device, dtype: torch.dtype
) -> Conditions:
    """The argument ``condition`` for ``rows`` rows of a model whose condition has ``dim`` numbers (None: none).

    Floats of shape (rows, dim) or (dim,), one vector for all; or integer class labels, (rows,) or one for
    all, which become one-hot vectors.

    Raises:
        InputError: given to a model without condition, missing for one with, or of another shape or range.
    """
    if dim is None:
        if condition is not None:
            raise InputError("condition: this model is not conditional; leave condition out")
        return Conditions(None)
    if condition is None:
        raise InputError(f"condition: this model needs one: floats (rows, {dim}) or class labels 0..{dim - 1}")
    try:
        if isinstance(condition, Tensor):
            dense = condition.detach().cpu().resolve_neg()
            condition = (dense.double() if dense.is_floating_point() else dense).numpy()
        array = np.array(condition)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"condition: expected floats or integer labels, got {condition!r:.80}") from error
    if array.size == 0 and array.ndim == 1 and rows == 0:
        array = np.empty((0, dim))
    if array.dtype.kind not in "iuf":
        raise InputError(f"condition: expected floats or integer labels, got {array.dtype}")
    if array.dtype.kind != "f" and array.size and not (array.min() >= 0 and array.max() < dim):
        raise InputError(f"condition: labels must be one integer or (rows,) integers in 0..{dim - 1}")
    values = torch.from_numpy(array.astype(np.float64 if array.dtype.kind == "f" else np.int64))
    if not values.is_floating_point():
        if values.ndim > 1 or (values.numel() and not (int(values.min()) >= 0 and int(values.max()) < dim)):
            raise InputError(f"condition: labels must be one integer or (rows,) integers in 0..{dim - 1}")
        values = torch.nn.functional.one_hot(values.reshape(-1).long(), dim)
    elif values.ndim == 1:
        values = values[None]
    if values.ndim != 2 or values.shape[1] != dim or len(values) not in (1, rows):
        raise InputError(f"condition: expected ({rows}, {dim}), ({dim},) or integer labels, got shape {array.shape}")
    values = values.to(device=device, dtype=dtype)
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"condition: holds NaN or Inf, or a value beyond {dtype}")
    return Conditions(values)
