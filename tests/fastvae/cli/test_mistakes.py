"""A user's mistakes: exit status 2, one line that says what is wrong, and no file left behind."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import Result

import fastvae.cli
from fastvae.cli import latents, make, plot, rows, scores, work
from fastvae.cli.app import app
from fastvae.cli.describe import COMMANDS as DESCRIBING

Call = Callable[..., Result]
ROOT = Path(__file__).parents[3]
COMMANDS = (*make.COMMANDS, *rows.COMMANDS, *scores.COMMANDS, *latents.COMMANDS, *plot.COMMANDS, *DESCRIBING)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.run.__name__)
def test_help_shows_an_example(call: Call, command: fastvae.cli.options.Command) -> None:
    output = call(*(["plot"] if command in plot.COMMANDS else []), command.run.__name__, "--help").output
    assert command.example in " ".join(output.split())


def test_help_and_version(call: Call) -> None:
    assert "Example: fastvae generate digits" in call("--help").output
    assert call("--version").output == f"fastvae {fastvae.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("generate nothing -o o.npy", "'nothing' is neither a file or folder nor an embedded model"),
        ("generate digits -o o.txt", "expected a name ending in .npy, .npz, .csv, .parquet, .png"),
        ("generate digits -o exists.npy", "exists.npy exists; pass --force to replace it"),
        ("generate digits -o nowhere/o.npy", "no such folder nowhere"),
        ("generate digits -n -1 -o o.npy", "n: expected an integer"),
        ("generate digits --seed -1 -o o.npy", "seed: expected an integer"),
        ("generate digits --output mode -o o.npy", "output: expected 'mean', 'sample', 'uint8'"),
        ("generate digits --output uint8 -o o.csv", "--output: uint8 is for .npy and .npz, got .csv"),
        ("generate digits -n 0 -o o.png", "no images to draw"),
        ("generate digits -n 99999 -o o.png", "more than"),
        ("generate digits --condition 3 -o o.npy", "not conditional"),
        ("generate digits --precision int8 -o o.npy", "precision"),
        ("generate digits --impl magic -o o.npy", "impl"),
        ("generate digits --device tpu -o o.npy", "device"),
        ("generate digits --format onyx -o o.npy", "format"),
        ("generate digits --batch-size 0 -o o.npy", "batch_size"),
        ("generate bad.safetensors -o o.npy", "bad.safetensors"),
        ("generate TABLE -o o.png", "not grey or RGB images; write .npy, .npz, .csv or .parquet instead"),
        ("encode digits missing.npy -o o.npy", "missing.npy: no such file or folder"),
        ("encode digits columns.npy -o o.npy", "expected rows of shape (1, 8, 8) (or 64 numbers), found (3,)"),
        ("encode digits exists.npy -o o.npy --samples 2", ".npy holds the mean alone"),
        ("encode digits exists.npy -o o.npz --samples -2", "--samples: expected an integer from 0"),
        ("encode digits exists.npy -o o.npz --samples 99999999999", "--samples: expected an integer from 0"),
        ("encode digits exists.npy -o o.csv --samples 9999999", "--samples: 159,999,984 columns are more than 65,536"),
        ("generate digits --condition ² -o o.npy", "--condition: expected a label, 0 or more, or a file; there is no"),
        ("generate digits --condition 1.5 -o o.npy", "there is no file '1.5'"),
        ("generate digits --condition . -o o.npy", ".: expected .npy, .npz, .csv, .parquet, found a folder"),
        ("impute digits exists.npy --mask . -o o.npy", ".: expected .npy, .npz, .csv, .parquet, found a folder"),
        ("impute digits infinite.npy --samples 2 -o o.npy", "infinite.npy: row 5000 (the first is 0) holds Inf"),
        ("score digits infinite.npy", "infinite.npy: row 5000 (the first is 0) holds NaN or Inf; pass --invalid"),
        ("interpolate digits infinite.npy --from 0 --to 5000 -o o.npy", "infinite.npy: row 5000 (the first is 0)"),
        ("interpolate digits empty.npy --from 0 --to 0 -o o.npy", "--from: empty.npy has no rows"),
        ("impute digits pixels.npy --scale 1e-320 -o o.npy", "--scale: expected a finite number other than 0"),
        ("score digits pixels.npy --scale 1e300", "--scale: expected a finite number other than 0"),
        ("score digits large.npy --scale 2e-38", "row 0 (the first is 0) holds NaN or Inf"),
        ("generate weights.pt -o o.npy", "weights.pt: plain weights need a spec; pass spec=, a ModelSpec or a JSON"),
        ("generate weights.pt --spec no.json -o o.npy", "error: 'no.json': expected a readable file"),
        ("explain digits --verb stream", "verb: expected one of encode"),
        ("explain digits --device cuda", "device: expected cpu or one of A100"),
        ("explain digits --rows 0", "rows: expected an integer from 1"),
        ("export digits -o o.onnx --verb dream", "verb: expected one of encode"),
        ("encode TABLE table.csv -o o.npy", "expected 6 columns of numbers, found 2 columns"),
        ("score digits pixels.npy", "--scale 255"),
        ("score digits large.npy", "[0, 1]"),
        ("score digits exists.npy --metric fid", "metric: expected one of"),
        ("score digits exists.npy --key x", "--key means nothing"),
        ("score digits exists.npy --invalid maybe", "invalid: expected one of"),
        ("impute digits exists.npy --method guess -o o.npy", "method: expected one of"),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call, models: Path, arguments: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("exists.npy", np.zeros((2, 1, 8, 8), np.float32))
    np.save("columns.npy", np.zeros((2, 3), np.float32))
    np.save("pixels.npy", np.zeros((2, 64), np.uint8))
    np.save("empty.npy", np.zeros((0, 64), np.float32))
    infinite = np.zeros((5001, 64), np.float32)
    infinite[5000, 3] = np.inf
    np.save("infinite.npy", infinite)
    Path("weights.pt").write_bytes(b"no")
    np.save("large.npy", np.full((2, 64), 7, np.float32))
    Path("bad.safetensors").write_bytes(b"no")
    Path("table.csv").write_text("a,b\n1,2\n")
    before = sorted(os.listdir())
    table = str(models / "table.safetensors")
    output = call(*(table if word == "TABLE" else word for word in arguments.split()), status=2).output
    assert output.startswith("fastvae: error: ")
    assert output.count("\n") == 1
    assert message in output
    assert sorted(os.listdir()) == before


def test_unknown_options(call: Call) -> None:
    assert "No such option" in call("generate", "digits", "--colour", status=2).output
    assert "No such command" in call("train", status=2).output


def test_too_little_memory(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(fastvae.VAE, "stream", exhausted)
    assert "not enough memory" in call("generate", "digits", "-o", tmp_path / "o.npy", status=2).output


def test_a_file_that_cannot_be_read(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "data.npy")

    monkeypatch.setattr(fastvae.VAE, "stream", failing)
    output = call("generate", "digits", "-o", tmp_path / "o.npy", status=2).output
    assert output == "fastvae: error: data.npy: Input/output error\n"


def test_a_bug_stays_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(fastvae.VAE, "stream", broken)
    with pytest.raises(ZeroDivisionError):
        app(["generate", "digits", "-o", str(tmp_path / "o.npy")])
    assert not os.listdir(tmp_path)


def test_a_missing_typer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "fastvae.cli.app")
    with pytest.raises(SystemExit, match=r"the command line needs typer: pip install .fastvae-engine\[cli\]"):
        fastvae.cli.main()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_only_on_terminals(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    drawn = io.StringIO()
    monkeypatch.setattr(work, "Console", lambda stderr: Console(file=drawn, force_terminal=terminal))
    monkeypatch.setattr(work, "PATIENCE", 0.0)
    with work.progress("generate", 10) as advance:
        advance(4)
        advance(6)
    assert ("10/10" in drawn.getvalue()) == terminal


def test_no_progress_for_short_work(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    monkeypatch.setattr(work, "Console", lambda stderr: Console(file=drawn, force_terminal=True))
    with work.progress("generate", 10) as advance:
        advance(10)
    assert not drawn.getvalue()


def _start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    path = f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"
    return subprocess.Popen(
        [sys.executable, "-m", "fastvae", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell ignores interrupts for what it runs in the background, and so would all its descendants.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_a_process_that_fails(tmp_path: Path) -> None:
    process = _start(tmp_path, "generate", "nothing", "-o", "o.npy")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert stdout == ""
    assert stderr.startswith("fastvae: error: 'nothing' is neither")
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "status", "message"), [(signal.SIGINT, 130, "fastvae: interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_a_process_that_is_stopped_leaves_nothing(tmp_path: Path, number: int, status: int, message: str) -> None:
    process = _start(tmp_path, "generate", "digits", "-n", 10**9, "-o", "o.npy")
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in tmp_path.iterdir()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    try:
        stdout, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == status
    assert (stdout, stderr) == ("", message)
    assert not os.listdir(tmp_path)
