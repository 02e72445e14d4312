"""The two ways to a ``VAE``: ``load`` reads a checkpoint, ``from_modules`` takes over modules."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Literal

from torch import nn

from fastvae.api import VAE
from fastvae.arrays import Array
from fastvae.conversion import convert
from fastvae.embedded import resolve
from fastvae.errors import InputError
from fastvae.formats import read_checkpoint
from fastvae.formats.modules import LikelihoodArgument, PriorArgument
from fastvae.runtime import Settings
from fastvae.scaling import LatentScaling
from fastvae.spec import ModelSpec


def load(
    source: str | os.PathLike[str],
    *,
    format: str = "auto",
    spec: ModelSpec | str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    impl: str = "auto",
    batch_size: int | None = None,
    batch_invariant: bool = False,
    threads: int | None = None,
    arena: bool = True,
    cast: bool = False,
    allow_nonfinite: bool = False,
    max_memory: int | str | None = None,
    scaled_latents: bool | LatentScaling = False,
) -> VAE:
    """Load a trained model and get it ready to run.

    Args:
        source: the name of an embedded model (see :func:`fastvae.models`), or a checkpoint's file or folder.
            A name wins over a path of the same spelling; write ``./digits`` for the path.
        format: ``native``, ``disentangling-vae``, ``diffusers``, ``taesd``, ``ldm`` or ``state-dict``; ``auto``
            recognises it.
        spec: for the weights of any other library, a ModelSpec or a JSON file that describes them.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; ``auto`` is a GPU where there is one.
        precision: ``ieee`` (float32), ``tf32`` (float32 whose dense layers multiply in TF32, as fast GPUs do and CPUs
            imitate), ``bf16``, ``fp16``, ``fp8`` (bf16 whose convolutions after group norms multiply in 8 bits, where
            their measured error is small) or ``float64``; ``auto`` is ieee, or float64 for float64 weights. Sums
            accumulate in float32 or better. A verb that goes beyond the range of bf16 or fp16 raises NumericsError.
        impl: ``reference`` (plain PyTorch), ``onnxruntime`` (CPU, float32) or ``triton``, which never fall back;
            ``auto`` takes the fastest there is and logs it once; on CPUs a few rows of a small dense model run in
            compiled code, unless ``onnxruntime`` is named. Ops of a plan, as ``explain`` lists them, may have
            others: ``"conv2d=library,attention=library"``, or ``"triton,conv2d=reference"``.
        batch_size: rows of an internal batch; None picks what fits the caches. Results do not depend on
            it beyond rounding, nor at all with ``batch_invariant``.
        batch_invariant: make the bits of a row's result independent of the rows around it.
        threads: of one call in ONNX Runtime; None is as many as PyTorch uses.
        arena: whether the memory of a call is kept for the next one: ONNX Runtime's own, and that of large results
            once nothing refers to them (at most 512 MiB).
        cast: convert weights of another float dtype than the spec declares instead of refusing them.
        allow_nonfinite: load weights that hold NaN or Inf.
        scaled_latents: have latents as a diffusion model does, shifted and scaled as its pipelines do it, in what
            ``encode``, ``embed`` and ``interpolate`` give and ``decode`` takes; by the checkpoint's numbers
            (``spec.latent_scaling``), or by these.
        max_memory: the most memory to take, a number of bytes or text such as ``"2GB"``: weights, and what running a
            verb on one row takes besides the caller's rows and results; Python and its libraries take some 300 MB
            more. A model for images of any size runs large ones in tiles, with the same results; any other model that
            needs more is refused. None refuses models that need over 16 GiB, and runs images whole.

    Raises:
        InputError: no such file, embedded model, format or device.
        WeightFormatError, WeightMismatchError, UnsafeFileError: the checkpoint is malformed, does not match its
            spec, or is not safe to read. Nothing in it is ever executed.
        UnsupportedError: a precision or implementation that cannot run this model; scaled latents of a checkpoint
            that has no numbers for it.
    """
    scaling = _checked_scaling(scaled_latents)
    settings = Settings(
        device,
        precision,
        impl,
        batch_size,
        batch_invariant,
        threads,
        arena,
        max_memory,
        scaled_latents=scaling is not False,
    )
    model = read_checkpoint(
        resolve(source),
        format=format,
        spec=spec,
        cast=cast,
        allow_nonfinite=allow_nonfinite,
        max_memory=max_memory,
    )
    if isinstance(scaling, LatentScaling):
        model = replace(model, spec=replace(model.spec, latent_scaling=scaling))
    return VAE(model, settings)


def _checked_scaling(scaled_latents: bool | LatentScaling) -> bool | LatentScaling:
    if not isinstance(scaled_latents, bool | LatentScaling):
        found = f"{scaled_latents!r:.80}"
        raise InputError(f"scaled_latents: expected True, False or a fastvae.LatentScaling, got {found}")
    return scaled_latents


def from_modules(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    likelihood: LikelihoodArgument,
    example_input: Array,
    example_latent: Array | None = None,
    parametrization: Literal["logvar", "logstd", "std", "variance", "softplus_std"] = "logvar",
    prior: PriorArgument | None = None,
    name: str = "",
    device: str = "auto",
    precision: str = "auto",
    impl: str = "auto",
    batch_size: int | None = None,
    batch_invariant: bool = False,
    threads: int | None = None,
    arena: bool = True,
    max_memory: int | str | None = None,
) -> VAE:
    """Take over a trained encoder and decoder that are ordinary ``nn.Module``s; ``save`` then keeps them as one file.

    Both are copied, put in evaluation mode and traced by ``torch.export``, so that how they are written does not
    matter, only which operators they call. The result is compared with them in float64 on ``example_input``. The
    caller's modules are left as they are.

    Args:
        encoder: takes rows and returns ``(mean, logvar)``: as a tuple, as a mapping or named tuple with ``mean`` or
            ``mu`` and ``logvar`` or ``log_var``, or as one tensor that holds all means, then all logvars, along axis 1.
        decoder: takes latents and returns one tensor of the rows' shape. For a Bernoulli likelihood a sigmoid at its
            end, if there is one, is taken off, and what is left are the logits; for a Gaussian one it is the mean. It
            may also return mean and log-variance of a Gaussian, in the ways the encoder may but the last, and the
            parameters of other likelihoods: as a tuple of the location and further ones themselves, such as scales,
            or under names, also as logarithms. docs/formats.md lists them.
        likelihood: ``bernoulli``; ``gaussian``, with variance 1 or the one the decoder returns; a number, the variance;
            a tensor of log-variances that broadcasts to a row's shape; ``laplace``, ``student_t``,
            ``continuous_bernoulli``, ``poisson``, ``negative_binomial``, ``multinomial`` or ``categorical``; or a
            likelihood of ``fastvae.heads``, which says more, and also where parameters come from that the decoder does
            not return: numbers, or parameters of the modules by name.
        example_input: a few rows, (rows, features) or (rows, channels, height, width); their shape is the model's.
        example_latent: latents for the decoder to be compared on; None for the posterior means of ``example_input``.
        parametrization: what the encoder's second output is: the log-variance; the logarithm of the standard deviation
            (``logstd``); the standard deviation (``std``), as exp(...) or softplus(...) + constant; the ``variance``;
            or what softplus still has to be taken of to give the standard deviation (``softplus_std``). Names in a
            mapping are ``logstd`` or ``log_std``, ``std`` or ``sigma``, ``variance`` or ``var``, ``scale`` or ``raw``.
        prior: of the latents; None for N(0, I). A ``torch.distributions.MixtureSameFamily`` of ``Independent(Normal(
            means, scales), 1)``, or a mapping with ``means`` and ``logvars`` (components, *latents); for a VampPrior
            its pseudo-inputs (components, *row), or a mapping with ``pseudo_inputs``. Mappings may have ``weights`` or
            ``logits`` (components,); without, components are equally likely.
        name: of the model.
        device, precision, impl, batch_size, batch_invariant, threads, arena, max_memory: see :func:`load`.

    Raises:
        InputError: an argument of the wrong kind, or modules whose inputs and outputs make no autoencoder.
        UnsupportedError: a module that cannot be traced (what it does depends on numbers, not only on shapes), or one
            with an operator that fastvae has no layer for; the message names it and the module it sits in.
        TranslationError: the translated model does not give the modules' numbers; that is a mistake of ours.
    """
    model = convert(
        encoder,
        decoder,
        likelihood=likelihood,
        example_input=example_input,
        example_latent=example_latent,
        parametrization=parametrization,
        prior=prior,
        name=name,
    )
    return VAE(model, Settings(device, precision, impl, batch_size, batch_invariant, threads, arena, max_memory))
