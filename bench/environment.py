"""Where and with what a row of results was measured."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import fastvae

OUT = Path("bench/results")
PACKAGES = ("torch", "numpy", "diffusers", "onnx", "onnxscript", "onnxruntime", "openvino", "scikit-learn", "pyod")


def environment() -> dict[str, Any]:
    """Commit, processor, threads and versions; packages that are not installed are left out."""
    return {
        "commit": _commit(),
        "device": f"{_processor()}, {torch.get_num_threads()} threads",
        "versions": {
            "fastvae": fastvae.__version__,
            "python": platform.python_version(),
            **{package: version for package in PACKAGES if (version := _version(package))},
        },
        "dtype": "float32",
    }


def _commit() -> str:
    """The commit checked out, marked dirty if a tracked file differs other than the results being written."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){OUT}")
    return (commit or "unknown") + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
