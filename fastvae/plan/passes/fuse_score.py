"""Score data against the decoder's last layer as it is computed: ``linear_score`` never writes its output.

Its data are flat rows, so images are flattened by a view, and so are a mask and a log-variance.
"""

from __future__ import annotations

import math

from torch import Tensor

from fastvae.layers import Shape
from fastvae.plan.passes._rewrite import is_linear, is_product, rebuilt, rewrite, source
from fastvae.plan.passes.prune import prune
from fastvae.plan.plan import Plan, Step

LIKELIHOODS = {"bernoulli_nll": "bernoulli", "gaussian_nll": "gaussian", "squared_error": "squared_error"}


def fuse_score(plan: Plan) -> Plan:
    """The plan with each linear layer whose output only a likelihood reads, of constant variance, fused into it."""
    return rewrite(plan, _fused)


def _fused(plan: Plan, index: int) -> Plan | None:
    score = plan.steps[index]
    before = source(plan, str(score.inputs[0])) if score.op in LIKELIHOODS else None
    if before is None or plan.steps[before].op != "linear" or not is_product(plan.steps[before]):
        return None
    linear = plan.steps[before]
    if score.op == "bernoulli_nll" and not is_linear(linear):
        return None
    logvar = score.inputs[1] if score.op == "gaussian_nll" else None
    if logvar is not None and logvar in plan.shapes:  # predicted, row by row
        return None
    data, mask = _data_mask(score)
    views = [_flattened(plan, name) for name in (data, mask) if name is not None]
    keywords = {} if mask is None else {"mask": views[1].outputs[0]}
    derived: dict[str, Tensor] = {}
    if logvar is not None:
        keywords["logvar"] = f"d:{score.outputs[0]}.logvar"
        value = plan.weights[logvar]
        derived[keywords["logvar"]] = value.flatten() if value.ndim else value
    attributes = {"likelihood": LIKELIHOODS[score.op], **linear.attributes}
    inputs = (*linear.inputs, views[0].outputs[0])
    fused = Step("linear_score", inputs, score.outputs, attributes, keywords)
    new = [view for view in views if view.outputs[0] not in plan.shapes]
    steps = [*plan.steps[:index], *new, fused, *plan.steps[index + 1 :]]
    shapes: dict[str, Shape] = {view.outputs[0]: view.attributes["shape"] for view in new}
    return prune(rebuilt(plan, [step for step in steps if step is not linear], derived, shapes))


def _data_mask(score: Step) -> tuple[str, str | None]:
    """The names of a likelihood's data and mask."""
    data, *mask = score.inputs[2:] if score.op == "gaussian_nll" else score.inputs[1:]
    return str(data), mask[0] if mask else None


def _flattened(plan: Plan, name: str) -> Step:
    """A view of ``name`` as flat rows; for what is flat already, one that is not needed and keeps the name."""
    shape = plan.shapes[name]
    flat = (math.prod(shape),)
    return Step("reshape", (name,), (name if shape == flat else f"{name}.rows",), {"shape": flat})
