"""Every peer computes what eager PyTorch does, and one that cannot says why."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from bench import onnx_peers, torch_peers
from bench.cases import ALL_VERBS, Case, cases, inputs, peak_bytes
from bench.models import MODELS, model
from bench.peers import BASELINE, BUDGET, OURS, PEERS, distance
from bench.prepared import AbsentError, arrays
from fastvae.model import check_model

PLAIN = (OURS, "eager channels_last")
EXPORTED = ("ONNX Runtime", "OpenVINO")


@pytest.mark.parametrize("name", MODELS)
def test_models_are_what_their_specs_ask_for(name: str) -> None:
    check_model(model(name), source=name)
    x, z = inputs(name, 3)
    assert x.shape == (3, *model(name).spec.input_shape)
    assert z.shape == (3, *model(name).spec.latent_shape)


@pytest.mark.parametrize("name", ["mlp", "conv32", "conv64"])
def test_random_weights_keep_activations_near_one(name: str) -> None:
    logvar = PEERS[BASELINE](Case(name, "encode", 32)).check()[1]
    assert 0.1 < logvar.std() < 3


@pytest.mark.parametrize("peer", PLAIN)
@pytest.mark.parametrize("verb", ALL_VERBS)
@pytest.mark.parametrize("name", ["mlp", "conv32", "conv64", "breast_cancer"])
def test_agrees_with_eager(name: str, verb: str, peer: str) -> None:
    if peer == "eager channels_last" and not name.startswith("conv"):
        with pytest.raises(AbsentError, match="no convolutions"):
            PEERS[peer](Case(name, verb, 3))
        return
    _check(Case(name, verb, 3), peer)


@pytest.mark.parametrize("peer", EXPORTED)
@pytest.mark.parametrize(("name", "verb"), [("conv32", "score"), ("breast_cancer", "score"), ("mlp", "interpolate")])
def test_exported_agrees_with_eager_for_any_rows(name: str, verb: str, peer: str) -> None:
    for rows in (1, 5):
        _check(Case(name, verb, rows), peer)


@pytest.mark.parametrize("peer", [BASELINE, "ONNX Runtime"])
def test_generates_anew_what_it_decodes(peer: str) -> None:
    prepared = PEERS[peer](Case("breast_cancer", "generate", 4))
    first, second = arrays(prepared.call())[0], arrays(prepared.call())[0]
    assert first.shape == second.shape == (4, 30)
    assert not np.array_equal(first, second)
    assert distance(prepared.check(), PEERS[OURS](Case("breast_cancer", "generate", 4)).check()) < BUDGET


def _compile_raising(error: Exception) -> Callable[..., object]:
    def broken(*args: object, **kwargs: object) -> object:
        def run(*given: object) -> object:
            raise error

        return run

    return broken


def test_a_mistake_of_ours_is_no_compiler_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", _compile_raising(TypeError("forward() takes 2 arguments")))
    with pytest.raises(TypeError):
        torch_peers.compile_peer(Case("mlp", "decode", 1))


def test_a_compiler_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = RuntimeError("No working C++ compiler found\nin a long message")
    monkeypatch.setattr(torch, "compile", _compile_raising(failure))
    with pytest.raises(AbsentError, match=r"^torch\.compile failed: No working C\+\+ compiler found$"):
        torch_peers.compile_peer(Case("mlp", "decode", 1))


@pytest.mark.parametrize(("peer", "package"), [("ONNX Runtime", "onnxruntime"), ("OpenVINO", "openvino")])
def test_a_package_that_is_missing_is_a_reason(peer: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_peers._onnxruntime_session.cache_clear()
    onnx_peers._openvino_request.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(AbsentError, match=f"{package} is not installed"):
        PEERS[peer](Case("mlp", "decode", 1))


def test_distance_notices() -> None:
    a = torch.tensor([1.0, -4.0])
    assert distance(a, a) == 0
    assert distance((a, a), (a, a + 1)) == pytest.approx(1 / 3)
    assert distance(a, a[:1]) == float("inf")
    assert not distance(a * float("nan"), a) < BUDGET


def test_cases_and_their_memory() -> None:
    assert cases(["mlp"], ["score"], [16, 1, 16]) == [Case("mlp", "score", 1), Case("mlp", "score", 16)]
    # conv64: data of 12,288 numbers, the largest activation 32x32x32.
    assert peak_bytes(Case("conv64", "decode", 10)) == 4 * 10 * (4 * 12_288 + 3 * 32_768)


def _check(case: Case, peer: str) -> None:
    prepared = PEERS[peer](case)
    expected = PEERS[BASELINE](case).check()
    assert distance(prepared.check(), expected) < BUDGET
    assert [part.shape for part in arrays(prepared.call())] == [part.shape for part in arrays(expected)]
