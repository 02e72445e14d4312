"""``bench.bulk``: the figures of a row follow from its times."""

import math
from pathlib import Path

import numpy as np

from bench import bulk


def test_a_row_of_figures() -> None:
    times = {"decoder": [[2.0, 0.1, 300], [4.0, 0.3, 100]], "decoder, 1 thread": [[4.0, 1.0, 100], [4.0, 1.0, 100]]}
    for dtype in bulk.DTYPES:
        times[f"{bulk.ALONE} {dtype}"] = [[4.0, 1.0, 200], [6.0, 1.0, 100]]
        times[f"{bulk.CORE} {dtype}"] = [[6.0, 1.0, 50], [6.0, 1.0, 150]]
        times[f"{bulk.TWO} {dtype}"] = [[2.0, 1.0, 300], [4.0, 3.0, 300]]
    row = bulk.summary({name: np.array(values) for name, values in times.items()}, 600)
    alone, two = f"{bulk.ALONE} uint8", f"{bulk.TWO} uint8"

    def of(figures: object) -> tuple[float, float, float]:
        assert isinstance(figures, dict)
        return figures["decoder"], figures[alone], figures[two]

    assert of(row["rows_per_second"]) == (200, 120, 200)
    assert of(row["after_the_first"]) == (200, 150, 300)
    assert of(row["first_seconds"]) == (0.2, 1.0, 2.0)
    assert of(row["time_over_decoder"]) == (1.0, 1.75, 1.0)
    assert (row["two_workers_over_one"], row["rounds"]) == ({"float32": 2.25, "uint8": 2.25}, 2)
    assert (row["two_workers_over_one_core"], row["threads_over_one"]) == ({"float32": 4.0, "uint8": 4.0}, 2.0)


def test_what_is_timed_runs(tmp_path: Path) -> None:
    timed = bulk.calls(tmp_path / "model.safetensors", 20, tmp_path)
    names = [name for name in timed if not name.startswith("command")]
    assert len(names) == 7
    for name in names:
        seconds, first, rate = timed[name]()
        assert 0 < first <= seconds
        assert math.isnan(rate) or rate > 0
