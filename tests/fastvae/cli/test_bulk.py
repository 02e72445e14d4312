"""``generate`` into a folder, and ``verify``."""

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import Result

import fastvae
from fastvae import bulk
from fastvae.bulk.folder import MANIFEST, Folder
from fastvae.bulk.progress import WorkerState
from fastvae.cli import watching as shown
from fastvae.cli.workers import worker_lines
from tests.fastvae.commands import generate_digits

Call = Callable[..., Result]

SAMPLES, SHARD = 40_000, 400


def test_a_folder_of_shards(tmp_path: Path, call: Call, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = models / "rgb.safetensors", tmp_path / "job"
    arguments = ["generate", model, "-n", 70, "--seed", 3, "--out", out, "--shards", "npy", "--shard-size", 30]
    lines = call(*arguments).stderr.splitlines()
    assert lines[0].startswith(f"{out}: 30/70 samples, 1/3 shards, ")
    assert lines[-1].startswith(f"{out}: 70 samples in 3 shards, content ")
    expected = fastvae.load(model, batch_invariant=True).generate(70, seed=3)
    rows = np.concatenate([np.load(path) for path in sorted(out.glob("*.npy"))])
    np.testing.assert_array_equal(rows, expected)
    assert "3 of 3 shards are there" in call(*arguments).stderr
    result = call("verify", out, "--model", model)
    assert result.output == f"{out}: 3 of 3 shards are as they were written, 64 rows made again\n"
    result = call(*arguments, "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(event["event"], event["samples"], event["of_shards"]) for event in events] == [
        ("start", 70, 3),
        ("done", 70, 3),
    ]
    assert not result.stderr


def test_a_url(call: Call, models: Path) -> None:
    model, out = models / "table.safetensors", "memory://cli/job.v1"
    arguments = ["generate", model, "-n", 70, "--out", f"{out}/", "--shard-size", 30]
    assert call(*arguments).stderr.splitlines()[-1].startswith(f"{out}: 70 samples in 3 shards, content ")
    result = call("verify", out, "--model", model)
    assert result.output == f"{out}: 3 of 3 shards are as they were written, 64 rows made again\n"
    assert "use workers=1" in call(*arguments[:5], "memory://cli/other", "--workers", 2, status=2).stderr
    assert "Protocol not known" in call("verify", "nope://job", status=2).stderr


def test_options_of_a_folder(tmp_path: Path, call: Call, models: Path) -> None:
    model = models / "rgb.safetensors"
    call("generate", model, "-n", 9, "-o", f"{tmp_path}/with.npy/", "--dtype", "uint8", "--output", "sample")
    assert Folder(tmp_path / "with.npy").job().columns[0].dtype == "uint8"
    (tmp_path / "there.npy").mkdir()
    call("generate", models / "labels.safetensors", "-n", 9, "-o", tmp_path / "there.npy", "--condition", 1)
    result = call("verify", tmp_path / "there.npy", "--model", models / "labels.safetensors", "--condition", 1)
    assert "9 rows" not in result.stdout
    call("verify", tmp_path / "there.npy", "--model", models / "labels.safetensors", "--condition", 2, status=2)


def test_verify_names_what_is_wrong(tmp_path: Path, call: Call, models: Path) -> None:
    out = tmp_path / "job"
    call("generate", models / "table.safetensors", "-n", 9, "-o", out, "--shard-size", 4)
    (out / "shard-000000001.parquet").unlink()
    result = call("verify", out, status=1)
    assert result.stdout == "shard 1: shard-000000001.parquet is missing\n"
    found = json.loads(call("verify", out, "--json", status=1).stdout)
    assert (found["ok"], found["shards"], len(found["problems"])) == (False, 2, 1)


def test_damaged_shards_are_made_again_on_request(tmp_path: Path, call: Call, models: Path) -> None:
    out = tmp_path / "job"
    arguments = ["generate", models / "table.safetensors", "-n", 9, "-o", out, "--shard-size", 4, "--shards", "npy"]
    call(*arguments)
    path = out / "shard-000000001.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert f"{out}: 3 of 3 shards are there\n" in call(*arguments).stderr
    assert f"{out}: 2 of 3 shards are there, 1 more have changed\n" in call(*arguments, "--recheck").stderr
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("generate table -o o.npy --workers 2", "--workers: only for a folder of shards"),
        ("generate table -o o.npy --shard-size 2", "--shard-size: only for a folder"),
        ("generate table -o o.npy --shards npy", "--shards: only for a folder"),
        ("generate table -o o.npy --dtype uint8", "--dtype: only for a folder"),
        ("generate table -o o.npy --recheck", "--recheck: only for a folder"),
        ("generate table -o o.npy --json", "--json: only for a folder"),
        ("generate table -o job --start 1", "--start: not for a folder"),
        ("generate table -o job --force", "--force: not for a folder"),
        ("generate table -o job --no-batch-invariant", "--no-batch-invariant: the shards of a folder"),
        ("generate table -o job --shards csv", "format: expected one of"),
        ("generate table -o job --dtype int8", "dtype: expected one of"),
        ("generate table -o job --workers 0", "workers: expected"),
        ("generate table -o job --ray nowhere", "ray: expected True, False, 'auto'"),
        ("generate table -o o.npy --ray", "--ray: only for a folder"),
        ("verify job", "is not the folder of a job"),
    ],
)
def test_mistakes(
    tmp_path: Path, call: Call, models: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(models / "table.safetensors") if word == "table" else word for word in arguments.split()]
    assert message in call(*words, status=2).stderr
    assert not os.listdir(tmp_path)


def test_shards_that_keep_failing(tmp_path: Path, call: Call, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(rows: object, dtype: str) -> None:
        raise ValueError("broken")

    monkeypatch.setattr("fastvae.bulk.source.stored", broken)
    result = call("generate", models / "table.safetensors", "-n", 9, "-o", tmp_path / "job", status=1)
    assert "shard 0 failed 3 times: ValueError: broken" in result.stderr
    assert "1 of 1 shards failed 3 times" in result.stderr


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    monkeypatch.setattr(shown, "Console", lambda stderr: Console(file=drawn, force_terminal=True, width=120))
    with shown.watching(Path("job"), as_json=False) as watch:
        watch(bulk.Progress("start", 0, 4000, 0, 4, 0, 0.0, 0.0, None))
        watch(bulk.Progress("retry", 3000, 4000, 3, 4, 1, 2.0, 1500.0, 3700.0, "shard [1]: no"))
    assert "3,000/4,000 samples, 3/4 shards, 1,500 samples/s, 1:01:40 left, 1 failed" in drawn.getvalue()
    assert "shard [1]: no" in drawn.getvalue()


def test_a_bar_that_goes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal; elsewhere nothing is said of a look at shards."""
    state = bulk.Progress("shard", 30, 40, 3, 4, 1, 1.0, 30.0, 1.0)
    with shown.looking("verify", "rows") as show:
        show(state)
    assert capsys.readouterr() == ("", "")
    drawn = io.StringIO()
    monkeypatch.setattr(shown, "Console", lambda stderr: Console(file=drawn, force_terminal=True, width=120))
    with shown.looking("verify", "rows") as show:
        show(state)
    assert "30/40 rows, 3/4 shards, 30 rows/s, 0:00:01 left, 1 failed" in drawn.getvalue()
    assert drawn.getvalue().endswith("\x1b[2K")  # the line is erased


def test_hashing_an_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal, in plain lines with time between them, and as JSON."""
    states = [
        bulk.Progress("hash", 0, 40, 0, 4, 0, 60.0, 0.0, 120.0, hashed=10**9, to_hash=3 * 10**9),
        bulk.Progress("hash", 0, 40, 0, 4, 0, 61.0, 0.0, 119.0, hashed=2 * 10**9, to_hash=3 * 10**9),
        bulk.Progress("shard", 10, 40, 1, 4, 0, 1.0, 10.0, 3.0),
    ]
    drawn = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(shown, "Console", lambda stderr: Console(file=drawn, force_terminal=True, width=120))
        for state in (states[0], states[2]):  # what is drawn last is seen for certain
            with shown.watching(Path("job"), as_json=False, what="rows") as watch:
                watch(state)
    assert "hashing the input: 1,000/3,000 MB, 0:02:00 left" in drawn.getvalue()
    assert "10/40 rows, 1/4 shards, 10 rows/s" in drawn.getvalue()
    for patience, lines in ((60.0, 1), (0.0, 4)):
        monkeypatch.setattr(shown, "PATIENCE", patience)
        with shown.watching(Path("job"), as_json=False, what="rows") as watch:
            for state in (*states, replace(states[0], event="recheck")):
                watch(state)
        found = capsys.readouterr().err.splitlines()
        assert found[0] == "job: hashing the input: 1,000/3,000 MB, 0:02:00 left"
        assert len(found) == lines
    assert found[-1] == "job: hashing shards that are there: 1,000/3,000 MB, 0:02:00 left"
    with shown.watching(Path("job"), as_json=True) as watch:
        watch(states[0])
    event = json.loads(capsys.readouterr().out)
    assert (event["event"], event["hashed"], event["to_hash"]) == ("hash", 10**9, 3 * 10**9)


def test_counting_the_rows_of_an_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a folder nobody knows how large it will be: a bar without an end, and a line without all bytes."""
    state = bulk.Progress("index", 0, 0, 0, 0, 0, 60.0, 0.0, None, hashed=10**9)
    for known, text in (
        (state, "1,000 MB"),
        (replace(state, to_hash=3 * 10**9, eta=120.0), "1,000/3,000 MB, 0:02:00 left"),
    ):
        drawn = io.StringIO()
        with monkeypatch.context() as patched:
            patched.setattr(shown, "Console", lambda stderr, to=drawn: Console(file=to, force_terminal=True, width=120))
            with shown.watching(Path("job"), as_json=False, what="rows") as watch:
                watch(known)
        assert f"counting rows of the input: {text}" in drawn.getvalue()
        with shown.watching(Path("job"), as_json=False, what="rows") as watch:
            watch(known)
        assert capsys.readouterr().err == f"job: counting rows of the input: {text}\n"


def test_workers_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each of eight, and one for the rest; none for a worker alone."""
    workers = [WorkerState(number, "working", (number, 99), 5, 0) for number in range(11)]
    workers[1] = WorkerState(1, "loading", (), 1000, 2)
    workers[7] = WorkerState(7, "idle", (), 0, 1)
    workers[9] = WorkerState(9, "working", (3,), 5, 0)
    workers[10] = WorkerState(10, "loading", (), 1, 1)
    assert worker_lines(workers[:1]) == []
    assert worker_lines(workers[9:]) == [
        "worker 9: working on shard 3, 5 done",
        "worker 10: loading, 1 done, 1 died and was replaced",
    ]
    lines = worker_lines(workers)
    assert lines[:2] == [
        "worker 0: working on shards 0 and 99, 5 done",
        "worker 1: loading, 1,000 done, 2 died and were replaced",
    ]
    assert lines[7:] == [
        "worker 7: idle, 0 done, 1 died and was replaced",
        "3 more workers: 2 working, 1 loading, 11 done, 1 died and was replaced",
    ]
    drawn = io.StringIO()
    monkeypatch.setattr(shown, "Console", lambda stderr: Console(file=drawn, force_terminal=True, width=120))
    with shown.watching(Path("job"), as_json=False) as watch:
        watch(bulk.Progress("shard", 0, 4000, 0, 4, 0, 0.0, 0.0, None, "", tuple(workers)))
    assert all(line in drawn.getvalue() for line in lines)


def test_an_address_of_ray_may_be_left_out(
    tmp_path: Path, call: Call, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def generate(*_: object, ray: object, **options: object) -> bulk.Report:
        asked.append((ray, options["workers"]))
        return bulk.Report(tmp_path, "", 1, 1, "")

    monkeypatch.setattr(bulk, "generate", generate)
    model, out = models / "table.safetensors", tmp_path / "job"
    for arguments in (["--ray"], ["--ray", "--workers", 3], ["--ray", "auto"], ["--ray=ray://head:10001"], []):
        call("generate", model, "-n", 1, "-o", out, *arguments)
    call("generate", "--ray", "head:6379", model, "-n", 1, "-o", out)
    assert asked == [
        (True, None),
        (True, 3),
        ("auto", None),
        ("ray://head:10001", None),
        (False, None),
        ("head:6379", None),
    ]


def test_how_to_go_on_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    stopped = shown.Stopped("s3://b/job")
    assert capsys.readouterr().err == ""
    stopped.say()
    stopped.say()
    assert capsys.readouterr().err == "s3://b/job: stopped; the same command goes on with what is there\n"


def _after(process: subprocess.Popen[str], out: Path, lines: int) -> None:
    """Wait until the manifest has more than so many lines."""
    deadline = time.monotonic() + 120
    while not (out / MANIFEST).exists() or (out / MANIFEST).read_bytes().count(b"\n") <= lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_stopped_killed_and_finished(tmp_path: Path) -> None:
    """Ctrl-C, a SIGKILL of a driver with two workers, Ctrl-C of another, then the same job in this process."""
    out = tmp_path / "job"
    process = generate_digits(out, SAMPLES, SHARD)
    _after(process, out, 0)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert time.monotonic() - begun < 60
    assert stdout == ""
    assert stderr.endswith(f"{out}: stopped; the same command goes on with what is there\nfastvae: interrupted\n")
    assert not list(out.glob(".*.tmp"))
    done = len(Folder(out).records(Folder(out).job()))
    assert 0 < done < SAMPLES // SHARD

    process = generate_digits(out, SAMPLES, SHARD, "--workers", 2)
    _after(process, out, done)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate(timeout=120)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(children) >= 2
    done = len(Folder(out).records(Folder(out).job()))

    process = generate_digits(out, SAMPLES, SHARD, "--workers", 2, "--json")
    _after(process, out, done)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stderr == f"{out}: stopped; the same command goes on with what is there\nfastvae: interrupted\n"
    last = json.loads(stdout.splitlines()[-1])
    workers = last["workers"]
    assert last["event"] == "stop"
    assert [(worker["number"], worker["replaced"]) for worker in workers] == [(0, 0), (1, 0)]
    untold = len(Folder(out).records(Folder(out).job())) - done - sum(worker["done"] for worker in workers)
    assert untold in (0, 1)  # stopped between writing a line and telling of it
    assert not list(out.glob(".*.tmp"))
    assert len(Folder(out).records(Folder(out).job())) < SAMPLES // SHARD

    vae = fastvae.load("digits")
    report = bulk.generate(vae, SAMPLES, out, shard_size=SHARD)
    again = bulk.generate(vae, SAMPLES, tmp_path / "whole", shard_size=7 * SHARD, format="npy")
    assert report.content == again.content
    assert bulk.verify(out, vae).ok
