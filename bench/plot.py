"""The plot of the benchmark page: how far ahead of the fastest peer fastvae is, by rows, one panel a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.cases import ALL_VERBS, Case

COLUMNS = 3


def draw(ratios: Mapping[Case, float | None], path: Path) -> None:
    """Write an SVG of the fastest peer's time over fastvae's; cases without a ratio are left out."""
    models = list(dict.fromkeys(case.model for case in ratios))
    height = math.ceil(len(models) / COLUMNS)
    with matplotlib.rc_context({"svg.hashsalt": "fastvae", "svg.fonttype": "none"}):
        figure = Figure(figsize=(4 * COLUMNS, 3.2 * height + 0.5), layout="constrained")
        panels = figure.subplots(height, COLUMNS, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, name in zip(panels, models, strict=False):
            _panel(axes, name, {case: ratio for case, ratio in ratios.items() if case.model == name and ratio})
        for axes in panels[len(models) :]:
            axes.set_axis_off()
        figure.supxlabel("rows")
        figure.supylabel("fastest peer's time / fastvae's")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(ALL_VERBS))
        figure.savefig(path, metadata={"Date": None})


def _panel(axes: Axes, name: str, ratios: Mapping[Case, float]) -> None:
    """One model's lines, one a verb, over the line at which both take as long."""
    for number, verb in enumerate(ALL_VERBS):
        points = sorted((case.rows, ratio) for case, ratio in ratios.items() if case.verb == verb)
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=f"C{number}", label=verb)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_yticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    rows = sorted({case.rows for case in ratios})
    axes.set_xticks(rows, [f"{n:,}" for n in rows])
    axes.set_title(name)
    axes.grid(alpha=0.3)
