"""The committed page is what the committed rows give, and a page says what its rows do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import report

ROOT = Path(__file__).parents[2]
NO_IMAGES = ("--images", "there-are-none.jsonl")


def row(verb: str, rows: int, **rest: Any) -> dict[str, Any]:
    where = {"commit": "abc", "device": "CPU, 1 threads", "versions": {"torch": "2"}, "dtype": "float32"}
    return where | {"case": {"model": "mlp", "verb": verb, "rows": rows}} | rest


def timed(ours: float, **ratios: float) -> dict[str, Any]:
    times = {"fastvae": ours} | {name: ours * ratio for name, ratio in ratios.items()}
    return {
        "microseconds": {name: {"p50": time} for name, time in times.items()},
        "ratios": {name: {"p50": ratio} for name, ratio in ratios.items()},
        "absent": {"OpenVINO": "openvino is not installed"},
    }


ROWS = [
    row("score", 65_536, skipped="an estimated 900 s at least, over 300"),
    row("score", 16, **timed(1.0, eager=1.0)),
    row("encode", 16, **timed(50.0, eager=1.5, **{"ONNX Runtime": 0.5})),
    row("score", 16, **timed(2000.0, eager=3.0, **{"ONNX Runtime": 1.25})),
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in ROWS))
    return path


def test_the_committed_page_is_what_the_committed_rows_give() -> None:
    devices, target = report.read(ROOT / report.ROWS_FILE), ROOT / report.PAGE
    plots = report.plot_names(devices, target)
    assert target.read_text() == report.page(devices, plots, report.read_images(ROOT / report.IMAGES_FILE))
    assert all((target.parent / name).exists() for name in plots.values())


def test_a_page_has_a_line_for_each_case(rows: Path, tmp_path: Path) -> None:
    assert report.main([str(rows), *NO_IMAGES, "--out", str(tmp_path / "docs" / "page.md")]) == 0
    page = (tmp_path / "docs" / "page.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("| ")]
    assert table == [
        "| verb | rows | fastvae µs | eager µs | ratio | ONNX Runtime µs | ratio | best |",
        "| encode | 16 | 50.0 | 75.0 | **1.50** | 25.0 | 0.50 | 0.50 |",
        "| score | 16 | 2,000 | 6,000 | **3.00** | 2,500 | **1.25** | **1.25** |",
        "| score | 65,536 | skipped | skipped | – | skipped | – | – |",
    ]
    assert "fastvae is faster than every peer in 1 of 2 cases." in page
    assert "- skipped: an estimated 900 s at least, over 300 (mlp-score-65536)" in page
    assert "- OpenVINO: openvino is not installed (mlp-encode-16, mlp-score-16)" in page


def test_images_are_a_section_of_the_page(tmp_path: Path) -> None:
    images = tmp_path / "images.jsonl"
    cases = [
        {"case": {"model": model, "verb": verb, "size": size, "rows": 1}} | timed(123_456.0, eager=ratio)
        for model, verb, size, ratio in [
            ("taesd", "encode", 256, 2),
            ("sd", "encode", 512, 0.5),
            ("sd", "encode", 64, 1),
        ]
    ]
    images.write_text("".join(json.dumps(row("score", 1) | each) + "\n" for each in cases))
    report.main([str(tmp_path / "none.jsonl"), "--images", str(images), "--out", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    section = page[page.index("## Image autoencoders") :]
    assert [line for line in section.splitlines() if line.startswith("| ")] == [
        "| model | verb | pixels a side | images | fastvae ms | eager ms | ratio | best |",
        "| sd | encode | 64 | 1 | 123 | 123 | 1.00 | 1.00 |",
        "| sd | encode | 512 | 1 | 123 | 61.7 | 0.50 | 0.50 |",
        "| taesd | encode | 256 | 1 | 123 | 247 | **2.00** | **2.00** |",
    ]
    assert "fastvae is faster than every peer in 1 of 3 cases." in section
    assert "- OpenVINO: openvino is not installed (sd-encode-64-1, sd-encode-512-1, taesd-encode-256-1)" in section


def test_the_plot_is_drawn_and_the_same_each_time(rows: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        report.main([str(rows), *NO_IMAGES, "--out", str(tmp_path / folder / "page.md")])
    first, second = ((tmp_path / folder / "page-1.svg").read_text() for folder in ("a", "b"))
    assert first == second
    assert "encode" in first
    assert "](page-1.svg)" in (tmp_path / "a" / "page.md").read_text()


def test_no_rows_make_a_page_that_says_so(tmp_path: Path) -> None:
    report.main([str(tmp_path / "none.jsonl"), *NO_IMAGES, "--out", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    assert "No row has been recorded" in page
    assert "Image autoencoders" not in page
