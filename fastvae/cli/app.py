"""The application itself: its commands, and what becomes of their errors."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import fastvae
from fastvae.cli import INTERRUPTED, bulk, describe, fit, latents, make, plot, rows, scores
from fastvae.errors import FastVAEError

USER_ERROR = 2


class Commands(TyperGroup):
    """The commands; a user's mistake in any of them is one line on stderr, never a traceback."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of this call, and its arguments."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, found, bulk.with_addresses(rest)

    def invoke(self, ctx: Any) -> Any:
        """Run the command of this call."""
        try:
            return super().invoke(ctx)
        except FastVAEError as error:
            _fail(f"error: {error}", USER_ERROR)
        except BrokenPipeError:
            raise
        except OSError as error:
            _fail(f"error: {error.filename or 'a file'}: {error.strerror or error}", USER_ERROR)
        except MemoryError:
            _fail(
                "error: not enough memory; .npy, .csv and .parquet are written in less than .npz and .png", USER_ERROR
            )
        except KeyboardInterrupt:
            _fail("interrupted", INTERRUPTED)


def _fail(message: str, status: int) -> None:
    print("fastvae:", " ".join(message.split()), file=sys.stderr)
    raise typer.Exit(status)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: fastvae generate digits -n 64 --out samples.png",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fastvae {fastvae.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Generate, encode, reconstruct, score and impute with a trained variational autoencoder."""


drawing = typer.Typer(no_args_is_help=True, help="Draw samples, reconstructions, traversals, embeddings or scores.")
app.add_typer(drawing, name="plot")
for module in (make, rows, scores, fit, bulk, latents, describe, plot):
    for command in module.COMMANDS:
        (drawing if module is plot else app).command(epilog=f"Example: {command.example}")(command.run)
