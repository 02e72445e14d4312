"""Walking over a file's rows block by block: conditions, checks, and a progress bar."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastvae.errors import InputError
from fastvae.files import ReadOptions, Source, open_source, read_ahead
from fastvae.spec import ModelSpec

Rows = NDArray[Any]
BLOCK_BYTES = 32 * 2**20
MAX_BLOCK_ROWS = 4096
MIN_BLOCK_ROWS = 16
PATIENCE = 1.0


@dataclass(frozen=True)
class Block:
    """Consecutive rows, the index of the first, and their condition."""

    low: int
    values: Rows
    condition: Any

    @property
    def high(self) -> int:
        """The index after the last row."""
        return self.low + len(self.values)


def walk(source: Source, title: str, condition: Any = None, *, invalid: str = "raise") -> Iterator[Block]:
    """The rows of ``source`` in blocks, at least one, with a progress bar.

    Raises:
        InputError: a row holds NaN or Inf and ``invalid`` is ``raise``; the message counts rows as the file does.
    """
    size = block_rows(source)
    ranges = ((low, min(low + size, len(source))) for low in range(0, max(1, len(source)), size))
    with progress(title, len(source)) as advance, closing(read_ahead(source, ranges)) as blocks:
        for low, values in blocks:
            if invalid == "raise":
                check_finite(source, low, values)
            yield Block(low, values, condition_rows(condition, low, low + len(values)))
            advance(len(values))


def block_rows(source: Source) -> int:
    """Rows of a block."""
    width = math.prod(source.shape[1:])
    return max(MIN_BLOCK_ROWS, min(MAX_BLOCK_ROWS, BLOCK_BYTES // (4 * width)))


def check_finite(source: Source, low: int, values: Rows) -> None:
    """Refuse NaN and Inf in rows of which the first is number ``low``; InputError as :func:`refuse`."""
    advice = "; pass --invalid mask for a NaN result, or fill it with fastvae impute"
    refuse(source, low, ~np.isfinite(values), f"NaN or Inf{advice}")


def refuse(source: Source, low: int, bad: Rows, what: str) -> None:
    """Refuse rows, of which the first is number ``low`` of ``source``, if any entry of ``bad`` is True.

    Raises:
        InputError: one is; the message counts rows as the file does, and says ``what`` the row holds.
    """
    rows = bad.reshape(len(bad), math.prod(bad.shape[1:])).any(1)
    if rows.any():
        raise InputError(f"{source.path}: row {low + int(rows.argmax())} (the first is 0) holds {what}")


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives ``advance(rows)``, which draws a bar once work has taken PATIENCE seconds, if stderr is a terminal."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(title, total=total)
    begun, shown = time.monotonic(), False

    def advance(rows: int) -> None:
        nonlocal shown
        bar.advance(task, rows)
        if not shown and console.is_terminal and time.monotonic() - begun > PATIENCE:
            shown = True
            bar.start()

    try:
        yield advance
    finally:
        if shown:
            bar.stop()


def to_unit(images: Rows, pixel_range: tuple[float, float]) -> Rows:
    """Images whose black and white are ``pixel_range``, as a picture has them: from 0 to 1."""
    low, high = pixel_range
    return images if (low, high) == (0, 1) else (images - low) / (high - low)


def note(message: str) -> None:
    """Tell the user something that is no result: a line on stderr."""
    print(message, file=sys.stderr)


def read_condition(text: str | None, spec: ModelSpec, rows: int | None) -> Any:
    """What ``--condition`` asks for: None, a label, or an array of ``rows`` labels or vectors; of any number for None.

    Raises:
        InputError: a file that cannot be read, or one with another number of rows.
    """
    if text is None:
        return None
    if re.fullmatch("-?[0-9]{1,18}", text):
        return int(text)
    if not Path(text).exists():
        raise InputError(f"--condition: expected a label, 0 or more, or a file; there is no file {text!r:.200}")
    source = open_source(Path(text), ReadOptions(integers=True))
    values = source.block(0, len(source))
    rows = len(values) if rows is None else rows
    if len(values) != rows:
        raise InputError(f"--condition: {text} has {len(values)} rows, expected one per sample, {rows}")
    dtypes = source.dtypes or (values.dtype,)
    integers = all(dtype.kind in "iu" for dtype in dtypes)
    dim = 0 if spec.condition is None else spec.condition.dim
    if values.size == rows and dim > 1:
        if not integers:
            raise InputError(f"--condition: {text} must hold integer labels or {dim} numbers a row, found {dtypes[0]}")
        return values.reshape(rows).astype(np.int64)
    return values.astype(np.float32).reshape(rows, -1) if rows else values.astype(np.float32)


def condition_rows(condition: Any, low: int, high: int) -> Any:
    """The condition of rows low to high."""
    return condition[low:high] if isinstance(condition, np.ndarray) else condition
