"""``plot``: samples, reconstructions, traversals, embeddings and scores as pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from typer import Option

import fastvae
from fastvae import plots
from fastvae.cli.latents import check_rows, finite, posteriors
from fastvae.cli.make import TABLES
from fastvae.cli.options import (
    WRITING,
    ConditionText,
    DataOptions,
    OutOptions,
    RunOptions,
    Seed,
    command,
    pixel_range,
)
from fastvae.cli.work import Rows, condition_rows, note, read_condition
from fastvae.errors import InputError
from fastvae.files import ReadOptions, Source, open_source
from fastvae.noise import check_count
from fastvae.plots import Look
from fastvae.representation import diagnose_posterior, traverse
from fastvae.spec import PointHead

MOST = 64


@dataclass(frozen=True)
class PictureOptions(OutOptions):
    """Where the picture goes, and how large it is."""

    dpi: Annotated[int, Option(help="Pixels an inch.", rich_help_panel=WRITING)] = 150

    def write(self, figure: Any, what: str) -> None:
        """Write it, and say so."""
        plots.save(figure, self.out, dpi=self.dpi)
        note(f"{self.out}: {what}")


Image = Annotated[str | None, Option(help="Show flat rows as images: HEIGHTxWIDTH or CHANNELSxHEIGHTxWIDTH.")]
Row = Annotated[int | None, Option(help="Row of the data to start from (the first is 0); default: the prior's mean.")]
Dim = Annotated[list[int] | None, Option("--dim", help="Latent dimension. Repeatable.")]


@command("fastvae plot grid digits --rows 4 --columns 8 --out samples.svg")
def grid(
    model: RunOptions,
    out: PictureOptions,
    rows: Annotated[int, Option(help="Lines of the grid.")] = 8,
    columns: Annotated[int, Option(help="Samples in a line.")] = 8,
    seed: Seed = 0,
    start: Annotated[int, Option(help="Index of the first sample.")] = 0,
    output: Annotated[str, Option(help="mean of p(x|z), or a sample from it.")] = "mean",
    image: Image = None,
    condition: ConditionText = None,
) -> None:
    """Samples as a grid of images; of a table as a heat map."""
    out.check(*plots.SUFFIXES)
    columns = check_count("--columns", columns, least=1, most=MOST)
    count = check_count("--rows", rows, least=1, most=MOST) * columns
    vae = model.load(batch_invariant=True)
    labels = read_condition(condition, vae.spec, count)
    samples = vae.generate(count, seed, start, output, labels)  # type: ignore[arg-type]
    out.write(plots.grid(samples, columns=columns, look=_look(vae, image)), f"{count} samples")


@command("fastvae plot reconstructions digits data.npy --rows 2 --out reconstructions.png")
def reconstructions(
    model: RunOptions,
    data: DataOptions,
    out: PictureOptions,
    rows: Annotated[int, Option(help="Lines of originals.")] = 1,
    columns: Annotated[int, Option(help="Rows of data in a line.")] = 10,
    image: Image = None,
    condition: ConditionText = None,
) -> None:
    """The first rows of the data above their reconstructions; of a table two heat maps."""
    out.check(*plots.SUFFIXES)
    columns = check_count("--columns", columns, least=1, most=MOST)
    count = check_count("--rows", rows, least=1, most=MOST) * columns
    vae = model.load()
    source = data.open(vae.spec)
    labels = condition_rows(read_condition(condition, vae.spec, len(source)), 0, count)
    originals = source.block(0, min(count, len(source)))
    if not len(originals):
        raise InputError(f"{source.path}: there are no rows to draw")
    check_rows(source, 0, originals)
    result = vae.reconstruct(originals, condition=labels)
    shape = data.spec_for(vae.spec).input_shape
    pair = (x.reshape(len(x), *shape) for x in (originals, result))
    figure = plots.reconstructions(*pair, columns=columns, look=_look(vae, image, source))
    out.write(figure, f"{len(originals)} rows")


@command("fastvae plot traversal digits data.npy --row 0 --steps 9 --out traversal.png")
def traversal(
    model: RunOptions,
    data: DataOptions,
    out: PictureOptions,
    row: Row = None,
    dim: Dim = None,
    most: Annotated[int, Option("--dims", help="Dimensions to show if --dim names none, by KL over the data.")] = 10,
    steps: Annotated[int, Option(help="Points of a line.")] = 9,
    low: Annotated[float, Option(help="First point, in standard deviations.")] = -3.0,
    high: Annotated[float, Option(help="Last point.")] = 3.0,
    unit: Annotated[str, Option(help="Whose standard deviations: prior, or posterior of --row.")] = "prior",
    image: Image = None,
    condition: ConditionText = None,
) -> None:
    """What each latent dimension does: a line for each, that of the largest KL first."""
    out.check(*plots.SUFFIXES)
    most = check_count("--dims", most, least=1, most=MOST)
    steps = check_count("--steps", steps, least=2, most=MOST)
    vae = model.load()
    source = data.open(vae.spec)
    labels = read_condition(condition, vae.spec, len(source))
    if row is None and isinstance(labels, np.ndarray):
        raise InputError("--condition: a file has one for each row; say with --row which to start from")
    ranked = _ranked(vae, *posteriors(vae, source, labels))
    chosen = [d for d in ranked if dim is None or d in dim][: None if dim else most]
    if dim and len(chosen) != len(set(dim)):
        raise InputError(f"--dim: expected latent dimensions from 0 to {len(ranked) - 1}, got {dim}")
    begin = None if row is None else _row(source, row)
    one = labels if row is None else condition_rows(labels, row, row + 1)
    way: dict[str, Any] = {"low": low, "high": high, "unit": unit, "condition": one}
    decoded = traverse(vae, begin, chosen, steps, **way)[0]
    names, scores = [ranked[d] for d in chosen], np.linspace(low, high, steps).tolist()
    figure = plots.traversal(decoded, names, scores, look=_look(vae, image, source))
    out.write(figure, f"{len(chosen)} dimensions x {steps} steps")


@command("fastvae plot embedding breast_cancer patients.csv --labels diagnosis --out embedding.png")
def embedding(
    model: RunOptions,
    data: DataOptions,
    out: PictureOptions,
    labels: Annotated[
        str | None, Option(help="Colours: a column of the data's table, or a file with a number for each row.")
    ] = None,
    by: Annotated[str, Option(help="active: the two dimensions of the largest KL; pca: principal components.")] = "pca",
    dim: Dim = None,
    condition: ConditionText = None,
) -> None:
    """The latents of all rows in the plane, coloured by labels."""
    out.check(*plots.SUFFIXES)
    if by not in ("active", "pca"):
        raise InputError(f"--by: expected active or pca, got {by!r:.80}")
    vae = model.load()
    file = None if labels is None or not Path(labels).is_file() else Path(labels)
    if labels is not None and file is None:
        if data.data.suffix.lower() not in TABLES:
            raise InputError(f"--labels: there is no file {labels!r:.200}, and only tables have columns to name")
        data = replace(data, id_column=list(dict.fromkeys([*(data.id_column or []), labels])))
    source = data.open(vae.spec)
    colours = None if labels is None else source.ids[labels] if file is None else _numbers(file, len(source))
    mean, logvar = posteriors(vae, source, read_condition(condition, vae.spec, len(source)))
    dims = dim
    if dim is None and by == "active":
        dims = list(_ranked(vae, mean, logvar))[:2]
    out.write(plots.embedding(mean, colours, dims), f"{len(source):,} rows")


@command("fastvae plot scores digits known.npy --against new.npy --metric elbo --out scores.png")
def scores(
    model: RunOptions,
    data: DataOptions,
    out: PictureOptions,
    against: Annotated[Path | None, Option(help="Second data set, read with the same options.")] = None,
    metric: Annotated[str, Option(help="reconstruction, kl, elbo, iwae, mse or l2.")] = "reconstruction",
    samples: Annotated[int | None, Option(help="Draws of z a row; default: z is the posterior's mean.")] = None,
    bins: Annotated[int, Option(help="Bins of the histogram.")] = 40,
    seed: Seed = 0,
    condition: ConditionText = None,
) -> None:
    """A histogram of the scores of all rows; with --against that of a second data set over it."""
    out.check(*plots.SUFFIXES)
    vae = model.load()
    found: dict[str, Rows] = {}
    for path in (data.data, *([against] if against is not None else [])):
        source = replace(data, data=path).open(vae.spec)
        labels = read_condition(condition, vae.spec, len(source))
        name = f"{path.name} (2)" if path.name in found else path.name
        found[name] = np.concatenate(
            [
                vae.score(block.values, _metric(metric), samples, seed, condition=block.condition, start=block.low)
                for block in finite(source, "score", labels)
            ]
        )
    rows = " and ".join(f"{len(values):,}" for values in found.values())
    out.write(plots.scores(found, metric, bins=bins), f"{rows} rows")


def _ranked(vae: fastvae.VAE, mean: Rows, logvar: Rows) -> dict[int, str]:
    """What to call each latent dimension, by index: that of the largest KL first.

    Where the encoder is deterministic there is no KL, and the variance of the latents stands in.
    """
    if isinstance(vae.spec.posterior, PointHead):
        variances = mean.reshape(len(mean), -1).var(0)
        return {int(d): f"z{d}, variance {variances[d]:.2f}" for d in np.argsort(-variances, kind="stable")}
    found = diagnose_posterior(mean, logvar, mi_rows=0)
    return {int(d): f"z{d}, KL {found.kl[d]:.2f}" for d in found.order}


def _metric(name: str) -> Literal["reconstruction", "kl", "elbo", "iwae", "mse", "l2"]:
    return name  # type: ignore[return-value]


def _look(vae: fastvae.VAE, image: str | None, source: Source | None = None) -> Look:
    """How rows are drawn: with the columns' names, and as images if ``--image`` says so."""
    shape = None
    if image is not None:
        sizes = image.lower().split("x")
        if len(sizes) not in (2, 3) or not all(size.isdecimal() and 0 < len(size) < 7 for size in sizes):
            raise InputError(f"--image: expected HEIGHTxWIDTH or CHANNELSxHEIGHTxWIDTH, got {image!r:.80}")
        shape = tuple(map(int, sizes))
    return Look(shape, pixel_range(vae.spec), () if source is None else source.columns)


def _row(source: Source, index: int) -> Rows:
    """One row of the data, by index."""
    if not 0 <= index < len(source):
        raise InputError(f"--row: expected a row of {source.path}, 0 to {len(source) - 1}, got {index}")
    return source.block(index, index + 1)


def _numbers(path: Path, rows: int) -> Rows:
    """Labels from a file, one for each of ``rows``."""
    source = open_source(path, ReadOptions(integers=True))
    values = source.block(0, len(source))
    if values.shape not in ((rows,), (rows, 1)):
        raise InputError(f"--labels: expected one for each of {rows} rows in {path}, found shape {values.shape}")
    values = values.reshape(rows)
    whole = bool(source.dtypes) and source.dtypes[0].kind in "iu"
    return values.astype(np.int64) if whole else values


COMMANDS = (grid, reconstructions, traversal, embedding, scores)
