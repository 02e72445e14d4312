"""The command line, ``fastvae``: the verbs on files. Imported by nothing else in fastvae."""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType

from fastvae import processes

__all__ = ["main"]

TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT


def main() -> None:
    """Run ``fastvae`` with the arguments of this process, and exit.

    Exit status: 0; 2 for a user's mistake; 130 after Ctrl-C; 143 when terminated. No output file is left half-written.
    """
    try:
        signal.signal(signal.SIGTERM, _terminate)
        if any(word.startswith("--workers") for word in sys.argv):
            processes.begin()
        try:
            with processes.imports():
                from fastvae.cli.app import app
        except ModuleNotFoundError as error:
            if error.name not in ("typer", "rich"):
                raise
            sys.exit(f'fastvae: error: the command line needs {error.name}: pip install "fastvae-engine[cli]"')
        app()
    except KeyboardInterrupt:
        print("fastvae: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        gc.freeze()  # a last look for garbage goes through all that PyTorch has


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(TERMINATED)
