"""Make a linear layer's row bits independent of the row's place in its tile, for batch-invariant plans.

At a fixed number of rows a BLAS still treats rows differently where memory is not aligned: with 3 outputs, or
rows of 33 floats, the same row gives other bits at other places of the same tile. With both widths padded to
a multiple of ALIGNMENT every row of every matrix starts on a cache line, and the difference is gone.
"""

from __future__ import annotations

import torch.nn.functional as F

from fastvae.plan.passes._rewrite import rebuilt
from fastvae.plan.plan import Plan, Step

ALIGNMENT = 16


def align_linear(plan: Plan) -> Plan:
    """The plan with zero columns before and zero rows after each linear layer whose widths are not aligned."""
    weights, shapes, steps = dict(plan.weights), dict(plan.shapes), list[Step]()
    for step in plan.steps:
        if step.op != "linear":
            steps.append(step)
            continue
        x, weight_name, bias_name = (str(name) if name else None for name in step.inputs)
        residual = step.keywords.get("residual")
        out_features, in_features = weights[str(weight_name)].shape
        extra_in, extra_out = -in_features % ALIGNMENT, -out_features % ALIGNMENT
        output = step.outputs[0]
        if extra_in:
            steps.append(Step("pad", (x,), (f"{output}.input",), {"columns": extra_in}))
            x = f"{output}.input"
            shapes[x] = (in_features + extra_in,)
        padded = f"d:{output}.weight", f"d:{output}.bias" if bias_name else None
        weights[padded[0]] = F.pad(weights[str(weight_name)], (0, extra_in, 0, extra_out))
        if padded[1]:
            weights[padded[1]] = F.pad(weights[str(bias_name)], (0, extra_out))
        wide = f"{output}.wide" if extra_out else output
        shapes[wide] = (out_features + extra_out,)
        if residual and extra_out:
            added = f"{output}.residual"
            steps.append(Step("pad", (residual,), (added,), {"columns": extra_out}))
            residual, shapes[added] = added, shapes[wide]
        keywords = {"residual": residual} if residual else {}
        steps.append(Step("linear", (x, *padded), (wide,), step.attributes, keywords))
        if extra_out:
            steps.append(Step("narrow", (wide,), (output,), {"columns": out_features}))
    return rebuilt(plan, steps, weights, shapes)
