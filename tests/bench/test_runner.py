"""What is not right is not timed; rows survive an interruption, and a run goes on where it was left."""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import runner, timing
from bench.cases import Case, cases
from bench.peers import OURS, PEERS
from bench.prepared import AbsentError, Prepared
from bench.runner import Effort, measure, run

QUICK = Effort(rounds=5, seconds=0)
CASE = Case("breast_cancer", "score", 4)


def absent(case: Case) -> Prepared:
    raise AbsentError("not today")


def wrong(case: Case) -> Prepared:
    result = torch.zeros(case.rows)
    return Prepared(lambda: result, lambda: result)


def test_a_row_says_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "absent", absent)
    monkeypatch.setitem(PEERS, "wrong", wrong)
    row = json.loads(json.dumps(measure(CASE, QUICK, (OURS, "eager", "absent", "wrong"))))
    assert row["case"] == {"model": "breast_cancer", "verb": "score", "rows": 4}
    assert row["absent"]["absent"] == "not today"
    assert row["absent"]["wrong"].startswith("differs from eager PyTorch by 1.0e+00")
    assert row["rounds"] == 5
    assert row["microseconds"].keys() == row["calls"].keys() == {OURS, "eager"}
    times, ratio = row["microseconds"], row["ratios"]["eager"]
    assert times[OURS]["p20"] <= times[OURS]["p50"] <= times[OURS]["p80"]
    assert 0 < ratio["p20"] <= ratio["p50"] <= ratio["p80"]


def test_nothing_is_timed_if_fastvae_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, OURS, wrong)
    with pytest.raises(AssertionError, match="breast_cancer-score-4: fastvae differs from eager PyTorch"):
        measure(CASE, QUICK, (OURS, "eager"))


def test_skips_what_needs_too_much() -> None:
    case = Case("breast_cancer", "encode", 512)
    memory = measure(case, Effort(max_gib=1e-6), (OURS, "eager"))
    assert memory.keys() == {"case", "skipped"}
    assert "GiB, over 1e-06" in memory["skipped"]
    assert "s at least, over 1e-09" in measure(case, Effort(max_seconds=1e-9), (OURS,))["skipped"]
    assert "skipped" not in measure(CASE, Effort(rounds=5, max_seconds=1e-9), (OURS,)), "small cases are not estimated"


def test_interrupted_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, selected = tmp_path / "new" / "rows.jsonl", cases(["mlp"], ["encode", "score"], [1, 2])
    asked: list[Case] = []

    def skip(case: Case, *_: Any) -> dict[str, Any]:
        if len(asked) == 2 and case not in asked:
            raise KeyboardInterrupt
        asked.append(case)
        return {"case": vars(case), "skipped": "for the test"}

    monkeypatch.setattr(runner, "measure", skip)
    command = ["--models", "mlp", "--verbs", "encode", "score", "--rows", "1", "2", "--out", str(out)]
    assert runner.main(command) == 130
    assert [Case(**row["case"]) for row in read(out)] == selected[:2]

    def rest(case: Case) -> dict[str, Any]:
        assert case not in selected[:2]
        return {"case": vars(case), "skipped": "for the test"}

    run(selected, out, rest, resume=True)
    assert [Case(**row["case"]) for row in read(out)] == selected


def test_resume_measures_anew_on_another_commit_or_threads(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    run([CASE], out, lambda case: {"case": vars(case), "skipped": ""})
    (row,) = read(out)
    for key in ("commit", "device"):
        assert runner.measured(out, row | {key: "another"}) == set()
    assert runner.measured(out, row) == {CASE}


def test_calls_take_turns_and_fill_a_sample() -> None:
    order: list[str] = []
    enabled: list[bool] = []

    def call(name: str) -> None:
        order.append(name)
        enabled.append(gc.isenabled())

    names = ["a", "b", "c"]
    times, repeats = timing.interleaved({n: lambda n=n: call(n) for n in names}, rounds=3, min_rounds=3, seconds=60)
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys(names, 3)
    turns = ["abc"[i % 3] for i in (0, 1, 2, 1, 2, 0, 2, 0, 1)]
    # One more of each that is not timed, where a sample of any is several calls.
    expected = [name for name in turns for _ in range(repeats[name] + (max(repeats.values()) > 1))]
    assert order[-len(expected) :] == expected
    assert enabled[0]
    assert not any(enabled[-len(expected) :])
    assert gc.isenabled()


def test_a_sample_is_warm_for_all_or_for_none() -> None:
    order: list[str] = []

    def long() -> None:
        order.append("long")
        time.sleep(5 * timing.SAMPLE_SECONDS)

    calls = {"short": lambda: order.append("short"), "long": long}
    _, repeats = timing.interleaved(calls, rounds=2, min_rounds=2, seconds=60)
    assert repeats["long"] == 1
    short = ["short"] * (repeats["short"] + 1)
    expected = [*short, "long", "long", "long", "long", *short]
    assert order[-len(expected) :] == expected
    order.clear()
    timing.interleaved({"long": long}, rounds=2, min_rounds=2, seconds=60)
    assert len(order) == 1 + 3 + 2  # how long it takes, and two samples of one cold call


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
