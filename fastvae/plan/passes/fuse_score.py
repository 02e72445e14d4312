"""Score data against the decoder's last layer as it is computed: its output is never written.

``linear_score`` has flat rows as data, so images are flattened by a view, and so are a mask and a log-variance.
``conv_score`` has images, which are read with their channels innermost where something has laid them so already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastvae.layers import Shape
from fastvae.plan.passes._rewrite import is_linear, is_product, rebuilt, rewrite, source
from fastvae.plan.passes.prune import prune
from fastvae.plan.plan import Plan, Step

LIKELIHOODS = {"bernoulli_nll": "bernoulli", "gaussian_nll": "gaussian", "squared_error": "squared_error"}
FUSED = {"linear": "linear_score", "conv2d": "conv_score"}


def fuse_score(plan: Plan) -> Plan:
    """The plan with each last layer whose output only a likelihood reads, of constant variance, fused into it.

    A convolution's variance is one number.
    """
    return rewrite(plan, _fused)


def _fused(plan: Plan, index: int) -> Plan | None:
    score = plan.steps[index]
    before = source(plan, str(score.inputs[0])) if score.op in LIKELIHOODS else None
    if before is None or not is_product(plan.steps[before]):
        return None
    last = plan.steps[before]
    attributes = _attributes(last)
    if attributes is None or (score.op == "bernoulli_nll" and not is_linear(last)):
        return None
    logvar = score.inputs[1] if score.op == "gaussian_nll" else None
    if logvar is not None and logvar in plan.shapes:  # predicted, row by row
        return None
    views = [_view(plan, name, last, index) for name in _data_mask(score)]
    keywords = dict(zip(("data", "mask"), (view.outputs[0] for view in views), strict=False))
    data = keywords.pop("data")
    derived: dict[str, Tensor] = {}
    if logvar is not None:
        value = plan.weights[logvar]
        if value.ndim and last.op == "conv2d":
            return None
        keywords["logvar"] = f"d:{score.outputs[0]}.logvar"
        derived[keywords["logvar"]] = value.flatten() if value.ndim else value
    inputs = (*last.inputs, data)
    fused = Step(FUSED[last.op], inputs, score.outputs, {"likelihood": LIKELIHOODS[score.op], **attributes}, keywords)
    new = [view for view in views if view.outputs[0] not in plan.shapes]
    steps = [*plan.steps[:index], *new, fused, *plan.steps[index + 1 :]]
    shapes: dict[str, Shape] = {view.outputs[0]: view.attributes["shape"] for view in new}
    return prune(rebuilt(plan, [step for step in steps if step is not last], derived, shapes))


def _attributes(last: Step) -> Mapping[str, Any] | None:
    """Those of the last layer that the fused op has as well; None if there is no such op."""
    if last.op == "linear":
        return last.attributes
    if last.op == "conv2d" and last.attributes["groups"] == 1:
        return {name: value for name, value in last.attributes.items() if name != "groups"}
    return None


def _data_mask(score: Step) -> list[str]:
    """The names of a likelihood's data and mask, where there is one."""
    names = score.inputs[2:] if score.op == "gaussian_nll" else score.inputs[1:]
    return [name for name in names if name is not None]


def _view(plan: Plan, name: str, last: Step, index: int) -> Step:
    """What the step at ``index`` reads ``name`` as: a view of the last layer's shape, or itself if it has that."""
    shape = plan.shapes[last.outputs[0]]
    if plan.shapes[name] != shape:
        made = f"{name}.rows" if last.op == "linear" else f"{name}.image"
        return Step("reshape", (name,), (made,), {"shape": shape})
    laid = [step.outputs[0] for step in plan.steps[:index] if step.op == "channels_last" and step.inputs == (name,)]
    return Step("reshape", (name,), (laid[0] if laid else name,), {"shape": shape})
