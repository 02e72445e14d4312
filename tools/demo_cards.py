"""What the embedded models say about themselves: the text of a card, and the page of all cards."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path

import torch

from fastvae.formats import native
from fastvae.layers import Activation, BatchNorm, Flatten, Layer, Reshape, Stack, leaves
from fastvae.spec import ModelSpec
from fastvae.training import Judgement, Recipe

HEADING = """# Embedded models

Small variational autoencoders with real trained weights, in fastvae's own format. This page is written by
`python -m tools.train_demo` from the cards inside the files. Numbers in nats are natural-log units a row.
"""


def cards_page(folder: Path) -> str:
    """The card of every model in ``folder``, as Markdown."""
    lines = [HEADING]
    for path in sorted(folder.glob("*.safetensors")):
        model = native.read(path)
        numbers = sum(weight.numel() for weight in model.weights.values())
        lines += [f"## {path.stem}", "", "| | |", "|---|---|"]
        lines += [f"| file | `{path.name}`: {path.stat().st_size:,} bytes, {numbers:,} numbers |"]
        lines += [f"| {key.replace('_', ' ')} | {value} |" for key, value in sorted(model.card.items())]
        lines += [""]
    return "\n".join(lines)


def describe(spec: ModelSpec) -> str:
    """The architecture in one line: the width or shape of a row after every layer that changes it."""
    encoder = _shapes(spec.encoder, spec.input_shape)
    decoder = _shapes(spec.decoder, spec.latent_shape)
    kinds = sorted({_kind(layer) for stack in spec.stacks() for layer in leaves(stack)} - {"flatten", "reshape"})
    return (
        f"encoder {encoder}; {spec.latent_dim} latent dimensions; decoder {decoder}; "
        f"layers: {', '.join(kinds)}; likelihood {spec.likelihood.kind}"
    )


def versions(threads: int) -> str:
    """What the bits of a run depend on besides its seed."""
    return f"torch {torch.__version__}, Python {platform.python_version()}, {threads} CPU threads"


def elbo_text(judgement: Judgement) -> str:
    """The held-out ELBO and its parts."""
    return (
        f"{judgement.elbo:.2f} nats a row (log-likelihood {judgement.reconstruction:.2f}, "
        f"KL {judgement.kl:.2f}; {judgement.rows:,} rows, {judgement.samples} draws of z each)"
    )


def recipe_text(recipe: Recipe) -> str:
    """Every setting of a recipe."""
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in asdict(recipe).items())
    return f"AdamW, cosine schedule; {settings}"


def _shapes(stack: Stack, shape: tuple[int, ...]) -> str:
    shapes = [shape]
    for layer in stack:
        shape = layer.output_shape(shape)
        if shape != shapes[-1] and not isinstance(layer, Activation | BatchNorm | Flatten | Reshape):
            shapes.append(shape)
    return " → ".join("×".join(map(str, shape)) for shape in shapes)


def _kind(layer: Layer) -> str:
    return layer.function if isinstance(layer, Activation) else layer.kind
