"""From a model and a verb to a plan.

The builder translates layer by layer, one step each, and leaves every improvement to the passes. Buffers
are named for what they hold (``x``, ``mean``, ``logvar``, ``z``, ``output``, ...); those between layers are numbered.
The model's weights are called ``w:`` and their name, derived ones ``d:`` and what they are for, so that no name a
checkpoint uses can ever be taken for another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fastvae.errors import UnsupportedError
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
from fastvae.plan.heads import LikelihoodSteps
from fastvae.plan.passes import FUSED_PASSES, IMAGE_PASSES, PASSES, align_linear, cast, merge_heads, use_tf32
from fastvae.plan.plan import Plan, Step
from fastvae.plan.scaled import PLAIN_VERBS, SCALED_VERBS, with_scaling
from fastvae.spec import GaussianHead, PointHead

VERBS = (
    "encode",
    "embed",
    "decode",
    "parameters",
    "generate",
    "reconstruct",
    "score",
    "squared_error",
    "impute",
    "kl",
    "elbo",
    "distance",
)

# Clamped to the log-variance of a point.
POINT = {"parametrization": "logvar", "eps": 0.0, "minimum": -math.inf, "maximum": -math.inf}

# A convolution of each pixel by itself.
POINTWISE = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}

# Those whose plans, of a model that fits images of any size, do so too: no step or constant knows a size.
SIZE_FREE_VERBS = ("encode", "embed", "decode", "parameters", "reconstruct", *SCALED_VERBS.values())

# What runs a plan: the ops' PyTorch references, an ONNX graph, or Triton kernels where an op has one.
Target: TypeAlias = Literal["reference", "onnx", "triton"]


def build_plan(
    model: Model,
    verb: str,
    *,
    target: Target = "reference",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    batch_invariant: bool = False,
    tf32: bool = False,
    share: Callable[[Tensor], Tensor] | None = None,
) -> Plan:
    """The optimised plan of one verb; with ``batch_invariant`` in a form whose row bits depend on the row alone.

    ``target`` is what will run it. For ``triton``, ops that span several layers (``gaussian_head``, ``bottleneck``,
    ``linear_score``, ``conv_score``, ``linear_prior``) replace those layers: their references are no faster than the
    layers, their kernels are. In batch-invariant mode they do not, because each layer keeps the form that is known to
    be so. Images keep their channels innermost there, see ``choose_layout``. For ``onnx``, heads stay products of
    their own: splitting a joint one costs a copy where views cannot be handed on.

    ==============  =====================  =======================================================
    verb            inputs                 outputs
    ==============  =====================  =======================================================
    encode          x                      mean, logvar of the posterior
    embed           x                      mean
    decode          z                      output, the mean of p(x|z)
    parameters      z                      logits; or the mean of x, and its log-variance if predicted
    generate        (seed, start)          output
    reconstruct     x                      output, decoded from the posterior mean
    score           z, x                   nll, -log p(x|z)
    squared_error   z, x                   squared_error, summed over a row
    impute          z, x, mask             nll over the entries where mask is True; output
    kl              x                      kl, of the posterior to the prior
    elbo            x                      nll at the posterior mean; kl
    distance        x                      squared_error at the posterior mean
    ==============  =====================  =======================================================

    A conditional model's plans take ``condition`` as well. With ``tf32`` dense layers multiply in
    that precision. ``share`` lets plans hold equal weights once, see ``cast``.
    ``encode_scaled``, ``embed_scaled`` and ``decode_scaled`` give and take latents scaled by ``spec.latent_scaling``.

    Raises:
        UnsupportedError: an unknown verb, or a scaled one of a model that has no numbers to scale by; ``kl`` or
            ``elbo`` of a model whose prior is no N(0, I), or ``generate`` where z is not drawn from one.
    """
    plan = translate(model, verb)
    for improve in _passes(target, batch_invariant):
        plan = improve(plan)
    plan = use_tf32(plan) if tf32 else plan
    return cast(plan, dtype=dtype, device=device, share=share, innermost=target == "triton")


def _passes(target: Target, batch_invariant: bool) -> tuple[Callable[[Plan], Plan], ...]:
    passes = {
        "reference": PASSES,
        "onnx": tuple(improve for improve in PASSES if improve is not merge_heads),
        "triton": (*PASSES, *IMAGE_PASSES, *(() if batch_invariant else FUSED_PASSES)),
    }[target]
    return (*passes, align_linear) if batch_invariant else passes


def translate(model: Model, verb: str) -> Plan:
    """The plan of one verb as :func:`build_plan` has it before any pass: every layer a step, weights as they came.

    Raises:
        UnsupportedError: as :func:`build_plan`.
    """
    if verb in PLAIN_VERBS:
        return with_scaling(_Builder(model).build(PLAIN_VERBS[verb]), model.spec)
    return _Builder(model).build(verb)


class _Builder:
    """The state of one translation: steps so far, shapes of buffers, derived weights."""

    def __init__(self, model: Model) -> None:
        self.model, self.spec = model, model.spec
        self.steps: list[Step] = []
        self.shapes: dict[str, Shape] = {}
        self.weights: dict[str, Tensor] = {f"w:{name}": weight for name, weight in model.weights.items()}

    @property
    def likelihood(self) -> LikelihoodSteps:
        """What adds the likelihood's steps; not kept, for a cycle of references would keep the weights."""
        return LikelihoodSteps(self, self.spec.likelihood)

    def build(self, verb: str) -> Plan:
        outputs = getattr(self, f"_{verb}", None) if verb in VERBS else None
        if outputs is None:
            raise UnsupportedError(f"verb: expected one of {', '.join((*VERBS, *PLAIN_VERBS))}, got {verb!r}")
        self._check_prior(verb)
        names = outputs()
        made = {name for step in self.steps for name in step.outputs}
        inputs = tuple(name for name in self.shapes if name not in made)
        return Plan(verb, inputs, names, tuple(self.steps), self.weights, self.shapes)

    def _check_prior(self, verb: str) -> None:
        """Refuse verbs that no plan computes for a prior other than N(0, I)."""
        spec = self.spec
        if verb in ("kl", "elbo") and spec.prior is not None:
            raise UnsupportedError(
                f"{verb}: the divergence from a {spec.prior.kind} has no closed form, and so no plan; VAE.score makes "
                "it of draws and the plans 'encode' and 'score'"
            )
        if verb == "generate" and (drawn := spec.sampler or spec.prior) is not None:
            raise UnsupportedError(
                f"generate: draws from a {drawn.kind} ({drawn.name!r}) are no step of a plan; take 'decode', whose "
                "input is z, and draw z from the mixture, whose tensors VAE.save writes"
            )

    def _encode(self) -> tuple[str, ...]:
        h = self._joined(self._input("x", self.spec.input_shape), encoder=True)
        h = self.stack(self.spec.encoder, h)
        if isinstance(self.spec.posterior, PointHead):
            mean = self.stack(self.spec.posterior.mean, h)
            return mean, self.step("logvar", (mean,), "logvar", self.shapes[mean], POINT)
        return self.head(self.spec.posterior, h, ("mean", "logvar"))

    def _embed(self) -> tuple[str, ...]:
        return self._encode()[:1]

    def _decode(self) -> tuple[str, ...]:
        return (self._output(self._latent()),)

    def _parameters(self) -> tuple[str, ...]:
        return self._decoder(self._latent())

    def _generate(self) -> tuple[str, ...]:
        noise = self.step("sample_normal", (), "noise", (self.spec.latent_dim,), {"dim": self.spec.latent_dim})
        z = self.step("reshape", (noise,), "z", self.spec.latent_shape, {"shape": self.spec.latent_shape})
        return (self._output(z),)

    def _reconstruct(self) -> tuple[str, ...]:
        return (self._output(self._encode()[0], "x"),)

    def _score(self) -> tuple[str, ...]:
        z, x = self._latent(), self._input("x", self.spec.input_shape)
        return (self.likelihood.nll(self._decoder(z, x), x, None),)

    def _impute(self) -> tuple[str, ...]:
        z, x = self._latent(), self._input("x", self.spec.input_shape)
        mask = self._input("mask", self.spec.input_shape)
        parameters = self._decoder(z, x)
        return self.likelihood.nll(parameters, x, mask), self.likelihood.mean(parameters)

    def _squared_error(self) -> tuple[str, ...]:
        z, x = self._latent(), self._input("x", self.spec.input_shape)
        output = self._output(z, x)
        return (self.step("squared_error", (output, x), "squared_error", ()),)

    def _kl(self) -> tuple[str, ...]:
        return (self.step("kl", self._encode(), "kl", ()),)

    def _elbo(self) -> tuple[str, ...]:
        mean, logvar = self._encode()
        kl = self.step("kl", (mean, logvar), "kl", ())
        return self.likelihood.nll(self._decoder(mean, "x"), "x", None), kl

    def _distance(self) -> tuple[str, ...]:
        output = self._output(self._encode()[0], "x")
        return (self.step("squared_error", (output, "x"), "squared_error", ()),)

    def _input(self, name: str, shape: Shape) -> str:
        self.shapes[name] = shape
        return name

    def _latent(self) -> str:
        return self._input("z", self.spec.latent_shape)

    def _output(self, z: str, x: str | None = None) -> str:
        """E[x|z]."""
        return self.likelihood.mean(self._decoder(z, x))

    def _decoder(self, z: str, x: str | None = None) -> tuple[str, ...]:
        """The parameters of p(x|z) that depend on z; ``x`` are the rows, where the verb has some."""
        features = self.stack(self.spec.decoder, self._joined(z, encoder=False))
        return self.likelihood.parameters(features, x)

    def _joined(self, name: str, *, encoder: bool) -> str:
        condition = self.spec.condition
        if condition is None or not (condition.encoder if encoder else condition.decoder):
            return name
        return self.step("join", (name, self.condition()), None, condition.joined_shape(self.shapes[name]))

    def condition(self) -> str:
        """The input that holds the condition."""
        assert self.spec.condition is not None
        return self._input("condition", (self.spec.condition.dim,))

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

    def stack(self, stack: Stack, name: str) -> str:
        """Add a stack of layers to the buffer ``name``."""
        for layer in stack:
            name = self._layer(layer, name)
        return name

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

    def step(
        self,
        op: str,
        inputs: tuple[str | None, ...],
        output: str | None,
        shape: Shape,
        attributes: Mapping[str, object] | None = None,
        keywords: Mapping[str, str] | None = None,
    ) -> str:
        """Add a step with one output, by default with a name of its own, and give that."""
        output = output or f"h{len(self.steps)}"
        self.shapes[output] = shape
        self.steps.append(Step(op, inputs, (output,), attributes or {}, keywords or {}))
        return output


def _convolution(layer: Conv2d | ConvTranspose2d) -> dict[str, object]:
    window = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    if isinstance(layer, ConvTranspose2d):
        return window | {"padding": layer.padding, "output_padding": layer.output_padding}
    return window | {"padding": layer.paddings}
