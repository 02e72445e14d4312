"""The check for a machine with a GPU, rehearsed: sections of the runtime and on images run through and keep no row."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_runtime_and_images_are_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), "--dry-run", "--out", str(tmp_path)]
    command += [
        "--only",
        "runtime:[lmt]*",
        "--only",
        "runtime:c[lo][om][sp]*",
        "--only",
        "kernel:group_norm*",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for op in (
        "vae.encode",
        '"memory"',
        '"threads"',
        '"compilations"',
        '"close"',
        "1x16x4x4",
    ):
        assert op in done.stdout
    assert list(tmp_path.iterdir()) == []
