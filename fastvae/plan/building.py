"""A plan under construction: steps added one by one, and layers translated to them.

Buffers are named for what they hold (``x``, ``mean``, ``logvar``, ``z``, ``output``, ...); those between layers are
numbered. The model's weights are called ``w:`` and their name, derived ones ``d:`` and what they are for, so that no
name a checkpoint uses can ever be taken for another.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fastvae.heads import GaussianHead
from fastvae.layers import (
    Activation,
    Affine,
    Attention,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    GroupNorm,
    Layer,
    Linear,
    Residual,
    Shape,
    Stack,
    Upsample,
)
from fastvae.model import Model
from fastvae.plan.plan import Plan, Step

# A convolution of each pixel by itself.
POINTWISE = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}


class Building:
    """The state of one translation: steps so far, shapes of buffers, the model's weights and derived ones.

    Its methods that add steps give the name of what those make.
    """

    def __init__(self, model: Model) -> None:
        self._condition = model.spec.condition
        self.steps: list[Step] = []
        self.shapes: dict[str, Shape] = {}
        self.weights: dict[str, Tensor] = {f"w:{name}": weight for name, weight in model.weights.items()}

    def plan(self, verb: str, outputs: tuple[str, ...]) -> Plan:
        """The plan of the steps so far; its inputs are the buffers that none of them makes."""
        made = {name for step in self.steps for name in step.outputs}
        inputs = tuple(name for name in self.shapes if name not in made)
        return Plan(verb, inputs, outputs, tuple(self.steps), self.weights, self.shapes)

    def input(self, name: str, shape: Shape) -> str:
        """A buffer that no step makes, but a caller."""
        self.shapes[name] = shape
        return name

    def condition(self) -> str:
        """The input that holds the condition."""
        assert self._condition is not None
        return self.input("condition", (self._condition.dim,))

    def step(
        self,
        op: str,
        inputs: tuple[str | None, ...],
        output: str | None,
        shape: Shape,
        attributes: Mapping[str, object] | None = None,
        keywords: Mapping[str, str] | None = None,
    ) -> str:
        """Add a step with one output, by default with a name of its own."""
        output = output or f"h{len(self.steps)}"
        self.shapes[output] = shape
        self.steps.append(Step(op, inputs, (output,), attributes or {}, keywords or {}))
        return output

    def stack(self, stack: Stack, name: str) -> str:
        """Add a stack of layers to the buffer ``name``."""
        for layer in stack:
            name = self._layer(layer, name)
        return name

    def head(self, head: GaussianHead, features: str, names: tuple[str, str]) -> tuple[str, ...]:
        """Mean and log-variance, under these names where steps of their own make them."""
        shape = head.output_shape(self.shapes[features])
        if head.layout == "separate":
            mean, raw = self.stack(head.mean, features), self.stack(head.scale, features)
        else:
            joint = self.stack(head.joint, features)
            mean, raw = f"{names[0]}_half", f"{names[1]}_half"
            self.shapes |= {mean: shape, raw: shape}
            self.steps.append(Step("split", (joint,), (mean, raw), {"layout": head.layout}))
        settings = {
            "parametrization": head.parametrization,
            "eps": head.eps,
            "minimum": head.logvar_min,
            "maximum": head.logvar_max,
        }
        plain = head.parametrization == "logvar" and head.logvar_min is None and head.logvar_max is None
        return mean, (raw if plain else self.step("logvar", (raw,), names[1], shape, settings))

    def _layer(self, layer: Layer, x: str) -> str:
        shape = layer.output_shape(self.shapes[x])
        match layer:
            case Linear():
                return self.step("linear", (x, *self._weight_bias(layer)), None, shape)
            case Conv2d() | ConvTranspose2d():
                return self.step(layer.kind, (x, *self._weight_bias(layer)), None, shape, _convolution(layer))
            case BatchNorm():
                return self.step("affine", (x, *self._batch_norm(layer)), None, shape)
            case Affine():
                return self.step("affine", (x, f"w:{layer.name}.scale", f"w:{layer.name}.shift"), None, shape)
            case Activation():
                settings = {"activation": layer.function, "alpha": layer.alpha}
                return self.step("affine", (x, None, None), None, shape, settings)
            case GroupNorm():
                inputs = (x, f"w:{layer.name}.weight", f"w:{layer.name}.bias")
                return self.step("group_norm", inputs, None, shape, {"groups": layer.num_groups, "eps": layer.eps})
            case Attention():
                return self._attention(layer, x)
            case Upsample():
                return self.step("upsample", (x,), None, shape, {"factor": layer.factor})
            case Residual():
                body, shortcut = self.stack(layer.body, x), self.stack(layer.shortcut, x)
                return self.step("add", (body, shortcut), None, shape)
            case _:
                return self.step("reshape", (x,), None, shape, {"shape": shape})

    def _attention(self, layer: Attention, x: str) -> str:
        """Its four linear maps are 1x1 convolutions."""
        shape = self.shapes[x]

        def projected(role: str, x: str) -> str:
            weight = f"d:{layer.name}.{role}"
            self.weights[weight] = self.weights[f"w:{layer.name}.{role}.weight"][:, :, None, None]
            bias = f"w:{layer.name}.{role}.bias" if layer.bias else None
            return self.step("conv2d", (x, weight, bias), None, shape, POINTWISE)

        q, k, v = (projected(role, x) for role in ("to_q", "to_k", "to_v"))
        return projected("to_out", self.step("attention", (q, k, v), None, shape, {"heads": layer.heads}))

    def _weight_bias(self, layer: Linear | Conv2d | ConvTranspose2d) -> tuple[str, str | None]:
        return f"w:{layer.name}.weight", f"w:{layer.name}.bias" if layer.bias else None

    def _batch_norm(self, layer: BatchNorm) -> tuple[str, str]:
        """Inference batch norm as scale and shift: (x - mean) / sqrt(var + eps) * weight + bias."""
        mean, var = (self.weights[f"w:{layer.name}.running_{key}"].double() for key in ("mean", "var"))
        scale = (var + layer.eps).rsqrt()
        if layer.affine:
            scale = scale * self.weights[f"w:{layer.name}.weight"].double()
        shift = -mean * scale
        if layer.affine:
            shift = shift + self.weights[f"w:{layer.name}.bias"].double()
        # One layer's tensors may serve two that differ in eps.
        names = f"d:{layer.name}.{len(self.steps)}.scale", f"d:{layer.name}.{len(self.steps)}.shift"
        self.weights |= dict(zip(names, (scale, shift), strict=True))
        return names


def _convolution(layer: Conv2d | ConvTranspose2d) -> dict[str, object]:
    window = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    if isinstance(layer, ConvTranspose2d):
        return window | {"padding": layer.padding, "output_padding": layer.output_padding}
    return window | {"padding": layer.paddings}
