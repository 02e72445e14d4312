"""The command line in a process of its own, for tests that stop or kill it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def generate_digits(out: Path, samples: int, shard: int, *arguments: object) -> subprocess.Popen[str]:
    """A bulk job of the embedded digits, in a group of processes of its own, as a shell starts it."""
    options = ["-n", samples, "--shard-size", shard, "--out", out, *arguments]
    return subprocess.Popen(
        [sys.executable, "-m", "fastvae", "generate", "digits", *map(str, options)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
