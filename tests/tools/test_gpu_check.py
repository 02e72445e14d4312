"""The check for a machine with a GPU, rehearsed: the runtime's sections run through and keep no row."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_runtime_is_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), "--dry-run", "--out", str(tmp_path)]
    command += ["--only", "runtime:[clmt]*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for op in ("vae.encode", '"memory"', '"threads"', '"compilations"', '"close"', '"cold start"'):
        assert op in done.stdout
    assert list(tmp_path.iterdir()) == []
