"""The list of mutants is up to date: each finds its place, and every kernel has at least three."""

from collections import Counter
from pathlib import Path

import pytest

from tools.mutate_kernels import Mutant, mutants

PACKAGE = Path(__file__).parents[2] / "kernels" / "fastvae_kernels"


@pytest.mark.parametrize("mutant", mutants(), ids=lambda m: f"{m.file}: {m.what}")
def test_finds_its_place(mutant: Mutant) -> None:
    text = (PACKAGE / mutant.file).read_text()
    assert mutant.applied(text) != text


def test_a_place_that_is_gone_or_not_alone_is_refused() -> None:
    mutant = Mutant("a.py", "a sign", "+ x", "- x", "")
    assert mutant.applied("y + x") == "y - x"
    for text in ("y", "z + x + x"):
        with pytest.raises(ValueError, match=r"a\.py: a sign: '\+ x' occurs"):
            mutant.applied(text)


def test_every_kernel_has_three() -> None:
    count = Counter(mutant.file for mutant in mutants())
    for file in (PACKAGE / "triton").glob("*.py"):
        if "@triton.jit" in file.read_text():
            assert count[f"triton/{file.name}"] >= 3, file.name
