"""Writing a verb of a model as an ONNX file."""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from fastvae.atomic import atomic_write
from fastvae.errors import InputError
from fastvae.heads import Prior, VampPrior
from fastvae.model import Model
from fastvae.noise import PRIOR, component_of
from fastvae.onnx.lower import NOISE, to_onnx
from fastvae.plan import DECODERS, SIZE_FREE_VERBS, build_plan

NOISE_OUTSIDE = "none: the graph is deterministic; z, where there is one, is an input"
NOISE_INPUT = (
    f"input {NOISE!r}, (rows, latent_dim) standard normals; fastvae_kernels.sample_normal(rows, latent_dim, seed=..., "
    "start=...) gives fastvae's own"
)


def _latents(drawn: Prior) -> str:
    """What the input of ``generate`` is where latents have a mixture, which no graph draws from."""
    numbers = f"tensors {drawn.name}.means and .logvars of the file that VAE.save writes"
    z = "means[component] + exp(logvars[component] / 2) * noise"
    if isinstance(drawn, VampPrior):
        numbers = f"what 'encode' makes of the tensor {drawn.name}.pseudo_inputs of the file that VAE.save writes"
    elif drawn.covariance == "full":
        numbers = f"tensors {drawn.name}.means and .factors of the file that VAE.save writes"
        z = "means[component] + factors[component] @ noise"
    return (
        f"input 'z', (rows, *latent_shape) draws from the {drawn.kind} {drawn.name!r}: {z}, with {numbers}. fastvae's "
        "own have noise from fastvae_kernels.sample_normal(rows, latent_dim, seed=..., start=...), and as component "
        "the first whose cumulative weight is above fastvae_kernels.sample_uniform(rows, 1, seed=..., start=..., "
        f"stream={component_of(PRIOR)})"
    )


def export(model: Model, verb: str, path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Write ``verb`` of ``model`` to ``path``, checked by ONNX's own checker, and return it.

    The verbs are those of :func:`fastvae.plan.build_plan`. The batch is dynamic, and where the model fits images of any
    size so is theirs, but for ``generate`` and scores; the file's metadata say which verb of which model it is and
    where noise comes from. Where latents have a mixture, ``generate`` is a graph of z as well.

    Raises:
        InputError: the name does not end in ``.onnx``.
        OutputError: the file cannot be written; nothing is left under its name.
        UnsupportedError: an unknown verb, or a model beyond the 2 GiB of one ONNX file.
    """
    named = isinstance(path, str | os.PathLike) and "\0" not in os.fspath(path)
    if not named or Path(path).suffix != ".onnx":
        raise InputError(f"path: expected a name that ends in .onnx, got {path!r:.200}")
    drawn = (model.spec.sampler or model.spec.prior) if verb in DECODERS else None
    plan = build_plan(model, verb if drawn is None else DECODERS[verb], target="onnx")
    draws = any(step.op == "sample_normal" for step in plan.steps)
    noise = NOISE_INPUT if draws else NOISE_OUTSIDE if drawn is None else _latents(drawn)
    metadata = {"fastvae.model": model.spec.name, "fastvae.noise": noise, "fastvae.verb": verb}
    any_size = model.spec.any_size and verb in SIZE_FREE_VERBS
    made = to_onnx(plan, name=f"{model.spec.name or 'vae'}_{verb}", metadata=metadata, any_size=any_size)
    onnx.checker.check_model(made, full_check=True)
    with atomic_write(path) as file:
        file.write(made.SerializeToString())
    return made
