"""The architectures of the embedded models.

Three models between them use every kind of layer a small VAE has: a perceptron over images, convolutions
with batch norm, and a table in raw units with a learned variance per feature. Likelihoods own their output
activation, so Bernoulli decoders end in logits.
"""

from __future__ import annotations

from fastvae.layers import Activation, BatchNorm, Conv2d, ConvTranspose2d, Flatten, Linear, Reshape, Stack
from fastvae.spec import Bernoulli, ModelSpec
from fastvae.training.tabular import heads, perceptron, tabular_spec


def digits_spec() -> ModelSpec:
    """A perceptron for 8x8 images in [0, 1]."""
    latent = 16
    return ModelSpec(
        input_shape=(1, 8, 8),
        latent_shape=(latent,),
        encoder=(Flatten(), *perceptron("encoder", (64, 128, 64))),
        posterior=heads(64, latent),
        decoder=(
            *perceptron("decoder", (latent, 64, 128)),
            Linear("decoder.logits", 128, 64),
            Reshape((1, 8, 8)),
        ),
        likelihood=Bernoulli(),
        name="digits",
    )


def mnist_spec() -> ModelSpec:
    """Convolutions and batch norm for 28x28 images in [0, 1]: 28 -> 14 -> 7 -> 4 and back.

    The dense layer after the latent is what makes samples legible: without it the prior has holes.
    """
    latent = 8
    return ModelSpec(
        input_shape=(1, 28, 28),
        latent_shape=(latent,),
        encoder=(
            *_down("encoder.block1", 1, 16),
            *_down("encoder.block2", 16, 32),
            *_down("encoder.block3", 32, 64),
            Flatten(),
            *perceptron("encoder", (64 * 4 * 4, 64)),
        ),
        posterior=heads(64, latent),
        decoder=(
            *perceptron("decoder", (latent, 96)),
            Linear("decoder.hidden2", 96, 48 * 4 * 4, bias=False),
            Reshape((48, 4, 4)),
            BatchNorm("decoder.norm", 48),
            Activation("relu"),
            *_up("decoder.block1", 48, 48, kernel=3),
            *_up("decoder.block2", 48, 32, kernel=4),
            *_up("decoder.block3", 32, 16, kernel=4),
            Conv2d("decoder.logits", 16, 1, (3, 3), padding=(1, 1)),
        ),
        likelihood=Bernoulli(),
        name="mnist",
    )


def breast_cancer_spec() -> ModelSpec:
    """A perceptron for 30 features in raw units: standardised on the way in, put back on the way out."""
    return tabular_spec(30, 6, (64, 32), name="breast_cancer")


def _down(prefix: str, before: int, after: int) -> Stack:
    """Half the height and width, rounded up."""
    convolution = Conv2d(f"{prefix}.conv", before, after, (3, 3), stride=(2, 2), padding=(1, 1), bias=False)
    return (convolution, BatchNorm(f"{prefix}.norm", after), Activation("relu"))


def _up(prefix: str, before: int, after: int, *, kernel: int) -> Stack:
    """Twice the height and width, less one with a kernel of 3."""
    convolution = ConvTranspose2d(
        f"{prefix}.conv", before, after, (kernel, kernel), stride=(2, 2), padding=(1, 1), bias=False
    )
    return (convolution, BatchNorm(f"{prefix}.norm", after), Activation("relu"))
