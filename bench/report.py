"""The rows of ``python -m bench`` and ``bench.images`` as a page: ``python -m bench.report [rows] [--out page]``.

The page is a function of the rows alone. Of several rows of one case on one device, the last counts. The plot lies
beside the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from bench.cases import ALL_VERBS, Case
from bench.environment import OUT
from bench.image_models import IMAGE_MODELS, VERBS, ImageCase
from bench.image_peers import IMAGE_PEERS
from bench.models import MODELS
from bench.peers import OURS, PEERS

Row: TypeAlias = dict[str, Any]
Device: TypeAlias = dict[Case, Row]
ImageDevice: TypeAlias = dict[ImageCase, Row]
AnyCase = TypeVar("AnyCase")
ROWS_FILE, IMAGES_FILE, PAGE = OUT / "peers.jsonl", OUT / "images.jsonl", Path("docs/benchmarks.md")
OTHERS = tuple(name for name in PEERS if name != OURS)
IMAGE_OTHERS = tuple(name for name in IMAGE_PEERS if name != OURS)
MICROSECONDS = {"µs": 1, "ms": 1000}  # in each unit of a table

HEAD = """\
# Benchmarks

Made by `python -m bench.report` from the rows that `python -m bench` leaves in `bench/results/`. Every peer is checked
against eager PyTorch before it is timed, and peers take turns, sample by sample. Times are medians in microseconds; a
ratio is the median over rounds of a peer's time over fastvae's in the same round, **bold where fastvae is faster**, and
`best` is that of the fastest peer. float32 throughout. fastvae, ONNX Runtime and OpenVINO take and return NumPy arrays,
PyTorch's peers tensors; compiling and exporting are outside the clock. `mlp` is 784-512-256-(2×32)-256-512-784,
`conv32` and `conv64` are the networks of disentangling-vae for 1×32×32 and 3×64×64 images, all three with random
weights; the others are embedded. `score` is the ELBO at the posterior mean.
"""
NOTHING = "\nNo row has been recorded yet.\n"
IMAGES_HEAD = """
## Image autoencoders

From the rows that `python -m bench.images` leaves; times are medians in milliseconds, all else is as above. Peers are
diffusers, eagerly as it comes and in channels_last, and the user's own ONNX export of its `encode` and `decode`, each
at the table's exact size. `sd` is `AutoencoderKL` as Stable Diffusion configures it, `taesd` is `AutoencoderTiny` as it
comes, both with random weights. `encode` is mean and log-variance, or `taesd`'s latents; images are square.
"""


def read(path: Path) -> dict[str, Device]:
    """The last row of every case by device, in the order of MODELS, ALL_VERBS and numbers of rows."""
    return _read(path, Case, _order)


def read_images(path: Path) -> dict[str, ImageDevice]:
    """The same of image autoencoders, in the order of IMAGE_MODELS, VERBS, sizes and numbers of images."""
    return _read(path, ImageCase, _image_order)


def _read(path: Path, kind: Callable[..., AnyCase], order: Callable[[AnyCase], Any]) -> dict[str, dict[AnyCase, Row]]:
    found: dict[str, dict[AnyCase, Row]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        row = json.loads(line)
        found.setdefault(row["device"], {})[kind(**row["case"])] = row
    return {device: dict(sorted(rows.items(), key=lambda item: order(item[0]))) for device, rows in found.items()}


def _order(case: Case) -> tuple[int, int, int]:
    return MODELS.index(case.model), ALL_VERBS.index(case.verb), case.rows


def _image_order(case: ImageCase) -> tuple[int, int, int, int]:
    return [*IMAGE_MODELS].index(case.model), VERBS.index(case.verb), case.size, case.rows


def best(row: Row) -> float | None:
    """The fastest peer's time over fastvae's; None where nothing was timed beside it."""
    return min((ratio["p50"] for ratio in row.get("ratios", {}).values()), default=None)


def page(devices: dict[str, Device], plots: dict[str, str], images: dict[str, ImageDevice]) -> str:
    """The Markdown page; ``plots`` has the file of each device's plot."""
    sections = "".join(_section(device, rows, plots[device]) for device, rows in devices.items()) or NOTHING
    return HEAD + sections + (IMAGES_HEAD if images else "") + "".join(map(_image_section, images, images.values()))


def _section(device: str, rows: Device, plot: str) -> str:
    models = dict.fromkeys(case.model for case in rows)
    tables = "".join(_table(name, {case: row for case, row in rows.items() if case.model == name}) for name in models)
    return (
        f"\n## {device}\n\n{_versions(rows.values())}\n\n"
        f"{_count(rows.values())}\n\n"
        f"![The fastest peer's time over fastvae's, by rows]({plot})\n{tables}{_notes(rows)}"
    )


def _image_section(device: str, rows: ImageDevice) -> str:
    labels = {case: (case.model, case.verb, f"{case.size:,}", f"{case.rows:,}") for case in rows}
    lines = _lines("| model | verb | pixels a side | images", "|---|---|--:|--:", labels, rows, IMAGE_OTHERS, "ms")
    return (
        f"\n### {device}: images\n\n{_versions(rows.values())}\n\n{_count(rows.values())}\n\n"
        + "\n".join(lines)
        + f"\n{_notes(rows, '####')}"
    )


def _count(rows: Iterable[Row]) -> str:
    ratios = [ratio for row in rows if (ratio := best(row)) is not None]
    return f"fastvae is faster than every peer in {sum(ratio > 1 for ratio in ratios)} of {len(ratios)} cases."


def _versions(rows: Iterable[Row]) -> str:
    """A line for each commit and set of versions that measured."""
    lines = {
        f"Commit {row['commit']}: " + ", ".join(f"{name} {version}" for name, version in row["versions"].items()) + "."
        for row in rows
    }
    return "\n".join(sorted(lines))


def _table(name: str, rows: Device) -> str:
    labels = {case: (case.verb, f"{case.rows:,}") for case in rows}
    return f"\n### {name}\n\n" + "\n".join(_lines("| verb | rows", "|---|--:", labels, rows, OTHERS, "µs")) + "\n"


def _lines(
    head: str,
    rule: str,
    labels: Mapping[AnyCase, tuple[str, ...]],
    rows: Mapping[AnyCase, Row],
    others: Iterable[str],
    unit: str,
) -> list[str]:
    """A table: ``head`` and ``rule`` begin its first two lines, a case's ``labels`` each of the others."""
    present = [peer for peer in others if any(peer in row.get("ratios", ()) for row in rows.values())]
    lines = [
        f"{head} | fastvae {unit} | {' | '.join(f'{peer} {unit} | ratio' for peer in present)} | best |",
        f"{rule}|--:|{'--:|--:|' * len(present)}--:|",
    ]
    for case, row in rows.items():
        cells = [*labels[case], _time(row, OURS, unit)]
        for peer in present:
            cells += [_time(row, peer, unit), _ratio(row.get("ratios", {}).get(peer, {}).get("p50"))]
        lines.append(f"| {' | '.join(cells)} | {_ratio(best(row))} |")
    return lines


def _time(row: Row, peer: str, unit: str) -> str:
    times = row.get("microseconds", {}).get(peer)
    if times is None:
        return "skipped" if "skipped" in row else "–"
    time = times["p50"] / MICROSECONDS[unit]
    return f"{time:,.{0 if time >= 100 else 1}f}"


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return "–"
    return f"**{ratio:.2f}**" if ratio > 1 else f"{ratio:.2f}"


def _notes(rows: Mapping[AnyCase, Row], level: str = "###") -> str:
    """What was not timed and why, each reason with the cases it holds for."""
    reasons: dict[str, list[str]] = {}
    for case, row in rows.items():
        if "skipped" in row:
            reasons.setdefault(f"skipped: {row['skipped']}", []).append(str(case))
        for peer, reason in row.get("absent", {}).items():
            reasons.setdefault(f"{peer}: {reason}", []).append(str(case))
    if not reasons:
        return ""
    lines = [f"- {reason} ({_some(found)})" for reason, found in reasons.items()]
    return f"\n{level} Not timed\n\n" + "\n".join(lines) + "\n"


def _some(found: list[str], most: int = 3) -> str:
    return ", ".join(found) if len(found) <= most else f"{len(found)} cases: {found[0]} to {found[-1]}"


def plot_names(devices: Iterable[str], target: Path) -> dict[str, str]:
    """The file beside the page ``target`` of each device's plot: benchmarks-1.svg, ..."""
    return {device: f"{target.stem}-{number}.svg" for number, device in enumerate(devices, start=1)}


def main(arguments: list[str] | None = None) -> int:
    """The command line of ``python -m bench.report``."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("rows", nargs="?", type=Path, default=ROWS_FILE, help="JSON lines of python -m bench")
    parser.add_argument("--images", type=Path, default=IMAGES_FILE, help="JSON lines of python -m bench.images")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    options = parser.parse_args(arguments)
    devices = read(options.rows)
    plots = plot_names(devices, options.out)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(devices, plots, read_images(options.images)))
    if devices:
        from bench.plot import draw

        for device, name in plots.items():
            draw({case: best(row) for case, row in devices[device].items()}, options.out.parent / name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
