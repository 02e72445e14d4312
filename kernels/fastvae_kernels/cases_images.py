"""Cases of the ops on images besides convolutions."""

from typing import Any

import torch

from .case_maker import Case, Maker

__all__ = ["attention", "channel_statistics", "group_norm", "norm_affine", "norm_apply"]


def group_norm(
    shape: tuple[int, ...],
    groups: int,
    *,
    mean: float = 0.0,
    weight: bool = True,
    bias: bool = True,
    out_scale: float | None = None,
    **options: Any,
) -> Case:
    """out_scale: as of `norm_apply`."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        return {
            "x": make.normal(*shape, scale=2.0) + mean,
            "weight": make.normal(shape[1]) if weight else None,
            "bias": make.normal(shape[1]) if bias else None,
            "groups": groups,
            "out_scale": None if dtype == torch.float64 else out_scale,
            **options,
        }

    return case


def channel_statistics(shape: tuple[int, ...], *, mean: float = 0.0, **options: Any) -> Case:
    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        return {"x": Maker(dtype, device).normal(*shape, scale=2.0) + mean, **options}

    return case


def norm_affine(
    n: int, channels: int, counts: tuple[int, ...], *, weight: bool = True, rest: bool = False, **options: Any
) -> Case:
    """Statistics of blocks of `counts` pixels, which become an argument unless `options` have `block`."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make, wide = Maker(dtype, device), Maker(torch.float64 if dtype == torch.float64 else torch.float32, device)
        m2 = wide.unit(n, len(counts), channels) * torch.tensor(counts, device=device)[:, None]
        parts = [wide.normal(n, len(counts), channels), m2, wide.normal(n, len(counts), channels, scale=1e-7)]
        given = {} if "block" in options else {"counts": torch.tensor(counts, device=device)}
        return {
            "statistics": torch.stack(parts[: 2 + rest], 3),
            "weight": make.normal(channels) if weight else None,
            "bias": make.normal(channels) if weight else None,
            "pixels": sum(counts),
            **given,
            **options,
        }

    return case


def norm_apply(shape: tuple[int, ...], *, out_scale: float | None = None, **options: Any) -> Case:
    """out_scale: the result is of 8 bits, but for the case in float64."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        wide = Maker(torch.float64 if dtype == torch.float64 else torch.float32, device)
        tensors = {"x": Maker(dtype, device).normal(*shape), "affine": wide.normal(shape[0], 3, shape[1])}
        return {**tensors, "out_scale": None if dtype == torch.float64 else out_scale, **options}

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
