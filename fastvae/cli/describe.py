"""``inspect``, ``explain``, ``convert``, ``export`` and ``models``: what a checkpoint is, takes, and can become."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Option

import fastvae
from fastvae.cli.options import ModelOptions, OutOptions, command
from fastvae.cli.work import note
from fastvae.formats import detect, native, read_checkpoint
from fastvae.heads import GaussianMixture, Likelihood, Mixed, Parametric, Predicted, Prior
from fastvae.layers import Residual, Stack
from fastvae.model import Model
from fastvae.plan import VERBS, build_plan, plan_cost
from fastvae.runtime import Settings
from fastvae.scaling import NUMBERS
from fastvae.spec import DTYPE_BYTES, GaussianHead, ModelSpec, PointHead, PredictedGaussian
from fastvae.spec_json import spec_to_json

Json = Annotated[bool, Option("--json", help="Print JSON.")]


@command("fastvae inspect digits")
def inspect(model: ModelOptions, as_json: Json = False) -> None:
    """What a model is: its format, shapes, layers, size, cost of a row, and card."""
    found, loaded = _read(model)
    facts = _facts(found, loaded)
    if as_json:
        spec = json.loads(spec_to_json(loaded.spec))
        print(json.dumps(facts | {"card": dict(loaded.card), "spec": spec}, indent=2, ensure_ascii=False))
        return
    console = Console()
    table = Table(show_header=False, title=escape(model.model))
    for name, value in facts.items():
        text = f"{value:,}" if isinstance(value, int) else "none" if value is None else str(value)
        table.add_row(name.replace("_", " "), escape(text))
    console.print(table)
    console.print(_layer_table(loaded.spec))
    if loaded.card:
        card = Table(show_header=False, title="card")
        for name, text in sorted(loaded.card.items()):
            card.add_row(escape(name.replace("_", " ")), escape(text))
        console.print(card)


@command("fastvae explain mnist --verb elbo --rows 4096 --device H100")
def explain(
    model: ModelOptions,
    verb: Annotated[str, Option(help=f"What to explain: {', '.join(VERBS)}.")] = "reconstruct",
    rows: Annotated[int, Option(help="How many rows at once.")] = 1,
    device: Annotated[str, Option(help="cpu, or a GPU by name, e.g. H100; auto: this machine's.")] = "auto",
    precision: Annotated[
        str, Option(help="ieee (float32), tf32, bf16, fp16, fp8 or float64; auto: as the weights.")
    ] = "auto",
    as_json: Json = False,
) -> None:
    """What a verb does, step by step, and the time and memory it should take on a device."""
    vae = fastvae.VAE(_read(model)[1], Settings(precision=precision))
    explanation = vae.explain(verb, rows, device)
    print(json.dumps(dataclasses.asdict(explanation), indent=2) if as_json else explanation)


@command("fastvae convert my_checkpoint/ --out model.safetensors")
def convert(model: ModelOptions, out: OutOptions) -> None:
    """Write a checkpoint of any format that fastvae reads in its own: one .safetensors file."""
    out.check(".safetensors")
    found, loaded = _read(model)
    native.write(loaded, out.out)
    spec = loaded.spec
    note(
        f"{out.out}: from {found}, input {list(spec.input_shape)}, latent {list(spec.latent_shape)}, "
        f"{_parameters(spec):,} parameters, {out.out.stat().st_size:,} bytes"
    )


@command("fastvae export digits --verb decode --out decoder.onnx")
def export(
    model: ModelOptions,
    out: OutOptions,
    verb: Annotated[str, Option(help=f"What the graph computes: {', '.join(VERBS)}.")] = "decode",
) -> None:
    """Write a verb of a model as an ONNX file with a dynamic batch."""
    out.check(".onnx")
    vae = fastvae.VAE(_read(model)[1], Settings(impl="reference"))
    vae.export(out.out, verb)
    note(f"{out.out}: {verb}, {out.out.stat().st_size:,} bytes")


@command("fastvae models")
def models(as_json: Json = False) -> None:
    """The embedded models: small real ones that need no download."""
    cards = fastvae.models()
    if as_json:
        documents = [{"name": card.name, "path": str(card.path), "card": card.card} for card in cards]
        print(json.dumps(documents, indent=2, ensure_ascii=False))
        return
    table = Table("name", "input", "latent", "parameters", "about")
    for card in cards:
        spec = native.read(card.path).spec
        about = "\n".join(card.card[key] for key in ("title", "data", "held_out_elbo", "licence") if key in card.card)
        table.add_row(
            card.name,
            _shape(spec.input_shape),
            _shape(spec.latent_shape),
            f"{_parameters(spec):,}",
            escape(about),
            end_section=True,
        )
    Console().print(table)


def _read(options: ModelOptions) -> tuple[str, Model]:
    """The format of a checkpoint, and what is in it."""
    path = options.path()
    found = detect(path, options.spec) if options.format == "auto" else options.format
    loaded = read_checkpoint(
        path, format=found, spec=options.spec, cast=options.cast, allow_nonfinite=options.allow_nonfinite
    )
    return found, loaded


def _facts(found: str, model: Model) -> dict[str, Any]:
    spec = model.spec
    costs = {verb: plan_cost(build_plan(model, verb)) for verb in ("encode", "decode")}
    return {
        "format": found,
        "name": spec.name or None,
        "input_shape": list(spec.input_shape),
        "latent_shape": list(spec.latent_shape),
        "posterior": _posterior(spec.posterior),
        "likelihood": _describe_likelihood(spec.likelihood),
        "prior": _mixture(spec.prior) or "standard normal",
        "sampler": _mixture(spec.sampler),
        "condition": _condition(spec),
        "latent_scaling": _scaling(spec),
        "pixel_range": None if spec.pixel_range is None else list(spec.pixel_range),
        "dtype": spec.dtype,
        "parameters": _parameters(spec),
        "weight_bytes": _parameters(spec) * DTYPE_BYTES[spec.dtype],
        "encode_flops_per_row": costs["encode"].flops,
        "decode_flops_per_row": costs["decode"].flops,
    }


def _mixture(mixture: Prior | None) -> str | None:
    """What latents are drawn from, if it is no standard normal."""
    if mixture is None:
        return None
    covariance = f", {mixture.covariance} covariance" if isinstance(mixture, GaussianMixture) else ""
    return f"{mixture.kind} of {mixture.components}{covariance}"


def _condition(spec: ModelSpec) -> str | None:
    if spec.condition is None:
        return None
    joined = [name for name in ("encoder", "decoder") if getattr(spec.condition, name)]
    return f"{spec.condition.dim} numbers, joined to the {' and the '.join(joined)}"


def _scaling(spec: ModelSpec) -> str | None:
    """By what a diffusion model scales latents, if the checkpoint says so."""
    if spec.latent_scaling is None:
        return None
    numbers = dataclasses.asdict(spec.latent_scaling)
    return ", ".join(f"{name} {numbers[name]}" for name in NUMBERS if numbers[name] not in ((), 0.0))


def _parameters(spec: ModelSpec) -> int:
    return sum(math.prod(shape) for shape in spec.tensors().values())


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _layer_table(spec: ModelSpec) -> Table:
    """Every layer with what it makes of a row, and its parameters."""
    table = Table("stack", "layer", "output", "parameters", title="layers")
    table.columns[3].justify = "right"
    posterior = spec.posterior
    features = _add_stack(table, "encoder", spec.encoder, spec.encoder_input_shape)
    for name in _stacks(posterior):
        _add_stack(table, f"posterior {name}", getattr(posterior, name), features)
    features = _add_stack(table, "decoder", spec.decoder, spec.decoder_input_shape)
    for name, stack, start in _likelihood_stacks(spec.likelihood, features):
        _add_stack(table, f"likelihood {name}", stack, start)
    return table


def _likelihood_stacks(likelihood: Likelihood, features: tuple[int, ...]) -> list[tuple[str, Stack, tuple[int, ...]]]:
    """Each stack of layers that a likelihood has: its name, the layers, and the shape that they start from."""
    if isinstance(likelihood, PredictedGaussian):
        return [(name, getattr(likelihood.head, name), features) for name in _stacks(likelihood.head)]
    if isinstance(likelihood, Mixed):
        return [
            (f"columns {low} to {high - 1}", segment.stack, (segment.features,))
            for segment, (low, high), _ in likelihood.spans()
            if segment.stack
        ]
    if not isinstance(likelihood, Parametric) or likelihood.chunks > 1:
        return []
    predicted = [(name, source.stack) for name, source in likelihood.sources() if isinstance(source, Predicted)]
    return [(name, stack, features) for name, stack in (("location", likelihood.location), *predicted) if stack]


def _describe_likelihood(likelihood: Likelihood) -> str:
    """Its kind; of a mixed one those of its segments."""
    if not isinstance(likelihood, Mixed):
        return likelihood.kind
    return "mixed: " + ", ".join(f"{segment.columns} {segment.likelihood.kind}" for segment in likelihood.segments)


def _posterior(head: GaussianHead | PointHead) -> str:
    if isinstance(head, PointHead):
        return "a point"
    return f"{head.layout} Gaussian head, {head.parametrization}"


def _stacks(head: GaussianHead | PointHead) -> tuple[str, ...]:
    """Names of its stacks of layers."""
    if isinstance(head, PointHead):
        return ("mean",)
    return ("mean", "scale") if head.layout == "separate" else ("joint",)


def _add_stack(table: Table, name: str, stack: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Add a row for each layer of ``stack``, and return the shape it makes of ``shape``."""
    shape = _add_layers(table, name, stack, shape, "")
    table.add_section()
    return shape


def _add_layers(table: Table, name: str, stack: Any, shape: tuple[int, ...], indent: str) -> tuple[int, ...]:
    """The rows of ``stack``; the layers inside of a residual follow it, indented, with its shortcut's marked."""
    for layer in stack:
        before, shape = shape, layer.output_shape(shape)
        count = sum(math.prod(size) for size in layer.tensors().values())
        table.add_row(name, indent + escape(_describe(layer)), _shape(shape), f"{count:,}" if count else "")
        if isinstance(layer, Residual):
            _add_layers(table, "", layer.body, before, f"{indent}  ")
            _add_layers(table, "", layer.shortcut, before, f"{indent}  shortcut ")
        name = ""
    return shape


def _describe(layer: Any) -> str:
    """A layer in a few words: its kind, and what of it is not the default."""
    values: list[str] = []
    for field in () if isinstance(layer, Residual) else dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if field.name in ("function", "name"):
            values.insert(0, str(value))
        elif value != field.default and "channels" not in field.name and "features" not in field.name:
            values.append(f"{field.name} {value}")
    return " ".join([layer.kind, *values])


COMMANDS = (inspect, explain, convert, export, models)
