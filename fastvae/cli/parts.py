"""``encode`` into a folder of parts: for more rows than one file should hold, and a run that may be killed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from typer import Option

import fastvae
from fastvae.cli.options import DataOptions, OutOptions, RunOptions
from fastvae.cli.work import Rows, block_rows, check_finite, note, progress
from fastvae.errors import InputError, NumericsError, OutputError
from fastvae.files import Parts, Source, read_ahead
from fastvae.noise import check_count
from fastvae.spec import PointHead

PARTS = "Folders of parts"

DTYPES = {"float32": np.float32, "float16": np.float16}


@dataclass(frozen=True)
class Piece:
    """Rows low to high, all of one part; ``last`` if they end it."""

    part: int
    low: int
    high: int
    last: bool


@dataclass(frozen=True)
class PartsOptions:
    """How to write a folder of parts."""

    part_rows: Annotated[int, Option(help="Rows of a part.", rich_help_panel=PARTS)] = 4096
    dtype: Annotated[str, Option(help="float32 or float16.", rich_help_panel=PARTS)] = "float32"
    readers: Annotated[
        int | None, Option(help="Threads that decode images; default: one a core.", rich_help_panel=PARTS)
    ] = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"--dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r:.80}")
        check_count("--part-rows", self.part_rows, least=1)
        if self.readers is not None:
            check_count("--readers", self.readers, least=1, most=1024)


def encode_parts(model: RunOptions, data: DataOptions, out: OutOptions, options: PartsOptions, invalid: str) -> None:
    """Write mean and log-variance of every row into the folder ``out.out``, but those of parts that are there already.

    Raises:
        InputError: data that cannot be read, or a row with NaN or Inf where ``invalid`` is ``raise``.
        NumericsError: latents beyond what the dtype holds.
        OutputError: the folder is none, holds parts of another job, or a part cannot be written; those before it are.
    """
    if not out.out.parent.is_dir():
        raise OutputError(f"--out: cannot write {out.out}: no such folder {out.out.parent}")
    vae = model.load()
    source = data.open(vae.spec, invalid=invalid, lazy=True)
    if len(source.ids) > 1:
        raise InputError(f"--id-column: a part has one array of ids, found {', '.join(source.ids)}")
    ids = next(iter(source.ids.values()), np.arange(len(source)))
    job = _job(vae, source, model, data) | {"dtype": options.dtype}
    with Parts(out.out, ids, job, options.part_rows, force=out.force) as parts:
        try:
            encode_rows(vae, source, parts, options, invalid)
        except (KeyboardInterrupt, SystemExit):
            left = len(parts.missing())
            note(f"{out.out}: {parts.count - left:,} of {parts.count:,} parts are written; the same command goes on")
            raise
    if source.rejected:
        first = source.rejected[min(source.rejected)]
        note(f"note: {len(source.rejected):,} images could not be read, their rows are NaN; the first: {first}")
    note(f"{out.out}: {len(source):,} rows in {parts.count:,} parts")


def encode_rows(vae: fastvae.VAE, source: Source, parts: Parts, options: PartsOptions, invalid: str) -> None:
    """Write the parts that are missing, rows read ahead of the model; errors as :func:`encode_parts`."""
    pieces = list(_pieces(parts, block_rows(source)))
    names = ("mean",) if isinstance(vae.spec.posterior, PointHead) else ("mean", "logvar")
    collected: dict[str, list[Rows]] = {name: [] for name in names}
    with progress("encode", len(source)) as advance:
        advance(len(source) - sum(piece.high - piece.low for piece in pieces))
        with closing(vae.encode_stream(_read(source, pieces, invalid, options.readers), invalid=invalid)) as stream:
            for piece, posterior in stream:
                for name, values in collected.items():
                    values.append(_narrowed(getattr(posterior, name), options.dtype))
                if piece.last:
                    parts.write(piece.part, {name: np.concatenate(values) for name, values in collected.items()})
                    collected = {name: [] for name in names}
                advance(piece.high - piece.low)


def _job(vae: fastvae.VAE, source: Source, model: RunOptions, data: DataOptions) -> dict[str, Any]:
    """What decides the latents of a row, besides the rows, as JSON has it."""
    reading = ("key", "scale", "resize", "crop", "filter")
    return {
        "model": vae.fingerprint,
        "shape": list(source.shape[1:]),
        "precision": vae.precision,
        "pixel_range": list(data.pixel_range(vae.spec)),
        "scaled_latents": model.scaled_latents,
        **{name: getattr(data, name) for name in reading},
    }


def _pieces(parts: Parts, size: int) -> Iterator[Piece]:
    for part in parts.missing():
        first, end = parts.range(part)
        for low in range(first, end, size):
            high = min(low + size, end)
            yield Piece(part, low, high, high == end)


def _read(source: Source, pieces: list[Piece], invalid: str, threads: int | None) -> Generator[tuple[Piece, Rows]]:
    with closing(read_ahead(source, ((piece.low, piece.high) for piece in pieces), threads=threads)) as blocks:
        for piece, (low, values) in zip(pieces, blocks, strict=True):
            if invalid == "raise":
                check_finite(source, low, values)
            yield piece, values


def _narrowed(values: Rows, dtype: str) -> Rows:
    with np.errstate(over="ignore"):
        narrow = values.astype(DTYPES[dtype], copy=False)
    if dtype != "float32" and bool((np.isinf(narrow) & np.isfinite(values)).any()):
        raise NumericsError(f"--dtype: a latent is beyond what {dtype} holds; write float32")
    return narrow
