"""An implementation for each op: text that says so, what is refused, and that the named one runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fastvae_kernels
from fastvae.errors import UnsupportedError
from fastvae.runtime.choice import Choice
from fastvae.runtime.settings import plan_target, resolve_implementation
from tests.fastvae.image_specs import image_spec
from tests.fastvae.support import data_for, vae

CPU = torch.device("cpu")
OPS = "triton,conv2d=library,conv2d_statistics=library,conv_transpose2d=reference,attention=library"


def test_ops_are_named_behind_what_runs_the_others() -> None:
    choice = Choice.of(OPS)
    assert (choice["conv2d"], choice["conv_transpose2d"], choice["norm_apply"]) == ("library", "reference", "triton")
    assert Choice.of("conv2d=library")["attention"] == "auto"
    assert Choice.of(str(choice)) == choice
    assert str(Choice.of("conv2d=library,attention=library")) == "auto,attention=library,conv2d=library"
    assert Choice.of("reference") == Choice("reference", {})


def test_plans_are_those_of_what_runs_the_others() -> None:
    assert plan_target(OPS, CPU) == "triton"
    assert plan_target("conv2d=library", torch.device("cuda")) == "triton"
    assert resolve_implementation("conv2d=library", CPU, "ieee") == "auto,conv2d=library"
    assert plan_target("auto,conv2d=library", CPU) == "reference"


@pytest.mark.parametrize(
    ("impl", "message"),
    [
        ("conv2d", "'conv2d' is not supported; accepted: 'auto'.* 'op=name'"),
        (3, "3 is not supported"),
        ("triton,", "names no op of a plan: op must be one of"),
        ("softmax=library", "names no op of a plan: op must be one of .*found 'softmax'"),
        ("linear=library", "'library' is no implementation of linear; accepted: 'auto', 'reference', 'triton'"),
        ("onnxruntime,conv2d=library", "'onnxruntime' runs a plan as a whole"),
        ("sample_normal=triton", "impl 'triton' of sample_normal cannot run"),
    ],
)
def test_what_cannot_be_is_refused(impl: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UnsupportedError, match=f"^impl: .*{message}"):
        resolve_implementation(impl, CPU, "ieee")


def test_a_library_keeps_no_rows_bits() -> None:
    with pytest.raises(UnsupportedError, match="'conv2d=library' with batch_invariant: a row's bits"):
        vae(image_spec(), impl="conv2d=library", batch_invariant=True)
    assert vae(image_spec(), impl="conv2d=reference", batch_invariant=True)


@pytest.mark.parametrize("base", ["reference", "auto"])
def test_named_ops_run_as_named_and_agree(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three layers in float32, of 36 terms at most."""
    seen: dict[str, set[str]] = {}
    for op in ("conv2d", "attention", "group_norm"):
        run = getattr(fastvae_kernels, op)

        def watch(*operands: Any, run: Any = run, op: str = op, **options: Any) -> Any:
            seen.setdefault(op, set()).add(options["impl"])
            return run(*operands, **options)

        monkeypatch.setattr(fastvae_kernels, op, watch)
    spec = image_spec()
    x = data_for(spec, 2).astype(np.float32)
    model = vae(spec, impl=f"{base},conv2d=library,attention=library")
    found = model.reconstruct(x)
    assert seen == {"conv2d": {"library"}, "attention": {"library"}, "group_norm": {base}}
    assert model._engine.impl == f"{base},attention=library,conv2d=library"
    np.testing.assert_allclose(found, vae(spec, impl="reference").reconstruct(x), rtol=1e-5, atol=1e-5)
    z = model.generate(2, seed=1)
    np.testing.assert_allclose(z, vae(spec, impl="reference").generate(2, seed=1), rtol=1e-5, atol=1e-5)


def test_kernels_beside_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution's statistics come with it whoever computes it; the norm's kernels take them."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    spec = image_spec()
    z = np.random.default_rng(0).normal(size=(1, 2, 3, 2)).astype(np.float32)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = vae(spec, impl=OPS, device=device).decode(z)
    np.testing.assert_allclose(found, vae(spec, impl="reference", device=device).decode(z), rtol=1e-5, atol=1e-5)
