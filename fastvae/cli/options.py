"""Options that several commands share, each group a dataclass that :func:`command` spreads over their parameters."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from typer import Argument, Option

import fastvae
from fastvae.embedded import resolve
from fastvae.errors import InputError, WeightFormatError
from fastvae.files import ReadOptions, Source, check_target, open_source
from fastvae.spec import ModelSpec

MODEL, READING, WRITING = "Model", "Reading data", "Writing"


@dataclass(frozen=True)
class Command:
    """A function for typer, and an example of its use for ``--help``."""

    run: Callable[..., None]
    example: str


def command(example: str) -> Callable[[Callable[..., None]], Command]:
    """Make a Command of a function; a parameter that is a dataclass becomes one parameter for each of its fields."""

    def spread(function: Callable[..., None]) -> Command:
        hints = get_type_hints(function, include_extras=True)
        groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
        parameters = []
        for name, parameter in inspect.signature(function).parameters.items():
            if name in groups:
                parameters += _parameters(groups[name])
            else:
                parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

        def run(**values: Any) -> None:
            for name, kind in groups.items():
                values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            function(**values)

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return Command(run, example)

    return spread


def _parameters(kind: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]


@dataclass(frozen=True)
class ModelOptions:
    """Which model."""

    model: Annotated[
        str, Argument(help="Name of an embedded model (see: fastvae models), or a checkpoint's file or folder.")
    ]
    format: Annotated[str, Option(help="Format of the checkpoint; auto recognises it.", rich_help_panel=MODEL)] = "auto"
    spec: Annotated[
        Path | None, Option(help="JSON file that describes the weights of another library.", rich_help_panel=MODEL)
    ] = None
    cast: Annotated[
        bool, Option("--cast", help="Convert weights of another float type than declared.", rich_help_panel=MODEL)
    ] = False
    allow_nonfinite: Annotated[
        bool, Option("--allow-nonfinite", help="Load weights that hold NaN or Inf.", rich_help_panel=MODEL)
    ] = False

    def path(self) -> Path:
        """The checkpoint's file or folder.

        Raises:
            InputError: there is none of that name.
        """
        return resolve(self.model)


@dataclass(frozen=True)
class RunOptions(ModelOptions):
    """Which model, and how to run it."""

    device: Annotated[str, Option(help="cpu, cuda, cuda:1, ...; auto: a GPU if any.", rich_help_panel=MODEL)] = "auto"
    precision: Annotated[
        str, Option(help="ieee (float32), tf32, bf16, fp16, fp8, float64; auto: as the weights.", rich_help_panel=MODEL)
    ] = "auto"
    impl: Annotated[str, Option(help="reference, onnxruntime or triton; auto: the fastest.", rich_help_panel=MODEL)] = (
        "auto"
    )
    threads: Annotated[
        int | None, Option(help="Threads of ONNX Runtime; default: as many as PyTorch uses.", rich_help_panel=MODEL)
    ] = None
    batch_size: Annotated[
        int | None, Option(help="Rows of an internal batch; default: what fits the caches.", rich_help_panel=MODEL)
    ] = None
    max_memory: Annotated[
        str | None,
        Option(help="Most memory to take, e.g. 2GB: larger images run in tiles, exactly.", rich_help_panel=MODEL),
    ] = None
    batch_invariant: Annotated[
        bool | None,
        Option(
            help="Make a row's bits independent of the rows around it (slower); default: for generate.",
            rich_help_panel=MODEL,
        ),
    ] = None

    scaled_latents: Annotated[
        bool,
        Option("--scaled-latents", help="Latents as the checkpoint's diffusion model has them.", rich_help_panel=MODEL),
    ] = False

    def load(self, *, batch_invariant: bool = False) -> fastvae.VAE:
        """The model, ready to run; ``batch_invariant`` is the default. Errors as :func:`fastvae.load`."""
        self.path()
        return fastvae.load(
            self.model,
            format=self.format,
            spec=self.spec,
            device=self.device,
            precision=self.precision,
            impl=self.impl,
            threads=self.threads,
            batch_size=self.batch_size,
            max_memory=self.max_memory,
            batch_invariant=batch_invariant if self.batch_invariant is None else self.batch_invariant,
            cast=self.cast,
            allow_nonfinite=self.allow_nonfinite,
            scaled_latents=self.scaled_latents,
        )


@dataclass(frozen=True)
class DataOptions:
    """Which data, and how to read them."""

    data: Annotated[
        Path,
        Argument(help="Rows: .npy, .npz, .csv, .parquet, a folder of images; for shards also others."),
    ]
    key: Annotated[str | None, Option(help="Array of an .npz; default: its first.", rich_help_panel=READING)] = None
    id_column: Annotated[
        list[str] | None,
        Option(help="Column of a table that is no data, passed through. Repeatable.", rich_help_panel=READING),
    ] = None
    header: Annotated[
        bool, Option(help="Whether the first line of a CSV file names its columns.", rich_help_panel=READING)
    ] = True
    scale: Annotated[
        float | None, Option(help="Divide the data by this, e.g. 255 for pixels.", rich_help_panel=READING)
    ] = None
    resize: Annotated[bool, Option("--resize", help="Scale images to the model's size.", rich_help_panel=READING)] = (
        False
    )
    crop: Annotated[
        str,
        Option(help="center: scale an image's shorter side, crop the longer one.", rich_help_panel=READING),
    ] = "none"
    size: Annotated[
        str | None,
        Option(help="Images of this size, HEIGHTxWIDTH or one number, for models of any.", rich_help_panel=READING),
    ] = None
    filter: Annotated[
        str, Option(help="How images are scaled: bilinear, bicubic or lanczos.", rich_help_panel=READING)
    ] = "lanczos"
    pixels: Annotated[
        str | None, Option(help="Black..white, e.g. -1..1; default: as the model has them.", rich_help_panel=READING)
    ] = None
    recursive: Annotated[
        bool, Option("--recursive", help="Images in the folders below, too.", rich_help_panel=READING)
    ] = False

    def spec_for(self, spec: ModelSpec) -> ModelSpec:
        """``spec`` for images of the size that ``--size`` asks for.

        Raises:
            InputError: no size, or one that the model has no images of.
        """
        if self.size is None:
            return spec
        match = re.fullmatch(r"([0-9]{1,6})(?:[xX]([0-9]{1,6}))?", self.size)
        if match is None:
            raise InputError(f"--size: expected HEIGHTxWIDTH or one number, got {self.size!r:.80}")
        height, width = int(match[1]), int(match[2] or match[1])
        if spec.input_shape[1:] == (height, width):
            return spec
        try:
            return spec.resized(height, width)
        except WeightFormatError as error:
            raise InputError(f"--size: {error}") from error

    def reading(self) -> ReadOptions:
        """How to read; InputError for an option that says nothing that can be done."""
        return ReadOptions(
            self.key,
            tuple(self.id_column or ()),
            self.header,
            self.scale,
            self.resize,
            self.crop,
            self.filter,
            self.pixel_range(),
            self.recursive,
        )

    def open(self, spec: ModelSpec, *, invalid: str = "raise") -> Source:
        """The data for a model of ``spec``; images that cannot be read are NaN where ``invalid`` lets NaN pass.

        Raises:
            InputError: they cannot be read, or their rows have another shape.
            UnsupportedError: the package that reads them is not installed.
        """
        shape = self.spec_for(spec).input_shape
        pixels = self.pixel_range() or (pixel_range(spec) if self.data.is_dir() else None)
        options = replace(self.reading(), pixel_range=pixels, skip=invalid != "raise", image_shape=shape)
        source = open_source(self.data, options)
        count = math.prod(shape)
        if source.shape[1:] not in (shape, (count,)):
            if source.columns:
                found = f"{len(source.columns)} columns; name ids and labels with --id-column"
                raise InputError(f"{self.data}: expected {count} columns of numbers, found {found}")
            flat = f" (or {count} numbers)" if len(shape) > 1 else ""
            raise InputError(f"{self.data}: expected rows of shape {shape}{flat}, found {source.shape[1:]}")
        return source

    def pixel_range(self) -> tuple[float, float] | None:
        """Values of black and white in images, if ``--pixels`` says; InputError if it says none."""
        if self.pixels is None:
            return None
        try:
            low, high = map(float, self.pixels.split(".."))
        except ValueError as error:
            raise InputError(f"--pixels: expected BLACK..WHITE such as -1..1, got {self.pixels!r:.80}") from error
        if not -math.inf < low < high < math.inf:
            raise InputError(f"--pixels: expected finite, ascending numbers, got {self.pixels!r:.80}")
        return low, high


def pixel_range(spec: ModelSpec) -> tuple[float, float]:
    """Values of black and white in the images of a model; 0 and 1 where it does not say."""
    return spec.pixel_range or (0.0, 1.0)


OutPath = Annotated[Path, Option("--out", "-o", help="File to write.", rich_help_panel=WRITING)]
Force = Annotated[bool, Option("--force", help="Replace the file if it exists.", rich_help_panel=WRITING)]
Seed = Annotated[int, Option(help="Seed of the noise: 0 to 2**64 - 1.")]
Invalid = Annotated[str, Option(help="Rows with NaN or Inf: raise, mask (NaN result) or propagate.")]
ConditionText = Annotated[
    str | None, Option("--condition", help="For conditional models: a label, or a file with a row per sample.")
]


@dataclass(frozen=True)
class OutOptions:
    """Where the result goes."""

    out: OutPath
    force: Force = False

    def check(self, *suffixes: str) -> str:
        """The kind of file, one of ``suffixes``; errors as :func:`fastvae.files.check_target`."""
        return check_target(self.out, suffixes, force=self.force)


@dataclass(frozen=True)
class OutTarget:
    """Where the result goes: a file, or a folder of shards, which a Path would not tell by the slash at its end."""

    out: Annotated[
        str, Option("--out", "-o", help="File to write, or a folder for a job of shards.", rich_help_panel=WRITING)
    ]
    force: Annotated[bool, Option("--force", help="Replace the file if it exists.", rich_help_panel=WRITING)] = False

    def file(self) -> OutOptions:
        """It as a single file."""
        return OutOptions(Path(self.out), self.force)
