"""What callers hand in, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastvae.errors import InputError
from fastvae.noise import check_count

Floats: TypeAlias = NDArray[np.float64]


def latents(name: str, z: Any, *, least: int = 1) -> Floats:
    """``z`` as float64 (rows, dims), what follows the rows flattened.

    Raises:
        InputError: no NumPy array of finite floats of at least two axes, or fewer than ``least`` rows.
    """
    if not isinstance(z, np.ndarray) or z.dtype.kind != "f" or z.ndim < 2:
        raise InputError(f"{name}: expected a NumPy array of floats (rows, ...), got {_found(z)}")
    if len(z) < least:
        raise InputError(f"{name}: expected at least {least} row{'s' * (least > 1)}, got {len(z)}")
    values = z.reshape(len(z), -1).astype(np.float64)
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise InputError(f"{name}: row {int(bad.argmax())} holds NaN or Inf; leave it out")
    return values


def factors(values: Any, rows: int) -> NDArray[Any]:
    """Known factors as an array (rows, factors), of the dtype that came in.

    Raises:
        InputError: another shape, NaN or Inf, or a factor with a single value.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iufb":
        raise InputError(f"factors: expected a NumPy array of numbers, got {_found(values)}")
    columns = values[:, None] if values.ndim == 1 else values
    if columns.ndim != 2 or len(columns) != rows or not columns.size:
        raise InputError(f"factors: expected shape ({rows}, factors), as many rows as latents, got {values.shape}")
    if not np.isfinite(columns).all():
        raise InputError("factors: hold NaN or Inf; leave those rows out")
    for index, column in enumerate(columns.T):
        if (column == column[0]).all():
            raise InputError(f"factors: factor {index} has one value in all rows; leave it out")
    return columns


def dimensions(dims: Any, count: int) -> list[int]:
    """Latent dimensions by index, all for None.

    Raises:
        InputError: none at all, or an index that there is not.
    """
    if dims is None:
        return list(range(count))
    if isinstance(dims, str) or not isinstance(dims, Sequence | np.ndarray) or not len(dims):
        raise InputError(f"dims: expected latent dimensions from 0 to {count - 1}, got {dims!r:.80}")
    return [check_count("dims", dim, most=count - 1) for dim in dims]


def number(name: str, value: Any) -> float:
    """``value``, if it is a finite number; InputError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise InputError(f"{name}: expected a finite number, got {value!r:.80}")
    return float(value)


def _found(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
