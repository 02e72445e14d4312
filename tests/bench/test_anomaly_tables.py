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


def test_ten_anomalies_are_drawn_many_times() -> None:
    labels = np.repeat([0, 1], [11, 30])
    draws = anomaly_tables.ranked(labels, 4, tens=20)
    assert len(draws) == 20
    assert len({tuple(sorted(draw)) for draw in draws}) == 20
    for draw in draws:
        np.testing.assert_array_equal(draw[:11], np.arange(11))
        assert (len(np.unique(draw)), labels[draw].sum()) == (21, 10)
    rng = np.random.default_rng(0)
    table = rng.standard_normal((21, 3)), np.concatenate([np.zeros((15, 3)), np.full((15, 3), 100.0)])
    found = anomaly_tables.compare(table, [norms], seeds=2, tens=20)
    assert found["rows"] == {"trained on": 10, "normal": 11, "anomalous": 10, "seeds": 2, "draws of ten": 20}
    whole = anomaly_tables.compare(table, [norms], seeds=2)["norm"]["auroc"]
    assert found["norm"]["auroc"][0] == pytest.approx(whole[0], abs=0.06)
    assert found["norm"]["auroc"][1] > 0.05 > whole[1]


def test_unsupervised_rows_are_ranked_by_what_was_fitted_to_them() -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((21, 3)), 100 + rng.standard_normal((30, 3))
    fitted, rows, labels = anomaly_tables.together(table, 4)
    assert fitted is rows
    assert (len(rows), labels.sum(), (rows[labels == 1] > 50).all()) == (31, 10, True)
    assert not np.array_equal(rows, anomaly_tables.together(table, 5)[0])


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
