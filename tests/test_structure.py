"""The shape of the house: imports run one way, optional packages stay unimported, every public thing is tested."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastvae
import fastvae_kernels

ROOT = Path(__file__).parents[1]
OPTIONAL = (
    "triton",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "sklearn",
    "ray",
    "pandas",
    "pyarrow",
    "PIL",
    "typer",
    "rich",
    "matplotlib",
    "diffusers",
    "scipy",
    "zarr",
    "webdataset",
    "fsspec",
    "s3fs",
)

# Each room of fastvae and the level it is on; a module may only import from its own room or a lower level.
LEVELS = {
    "errors": 0,
    "processes": 0,
    "layers": 1,
    "heads": 2,
    "training": 11,
    "spec": 3,
    "spec_json": 4,
    "model": 5,
    "atomic": 1,
    "scaling": 1,
    "noise": 1,
    "running": 1,
    "priors": 4,
    "likelihoods": 6,
    "formats": 6,
    "plan": 7,
    "onnx": 8,
    "runtime": 9,
    "arrays": 10,
    "conversion": 10,
    "scoring": 10,
    "embedded": 10,
    "paths": 10,
    "evidence": 11,
    "streams": 1,
    "imputation": 11,
    "fitting": 11,
    "posterior": 11,
    "walk": 11,
    "warmup": 11,
    "generation": 12,
    "interpolation": 12,
    "long_way": 12,
    "api": 13,
    "loading": 14,
    "__init__": 15,
    "representation": 15,
    "plots": 16,
    "files": 2,
    "bulk": 16,
    "integrations": 16,
    "cli": 17,
    "__main__": 18,
}


def room(path: Path) -> str:
    relative = path.relative_to(ROOT / "fastvae")
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Absolute names of the modules a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "fastvae").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    own = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "fastvae" or len(parts) < 2 or parts[1] not in LEVELS:
            continue
        allowed = parts[1] == own or LEVELS[parts[1]] < LEVELS[own]
        assert allowed, f"{path.relative_to(ROOT)} (level {LEVELS[own]}) imports {name} (level {LEVELS[parts[1]]})"


def test_every_room_has_a_level() -> None:
    rooms = {room(path) for path in (ROOT / "fastvae").rglob("*.py")}
    assert rooms == LEVELS.keys()


def test_kernels_never_import_the_engine_nor_each_other() -> None:
    package = ROOT / "kernels" / "fastvae_kernels"
    for path in package.rglob("*.py"):
        text = path.read_text()
        assert not any(name.split(".")[0] == "fastvae" for name in imports(path)), path
        inside = path.relative_to(package).parts[0]
        for own, other in (("reference", "triton"), ("triton", "reference")):
            if inside == own:
                assert f"from ..{other}" not in text, path
                assert f"from .. import {other}" not in text, path


def test_kernels_is_a_source_root() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_importing_and_running_imports_nothing_optional() -> None:
    code = (
        "import sys, fastvae; fastvae.load('digits', impl='reference').generate(1); "
        f"print([name for name in {OPTIONAL!r} if name in sys.modules])"
    )
    path = f"{ROOT}:{ROOT / 'kernels'}"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert result.stdout.strip() == "[]"


def test_the_package_alone_imports_nothing_yet() -> None:
    code = "import sys, fastvae.cli; print('torch' in sys.modules, set(fastvae.__all__) <= set(dir(fastvae)))"
    path = f"{ROOT}:{ROOT / 'kernels'}"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert result.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        fastvae.lode  # noqa: B018


def test_a_bulk_job_imports_only_what_its_files_need(tmp_path: Path) -> None:
    code = (
        "import sys, fastvae.bulk; from fastvae import load; vae = load('digits', impl='reference'); "
        f"fastvae.bulk.generate(vae, 1, {str(tmp_path / 'npy')!r}, format='npy'); "
        f"print([name for name in {OPTIONAL!r} if name in sys.modules]); "
        f"fastvae.bulk.generate(vae, 1, {str(tmp_path / 'parquet')!r}); "
        f"print([name for name in {OPTIONAL!r} if name in sys.modules])"
    )
    path = f"{ROOT}:{ROOT / 'kernels'}"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert result.stdout.splitlines() == ["[]", "['pyarrow']"]


def test_every_public_name_is_covered_by_a_test() -> None:
    paths = [*(ROOT / "tests").rglob("*.py"), ROOT / "kernels" / "fastvae_kernels" / "cases.py"]
    tests = "\n".join(path.read_text() for path in paths)
    verbs = [name for name in vars(fastvae.VAE) if not name.startswith("_")]
    for name in [*fastvae.__all__, *fastvae_kernels.__all__, *verbs]:
        assert name in tests, name


def test_both_packages_are_typed() -> None:
    for package in (fastvae, fastvae_kernels):
        assert (Path(str(package.__file__)).parent / "py.typed").exists()
