"""Cases of the convolutions."""

from typing import Any

import torch

from .case_maker import Case, Maker

__all__ = ["CONV", "CONV_STATISTICS", "CONV_TRANSPOSE"]


def _conv(
    shape: tuple[int, ...],
    outputs: int,
    kernel: tuple[int, int],
    *,
    transpose: bool = False,
    residual: tuple[int, int] | None = None,
    **options: Any,
) -> Case:
    """`shape` is x's; residual is the size of the output, if one is to be added."""

    def case(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        make = Maker(dtype, device)
        channels, groups = shape[1], options.get("groups", 1)
        first, second = (channels, outputs // groups) if transpose else (outputs, channels // groups)
        weight = make.normal(first, second, *kernel, scale=(channels * kernel[0] * kernel[1]) ** -0.5)
        tensors = {"x": make.normal(*shape), "weight": weight, "bias": make.normal(outputs)}
        if residual:
            tensors["residual"] = make.normal(shape[0], outputs, *residual)
        return {**tensors, **options}

    return case


CONV: dict[str, Case] = {
    "1x1": _conv((1, 1, 1, 1), 1, (1, 1)),
    "3x3": _conv((2, 3, 7, 9), 5, (3, 3), padding=(1, 1), activation="relu"),
    "stride": _conv((2, 4, 9, 8), 6, (4, 3), stride=(2, 3), padding=(1, 0), activation="silu"),
    "one_sided": _conv((2, 3, 8, 7), 5, (3, 3), stride=(2, 2), padding=(0, 0, 1, 1)),
    "groups": _conv((3, 6, 5, 5), 4, (3, 3), groups=2, dilation=(2, 1), padding=(2, 0)),
    "residual": _conv((3, 5, 4, 6), 7, (3, 3), residual=(4, 6), padding=(1, 1), activation="gelu"),
    "pointwise": _conv((3, 9, 4, 5), 6, (1, 1), residual=(4, 5), activation="tanh"),
}
CONV_STATISTICS: dict[str, Case] = {
    "1x1": _conv((2, 5, 1, 1), 9, (1, 1), block=1),
    "3x3": _conv((2, 3, 7, 9), 5, (3, 3), padding=(1, 1), activation="silu", block=16),
    "residual": _conv((2, 5, 4, 6), 7, (3, 3), residual=(2, 3), stride=(2, 2), padding=(0, 0, 1, 1), block=4),
    "groups": _conv((2, 4, 6, 4), 6, (1, 2), groups=2, block=128),
    "tiles": _conv((1, 1, 13, 11), 2, (2, 2), padding=(1, 1), block=32, activation="relu"),
}
CONV_TRANSPOSE: dict[str, Case] = {
    "1x1": _conv((1, 1, 1, 1), 1, (1, 1), transpose=True),
    "4x4": _conv((2, 3, 5, 6), 4, (4, 4), transpose=True, stride=(2, 2), padding=(1, 1), activation="relu"),
    "output_padding": _conv(
        (2, 4, 3, 5), 6, (3, 3), transpose=True, stride=(2, 1), padding=(1, 0), output_padding=(1, 0), groups=2
    ),
    "dilation": _conv((1, 2, 4, 4), 3, (3, 2), transpose=True, dilation=(2, 3), activation="sigmoid"),
    "apart": _conv((2, 3, 2, 3), 4, (2, 3), transpose=True, stride=(2, 1), dilation=(2, 3), activation="silu"),
    "residual": _conv((2, 3, 3, 2), 5, (3, 3), transpose=True, residual=(6, 4), stride=2, padding=1, output_padding=1),
}
