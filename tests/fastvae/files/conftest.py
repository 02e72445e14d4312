"""CSV files of data sets are read and indexed in small steps, so that a few rows take several."""

import pytest


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvae.files.dataset._csv.STEP", 4)
    monkeypatch.setattr("fastvae.files.dataset._csv.CHUNK", 37)
