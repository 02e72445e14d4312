"""What callers can get wrong: each mistake raises an InputError that names the argument and what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastvae
from fastvae.arrays import check_rows
from fastvae.errors import FastVAEError, InputError, UnsupportedError, WeightMismatchError
from fastvae.posterior import Posterior
from tests.fastvae.support import SPECS, data_for, mlp_spec, vae

FLAT = vae(mlp_spec())
IMAGES = vae(SPECS["conv"])
CONDITIONAL = vae(SPECS["mlp_conditional"])
X = data_for(mlp_spec(), 4).astype(np.float32)
PIXELS = data_for(SPECS["conv"], 2).astype(np.float32)

ROWWISE = pytest.mark.parametrize("verb", ["encode", "embed", "reconstruct", "score", "impute"])


@ROWWISE
@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (FLAT, X[0], r"x: expected shape \(rows, 6\), got \(6,\); add a row axis with x\[None\]"),
        (FLAT, X[:, :5], r"x: expected shape \(rows, 6\), got \(4, 5\)"),
        (FLAT, np.zeros((), np.float32), r"x: expected shape \(rows, 6\), got \(\)"),
        (FLAT, X.astype(np.int64), "x: expected floats, got int64"),
        (FLAT, X > 0, "x: expected floats, got bool"),
        (FLAT, X.astype(object), "x: expected floats, got object"),
        (FLAT, X.astype(complex), "x: expected floats, got complex128"),
        (FLAT, X.tolist(), "x: expected a NumPy array or a torch tensor, got list"),
        (FLAT, np.ma.masked_array(X, X > 0.5), "x: expected a plain array, got a masked one"),
        (FLAT, torch.from_numpy(X).to_sparse(), "x: expected a dense tensor, got layout torch.sparse_coo"),
        (FLAT, torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)]), "x: expected a dense tensor, got a nest"),
        (FLAT, torch.zeros(2, 6, device="meta"), "x: is on meta, a tensor without numbers"),
        (FLAT, np.full((3, 6), np.inf, np.float32), "x: row 0 holds"),
        (IMAGES, (PIXELS * 255).astype(np.uint8), "x: expected floats, got uint8; divide pixels by 255"),
        (IMAGES, PIXELS * 255, r"x: this model's data lie in \[0, 1\], got values from .* divide by"),
        (IMAGES, PIXELS - 0.5, r"x: this model's data lie in \[0, 1\]"),
        (IMAGES, PIXELS[:, :1], r"x: expected shape \(rows, 2, 8, 8\), got \(2, 1, 8, 8\)"),
    ],
)
def test_wrong_data(verb: str, model: Any, x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(model, verb)(x)
    assert issubclass(InputError, ValueError)
    assert issubclass(InputError, FastVAEError)


@pytest.mark.parametrize("verb", ["embed", "reconstruct", "score"])
def test_bad_rows_by_policy(verb: str) -> None:
    bad = X.copy()
    bad[1, 2], bad[3, 0] = np.nan, np.inf
    call = getattr(FLAT, verb)
    with pytest.raises(InputError, match=r"x: row 1 holds NaN or Inf.*; pass invalid='mask'"):
        call(bad)
    with pytest.raises(InputError, match="invalid: expected one of 'raise'"):
        call(bad, invalid="ignore")
    good = call(X)
    for policy in ("mask", "propagate"):
        found = call(bad, invalid=policy)
        np.testing.assert_array_equal(found[[0, 2]], good[[0, 2]])
        assert not np.isfinite(found[[1, 3]]).any() or policy == "propagate"
    assert np.isnan(call(bad, invalid="mask")[[1, 3]]).all()


def test_arrays_of_any_layout_are_taken() -> None:
    expected = FLAT.embed(X)
    read_only = X.copy()
    read_only.setflags(write=False)
    for same in (np.asfortranarray(X), X[::-1][::-1], np.repeat(X, 2, 1)[:, ::2], X.astype(">f4"), read_only):
        np.testing.assert_array_equal(FLAT.embed(same), expected)
    np.testing.assert_allclose(FLAT.embed(X.astype(np.float64)), expected, rtol=1e-6)
    assert FLAT.embed(X.astype(np.float16)).dtype == np.float32
    strided = torch.from_numpy(np.repeat(X, 2, 0))[::2]
    assert torch.equal(FLAT.embed(strided), torch.from_numpy(expected))


def test_a_sign_left_for_later_is_seen() -> None:
    """PyTorch negates such a tensor when its memory is next written: what reads the memory itself has to ask for it."""
    for x in (X, np.repeat(X, 20, 0)):
        flipped = torch._neg_view(torch.from_numpy(-x))  # without gaps, which no public way makes
        assert flipped.is_neg()
        for call in (FLAT.embed, FLAT.reconstruct, FLAT.score):
            np.testing.assert_array_equal(call(flipped), call(torch.from_numpy(x)))
    condition = torch._neg_view(-torch.ones(4, 3))
    found = CONDITIONAL.embed(X, condition=condition)
    np.testing.assert_array_equal(found, CONDITIONAL.embed(X, condition=np.ones(3)))


@pytest.mark.filterwarnings("error")
def test_memory_that_torch_must_not_share_is_copied() -> None:
    read_only = X.copy()
    read_only.setflags(write=False)
    shifted = np.frombuffer(bytearray(b"." + X.tobytes()), np.float32, offset=1).reshape(X.shape)
    assert not shifted.flags.aligned
    for x in (read_only, shifted):
        block = check_rows("x", x, (6,), device=torch.device("cpu"), dtype=torch.float32).block(0, 4)
        assert not np.shares_memory(block.numpy(), x)
        np.testing.assert_array_equal(block.numpy(), X)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (None, r"condition: this model needs one: floats \(rows, 3\) or class labels 0..2"),
        (3, "condition: labels must be one integer"),
        (np.array([0, -1, 0, 0]), "condition: labels must be one integer"),
        (np.array([0, 1]), r"condition: expected \(4, 3\)"),
        (np.zeros((4, 2)), r"condition: expected \(4, 3\)"),
        (np.full(3, np.nan), "condition: holds NaN or Inf"),
        (np.full(3, 1e300), "condition: holds NaN or Inf, or a value beyond torch.float32"),
        (np.zeros((4, 3), dtype=bool), "condition: expected floats or integer labels, got bool"),
        ("cat", "condition: expected floats or integer labels"),
    ],
)
def test_wrong_conditions(condition: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CONDITIONAL.embed(X, condition=condition)


def test_condition_for_a_model_without() -> None:
    for call in (lambda: FLAT.embed(X, condition=1), lambda: FLAT.generate(1, condition=1)):
        with pytest.raises(InputError, match="not conditional"):
            call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1}, "n: expected an integer from 0"),
        ({"n": 2.5}, "n: expected an integer"),
        ({"n": 1, "seed": "a"}, "seed: expected an integer"),
        ({"n": 1, "start": -1}, "start: expected an integer"),
        ({"n": 1, "output": "median"}, "output: expected 'mean', 'sample', 'uint8'"),
        ({"n": 1, "output": np.zeros(2)}, "output: expected 'mean', 'sample', 'uint8'"),
        ({"n": 1, "kind": "jax"}, "kind: expected 'numpy' or 'torch'"),
    ],
)
def test_wrong_generation(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FLAT.generate(**arguments)
    with pytest.raises(InputError, match=message):
        FLAT.stream(**arguments)


def test_wrong_batch_sizes() -> None:
    with pytest.raises(InputError, match="batch_size: expected an integer from 1"):
        FLAT.stream(4, batch_size=0)
    with pytest.raises(InputError, match="batch_size: expected an integer from 1"):
        fastvae.load("digits", batch_size=0)


def test_wrong_latents_and_interpolations() -> None:
    with pytest.raises(InputError, match=r"z: expected shape \(rows, 3\), got \(4, 6\)"):
        FLAT.decode(X)
    with pytest.raises(InputError, match="z: row 0 holds NaN"):
        FLAT.decode(np.full((1, 3), np.nan, np.float32))
    with pytest.raises(InputError, match="steps: expected an integer from 2"):
        FLAT.interpolate(X, X, 1)
    with pytest.raises(InputError, match="space: expected 'input' or 'latent'"):
        FLAT.interpolate(X, X, 3, space="pixel")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="b: expected as many rows as a, 4, got 2"):
        FLAT.interpolate(X, X[:2], 3)


def test_wrong_posterior_samples() -> None:
    q = FLAT.encode(X)
    for arguments in ({"seed": -1}, {"samples": 0}, {"start": -1}):
        with pytest.raises(InputError, match=f"{next(iter(arguments))}: expected an integer"):
            q.sample(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"device": None}, InputError, "device: expected 'auto'"),
        ({"precision": ["bf16"]}, UnsupportedError, "precision: .* is not supported"),
        ({"format": ["native"]}, InputError, "format: expected 'auto'"),
        ({"device": "tpu"}, InputError, "device: expected 'auto', 'cpu' or 'cuda"),
        ({"device": "meta"}, InputError, "device: expected 'auto', 'cpu' or 'cuda"),
        ({"device": "cuda:99"}, InputError, "device: 'cuda:99' is not there"),
        ({"precision": "int8"}, UnsupportedError, "precision: 'int8' is not supported; accepted: 'auto', 'ieee'"),
        ({"impl": "openvino"}, UnsupportedError, "impl: 'openvino' is not supported; accepted: 'auto'"),
        ({"impl": "triton", "precision": "float64"}, UnsupportedError, "impl 'triton' of .* it takes torch.float32"),
        ({"format": "keras"}, InputError, "format: expected 'auto' or one of disentangling-vae"),
        ({"spec": 3}, InputError, "spec: expected a ModelSpec or the path of one as JSON, got 3"),
        ({"spec": b"spec.json"}, InputError, "spec: expected a ModelSpec or the path of one"),
        ({"spec": "nowhere.json", "format": "state-dict"}, InputError, "^'nowhere.json': expected a readable file"),
        ({"spec": Path("nowhere.json"), "format": "state-dict"}, InputError, "^'nowhere.json': expected a readable"),
        ({"max_memory": "much"}, InputError, "max_memory: expected a number of bytes, or text such as '2GB'"),
        ({"max_memory": float("nan")}, InputError, "max_memory: expected a number of bytes, or text such as '2GB'"),
        ({"max_memory": "1KB"}, WeightMismatchError, "the spec asks for .* bytes, more than max_memory=1,000"),
        ({"spec": "spec.json", "format": "native"}, InputError, "only the format 'state-dict' takes a spec"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastvae.load(**{"source": "digits", **arguments})


def test_wrong_names_and_paths(tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"'digit' is neither a file or folder nor an embedded model .*digits"):
        fastvae.load("digit")
    with pytest.raises(InputError, match="is neither a file or folder"):
        fastvae.load(tmp_path / "nowhere" / "model.safetensors")
    with pytest.raises(InputError, match="not recognised"):
        fastvae.load(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_tensor_is_not_for_a_cpu_model() -> None:
    model = vae(mlp_spec(), device="cpu")
    with pytest.raises(InputError, match="move one of them"):
        model.embed(torch.from_numpy(X).cuda())


@pytest.mark.parametrize("source", [None, 3, b"digits", "a" * 5000, "digits\0"])
def test_sources_that_are_no_path(source: Any) -> None:
    with pytest.raises(InputError, match="embedded model"):
        fastvae.load(source)


@pytest.mark.parametrize("path", [None, 3, "a\0.safetensors", "model"])
def test_save_needs_a_name(path: Any) -> None:
    with pytest.raises(InputError, match=r"ending in \.safetensors"):
        FLAT.save(path)


@pytest.mark.parametrize("path", [None, 3, b"a.onnx", "a\0.onnx", "model"])
def test_export_needs_a_name(path: Any) -> None:
    with pytest.raises(InputError, match=r"path: expected a name that ends in \.onnx"):
        FLAT.export(path)


@pytest.mark.parametrize("device", ["tpu", None, 3])
def test_explain_needs_a_device_it_knows(device: Any) -> None:
    with pytest.raises(InputError, match="device: expected cpu or one of A100"):
        FLAT.explain(device=device)
    assert FLAT.explain(device=torch.device("cpu")).verb == "reconstruct"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_sizes": 8}, "batch_sizes: expected a sequence, got 8"),
        ({"batch_sizes": None}, "batch_sizes: expected a sequence, got None"),
        ({"batch_sizes": (0,)}, "batch_sizes: expected an integer from 1"),
        ({"verbs": "score"}, "verbs: expected a sequence, got 'score'; put one value in a tuple"),
        ({"verbs": None}, "verbs: expected a sequence"),
        ({"verbs": ([],)}, "verbs: expected some of 'generate'"),
    ],
)
def test_wrong_warmups(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FLAT.warmup(**arguments)


def test_a_warmup_reads_its_arguments_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, run = vae(mlp_spec()), list[tuple[str, int]]()
    monkeypatch.setattr("fastvae.warmup._run_on_zeros", lambda engine, verb, rows: run.append((verb, rows)))
    model.warmup(iter((2, 3)), iter(("decode",)))  # type: ignore[arg-type]
    assert run == [("decode", 3), ("decode", 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": np.array([0, 1, 2, 0])}, "metric: expected one of 'reconstruction'"),
        ({"metric": ["elbo"]}, "metric: expected one of 'reconstruction'"),
        ({"metric": "elbo", "beta": 10**400}, "beta: expected a finite number >= 0"),
        ({"metric": "elbo", "beta": float("nan")}, "beta: expected a finite number >= 0, got nan"),
        ({"metric": "elbo", "beta": "1"}, "beta: expected a finite number >= 0, got '1'"),
    ],
)
def test_wrong_scores(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FLAT.score(X, **arguments)


@pytest.mark.parametrize("beta", [np.float32(2), np.int64(2), 2])
def test_a_beta_is_any_real_number(beta: Any) -> None:
    np.testing.assert_array_equal(FLAT.score(X, "elbo", beta=beta), FLAT.score(X, "elbo", beta=2.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": X}, "method: expected one of 'importance'"),
        ({"mask": (torch.from_numpy(X) > 0.5).to_sparse()}, "mask: expected a dense tensor, got layout"),
        ({"mask": torch.zeros(4, 6, dtype=torch.bool, device="meta")}, "mask: is on meta"),
    ],
)
def test_wrong_imputations(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FLAT.impute(X, **arguments)


def test_integers_of_any_kind_are_integers() -> None:
    expected = FLAT.generate(3, seed=5, start=2)
    np.testing.assert_array_equal(FLAT.generate(np.int64(3), seed=np.uint64(5), start=np.int32(2)), expected)  # type: ignore[arg-type]
    labels = np.array([0, 2, 1, 2])
    for dtype in (np.uint8, np.uint16, np.uint64, np.int32):
        found = CONDITIONAL.embed(X, condition=labels.astype(dtype))
        np.testing.assert_array_equal(found, CONDITIONAL.embed(X, condition=labels))
    vectors = np.eye(3)[labels]
    np.testing.assert_array_equal(
        CONDITIONAL.embed(X, condition=vectors.astype(">f4")), CONDITIONAL.embed(X, condition=vectors)
    )
    assert CONDITIONAL.embed(X[:0], condition=[]).shape == (0, 3)


def test_results_beyond_any_memory() -> None:
    with pytest.raises(InputError, match="does not fit in memory; use stream"):
        FLAT.generate(2**60)
    many = np.broadcast_to(X[:1], (2**20, 6))
    with pytest.raises(InputError, match=r"n_imputations: a result of shape .* does not fit in memory"):
        FLAT.impute(many, n_imputations=2**23, samples=2**22)
    with pytest.raises(InputError, match=r"samples: draws of shape .* do not fit in memory"):
        Posterior(many[:, :3].copy(), many[:, :3].copy(), FLAT._engine).sample(samples=2**24)


def test_masks_of_any_layout_are_taken() -> None:
    mask = X > 0.5
    expected = FLAT.impute(X, mask, samples=2)
    read_only = mask.copy()
    read_only.setflags(write=False)
    for same in (mask[::-1].copy()[::-1], np.asfortranarray(mask), read_only):
        np.testing.assert_array_equal(FLAT.impute(X, same, samples=2), expected)


def test_latents_get_advice_that_fits() -> None:
    with pytest.raises(InputError, match="row 0 holds NaN") as caught:
        FLAT.decode(np.full((1, 3), np.nan, np.float32))
    assert "invalid=" not in str(caught.value)


def test_a_value_beyond_the_precision_is_named_as_such() -> None:
    with pytest.raises(InputError, match=r"row 0 holds NaN or Inf, or a value beyond torch\.float32"):
        FLAT.embed(np.full((1, 6), 1e300))
