"""Let an op apply the activation that follows it, so that the activation never makes a pass of its own."""

from __future__ import annotations

from dataclasses import replace

from fastvae.plan.plan import Plan, Step

FUSABLE = ("linear", "conv2d", "conv_transpose2d", "affine")


def fuse_activation(plan: Plan) -> Plan:
    """The plan with each pure activation moved into the step before it, where nothing else reads between them."""
    uses = plan.uses()
    steps: list[Step] = []
    for step in plan.steps:
        before = steps[-1] if steps else None
        if before and _is_activation(step) and _takes_activation(before, step) and uses[before.outputs[0]] == 1:
            attributes = {**before.attributes, **step.attributes}
            steps[-1] = replace(before, outputs=step.outputs, attributes=attributes)
        else:
            steps.append(step)
    read = {name for step in steps for name in (*step.inputs, *step.outputs)} | {*plan.inputs, *plan.outputs}
    return replace(
        plan, steps=tuple(steps), shapes={name: shape for name, shape in plan.shapes.items() if name in read}
    )


def _is_activation(step: Step) -> bool:
    return step.op == "affine" and step.inputs[1:] == (None, None)


def _takes_activation(before: Step, step: Step) -> bool:
    adds_residual = before.op == "linear" and len(before.inputs) > 3  # that comes after the op's own activation
    plain = before.attributes.get("activation", "identity") == "identity" and not adds_residual
    return before.op in FUSABLE and plain and before.outputs == step.inputs[:1]
