"""``encode``, ``reconstruct`` and ``impute``: a result for every row of the data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
from typer import Option

import fastvae.bulk
from fastvae.cli.bulk import FOLDERS, BulkOptions, data_folder, names_folder
from fastvae.cli.make import ARRAYS, TABLES, columns_of, numbered
from fastvae.cli.options import (
    ConditionText,
    DataOptions,
    Invalid,
    OutOptions,
    OutTarget,
    RunOptions,
    Seed,
    command,
    pixel_range,
)
from fastvae.cli.trust import Trust
from fastvae.cli.work import Rows, note, read_condition, refuse, to_unit, walk
from fastvae.errors import InputError
from fastvae.files import Field, ReadOptions, Source, check_grid, open_sink, open_source, square_columns
from fastvae.imputation import Imputer
from fastvae.noise import MAX_SAMPLES, check_count

# Of a table's draws: beyond, no program reads it.
MAX_COLUMNS = 2**16


def id_fields(source: Source) -> list[Field]:
    """The columns to pass through."""
    return [Field(name, (name,), table_only=True) for name in source.ids]


def id_values(source: Source, low: int, high: int) -> dict[str, Rows]:
    """Their values for rows low to high."""
    return {name: values[low:high] for name, values in source.ids.items()}


@command("fastvae encode digits data.npy --out latents.npz")
def encode(
    model: RunOptions,
    data: DataOptions,
    target: OutTarget,
    bulk: BulkOptions,
    samples: Annotated[int, Option(help="Also draw this many latents a row from q(z|x).")] = 0,
    output: Annotated[
        str | None, Option(help="posterior (default), mean, or sample: --samples draws.", rich_help_panel=FOLDERS)
    ] = None,
    seed: Seed = 0,
    condition: ConditionText = None,
    invalid: Invalid = "raise",
) -> None:
    """Mean and log-variance of the posterior q(z|x) of every row.

    .npz holds the arrays mean and logvar, and samples of shape (draws, rows, ...); .csv and .parquet have columns
    mean_0, ..., logvar_0, ... and sample_0_0, ... (draw, dimension); .npy holds the mean alone. Into a folder (a name
    without a suffix, or with a slash at its end) it writes shards: the same command goes on after any stop.
    """
    samples = check_count("--samples", samples, most=MAX_SAMPLES)
    if names_folder(target.out):
        if samples and output != "sample":
            raise InputError("--samples: a folder of shards has draws with --output sample, and nothing besides")
        drawn = {"output": output or "posterior", "samples": samples or 1, "seed": seed}
        data_folder(fastvae.bulk.encode, model, data, target, bulk, condition, invalid, **drawn)
        return
    bulk.check_unused()
    if output is not None:
        raise InputError("--output: only for a folder of shards; --out names a single file")
    out = target.file()
    suffix = out.check(*ARRAYS, *TABLES)
    if samples and suffix == ".npy":
        raise InputError("--samples: .npy holds the mean alone; write .npz, .csv or .parquet")
    vae = model.load()
    if suffix in TABLES and samples * vae.spec.latent_dim > MAX_COLUMNS:
        columns = samples * vae.spec.latent_dim
        raise InputError(f"--samples: {columns:,} columns are more than {MAX_COLUMNS:,}; write .npz")
    source = data.open(vae.spec, invalid=invalid)
    labels = read_condition(condition, vae.spec, len(source))
    dim = data.spec_for(vae.spec).latent_dim
    fields = [*id_fields(source), Field("mean", numbered("mean", dim)), Field("logvar", numbered("logvar", dim))]
    if samples:
        draws = tuple(name for k in range(samples if suffix in TABLES else 0) for name in numbered(f"sample_{k}", dim))
        fields.append(Field("samples", draws, rows_axis=1 if suffix == ".npz" else 0))
    with open_sink(out.out, len(source), fields) as sink:
        for block in walk(source, "encode", labels, invalid=invalid):
            posterior = vae.encode(block.values, condition=block.condition, invalid=invalid)
            values = id_values(source, block.low, block.high) | {"mean": posterior.mean, "logvar": posterior.logvar}
            if samples:
                z = posterior.sample(seed, samples, start=block.low)
                z = z.reshape(samples, *posterior.mean.shape)
                values["samples"] = z if suffix == ".npz" else np.moveaxis(z, 0, 1)
            sink.write(values)
    note(f"{out.out}: {len(source):,} rows")


@command("fastvae reconstruct digits data.npy --out reconstructions.png")
def reconstruct(
    model: RunOptions,
    data: DataOptions,
    target: OutTarget,
    bulk: BulkOptions,
    condition: ConditionText = None,
    invalid: Invalid = "raise",
) -> None:
    """Every row as the model sees it: decoded from the mean of its posterior.

    Writes .npy or .npz in the shape of the data; .csv or .parquet with the data's columns; or a .png of images, each
    line of originals above the line of their reconstructions; or a folder of shards, as encode does.
    """
    if names_folder(target.out):
        data_folder(fastvae.bulk.reconstruct, model, data, target, bulk, condition, invalid)
        return
    bulk.check_unused()
    out = target.file()
    suffix = out.check(*ARRAYS, *TABLES, ".png")
    vae = model.load()
    spec = data.spec_for(vae.spec)
    shape = spec.input_shape
    source = data.open(vae.spec, invalid=invalid)
    labels = read_condition(condition, vae.spec, len(source))
    fields = [*id_fields(source), Field("reconstruction", columns_of(spec, source))]
    columns, pixels = square_columns(len(source), 2), pixel_range(spec)
    if suffix == ".png":
        check_grid(2 * len(source), shape, columns)
        fields.insert(0, Field("original"))
    with open_sink(out.out, len(source), fields, order=source.order, grid_columns=columns) as sink:
        for block in walk(source, "reconstruct", labels, invalid=invalid):
            values = id_values(source, block.low, block.high)
            result = vae.reconstruct(block.values, condition=block.condition, invalid=invalid)
            if suffix == ".png":
                originals, result = (to_unit(x.reshape(-1, *shape), pixels) for x in (block.values, result))
                values["original"] = originals
            sink.write(values | {"reconstruction": result})
    note(f"{out.out}: {len(source):,} rows")


@command("fastvae impute breast_cancer data.csv --out filled.csv")
def impute(
    model: RunOptions,
    data: DataOptions,
    out: OutOptions,
    method: Annotated[str, Option(help="importance, metropolis or gibbs.")] = "importance",
    n_imputations: Annotated[int, Option(help="1: the best guess; more: that many draws.")] = 1,
    samples: Annotated[int, Option(help="Importance samples of a round, or steps of a chain.")] = 300,
    seed: Seed = 0,
    rounds: Annotated[
        int, Option(help="Rounds of importance sampling; 1 for an encoder trained on incomplete rows.")
    ] = 3,
    mask: Annotated[Path | None, Option(help="Boolean .npy or .npz in the data's shape: True is missing.")] = None,
    condition: ConditionText = None,
) -> None:
    """Fill in missing entries: empty cells of a table, NaN, or what --mask says. Observed ones come back untouched.

    It says how many effective samples the values rest on, or how many proposals the chains accepted, and warns where
    that is too few.

    With --n-imputations m, .npy and .npz have shape (m, rows, ...); .csv and .parquet have m rows for every row, told
    apart by the columns row and imputation.
    """
    suffix = out.check(*ARRAYS, *TABLES)
    vae = model.load()
    source = data.open(vae.spec)
    masked = None if mask is None else _open_mask(mask, source)
    labels = read_condition(condition, vae.spec, len(source))
    multiple = n_imputations > 1
    long = multiple and suffix in TABLES
    fields = [Field("row", ("row",), table_only=True), Field("imputation", ("imputation",), table_only=True)]
    fields = [*(fields if long else []), *id_fields(source)]
    dtypes = _filled_dtypes(source, masked)
    fields.append(Field("imputed", columns_of(vae.spec, source), dtypes, rows_axis=int(multiple and not long)))
    count, trust = 0, Trust(Imputer(method, n_imputations, samples, seed, rounds))
    with open_sink(out.out, len(source), fields, order=source.order) as sink, trust.instead_of_warnings():
        for block in walk(source, "impute", labels, invalid="propagate"):
            missing = np.isnan(block.values)
            if masked is not None:
                missing |= masked.read(block.low, block.high)
            count += int(missing.sum())
            refuse(source, block.low, np.isinf(block.values) & ~missing, "Inf; only NaN and empty cells are missing")
            found = vae.impute(
                block.values,
                missing,
                method,  # type: ignore[arg-type]
                n_imputations,
                seed,
                samples=samples,
                condition=block.condition,
                start=block.low,
                rounds=rounds,
                diagnostics=True,
            )
            trust.add(found, missing)
            filled = found.values
            if source.scale is not None:
                filled = _unscaled(source, block.low, block.high, filled, missing)
            values = id_values(source, block.low, block.high)
            sink.write(_long(values, block.low, filled) if long else values | {"imputed": filled})
    note(f"{out.out}: {len(source):,} rows, {count:,} missing values filled{trust}")


def _open_mask(path: Path, source: Source) -> Source:
    mask = open_source(path, ReadOptions(integers=True))
    if mask.shape != source.shape or mask.read(0, 0).dtype != np.bool_:
        raise InputError(
            f"--mask: expected booleans of the data's shape {source.shape}, found {mask.read(0, 0).dtype} of shape "
            f"{mask.shape}"
        )
    return mask


def _filled_dtypes(source: Source, mask: Source | None) -> tuple[np.dtype[np.generic], ...]:
    """Each column of a table in its own type, but integers that get a value filled in as floats."""
    if not source.dtypes:
        return ()
    missing: Rows = np.asarray(np.isnan(source.read(0, len(source))).any(0))
    if mask is not None:
        missing = missing | mask.read(0, len(source)).any(0)
    return tuple(
        np.dtype(np.float64) if holes and dtype.kind != "f" else dtype
        for dtype, holes in zip(source.dtypes, missing, strict=True)
    )


def _unscaled(source: Source, low: int, high: int, filled: Rows, missing: Rows) -> Rows:
    """What was filled in, in the units of the file, among what was there."""
    raw = source.read(low, high)
    dtype = np.float32 if np.can_cast(raw.dtype, np.float32) else np.float64
    return np.where(missing, filled * source.scale, raw).astype(dtype)


def _long(ids: dict[str, Rows], low: int, filled: Rows) -> dict[str, Rows]:
    """Draws (m, rows, ...) as m table rows for every row."""
    draws, rows = filled.shape[:2]
    values: dict[str, Rows] = {name: column.repeat(draws) for name, column in ids.items()}
    values["row"] = np.arange(low, low + rows).repeat(draws)
    values["imputation"] = np.tile(np.arange(draws), rows)
    values["imputed"] = np.moveaxis(filled, 0, 1).reshape(draws * rows, math.prod(filled.shape[2:]))
    return values


COMMANDS = (encode, reconstruct, impute)
