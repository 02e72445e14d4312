"""The pages keep their promises: paths they name exist, the spec they show loads, the README's commands are CI's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastvae.spec_json import spec_from_json

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "fastvae").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_paths_exist(page: Path) -> None:
    pattern = r"`((?:fastvae|kernels|tests|bench|tools|docs|\.ci)/[\w./-]+)`"
    missing = [name for name in re.findall(pattern, page.read_text()) if not (ROOT / name).exists()]
    assert missing == []


def test_the_spec_in_the_formats_page_is_one() -> None:
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "formats.md").read_text(), re.DOTALL)
    assert [spec_from_json(block).latent_dim for block in blocks] == [20]


def test_the_readme_has_the_two_commands() -> None:
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    assert "fastvae generate" in commands[0]
    assert commands[1].endswith("pytest -n auto")
