"""What a model *is*, without its weights: layers, posterior, likelihood and condition as frozen dataclasses.

A :class:`ModelSpec` is plain data: hashable, comparable, free of tensors, and equal to its JSON round trip
(:mod:`fastvae.spec_json`). Shapes are those of one row, channels first. Every object knows the shape it
makes and the tensors it needs, so a spec is checked whole when it is built and a checkpoint is checked
against it before a single weight is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from fastvae.heads import (
    Bernoulli,
    FixedGaussian,
    GaussianHead,
    GaussianMixture,
    Likelihood,
    PerDimensionGaussian,
    PointHead,
    PredictedGaussian,
    Prior,
    VampPrior,
)
from fastvae.layers import (
    Affine,
    Flatten,
    Linear,
    Reshape,
    Shape,
    Stack,
    check,
    check_positive,
    leaves,
    stack_shape,
    stack_tensors,
)
from fastvae.scaling import LatentScaling

__all__ = [
    "DTYPE_BYTES",
    "Bernoulli",
    "Condition",
    "DType",
    "FixedGaussian",
    "GaussianHead",
    "GaussianMixture",
    "Likelihood",
    "ModelSpec",
    "PerDimensionGaussian",
    "PointHead",
    "PredictedGaussian",
    "Prior",
    "VampPrior",
]

DType = Literal["float16", "bfloat16", "float32", "float64"]
# Of fields that a spec's JSON, and so a model's fingerprint, has only where they are not the default.
LEFT_OUT = {"left_out": True}
DTYPE_BYTES: dict[str, int] = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class Condition:
    """A condition vector of ``dim`` numbers a row, joined to the encoder's and/or the decoder's input.

    A flat input gets it appended; an image input gets it as ``dim`` more constant channels.
    """

    kind: ClassVar[str] = "condition"
    dim: int
    encoder: bool = True
    decoder: bool = True

    def __post_init__(self) -> None:
        check_positive("condition", dim=self.dim)
        check(self.encoder or self.decoder, "condition must join the encoder, the decoder or both")

    def joined_shape(self, shape: Shape) -> Shape:
        return (shape[0] + self.dim, *shape[1:])


@dataclass(frozen=True)
class ModelSpec:
    """A whole variational autoencoder; see the module docstring.

    ``latent_scaling`` says how a diffusion model has its latents; nothing applies it unasked. ``pixel_range`` are the
    values of black and white in its images; a Bernoulli likelihood has (0, 1), and None is unknown. ``prior`` is that
    of its latents, None for N(0, I). ``sampler`` is what ``generate`` draws from where it was fitted after training.

    Raises:
        WeightFormatError: shapes do not fit together, or one tensor name is used with two shapes.
    """

    kind: ClassVar[str] = "vae"
    input_shape: Shape
    latent_shape: Shape
    encoder: Stack
    posterior: GaussianHead | PointHead
    decoder: Stack
    likelihood: Likelihood
    condition: Condition | None = None
    dtype: DType = "float32"
    name: str = ""
    latent_scaling: LatentScaling | None = None
    pixel_range: tuple[float, float] | None = None
    prior: Prior | None = field(default=None, metadata=LEFT_OUT)
    sampler: GaussianMixture | None = field(default=None, metadata=LEFT_OUT)

    def __post_init__(self) -> None:
        check_positive("model", input_shape=self.input_shape, latent_shape=self.latent_shape)
        check(len(self.input_shape) in (1, 3), f"input_shape must be flat or an image, got {self.input_shape}")
        check(
            len(self.latent_shape) in (1, 3),
            f"latent_shape must be flat or an image, got {self.latent_shape}",
        )
        latent = self.posterior.output_shape(stack_shape(self.encoder, self.encoder_input_shape))
        check(
            latent == self.latent_shape,
            f"the posterior has shape {latent}, latent_shape says {self.latent_shape}",
        )
        output = self.likelihood.output_shape(stack_shape(self.decoder, self.decoder_input_shape))
        check(
            output == self.input_shape,
            f"the decoder makes shape {output}, input_shape says {self.input_shape}",
        )
        if self.latent_scaling is not None:
            self.latent_scaling.check_channels(self.latent_shape[0])
        if self.pixel_range is not None:
            low, high = self.pixel_range
            check(-math.inf < low < high < math.inf, f"pixel_range must be finite and ascending, got {low}, {high}")
        self._check_prior()
        self.tensors()

    def _check_prior(self) -> None:
        if isinstance(self.prior, GaussianMixture):
            check(
                self.prior.covariance == "diagonal",
                "prior: its covariance must be 'diagonal'; only a sampler's is full",
            )
        if isinstance(self.prior, VampPrior):
            joined = self.condition is not None and self.condition.encoder
            check(not joined, "prior: a vamp_prior needs an encoder without condition")
            check(isinstance(self.posterior, GaussianHead), "prior: a vamp_prior needs an encoder with variances")

    @property
    def any_size(self) -> bool:
        """Whether it takes images of other sizes: latents are images as well, and no tensor has the size of one."""
        if len(self.input_shape) != 3 or len(self.latent_shape) != 3 or self.mixtures():
            return False
        if self.condition is not None or not self.likelihood.any_size:
            return False
        layers = leaves(tuple(layer for stack in self.stacks() for layer in stack))
        return not any(
            isinstance(layer, Linear | Flatten | Reshape) or (isinstance(layer, Affine) and len(layer.shape) > 1)
            for layer in layers
        )

    def resized(self, height: int, width: int) -> ModelSpec:
        """The same model for images of another size, with the latents that go with it.

        Raises:
            WeightFormatError: it is not for images of any size, or this one does not come back as large as it was.
        """
        self._check_any_size()
        shape = (self.input_shape[0], height, width)
        check_positive("model", input_shape=shape)
        return replace(
            self, input_shape=shape, latent_shape=self.posterior.output_shape(stack_shape(self.encoder, shape))
        )

    def decoding(self, height: int, width: int) -> ModelSpec:
        """The same model for latents of another size, with the images that go with it.

        Raises:
            WeightFormatError: as :meth:`resized`; or no size of images has latents of this one.
        """
        self._check_any_size()
        shape = (self.latent_shape[0], height, width)
        check_positive("model", latent_shape=shape)
        sized = self.resized(*stack_shape(self.decoder, shape)[1:])
        check(
            sized.latent_shape == shape,
            f"no image has latents of shape {shape}: those of {sized.input_shape} have {sized.latent_shape}",
        )
        return sized

    def _check_any_size(self) -> None:
        check(self.any_size, f"the model takes rows of shape {self.input_shape} only")

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions of a row."""
        return math.prod(self.latent_shape)

    @property
    def encoder_input_shape(self) -> Shape:
        joins = self.condition is not None and self.condition.encoder
        return self.condition.joined_shape(self.input_shape) if self.condition and joins else self.input_shape

    @property
    def decoder_input_shape(self) -> Shape:
        joins = self.condition is not None and self.condition.decoder
        return self.condition.joined_shape(self.latent_shape) if self.condition and joins else self.latent_shape

    def stacks(self) -> tuple[Stack, ...]:
        """Every stack of layers of the model, in the order a row meets them."""
        return (self.encoder, *self.posterior.stacks(), self.decoder, *self.likelihood.stacks())

    def mixtures(self) -> tuple[Prior, ...]:
        """Prior and sampler, where they are not N(0, I)."""
        return tuple(mixture for mixture in (self.prior, self.sampler) if mixture is not None)

    def tensors(self) -> dict[str, Shape]:
        """Name and shape of every tensor the model needs."""
        needed = stack_tensors(tuple(layer for stack in self.stacks() for layer in stack))
        conditions = 0 if self.condition is None else self.condition.dim
        others = [self.likelihood.tensors(self.input_shape, conditions)]
        others += [mixture.tensors(self.latent_shape, self.input_shape) for mixture in self.mixtures()]
        for name, shape in [item for tensors in others for item in tensors.items()]:
            check(name not in needed, f"tensor {name!r} is used twice")
            needed[name] = shape
        return needed
