"""Choosing an implementation, refusing bad arguments, and what importing the package costs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fastvae_kernels
from fastvae_kernels import UnavailableError, implementations, resolve_impl

ROOT = Path(__file__).parents[2]
HELPERS = ("implementations", "resolve_impl", "split_head")
OPS = [name for name in fastvae_kernels.__all__ if name.islower() and name not in HELPERS]
X = torch.zeros(4, 6)
IMAGE = torch.zeros(2, 4, 5, 5)
KERNEL = torch.zeros(6, 4, 3, 3)


def run(code: str, **environment: str) -> str:
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**paths, **environment})
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_imports_no_backend() -> None:
    code = "import sys, fastvae_kernels; print([m for m in ('triton', 'fastvae', 'scipy') if m in sys.modules])"
    assert run(code) == "[]"


def test_reference_runs_without_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import fastvae_kernels as k\n"
        "print(k.sample_normal(2, 3, seed=1).shape, 'fastvae_kernels.triton' in sys.modules)"
    )
    assert run(code) == "torch.Size([2, 3]) False"


def test_triton_on_cpu_needs_the_interpreter() -> None:
    code = (
        "import fastvae_kernels as k\n"
        "try: k.sample_normal(1, 1, seed=0, impl='triton')\n"
        "except k.UnavailableError as error: print(error)"
    )
    message = run(code)
    assert "sample_normal" in message
    assert "TRITON_INTERPRET=1" in message
    assert "'cpu'" in message
    assert "'reference' can" in message


def test_the_implementation_folders_do_not_import_each_other() -> None:
    package = ROOT / "kernels" / "fastvae_kernels"
    for folder, other in (("reference", "triton"), ("triton", "reference")):
        for file in (package / folder).glob("*.py"):
            assert f"..{other}" not in file.read_text()
            assert f"fastvae_kernels.{other}" not in file.read_text()


def test_every_op_has_a_reference() -> None:
    for op in OPS:
        assert implementations(op)[0] == "reference"


def test_auto_takes_triton_on_cuda_where_it_can() -> None:
    assert resolve_impl("reparameterize", "auto", "cuda") == "triton"
    assert resolve_impl("reparameterize", "auto", "cuda", torch.float64) == "reference"
    assert resolve_impl("linear", "auto", "cuda") == "reference"
    assert resolve_impl("reparameterize", "auto", "cpu") == "reference"
    assert resolve_impl("reparameterize", "auto", "mps") == "reference"


@pytest.mark.parametrize("op", OPS)
def test_unknown_implementation_is_refused(op: str) -> None:
    with pytest.raises(UnavailableError, match=rf"impl of {op} must be one of 'auto', 'reference'.*'cudnn'"):
        resolve_impl(op, "cudnn", "cpu")


def test_ops_pass_the_refusal_on() -> None:
    with pytest.raises(UnavailableError, match="impl of linear must be one of"):
        fastvae_kernels.linear(X, X, impl="triton")
    with pytest.raises(UnavailableError, match=r"float64"):
        fastvae_kernels.reparameterize(X.double(), X.double(), seed=0, impl="triton")
    with pytest.raises(UnavailableError, match=r"float64"):
        fastvae_kernels.sample_normal(1, 1, seed=0, dtype=torch.float64, impl="triton")


def test_unknown_op_is_refused() -> None:
    with pytest.raises(ValueError, match=r"op must be one of sample_normal.*found 'softmax'"):
        implementations("softmax")


def sample(**changes: Any) -> Any:
    return fastvae_kernels.sample_normal(**{"n": 2, "dim": 3, "seed": 0, **changes})


def linear(**changes: Any) -> Any:
    return fastvae_kernels.linear(**{"x": X, "weight": torch.zeros(5, 6), **changes})


def conv(**changes: Any) -> Any:
    return fastvae_kernels.conv2d(**{"x": IMAGE, "weight": KERNEL, **changes})


def transposed(**changes: Any) -> Any:
    weight = torch.zeros(4, 6, 3, 3)
    return fastvae_kernels.conv_transpose2d(**{"x": IMAGE, "weight": weight, **changes})


def draw(**changes: Any) -> Any:
    return fastvae_kernels.reparameterize(**{"mean": X, "logvar": X, "seed": 0, **changes})


def affine(**changes: Any) -> Any:
    return fastvae_kernels.affine(**{"x": X, **changes})


def head(**changes: Any) -> Any:
    return fastvae_kernels.logvar(**{"raw": X, "parametrization": "logvar", **changes})


def bernoulli(**changes: Any) -> Any:
    return fastvae_kernels.bernoulli_nll(**{"logits": X, "x": X, **changes})


def gaussian(**changes: Any) -> Any:
    return fastvae_kernels.gaussian_nll(**{"mean": X, "logvar": X, "x": X, **changes})


@pytest.mark.parametrize(
    ("call", "changes", "error", "message"),
    [
        (sample, {"seed": -1}, ValueError, r"seed must be in \[0, 18446744073709551616\); found -1"),
        (sample, {"seed": 2**64}, ValueError, "seed must be in"),
        (sample, {"seed": 1.5}, TypeError, "seed must be an int; found float"),
        (sample, {"seed": True}, TypeError, "seed must be an int; found bool"),
        (sample, {"n": -1}, ValueError, "n must be at least 0; found -1"),
        (sample, {"dim": -1}, ValueError, "dim must be in"),
        (sample, {"start": -1}, ValueError, "start must be in"),
        (sample, {"start": 2**63 - 1}, ValueError, "start must be in"),
        (sample, {"stream": 2**32}, ValueError, "stream must be in"),
        (sample, {"stream": 2**32 - 2, "samples": 3}, ValueError, "stream must be in"),
        (sample, {"samples": -1}, ValueError, "samples must be in"),
        (sample, {"dtype": torch.int64}, TypeError, r"dtype must be float32.*found torch\.int64"),
        (linear, {"x": X[0]}, ValueError, r"x must have 2 axes; found shape \(6,\)"),
        (linear, {"x": X.long()}, TypeError, r"x must be float32.*found torch\.int64"),
        (linear, {"x": [1.0]}, TypeError, r"x must be a torch\.Tensor; found list"),
        (linear, {"weight": X[:, :5]}, ValueError, r"weight must have shape \(4, 6\); found \(4, 5\)"),
        (linear, {"weight": X.half()}, TypeError, r"weight must have x's dtype, torch\.float32"),
        (linear, {"bias": torch.zeros(4)}, ValueError, r"bias must have shape \(5,\); found \(4,\)"),
        (linear, {"activation": "swish"}, ValueError, "activation must be one of.*found 'swish'"),
        (linear, {"activation": "relu", "alpha": 0.1}, ValueError, "alpha must be None for activation 'relu'"),
        (linear, {"weight": torch.zeros(5, 6, device="meta")}, ValueError, "weight must be on x's device"),
        (conv, {"groups": 3}, ValueError, "groups must divide x's channels, 4; found 3"),
        (conv, {"groups": 0}, ValueError, "groups must be at least 1; found 0"),
        (conv, {"stride": 0}, ValueError, "stride must be at least 1; found 0"),
        (conv, {"padding": (1, 2, 3)}, ValueError, "padding must be an int or two of them"),
        (conv, {"weight": torch.zeros(6, 2, 3, 3)}, ValueError, r"weight must have shape \(6, 4, 3, 3\)"),
        (conv, {"dilation": 3}, ValueError, "x must be large enough for its weight"),
        (transposed, {"output_padding": 1}, ValueError, "output_padding must be smaller than stride"),
        (transposed, {"weight": KERNEL}, ValueError, r"weight must have shape \(4, 4, 3, 3\)"),
        (transposed, {"padding": 9}, ValueError, "x must be large enough for its weight"),
        (draw, {"mean": X[0]}, ValueError, "mean must have 2 axes"),
        (draw, {"logvar": X[:2]}, ValueError, r"logvar must have shape \(4, 6\); found \(2, 6\)"),
        (draw, {"logvar": X.double()}, TypeError, "logvar must have mean's dtype"),
        (draw, {"seed": 2**64}, ValueError, "seed must be in"),
        (affine, {"x": X[0]}, ValueError, "x must have at least 2 axes"),
        (affine, {"scale": torch.zeros(4)}, ValueError, r"scale must have shape \(6,\)"),
        (head, {"parametrization": "std"}, ValueError, "parametrization must be one of logvar, softplus_std"),
        (head, {"eps": -1.0}, ValueError, "eps must be a finite number"),
        (head, {"minimum": 2.0, "maximum": 1.0}, ValueError, "minimum must be at most maximum"),
        (bernoulli, {"logits": X[:3]}, ValueError, "logits must have a multiple of x's 4 rows; found 3"),
        (bernoulli, {"x": X[:0]}, ValueError, "logits must have a multiple of x's 0 rows; found 4"),
        (bernoulli, {"x": X[:, :5]}, ValueError, r"logits must have shape \(samples \* n, ...\)"),
        (bernoulli, {"mask": X}, TypeError, r"mask must be a torch\.bool tensor; found torch\.float32"),
        (bernoulli, {"mask": X[:1] > 0}, ValueError, r"mask must have shape \(4, 6\); found \(1, 6\)"),
        (gaussian, {"logvar": X[:2]}, ValueError, r"logvar must have shape \(4, 6\) or \(6,\) or \(\)"),
    ],
)
def test_bad_arguments_are_named(
    call: Callable[..., Any], changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    call()
    with pytest.raises(error, match=message):
        call(**changes)


def test_one_int_counts_for_both_axes() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 4, 7, 7, generator=generator), torch.randn(3, 4, 3, 3, generator=generator)
    both = fastvae_kernels.conv2d(x, weight, stride=(2, 2), padding=(1, 1))
    assert torch.equal(fastvae_kernels.conv2d(x, weight, stride=2, padding=1), both)
