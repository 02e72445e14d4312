"""``fit-sampler``: the model it writes is the one that Python fits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import fastvae
from tests.fastvae.cli.conftest import Call


def test_command(tmp_path: Path, call: Call, digits: Path) -> None:
    out = tmp_path / "fitted.safetensors"
    call("fit-sampler", "digits", digits, "--components", 3, "--covariance", "diagonal", "--seed", 4, "-o", out)
    expected = fastvae.load("digits").fit_sampler(np.load(digits), 3, 4, covariance="diagonal")
    assert fastvae.load(out).fingerprint == expected.fingerprint
    facts = json.loads(call("inspect", out, "--json").output)
    assert (facts["prior"], facts["sampler"]) == ("standard normal", "gaussian_mixture of 3, diagonal covariance")
    call("fit-sampler", "digits", digits, "-o", tmp_path / "x.npy", status=2)
