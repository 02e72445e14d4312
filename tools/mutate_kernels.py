"""Break each kernel on purpose, one way at a time, and show that the kernels' test-suite notices each.

python tools/mutate_kernels.py [--only linear] [--jobs 2] copies the package and its tests to a temporary folder, makes
one change of tools/kernel_mutants.toml, runs the tests that concern it, and expects them to fail. Exit status 1 if a
mutant survives, or if the tests fail without one. Under Triton's interpreter; needs no GPU, and a C compiler for the
kernels of CPUs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("kernels", "tests/kernels", "tests/conftest.py", "pyproject.toml")
COMPILED = "cpu/"
SECONDS = 600


@dataclass(frozen=True)
class Mutant:
    """One change to one file under kernels/fastvae_kernels.

    what: in a few words. old: text that occurs exactly once in the file. new: what takes its place. tests: an
    expression of pytest's -k for the tests to run.
    """

    file: str
    what: str
    old: str
    new: str
    tests: str

    def applied(self, text: str) -> str:
        """`text` with the change made.

        Raises ValueError if the place is not there exactly once: then the list has to be brought up to date.
        """
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file}: {self.what}: {self.old!r} occurs {text.count(self.old)} times, not once")
        return text.replace(self.old, self.new)


def mutants() -> list[Mutant]:
    """Every mutant of the list."""
    table = tomllib.loads((ROOT / "tools" / "kernel_mutants.toml").read_text())
    return [Mutant(**values) for values in table["mutant"]]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: the first test that failed, or none."""

    mutant: Mutant
    killer: str
    seconds: float


@contextmanager
def copied() -> Iterator[Path]:
    """A temporary copy of what the kernels' tests need."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for item in COPIED:
            target = folder / item
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / item).is_dir():
                shutil.copytree(ROOT / item, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / item, target)
        yield folder


def build(folder: Path) -> None:
    """Compile a copy's kernels for CPUs over those that it was copied with.

    Raises CalledProcessError if they do not compile.
    """
    setuptools = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["setuptools"]
    (module,) = setuptools["ext-modules"]
    target = folder.joinpath("kernels", *module["name"].split(".")).with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))
    flags = [*module["extra-compile-args"], "-fPIC", "-shared", *module["sources"], *module["extra-link-args"]]
    subprocess.run(["cc", *flags, "-o", target], cwd=folder, check=True)


def failed_test(folder: Path, expression: str) -> str:
    """Run the tests that `expression` selects in a copy, and give the first to fail, or nothing."""
    paths = {"PYTHONPATH": os.pathsep.join([str(folder), str(folder / "kernels")])}
    environment = {**os.environ, **paths, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-k", expression, "tests/kernels"]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end after {SECONDS} s"
    if done.returncode == 0:
        return ""
    found = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    crash = f"pytest ended with {done.returncode}: {done.stderr.strip().splitlines()[0] if done.stderr.strip() else ''}"
    return found[0].split(" - ")[0].removeprefix("FAILED ") if found else crash


def outcome(mutant: Mutant) -> Outcome:
    """Make the change in a copy of its own and test it."""
    began = time.perf_counter()
    with copied() as folder:
        file = folder / "kernels" / "fastvae_kernels" / mutant.file
        file.write_text(mutant.applied(file.read_text()))
        if mutant.file.startswith(COMPILED):
            build(folder)
        killer = failed_test(folder, mutant.tests)
    return Outcome(mutant, killer, time.perf_counter() - began)


def main() -> int:
    """Test the untouched copy, then every mutant; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mutants whose file or description contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many to test at a time")
    options = parser.parse_args()
    chosen = [m for m in mutants() if options.only in f"{m.file} {m.what}"]
    with copied() as folder:
        if any(mutant.file.startswith(COMPILED) for mutant in chosen):
            build(folder)  # the installed ones may be of an older source, or missing: their tests are then skipped
        for expression in sorted({m.tests for m in chosen}):
            if broken := failed_test(folder, expression):
                print(f"without a mutant, {expression!r} fails: {broken}", file=sys.stderr)
                return 1
    print(f"{len(chosen)} mutants; without them the tests pass", flush=True)
    survivors = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for found in pool.map(outcome, chosen):
            survivors += not found.killer
            verdict = f"killed by {found.killer}" if found.killer else "SURVIVED"
            print(f"{found.mutant.file:28}{found.mutant.what:44}{found.seconds:5.0f} s  {verdict}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
