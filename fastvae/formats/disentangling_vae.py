"""The disentangling-vae library (Burgess et al. 2018 architecture): a folder with ``model.pt`` and ``specs.json``.

Convolutions with 4x4 kernels, stride 2 and 32 channels halve the image to 4x4 (one more of them for
64x64 images), two linear layers of 256 follow; the decoder mirrors it. The two posterior parameters come
interleaved out of one linear layer. ``rec_dist`` decides the likelihood: ``bernoulli``, or ``gaussian``, whose
loss there is the squared error of pixels in 0..255 divided by 255, that is a variance of 1/510 on [0, 1].
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from fastvae.errors import UnsupportedError, WeightFormatError
from fastvae.formats._config import read_json_object
from fastvae.formats._torch import read_torch, state_dict_of
from fastvae.layers import Activation, Conv2d, ConvTranspose2d, Flatten, Linear, Reshape, Stack
from fastvae.model import Model
from fastvae.spec import Bernoulli, FixedGaussian, GaussianHead, Likelihood, ModelSpec

CHANNELS, HIDDEN, GRID = 32, 256, 4
RELU = Activation("relu")


def matches(path: Path) -> bool:
    """Whether ``path`` is a folder with ``model.pt`` and ``specs.json``."""
    return (path / "model.pt").is_file() and (path / "specs.json").is_file()


def read(path: Path) -> Model:
    """The model in a disentangling-vae folder, not yet checked against its spec.

    Raises:
        WeightFormatError: ``specs.json`` is malformed, or its values fit no model of that library.
        UnsafeFileError: ``model.pt`` is not a plain state dict.
        UnsupportedError: another ``model_type`` or ``rec_dist``.
    """
    spec = _spec(read_json_object(path / "specs.json"), path / "specs.json")
    return Model(spec, state_dict_of(read_torch(path / "model.pt"), path / "model.pt"))


def _spec(specs: dict[str, object], path: Path) -> ModelSpec:
    size, latent_dim = specs.get("img_size"), specs.get("latent_dim")
    if type(latent_dim) is not int or latent_dim < 1:
        raise WeightFormatError(f"{path}: latent_dim must be a positive integer, found {latent_dim!r}")
    if not (isinstance(size, list) and len(size) == 3 and all(type(n) is int and n > 0 for n in size)):
        raise WeightFormatError(f"{path}: img_size must be [channels, height, width], found {size!r}")
    channels, height, width = size
    if (height, width) not in ((32, 32), (64, 64)):
        raise WeightFormatError(f"{path}: the library knows 32x32 and 64x64 images, found {height}x{width}")
    model_type = specs.get("model_type", "Burgess")
    if model_type != "Burgess":
        raise UnsupportedError(f"{path}: model_type {model_type!r} is not supported; accepted: 'Burgess'")
    likelihood, ending = _likelihood(specs.get("rec_dist", "bernoulli"), path)
    name = str(specs.get("name", ""))
    return burgess_spec(channels, height, latent_dim, likelihood=likelihood, ending=ending, name=name)


def burgess_spec(
    channels: int,
    size: int,
    latent_dim: int,
    *,
    likelihood: Likelihood,
    ending: Stack = (),
    name: str = "",
) -> ModelSpec:
    """The architecture for images (channels, size, size) of 32 or 64 pixels; ``ending`` follows the last layer."""
    return ModelSpec(
        input_shape=(channels, size, size),
        latent_shape=(latent_dim,),
        encoder=_encoder(channels, size),
        posterior=GaussianHead("interleaved", joint=(Linear("encoder.mu_logvar_gen", HIDDEN, 2 * latent_dim),)),
        decoder=_decoder(latent_dim, channels, size) + ending,
        likelihood=likelihood,
        name=name,
    )


def _likelihood(rec_dist: object, path: Path) -> tuple[Likelihood, Stack]:
    """The likelihood, and what the decoder's logits still need to become its parameters."""
    if rec_dist == "bernoulli":
        return Bernoulli(), ()
    if rec_dist == "gaussian":
        return FixedGaussian(variance=1 / 510), (Activation("sigmoid"),)
    raise UnsupportedError(f"{path}: rec_dist {rec_dist!r} is not supported; accepted: 'bernoulli', 'gaussian'")


def _encoder(channels: int, height: int) -> Stack:
    names = ["conv1", "conv2", "conv3", *(["conv_64"] if height == 64 else [])]
    layers: list[Conv2d | Activation] = []
    for name in names:
        layers += [Conv2d(f"encoder.{name}", channels, CHANNELS, (4, 4), (2, 2), (1, 1)), RELU]
        channels = CHANNELS
    flat = CHANNELS * GRID * GRID
    return (
        *layers,
        Flatten(),
        Linear("encoder.lin1", flat, HIDDEN),
        RELU,
        Linear("encoder.lin2", HIDDEN, HIDDEN),
        RELU,
    )


def _decoder(latent_dim: int, channels: int, height: int) -> Stack:
    sizes = [latent_dim, HIDDEN, HIDDEN, CHANNELS * GRID * GRID]
    linears: list[Linear | Activation] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        linears += [Linear(f"decoder.lin{i}", fan_in, fan_out), RELU]
    names = [*(["convT_64"] if height == 64 else []), "convT1", "convT2"]
    upsampling: list[ConvTranspose2d | Activation] = []
    for name in names:
        upsampling += [
            ConvTranspose2d(f"decoder.{name}", CHANNELS, CHANNELS, (4, 4), (2, 2), (1, 1)),
            RELU,
        ]
    last = ConvTranspose2d("decoder.convT3", CHANNELS, channels, (4, 4), (2, 2), (1, 1))
    return (*linears, Reshape((CHANNELS, GRID, GRID)), *upsampling, last)
