"""Chain a fused head to the decoder's first layer: ``bottleneck`` hands z on without writing it."""

from __future__ import annotations

from typing import Final

from fastvae.plan.passes._rewrite import is_product, reader, rebuilt, rewrite
from fastvae.plan.passes.prune import prune
from fastvae.plan.plan import Plan, Step

# The widest layers that the kernel chains on every architecture: the outputs of a shipped tile, and four of the
# narrowest blocks of latents. Wider ones it would run as two kernels, with z in memory as before.
MAX_OUTPUTS: Final = 256
MAX_LATENT: Final = 64


def fuse_bottleneck(plan: Plan) -> Plan:
    """The plan with gaussian_head and the linear layer that alone reads its z as one step, if narrow enough."""
    return rewrite(plan, _fused)


def _fused(plan: Plan, index: int) -> Plan | None:
    head = plan.steps[index]
    after = reader(plan, head.outputs[0]) if head.op == "gaussian_head" else None
    if after is None or plan.steps[after].op != "linear" or not is_product(plan.steps[after]):
        return None
    linear = plan.steps[after]
    outputs, latent = plan.weights[str(linear.inputs[1])].shape
    if outputs > MAX_OUTPUTS or latent > MAX_LATENT:
        return None
    attributes = {**head.attributes, **linear.attributes}
    fused = Step("bottleneck", (*head.inputs, *linear.inputs[1:]), (linear.outputs[0], head.outputs[1]), attributes)
    return prune(rebuilt(plan, [fused if step is head else step for step in plan.steps if step is not linear]))
