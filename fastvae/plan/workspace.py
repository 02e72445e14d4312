"""What the ops' references hold in memory besides operands and results, while they compute one step.

The plain PyTorch expressions of `fastvae_kernels.reference` make temporaries of their operands' size, and convolutions
on a CPU blocked copies of theirs (oneDNN's, as measured on an AVX2 machine). Kernels hold none that grow with the rows,
save a group norm's statistics, at most 12 KiB for each channel of a row, and attention's copies of images by rows.
Below float32 the references compute on float32 copies of what they read and write.
"""

from __future__ import annotations

import math

from fastvae.plan.plan import Plan, Step
from fastvae_kernels.reference.attention import SCORE_BYTES

# Temporaries at once, in rows of the parameters that are scored.
SCORES = {"bernoulli": 2, "gaussian": 4, "squared_error": 1}
# The same of the likelihoods that have no fused form.
LIKELIHOODS = {
    "laplace_nll": 2,
    "student_t_nll": 5,
    "continuous_bernoulli_nll": 3,
    "poisson_nll": 9,
    "negative_binomial_nll": 12,
    "categorical_nll": 3,
}
# The same for an activation, in rows of its result.
ACTIVATIONS = {"gelu": 1, "gelu_tanh": 1, "softplus": 1}
# And for the KL divergence, in rows of the mean.
DIVERGENCE = 3
# Channels that a blocked image holds side by side.
CHANNEL_BLOCK = 8


def workspace_bytes(plan: Plan, step: Step, element_bytes: int) -> int:
    """Bytes of a row that the step's reference holds at its worst moment, operands and results aside."""
    wide = max(4, element_bytes)
    copies = 0
    if element_bytes < wide and step.op not in ("join", "pad", "reshape", "sample_normal", "upsample"):
        names = [name for name in (*step.reads, *step.outputs) if name in plan.shapes]
        copies = sum(math.prod(plan.shapes[name]) for name in names if plan.shapes[name])
    return wide * (copies + _temporaries(plan, step, wide))


def _temporaries(plan: Plan, step: Step, wide: int) -> int:
    """Numbers a row, in the precision computed in, whose numbers have ``wide`` bytes."""
    match step.op:
        case "kl":
            return DIVERGENCE * _width(plan, step.inputs[0])
        case "bernoulli_nll" | "gaussian_nll":
            return SCORES[step.op.removesuffix("_nll")] * _width(plan, step.inputs[0])
        case op if op in LIKELIHOODS:
            return LIKELIHOODS[op] * _width(plan, step.inputs[0])
        case "squared_error":
            return SCORES["squared_error"] * _width(plan, step.inputs[0])
        case "linear_score":  # the output itself, and what scoring it takes
            return (1 + SCORES[step.attributes["likelihood"]]) * len(plan.weights[str(step.inputs[1])])
        case "conv_score":  # the same, and blocked copies
            output = _width(plan, step.inputs[3])
            return max(_width(plan, step.inputs[0]), (1 + SCORES[step.attributes["likelihood"]]) * output)
        case "gaussian_head" | "bottleneck":  # mean, log-variance, their clamp, and the divergence
            return (3 + DIVERGENCE) * len(plan.weights[str(step.inputs[1])])
        case "linear_prior":
            return plan.weights[str(step.inputs[0])].shape[1]
        case "conv2d":
            channels, *size = plan.shapes[step.outputs[0]]
            blocked = -(-channels // CHANNEL_BLOCK) * CHANNEL_BLOCK * math.prod(size)
            return max(_width(plan, step.inputs[0]), blocked)
        case "to_bytes":  # a copy
            return _width(plan, step.inputs[0])
        case "conv_image":  # as a convolution, whose result is then made bytes of
            height, width, channels = plan.shapes[step.outputs[0]]
            blocked = -(-channels // CHANNEL_BLOCK) * CHANNEL_BLOCK * height * width
            return max(_width(plan, step.inputs[0]), blocked) + channels * height * width
        case "conv_transpose2d":
            return max(_width(plan, step.inputs[0]), 2 * _width(plan, step.outputs[0]))
        case "group_norm":  # squares, or what its activation takes
            factor = ACTIVATIONS.get(step.attributes.get("activation", "identity"), 0)
            return max(1, factor) * _width(plan, step.outputs[0])
        case "attention":  # queries scaled, and a block's scores and result; many rows share a block
            pixels = [math.prod(plan.shapes[str(name)][1:]) for name in step.inputs[:2]]
            scores = min(int(step.attributes["heads"]) * math.prod(pixels), SCORE_BYTES // wide)
            return scores + _width(plan, step.inputs[0]) + _width(plan, step.outputs[0])
        case _:
            factor = ACTIVATIONS.get(step.attributes.get("activation", "identity"), 0)
            return factor * sum(_width(plan, name) for name in step.outputs)


def _width(plan: Plan, name: str | None) -> int:
    return math.prod(plan.shapes[str(name)])
