"""``bench.bulk``: the figures of a row follow from its times."""

from pathlib import Path

import numpy as np

from bench import bulk


def test_a_row_of_figures() -> None:
    times = {"decoder": [[2.0, 0.1], [4.0, 0.3]]}
    for dtype in bulk.DTYPES:
        times[f"{bulk.ALONE} {dtype}"] = [[4.0, 1.0], [6.0, 1.0]]
        times[f"{bulk.TWO} {dtype}"] = [[2.0, 1.0], [4.0, 3.0]]
    row = bulk.summary({name: np.array(values) for name, values in times.items()}, 600)
    alone, two = f"{bulk.ALONE} uint8", f"{bulk.TWO} uint8"

    def of(figures: object) -> tuple[float, float, float]:
        assert isinstance(figures, dict)
        return figures["decoder"], figures[alone], figures[two]

    assert of(row["rows_per_second"]) == (200, 120, 200)
    assert of(row["first_seconds"]) == (0.2, 1.0, 2.0)
    assert of(row["time_over_decoder"]) == (1.0, 1.75, 1.0)
    assert (row["two_workers_over_one"], row["rounds"]) == ({"float32": 1.75, "uint8": 1.75}, 2)


def test_what_is_timed_runs(tmp_path: Path) -> None:
    timed = bulk.calls(tmp_path / "model.safetensors", 20, tmp_path)
    names = [name for name in timed if not name.startswith("command")]
    assert len(names) == 6
    for name in names:
        seconds, first = timed[name]()
        assert 0 < first <= seconds
