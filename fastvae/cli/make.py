"""``generate`` and ``interpolate``: rows that come from the model's latent space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from typer import Option

from fastvae.cli.bulk import BulkOptions, generate_folder, names_folder
from fastvae.cli.options import (
    ConditionText,
    DataOptions,
    OutOptions,
    OutTarget,
    RunOptions,
    Seed,
    command,
    pixel_range,
)
from fastvae.cli.work import Rows, note, progress, read_condition, refuse, to_unit
from fastvae.errors import InputError
from fastvae.files import Field, Source, check_grid, open_sink, square_columns
from fastvae.spec import ModelSpec

TABLES = (".csv", ".parquet")
ARRAYS = (".npy", ".npz")


def columns_of(spec: ModelSpec, source: Source | None = None) -> tuple[str, ...]:
    """The columns of a row of data: those of the table it came from, or ``x_0``, ``x_1``, ..."""
    if source is not None and source.columns:
        return source.columns
    return numbered("x", int(np.prod(spec.input_shape)))


def numbered(name: str, count: int) -> tuple[str, ...]:
    """``name_0``, ``name_1``, ..."""
    return tuple(f"{name}_{i}" for i in range(count))


@command("fastvae generate digits -n 64 --seed 0 --out samples.png")
def generate(
    model: RunOptions,
    target: OutTarget,
    bulk: BulkOptions,
    n: Annotated[int, Option("-n", "--number", help="How many samples.")] = 64,
    seed: Seed = 0,
    start: Annotated[int, Option(help="Index of the first sample.")] = 0,
    output: Annotated[str, Option(help="mean of p(x|z), a sample from it, or uint8: the mean as pixels.")] = "mean",
    condition: ConditionText = None,
) -> None:
    """Sample from the model. Sample i depends on --seed and --start + i alone.

    Writes .npy, .csv and .parquet in memory that does not grow with -n; .npz; or a .png grid of images. Into a folder
    (a name without a suffix, or with a slash at its end) it writes shards: the same command goes on after any stop.
    """
    if names_folder(target.out):
        if start or target.force:
            raise InputError(f"--{'start' if start else 'force'}: not for a folder of shards")
        generate_folder(model, target.out, bulk, n, seed, output, condition)
        return
    bulk.check_unused()
    out = target.file()
    suffix = out.check(*ARRAYS, *TABLES, ".png")
    if output == "uint8" and suffix not in ARRAYS:
        raise InputError(f"--output: uint8 is for .npy and .npz, got {suffix}; a .png is of the mean anyway")
    vae = model.load(batch_invariant=True)
    columns = square_columns(max(n, 0))
    if suffix == ".png":
        check_grid(n, vae.spec.input_shape, columns)
    labels = read_condition(condition, vae.spec, n)
    settings: dict[str, Any] = {"seed": seed, "start": start, "output": output, "condition": labels}
    parts = vae.stream(n, **settings) if n else iter([vae.generate(0, **settings)])
    outside = _Outside()
    with (
        open_sink(out.out, n, [Field("samples", columns_of(vae.spec))], grid_columns=columns) as sink,
        progress("generate", n) as advance,
    ):
        for part in parts:
            part = to_unit(part, pixel_range(vae.spec)) if suffix == ".png" else part
            sink.write({"samples": part})
            outside.add(part)
            advance(len(part))
    if suffix == ".png":
        outside.tell()
    note(f"{out.out}: {n:,} samples")


@command("fastvae interpolate digits data.npy --from 0 --to 7 --steps 10 --out row.png")
def interpolate(
    model: RunOptions,
    data: DataOptions,
    out: OutOptions,
    first: Annotated[list[int], Option("--from", help="Row of the data to begin at (the first is 0). Repeatable.")],
    last: Annotated[list[int], Option("--to", help="Row to end at; as many as --from.")],
    steps: Annotated[int, Option(help="Points of a line, both ends included.")] = 10,
    path: Annotated[str, Option(help="linear, or spherical: along the sphere.")] = "linear",
    condition: ConditionText = None,
) -> None:
    """Walk the line between the latents of two rows, and decode it.

    Writes .npy or .npz of shape (pairs, steps, ...); .csv or .parquet with a row for every step; or a .png with a line
    of images for every pair. A --condition file has a row for every pair.
    """
    suffix = out.check(*ARRAYS, *TABLES, ".png")
    if len(first) != len(last):
        raise InputError(f"--from, --to: expected as many of each, got {len(first)} and {len(last)}")
    vae = model.load()
    spec = data.spec_for(vae.spec)
    source = data.open(vae.spec)
    ends = [_take(source, "--from", first), _take(source, "--to", last)]
    if suffix == ".png":
        check_grid(len(first) * max(steps, 1), spec.input_shape, max(steps, 1))
    labels = read_condition(condition, vae.spec, len(first))
    lines = vae.interpolate(ends[0], ends[1], steps, path=path, condition=labels)  # type: ignore[arg-type]
    lines = to_unit(lines, pixel_range(spec)) if suffix == ".png" else lines
    pairs = len(first)
    rows = lines.reshape(pairs * steps, *lines.shape[2:])
    values = {"interpolation": lines if suffix in ARRAYS else rows}
    values["pair"] = np.repeat(np.arange(pairs), steps)
    values["step"] = np.tile(np.arange(steps), pairs)
    fields = [
        Field("pair", ("pair",), table_only=True),
        Field("step", ("step",), table_only=True),
        Field("interpolation", columns_of(spec, source)),
    ]
    with open_sink(out.out, len(values["interpolation"]), fields, grid_columns=steps) as sink:
        sink.write(values)
    note(f"{out.out}: {pairs} x {steps} steps")


def _take(source: Source, option: str, indices: Sequence[int]) -> Rows:
    """Rows of the data by index."""
    for index in indices:
        if not len(source):
            raise InputError(f"{option}: {source.path} has no rows")
        if not 0 <= index < len(source):
            raise InputError(f"{option}: expected a row of {source.path}, 0 to {len(source) - 1}, got {index}")
    rows = [source.block(index, index + 1) for index in indices]
    for index, row in zip(indices, rows, strict=True):
        refuse(source, index, ~np.isfinite(row), "NaN or Inf; fill it with fastvae impute")
    return np.concatenate(rows)


class _Outside:
    """Counts values that a picture cannot show."""

    def __init__(self) -> None:
        self.outside = self.total = 0

    def add(self, values: Rows) -> None:
        """Count those of a batch."""
        self.outside += int(((values < 0) | (values > 1)).sum())
        self.total += values.size

    def tell(self) -> None:
        """Say so if there were any."""
        if self.outside:
            share = self.outside / self.total
            note(f"note: {share:.1%} of the values lie outside [0, 1]; the picture shows them clipped")


COMMANDS = (generate, interpolate)
