"""``bench.bulk``: the figures of a row follow from its times."""

from pathlib import Path

import numpy as np

from bench import bulk


def test_a_row_of_figures() -> None:
    times = {"decoder": [[2.0, 0.1], [4.0, 0.3]], bulk.ONE_THREAD: [[4.0, 1.0], [6.0, 1.0]]}
    times[bulk.TWO] = [[2.0, 1.0], [4.0, 3.0]]
    row = bulk.summary({name: np.array(values) for name, values in times.items()}, 600)
    assert row["rows_per_second"] == {"decoder": 200, bulk.ONE_THREAD: 120, bulk.TWO: 200}
    assert row["first_seconds"] == {"decoder": 0.2, bulk.ONE_THREAD: 1.0, bulk.TWO: 2.0}
    assert row["time_over_decoder"] == {"decoder": 1.0, bulk.ONE_THREAD: 1.75, bulk.TWO: 1.0}
    assert (row["two_workers_over_one"], row["rounds"]) == (1.75, 2)


def test_what_is_timed_runs(tmp_path: Path) -> None:
    timed = bulk.calls(tmp_path / "model.safetensors", 20, tmp_path)
    names = [name for name in timed if not name.startswith("command")]
    assert len(names) == 6
    for name in names:
        seconds, first = timed[name]()
        assert 0 < first <= seconds
