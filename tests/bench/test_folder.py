"""``python -m bench.folder``: parts are compared with the latents before they are timed, and a row says everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fastvae
from bench import folder
from bench.image_models import IMAGE_MODELS
from tests.bench.test_images import small_tiny

OPTIONS = ["--models", "small_tiny", "--sizes", "16", "--images", "3", "--rounds", "2", "--readers", "1"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IMAGE_MODELS, "small_tiny", small_tiny)
    monkeypatch.setattr(folder, "PICTURE", (20, 30))


def test_a_row(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert folder.main([*OPTIONS, "--out", str(out)]) == 0
    row = json.loads(out.read_text())
    assert row["case"] == {"model": "small_tiny", "size": 16, "images": 3, "readers": 1, "picture": [20, 30]}
    assert row["images_per_second"].keys() == {"compute", "pipeline", "in turn"}
    assert row["of_compute"].keys() == {"pipeline", "in turn"}
    assert all(value > 0 for speeds in row["images_per_second"].values() for value in speeds.values())


def test_wrong_latents_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = fastvae.VAE.encode_stream

    def wrong(self: fastvae.VAE, batches: Any, **options: Any) -> Any:
        return stream(self, ((ids, x + 1) for ids, x in batches), **options)

    monkeypatch.setattr(fastvae.VAE, "encode_stream", wrong)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        folder.main([*OPTIONS, "--out", str(tmp_path / "rows.jsonl")])
    assert not list(tmp_path.iterdir())
