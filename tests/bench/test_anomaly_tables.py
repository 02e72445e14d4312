import importlib.util
from typing import Any

import numpy as np
import pytest

from bench import anomaly_tables


def norms(train: Any, test: Any, seed: int) -> dict[str, Any]:
    assert len(train) == 10
    return {"norm": np.linalg.norm(test, axis=1), "nothing": np.zeros(len(test))}


def test_half_of_the_normal_rows_are_trained_on_and_the_others_ranked() -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((21, 3)), 100 + rng.standard_normal((5, 3))
    found = anomaly_tables.compare(table, [norms], seeds=2)
    assert found["rows"] == {"trained on": 10, "normal": 11, "anomalous": 5, "seeds": 2}
    assert found["norm"] == {"auroc": [1.0, 0.0], "average_precision": [1.0, 0.0]}
    assert found["nothing"]["auroc"] == [0.5, 0.0]


def test_ten_anomalies_are_drawn_for_every_seed() -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((21, 3)), 100 + rng.standard_normal((30, 3))
    train, test, labels = anomaly_tables.half_and_ten(table, 4)
    np.testing.assert_array_equal(train, anomaly_tables.half(table, 4)[0])
    assert (len(test), labels.sum()) == (21, 10)
    assert len(np.unique(test[labels == 1], axis=0)) == 10
    assert not np.array_equal(test[labels == 1], anomaly_tables.half_and_ten(table, 5)[1][labels == 1])
    fitted, ranked, labels = anomaly_tables.together(table, 4)
    assert fitted is ranked
    np.testing.assert_array_equal(ranked[labels == 1], test[-10:])
    assert (len(ranked), labels.sum()) == (31, 10)


@pytest.mark.parametrize(
    ("name", "normal", "anomalous"),
    [
        ("breast cancer", 357, 212),
        ("breast cancer, ten malignant", 357, 10),
        ("wine, 1 among 2 and 3", 119, 59),
        ("wine, others among 2", 71, 107),
    ],
)
def test_tables_are_those_of_the_literature(name: str, normal: int, anomalous: int) -> None:
    rows, others = (anomaly_tables.CELLS | anomaly_tables.WINES)[name]()
    assert (len(rows), len(others)) == (normal, anomalous)


def test_pixels_lie_between_0_and_1() -> None:
    normal, anomalous = anomaly_tables.DIGITS["digits without 3"]()
    assert (normal.min(), normal.max(), normal.shape[1]) == (0, 1, 64)
    assert len(normal) + len(anomalous) == 1797


def test_pyods_model_is_left_out_with_a_line_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert anomaly_tables.pyod_vae not in anomaly_tables.detectors()
    assert "pip install -e '.[compare]'" in capsys.readouterr().out
