"""Verbs that give E[x|z] as the bytes of pixels: those that give its numbers, and a step that makes bytes of them.

Black is 0 and white 255. A byte has no NaN, so a second output says which rows had one.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from fastvae.errors import UnsupportedError
from fastvae.heads import Bernoulli, ContinuousBernoulli
from fastvae.layers import Shape
from fastvae.plan.plan import Plan, Step
from fastvae.spec import ModelSpec

# The verbs whose output is E[x|z], and each with bytes.
PIXEL_VERBS = {
    "decode": "decode_uint8",
    "decode_scaled": "decode_scaled_uint8",
    "generate": "generate_uint8",
    "reconstruct": "reconstruct_uint8",
}
MEAN_VERBS = {pixels: mean for mean, pixels in PIXEL_VERBS.items()}

# The verbs that draw latents, and what decodes those that something else has drawn.
DECODERS = {"generate": "decode", "generate_uint8": "decode_uint8"}

# Ops that make bytes, and marks of the rows with a NaN.
BYTE_OPS = ("to_bytes", "conv_image")
NAN = "nan"


def black_and_white(spec: ModelSpec) -> tuple[float, float] | None:
    """The values of black and white in what a model makes; None where nothing says which they are.

    Probabilities are from 0 to 1, whatever else the spec says.
    """
    return (0.0, 1.0) if isinstance(spec.likelihood, Bernoulli | ContinuousBernoulli) else spec.pixel_range


def pixel_shape(shape: Shape) -> Shape:
    """The shape of a row of bytes: images have their channels last, as image libraries have them."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def levels(spec: ModelSpec) -> dict[str, float]:
    """The scale and shift that take the model's black to 0 and its white to 1.

    Raises:
        UnsupportedError: nothing says which they are.
    """
    if (found := black_and_white(spec)) is None:
        raise UnsupportedError(
            f"uint8: nothing says which values are black and white in what this model makes (its likelihood is "
            f"{spec.likelihood.kind}, spec.pixel_range is None); take its floats and scale them, or give the spec the "
            "pixel_range that it was trained on"
        )
    low, high = found
    return {"scale": 1 / (high - low), "shift": 0.0 if low == 0 else -low / (high - low)}


def with_pixels(plan: Plan, spec: ModelSpec) -> Plan:
    """The plan of one of MEAN_VERBS' values, not yet improved by passes, for bytes.

    Raises:
        UnsupportedError: as :func:`levels`.
    """
    (output,) = plan.outputs
    step = Step("to_bytes", (output,), ("pixels", NAN), levels(spec))
    return replace(
        plan,
        verb=PIXEL_VERBS[plan.verb],
        steps=(*plan.steps, step),
        outputs=step.outputs,
        shapes={**plan.shapes, "pixels": pixel_shape(plan.shapes[output]), NAN: ()},
    )


def output_dtypes(plan: Plan, dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """The dtype of each output of a plan whose numbers are of ``dtype``."""
    made = {name: kind for name, kind in byte_outputs(plan).items() if name in plan.outputs}
    return tuple(made.get(name, dtype) for name in plan.outputs)


def byte_outputs(plan: Plan) -> dict[str, torch.dtype]:
    """The buffers of bytes and of marks, and their dtypes."""
    steps = (step for step in plan.steps if step.op in BYTE_OPS)
    return {name: kind for step in steps for name, kind in zip(step.outputs, (torch.uint8, torch.bool), strict=True)}
