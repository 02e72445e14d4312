"""The shape of a row, and how a layer refuses what does not fit."""

from __future__ import annotations

from typing import TypeAlias

from fastvae.errors import WeightFormatError

Shape: TypeAlias = tuple[int, ...]


def check(condition: bool, message: str) -> None:
    """Raise WeightFormatError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise WeightFormatError(message)


def check_positive(owner: str, **sizes: int | Shape) -> None:
    """Raise WeightFormatError unless every size is positive."""
    for key, value in sizes.items():
        values = value if isinstance(value, tuple) else (value,)
        check(all(v > 0 for v in values), f"{owner}: {key} must be positive, got {value}")
