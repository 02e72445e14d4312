"""Random specs for hypothesis: small VAEs of every kind of layer, head, likelihood and condition, oddly combined."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fastvae.layers import (
    Activation,
    Affine,
    Attention,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    GroupNorm,
    Layer,
    Linear,
    Reshape,
    Shape,
    Stack,
    Upsample,
    stack_shape,
)
from fastvae.spec import (
    Bernoulli,
    Condition,
    FixedGaussian,
    GaussianHead,
    Likelihood,
    ModelSpec,
    PerDimensionGaussian,
    PredictedGaussian,
)
from fastvae_kernels import ACTIVATIONS

# Per parametrization, a floor under the log-variance where it is steep: there no two orders of a sum would agree.
HEADS: tuple[dict[str, Any], ...] = (
    {},
    {"logvar_min": -0.2, "logvar_max": 0.2},
    {"logvar_max": 0.1},
    {"parametrization": "softplus_std", "eps": 1e-3},
    {"parametrization": "variance", "eps": 1.0, "logvar_min": -3.0},
)


@st.composite
def elementwise(draw: DrawFn, name: str, shape: Shape) -> Stack:
    """Up to three layers that keep ``shape``: affines, batch norms and activations, in any order."""
    layers: list[Layer] = []
    for index in range(draw(st.sampled_from((0, 0, 1, 2, 3)))):
        kind = draw(st.sampled_from(("norm", "affine", "channels", "activation")))
        if kind == "norm":
            layers.append(BatchNorm(f"{name}.n{index}", shape[0], affine=draw(st.booleans())))
        elif kind == "activation":
            layers.append(Activation(draw(st.sampled_from(ACTIVATIONS))))
        else:
            layers.append(Affine(f"{name}.a{index}", shape if kind == "affine" else shape[:1]))
    return tuple(layers)


@st.composite
def linears(draw: DrawFn, name: str, shape: Shape, outputs: int) -> Stack:
    """A linear layer from rows of any ``shape`` to ``outputs`` numbers, flattened on the way."""
    flatten: Stack = (Flatten(),) if len(shape) > 1 else ()
    between = draw(elementwise(f"{name}.in", (math.prod(shape),)))
    return (*flatten, *between, Linear(f"{name}.linear", math.prod(shape), outputs, bias=draw(st.booleans())))


@st.composite
def convolutions(draw: DrawFn, name: str, shape: Shape, channels: int) -> Stack:
    """From images of ``shape``: a convolution, its transpose, or an upsampling that may fold into the one after it.

    Or what keeps their shape: a group norm, or attention.
    """
    grouped = shape[0] % 2 == 0 and channels % 2 == 0 and draw(st.booleans())
    settings: dict[str, Any] = {"groups": 2 if grouped else 1, "bias": draw(st.booleans())}
    size, padding = draw(st.sampled_from(((1, 0), (3, 1), (2, 0), (2, 1))))
    kind = draw(st.sampled_from((Conv2d, ConvTranspose2d, Upsample)))
    if draw(st.integers(0, 3)) == 0:  # of one group, or of every channel its own; of one head or several
        number = draw(st.sampled_from((1, shape[0])))
        return (draw(st.sampled_from((GroupNorm, Attention)))(f"{name}.among", shape[0], number),)
    if kind is Upsample:
        factor, end = draw(st.sampled_from((2, 3))), draw(st.sampled_from((None, (0, 1), (1, 1))))
        sides: dict[str, Any] = {"padding": (1, 1), "padding_end": end, "bias": settings["bias"]}
        return Upsample(factor), Conv2d(f"{name}.conv", shape[0], channels, (3, 3), **sides)
    return (kind(f"{name}.conv", shape[0], channels, (size, size), padding=(padding, padding), **settings),)


@st.composite
def networks(draw: DrawFn, name: str, shape: Shape) -> Stack:
    """One to three products of either kind with elementwise layers between them."""
    stack: Stack = draw(elementwise(f"{name}.0", shape))
    for index in range(1, draw(st.integers(2, 4))):
        small = len(shape) == 1 or min(shape[1:]) < 3 or max(shape[1:]) > 6
        if small or draw(st.booleans()):
            product = draw(linears(f"{name}.{index}", shape, draw(st.integers(1, 5))))
        else:
            product = draw(convolutions(f"{name}.{index}", shape, draw(st.sampled_from((2, 3, 4)))))
        made = stack_shape(product, shape)
        stack, shape = (*stack, *product, *draw(elementwise(f"{name}.{index}", made))), made
    return stack


@st.composite
def last_product(draw: DrawFn, name: str, shape: Shape, output: Shape) -> Stack:
    """From features of ``shape`` to a row of shape ``output``: a linear layer or, of images, a convolution as well."""
    if len(shape) == 1 or draw(st.booleans()):
        reshape: Stack = (Reshape(output),) if len(output) > 1 else ()
        return (*draw(linears(name, shape, math.prod(output))), *reshape)
    image = output if len(output) == 3 else (*output, 1, 1)
    least = [max(0, -(-(made - size) // 2)) for size, made in zip(shape[1:], image[1:], strict=True)]
    padding = least[0] + draw(st.integers(0, 1)), least[1]
    size = tuple(have - made + 1 + 2 * pad for have, made, pad in zip(shape[1:], image[1:], padding, strict=True))
    conv = Conv2d(name, shape[0], image[0], (size[0], size[1]), padding=padding, bias=draw(st.booleans()))
    return (conv,) if image == output else (conv, Reshape(output))


@st.composite
def heads(draw: DrawFn, name: str, shape: Shape, output: Shape) -> GaussianHead:
    """A head from features of ``shape`` to a mean and a log-variance of ``output``; its stacks mostly look alike."""
    layout = draw(st.sampled_from(("separate", "chunked", "interleaved")))
    fields = draw(st.sampled_from(HEADS))

    fits = len(shape) == 3 and shape[1:] == output[1:]

    def stack(role: str, shape_made: Shape, convolution: bool, between: bool) -> Stack:
        if convolution:
            return (Conv2d(f"{name}.{role}", shape[0], shape_made[0], (3, 3), padding=(1, 1)),)
        reshape: Stack = (Reshape(shape_made),) if len(shape_made) > 1 else ()
        if between:
            return (*draw(linears(f"{name}.{role}", shape, math.prod(shape_made))), *reshape)
        flatten: Stack = (Flatten(),) if len(shape) > 1 else ()
        return (*flatten, Linear(f"{name}.{role}", math.prod(shape), math.prod(shape_made)), *reshape)

    kind = fits and draw(st.booleans()), draw(st.integers(0, 3)) == 0
    if layout == "separate":
        return GaussianHead(layout, mean=stack("mean", output, *kind), scale=stack("scale", output, *kind), **fields)
    return GaussianHead(layout, joint=stack("joint", (2 * output[0], *output[1:]), *kind), **fields)


@st.composite
def specs(draw: DrawFn) -> ModelSpec:
    """A whole model: flat rows or images, flat latents or images of them."""
    input_shape: Shape = draw(st.sampled_from(((1,), (4,), (5,), (2, 4, 4), (1, 3, 5), (4, 3, 3))))
    latent_shape: Shape = draw(st.sampled_from(((1,), (3,), (2, 3, 3), (2, 4, 4))))
    condition = draw(st.none() | st.builds(Condition, st.just(2), st.just(True), st.booleans()))
    x_shape, z_shape = input_shape, latent_shape
    if condition is not None:
        x_shape = condition.joined_shape(x_shape)
        z_shape = condition.joined_shape(z_shape) if condition.decoder else z_shape
    encoder = draw(networks("e", x_shape))
    posterior = draw(heads("q", stack_shape(encoder, x_shape), latent_shape))
    decoder = draw(networks("d", z_shape))
    features = stack_shape(decoder, z_shape)
    likelihood: Likelihood
    if draw(st.integers(0, 3)) == 0:
        likelihood = PredictedGaussian(draw(heads("p", features, input_shape)))
    else:
        likelihood = draw(st.sampled_from((Bernoulli(), FixedGaussian(0.5), PerDimensionGaussian())))
        last = draw(last_product("d.last", features, input_shape))
        decoder = (*decoder, *last, *draw(elementwise("d.out", input_shape)))
    return ModelSpec(input_shape, latent_shape, encoder, posterior, decoder, likelihood, condition)
