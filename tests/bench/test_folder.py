"""``python -m bench.folder``: shards are compared with the latents before they are timed, and a row says everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fastvae
from bench import folder
from bench.image_models import IMAGE_MODELS
from tests.bench.test_images import small_tiny

OPTIONS = ["--models", "small_tiny", "--sizes", "16", "--images", "3", "--rounds", "2"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IMAGE_MODELS, "small_tiny", small_tiny)
    monkeypatch.setattr(folder, "PICTURE", (20, 30))


def test_a_row(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert folder.main([*OPTIONS, "--out", str(out)]) == 0
    row = json.loads(out.read_text())
    assert row["case"] == {"model": "small_tiny", "size": 16, "images": 3, "picture": [20, 30]}
    assert row["images_per_second"].keys() == {"compute", "pipeline", "in turn"}
    assert row["of_compute"].keys() == {"pipeline", "in turn"}
    assert all(value > 0 for speeds in row["images_per_second"].values() for value in speeds.values())


def test_wrong_latents_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = fastvae.VAE.embed
    monkeypatch.setattr(folder.Comparison, "compute", lambda self: [embed(self._vae, x) + 1 for _, x in self._blocks])
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        folder.main([*OPTIONS, "--out", str(tmp_path / "rows.jsonl")])
    assert not list(tmp_path.iterdir())
