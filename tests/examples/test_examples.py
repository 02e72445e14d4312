"""Every script in examples/ runs as it stands, prints something and leaves a picture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
PICTURES = {".png": b"\x89PNG", ".svg": b"<?xml", ".jpg": b"\xff\xd8"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs_and_leaves_a_picture(script: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert any(character.isdigit() for character in result.stdout), "an example prints what it found"
    pictures = [path for path in tmp_path.iterdir() if path.suffix in PICTURES]
    assert pictures, f"no picture among {sorted(path.name for path in tmp_path.iterdir())}"
    for path in pictures:
        assert path.read_bytes().startswith(PICTURES[path.suffix])


def test_there_are_examples() -> None:
    assert SCRIPTS
