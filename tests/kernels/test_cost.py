"""FLOPs and bytes of the ops, against counts made by hand."""

import pytest
import torch

from fastvae_kernels.cost import Cost, flops, op_cost


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "expected"),
    [
        ("linear", [(7, 5), (3, 5), (3,)], [(7, 3)], 2 * 7 * 5 * 3),
        ("linear_score", [(7, 5), (3, 5), None, (7, 3)], [(7,)], 2 * 7 * 5 * 3),
        ("linear_prior", [(3, 5), (3,)], [(7, 3)], 2 * 7 * 5 * 3),
        ("gaussian_head", [(7, 5), (2, 5), None, (2, 5), None], [(7, 2), (7,)], 2 * 7 * 5 * 4),
        ("bottleneck", [(7, 5), (2, 5), None, (2, 5), None, (6, 2), None], [(7, 6), (7,)], 2 * 7 * (5 * 4 + 2 * 6)),
        ("conv2d", [(2, 3, 8, 8), (5, 3, 3, 3), (5,)], [(2, 5, 6, 6)], 2 * 2 * 5 * 36 * 27),
        ("conv2d_statistics", [(2, 3, 8, 8), (5, 3, 1, 1)], [(2, 5, 8, 8), (2, 1, 5, 2)], 2 * 2 * 5 * 64 * 3),
        ("conv_image", [(2, 3, 8, 8), (4, 3, 1, 1)], [(2, 8, 8, 4)], 2 * 2 * 4 * 64 * 3),
        ("conv_score", [(4, 3, 8, 8), (5, 3, 3, 3), None, (2, 5, 6, 6)], [(4,)], 2 * 4 * 5 * 36 * 27),
        ("conv_transpose2d", [(2, 3, 8, 8), (3, 5, 4, 4), None], [(2, 5, 16, 16)], 2 * 2 * 3 * 64 * 80),
        ("attention", [(2, 6, 3, 4), (2, 6, 5, 5), (2, 8, 5, 5)], [(2, 8, 3, 4)], 2 * 2 * 12 * 25 * (6 + 8)),
        ("group_norm", [(2, 6, 3, 4), (6,), (6,)], [(2, 6, 3, 4)], 2 * 6 * 3 * 4),
        ("channel_statistics", [(2, 6, 3, 4)], [(2, 3, 6, 2)], 2 * 6 * 3 * 4),
        ("norm_affine", [(2, 3, 6, 2), (6,), (6,)], [(2, 3, 6)], 2 * 3 * 6 * 2),
        ("norm_apply", [(2, 6, 3, 4), (2, 3, 6)], [(2, 6, 3, 4)], 2 * 6 * 3 * 4),
        ("reparameterize", [(7, 5), (7, 5)], [(7, 5), (7,)], 35),
        ("elbo", [(7, 5), (7, 5), (7, 2), (7, 2)], [(7,), (7,), (7,)], 35),
    ],
)
def test_flops(op: str, inputs: list[tuple[int, ...] | None], outputs: list[tuple[int, ...]], expected: int) -> None:
    assert flops(op, inputs, outputs) == expected


def test_bytes_are_every_operand_and_result_once() -> None:
    x, weight = torch.empty(7, 5, dtype=torch.bfloat16), torch.empty(3, 5, dtype=torch.bfloat16)
    out = torch.empty(7, 3, dtype=torch.float32, device="meta")
    assert op_cost("linear", [x, weight, None], [out]) == Cost(2 * 7 * 5 * 3, 2 * (35 + 15) + 4 * 21)
