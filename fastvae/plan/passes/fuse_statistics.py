"""Let a convolution take the statistics that the group norm after it needs, from the tile it has on chip.

A group norm reads its image twice: for mean and variance, and to apply them. The first of these passes goes.
"""

from __future__ import annotations

import math
from dataclasses import replace

from fastvae.plan.passes._rewrite import rebuilt, rewrite
from fastvae.plan.plan import Plan, Step

# Pixels of a block: the most that the kernel takes, and the fewest statistics to merge.
BLOCK = 128
# Of fewer, statistics are hardly less to read than the image.
LEAST_PIXELS = 16


def fuse_statistics(plan: Plan) -> Plan:
    """The plan with each ``group_norm`` of what a ``conv2d`` has made applied by statistics from there."""
    return rewrite(plan, _fused)


def _fused(plan: Plan, index: int) -> Plan | None:
    norm = plan.steps[index]
    if norm.op != "group_norm":
        return None
    image = str(norm.inputs[0])
    before = plan.maker(image)
    if before is None or plan.steps[before].op not in ("conv2d", "conv2d_statistics"):
        return None
    channels, *size = plan.shapes[image]
    if math.prod(size) < LEAST_PIXELS:
        return None
    conv = plan.steps[before]
    if conv.op == "conv2d":
        conv = replace(
            conv,
            op="conv2d_statistics",
            outputs=(image, f"{image}.statistics"),
            attributes={**conv.attributes, "block": BLOCK},
        )
    inputs = (image, conv.outputs[1], *norm.inputs[1:])
    steps = list(plan.steps)
    steps[before] = conv
    steps[index] = Step("normalize", inputs, norm.outputs, {**norm.attributes, "block": BLOCK})
    return rebuilt(plan, steps, shapes={conv.outputs[1]: (-(-math.prod(size) // BLOCK), channels, 2)})
