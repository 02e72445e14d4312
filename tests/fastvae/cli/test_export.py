"""``export``."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from typer.testing import Result

import fastvae

Call = Callable[..., Result]


def test_export_writes_a_graph_that_runs(tmp_path: Path, call: Call, models: Path) -> None:
    out = tmp_path / "encoder.onnx"
    output = call("export", models / "table.safetensors", "--verb", "encode", "--out", out).output
    assert output == f"{out}: encode, {out.stat().st_size:,} bytes\n"
    x = np.random.default_rng(0).standard_normal((7, 6)).astype(np.float32)
    mean, logvar = onnxruntime.InferenceSession(out).run(None, {"x": x})
    posterior = fastvae.load(models / "table.safetensors").encode(x)
    np.testing.assert_allclose(mean, posterior.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(logvar, posterior.logvar, rtol=1e-6, atol=1e-6)


def test_export_refuses(tmp_path: Path, call: Call) -> None:
    assert ".onnx" in call("export", "digits", "--out", tmp_path / "x.pt", status=2).output
    assert (
        "verb: expected one of"
        in call("export", "digits", "--verb", "x", "--out", tmp_path / "x.onnx", status=2).output
    )
    assert not any(tmp_path.iterdir())
