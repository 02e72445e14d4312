"""Cases of the ops on images besides convolutions."""

from typing import Any

import torch

from .case_maker import Case, Maker

__all__ = ["attention", "group_norm"]


def group_norm(
    shape: tuple[int, ...], groups: int, *, mean: float = 0.0, weight: bool = True, bias: bool = True, **options: Any
) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        return {
            "x": make.normal(*shape, scale=2.0) + mean,
            "weight": make.normal(shape[1]) if weight else None,
            "bias": make.normal(shape[1]) if bias else None,
            "groups": groups,
            **options,
        }

    return case


def attention(
    shape: tuple[int, ...],
    keys: tuple[int, int] | None = None,
    outputs: int | None = None,
    *,
    scale: float = 1.0,
    **options: Any,
) -> Case:
    """`shape` is q's; k's pixels and v's channels are q's where not given."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        n, channels, *pixels = shape
        others = keys or pixels
        q, k = make.normal(*shape, scale=scale), make.normal(n, channels, *others)
        return {"q": q, "k": k, "v": make.normal(n, outputs or channels, *others), **options}

    return case
