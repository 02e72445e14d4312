"""Choosing an implementation, refusing bad arguments, and what importing the package costs."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fastvae_kernels
from fastvae_kernels import UnavailableError, implementations, resolve_impl
from fastvae_kernels.cpu import why_not
from fastvae_kernels.cpu.library import _load
from fastvae_kernels.dispatch import _resolve
from tests.kernels.support import needs_compiled

ROOT = Path(__file__).parents[2]
OTHER = " ".join(f"int fastvae_{f}(void) {{return 8;}}" for f in ("noise", "elbo_loss", "divergence"))
OTHER += " int fastvae_loss_size(void) {return 8;} int fastvae_divergence_size(void) {return 8;}"
HELPERS = ("implementations", "resolve_impl", "split_head")
OPS = [name for name in fastvae_kernels.__all__ if name.islower() and name not in HELPERS]
X = torch.zeros(4, 6)
IMAGE = torch.zeros(2, 4, 5, 5)
KERNEL = torch.zeros(6, 4, 3, 3)
COUNTS = torch.tensor([10, 10, 5])


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
    for folder, other in (
        ("reference", "triton"),
        ("reference", "cpu"),
        ("reference", "library"),
        ("library", "triton"),
        ("triton", "library"),
        ("triton", "reference"),
        ("triton", "cpu"),
        ("cpu", "triton"),
    ):
        for file in (package / folder).glob("*.py"):
            assert f"..{other}" not in file.read_text()
            assert f"fastvae_kernels.{other}" not in file.read_text()


def test_every_op_has_a_reference() -> None:
    for op in OPS:
        assert implementations(op)[0] == "reference"


def test_auto_takes_triton_on_cuda_where_it_can() -> None:
    assert resolve_impl("reparameterize", "auto", "cuda") == "triton"
    assert resolve_impl("reparameterize", "auto", "cuda", torch.float64) == "reference"
    assert resolve_impl("conv2d", "auto", "cuda") == "triton"
    assert resolve_impl("affine", "auto", "cuda") == "triton"
    assert resolve_impl("attention", "auto", "cuda") == "triton"
    assert resolve_impl("linear", "auto", "cpu") == "reference"
    assert resolve_impl("reparameterize", "auto", "mps") == "reference"


@pytest.mark.parametrize("op", [op for op in OPS if "library" in implementations(op)])
def test_the_library_is_taken_by_name_alone(op: str) -> None:
    for device in ("cpu", "cuda"):
        assert resolve_impl(op, "auto", device, torch.bfloat16) != "library"
        assert resolve_impl(op, "library", device, torch.float64) == "library"
    with pytest.raises(UnavailableError, match="impl of linear must be one of"):
        resolve_impl("linear", "library", "cpu")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_kernels_for_cpus_are_built_where_there_is_a_compiler() -> None:
    """Else every test of them is skipped in silence: `pip install -e .` builds them."""
    assert why_not() is None


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize(("flags", "compiles"), [([], True), (["-ffast-math"], False)], ids=str)
def test_kernels_for_cpus_refuse_to_be_compiled_inexactly(flags: list[str], compiles: bool) -> None:
    """As a user's CFLAGS might have it: an optional extension that does not compile is left out."""
    source = ROOT / "kernels" / "fastvae_kernels" / "cpu" / "source" / "noise.c"
    done = subprocess.run(["cc", *flags, "-fsyntax-only", source], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == compiles
    assert compiles or "neither -ffast-math" in done.stderr


@pytest.mark.parametrize("reason", ["this installation was built without a C compiler", "it does not load"])
def test_without_compiled_kernels_auto_is_the_reference(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(why_not.__globals__, "_LOADED", reason)
    _resolve.cache_clear()
    try:
        assert resolve_impl("sample_normal", "auto", "cpu") == "reference"
        with pytest.raises(UnavailableError, match=f"impl 'cpu' of sample_normal cannot run: {reason}; impl 'refer"):
            resolve_impl("sample_normal", "cpu", "cpu")
    finally:
        _resolve.cache_clear()


def test_a_library_that_does_not_load_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "_compiled.so"
    broken.write_bytes(b"not a library")
    spec = importlib.util.spec_from_file_location("_compiled", broken)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert "does not load" in str(_load())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert _load() == "this installation was built without a C compiler"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("code", ["", OTHER], ids=["functions", "structs"])
def test_a_library_of_another_version_is_a_reason(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a checkout that was brought up to date and not installed again: without a function, or of other structs."""
    source, other = tmp_path / "other.c", tmp_path / "_compiled.so"
    source.write_text(code)
    subprocess.run(["cc", "-shared", "-fPIC", "-w", source, "-o", other], check=True)
    spec = importlib.util.spec_from_file_location("_compiled", other)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert "another version's" in str(_load())


@needs_compiled
def test_auto_takes_the_cpu_implementation_on_a_cpu_and_nowhere_else() -> None:
    assert resolve_impl("elbo_loss", "auto", "cpu", torch.bfloat16) == "cpu"
    assert resolve_impl("elbo_loss", "auto", "cpu", torch.float64) == "reference"
    with pytest.raises(UnavailableError, match=r"float16; found torch.float64; impl 'reference' can"):
        resolve_impl("elbo_loss", "cpu", "cpu", torch.float64)
    assert resolve_impl("sample_normal", "auto", "cpu") == "cpu"
    with pytest.raises(UnavailableError, match="takes CPU tensors; found device 'cuda'"):
        resolve_impl("sample_normal", "cpu", "cuda")


@pytest.mark.parametrize("op", OPS)
def test_unknown_implementation_is_refused(op: str) -> None:
    with pytest.raises(UnavailableError, match=rf"impl of {op} must be one of 'auto', 'reference'.*'cudnn'"):
        resolve_impl(op, "cudnn", "cpu")


def test_ops_pass_the_refusal_on() -> None:
    with pytest.raises(UnavailableError, match="impl of affine must be one of"):
        fastvae_kernels.affine(X, impl="cpu")
    with pytest.raises(UnavailableError, match=r"float64"):
        fastvae_kernels.conv2d(IMAGE.double(), KERNEL.double(), impl="triton")
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


def moments(**changes: Any) -> Any:
    return fastvae_kernels.conv2d_statistics(**{"x": IMAGE, "weight": KERNEL, "block": 4, **changes})


def image_bytes(**changes: Any) -> Any:
    return fastvae_kernels.conv_image(**{"x": IMAGE, "weight": KERNEL, **changes})


def bytes_of(**changes: Any) -> Any:
    return fastvae_kernels.to_bytes(**{"x": X, **changes})


def scored(**changes: Any) -> Any:
    return fastvae_kernels.conv_score(
        **{"x": IMAGE, "weight": KERNEL, "bias": None, "data": torch.zeros(2, 6, 3, 3), **changes}
    )


def transposed(**changes: Any) -> Any:
    weight = torch.zeros(4, 6, 3, 3)
    return fastvae_kernels.conv_transpose2d(**{"x": IMAGE, "weight": weight, **changes})


def norm(**changes: Any) -> Any:
    return fastvae_kernels.group_norm(**{"x": IMAGE, "groups": 2, **changes})


def statistics(**changes: Any) -> Any:
    return fastvae_kernels.channel_statistics(**{"x": IMAGE, "block": 10, **changes})


def merged(**changes: Any) -> Any:
    given = {"statistics": torch.ones(2, 3, 4, 2), "pixels": 25, "block": 10, "groups": 2}
    return fastvae_kernels.norm_affine(**{**given, **changes})


def applied(**changes: Any) -> Any:
    return fastvae_kernels.norm_apply(**{"x": IMAGE, "affine": torch.zeros(2, 3, 4), **changes})


def attend(**changes: Any) -> Any:
    return fastvae_kernels.attention(**{"q": IMAGE, "k": IMAGE, "v": IMAGE, **changes})


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


def quantized(**changes: Any) -> Any:
    q, scale = fastvae_kernels.quantize_rows(X)
    arguments = {"x": q, "weight": q, "x_scale": scale, "weight_scale": scale}
    return fastvae_kernels.linear(**{**arguments, **changes})


def prior(**changes: Any) -> Any:
    return fastvae_kernels.linear_prior(**{"n": 2, "weight": X, "seed": 0, **changes})


HEAD = {"x": X, "mean_weight": X, "mean_bias": None, "logvar_weight": X, "logvar_bias": None}


def latent_head(**changes: Any) -> Any:
    return fastvae_kernels.gaussian_head(**{**HEAD, **changes})


def bottleneck(**changes: Any) -> Any:
    return fastvae_kernels.bottleneck(**{**HEAD, "weight": torch.zeros(5, 4), **changes})


def score(**changes: Any) -> Any:
    return fastvae_kernels.linear_score(**{"x": X, "weight": X, "bias": None, "data": torch.zeros(2, 4), **changes})


def elbo(**changes: Any) -> Any:
    return fastvae_kernels.elbo(**{"output": X, "data": X, "mean": X, "logvar": X, **changes})


def split(**changes: Any) -> Any:
    return fastvae_kernels.split_head(**{"weight": X, "layout": "chunked", **changes})


@pytest.mark.parametrize(
    ("call", "changes", "error", "message"),
    [
        (linear, {"residual": X}, ValueError, r"residual must have shape \(4, 5\); found \(4, 6\)"),
        (linear, {"residual": torch.zeros(4, 5).half()}, TypeError, "residual must have the output's dtype"),
        (linear, {"residual": torch.zeros(4, 5, device="meta")}, ValueError, "residual must be on x's device"),
        (linear, {"out_dtype": torch.int8}, TypeError, r"out_dtype must be float32.*found torch\.int8"),
        (linear, {"precision": "fp8"}, ValueError, "precision must be one of ieee, tf32; found 'fp8'"),
        (linear, {"x": X.half(), "weight": X.half(), "precision": "tf32"}, ValueError, "'tf32' needs a float32 x"),
        (linear, {"x_scale": torch.zeros(4)}, ValueError, "x_scale must be None unless x is torch.float8_e4m3fn"),
        (quantized, {"x": X}, TypeError, r"weight must be float32.*found torch\.float8_e4m3fn"),
        (
            quantized,
            {"weight": X},
            TypeError,
            r"weight must have x's dtype, torch\.float8_e4m3fn; found torch\.float32",
        ),
        (quantized, {"x_scale": None}, TypeError, "x_scale must be a float32 tensor .* found None"),
        (quantized, {"weight_scale": X.double()}, TypeError, r"weight_scale must be a float32.*found torch\.float64"),
        (quantized, {"weight_scale": torch.zeros(6)}, ValueError, r"weight_scale must have shape \(4,\); found \(6,\)"),
        (quantized, {"bias": torch.zeros(4).int()}, TypeError, "bias must be float32"),
        (quantized, {"precision": "tf32"}, ValueError, "'tf32' needs a float32 x"),
        (prior, {"n": -1}, ValueError, "n must be at least 0; found -1"),
        (prior, {"weight": X[0]}, ValueError, "weight must have 2 axes"),
        (prior, {"bias": X[0]}, ValueError, r"bias must have shape \(4,\); found \(6,\)"),
        (prior, {"seed": -1}, ValueError, "seed must be in"),
        (prior, {"weight": X.double(), "precision": "tf32"}, ValueError, "'tf32' needs a float32 weight"),
        (latent_head, {"samples": 2}, ValueError, "samples must be None where seed is None.*found 2"),
        (latent_head, {"start": -1}, ValueError, "start must be in"),
        (latent_head, {"mean_weight": X[:, :5]}, ValueError, r"mean_weight must have shape \(4, 6\); found \(4, 5\)"),
        (latent_head, {"logvar_weight": X[:2]}, ValueError, r"logvar_weight must have shape \(4, 6\); found \(2, 6\)"),
        (latent_head, {"logvar_bias": X[0]}, ValueError, r"logvar_bias must have shape \(4,\); found \(6,\)"),
        (latent_head, {"mean_bias": X[:, 0].half()}, TypeError, "mean_bias must have x's dtype"),
        (latent_head, {"minimum": 2.0, "maximum": 1.0}, ValueError, "minimum must be at most maximum"),
        (latent_head, {"x": X.to(torch.float8_e4m3fn)}, TypeError, "x must be float32.*found torch.float8_e4m3fn"),
        (bottleneck, {"weight": X}, ValueError, r"weight must have shape \(4, 4\); found \(4, 6\)"),
        (bottleneck, {"bias": X[0]}, ValueError, r"bias must have shape \(5,\); found \(6,\)"),
        (bottleneck, {"activation": "swish"}, ValueError, "activation must be one of"),
        (score, {"likelihood": "poisson"}, ValueError, "likelihood must be one of bernoulli, gaussian, squared_error"),
        (score, {"likelihood": "gaussian"}, ValueError, "logvar must be a tensor for likelihood 'gaussian'"),
        (score, {"logvar": X[0, 0]}, ValueError, "logvar must be None for likelihood 'bernoulli'"),
        (score, {"likelihood": "gaussian", "logvar": X}, ValueError, r"logvar must have shape \(\) or \(4,\)"),
        (score, {"activation": "sigmoid"}, ValueError, "activation must be 'identity' for likelihood 'bernoulli'"),
        (score, {"data": torch.zeros(3, 4)}, ValueError, "x must have a multiple of data's 3 rows; found 4"),
        (score, {"data": torch.zeros(2, 5)}, ValueError, r"data must have shape \(2, 4\); found \(2, 5\)"),
        (score, {"mask": X}, TypeError, r"mask must be a torch\.bool tensor"),
        (score, {"weight_scale": X[:, 0]}, ValueError, "weight_scale must be None unless x is"),
        (elbo, {"mean": X[:2]}, ValueError, r"mean must have shape \(4, 6\); found \(2, 6\)"),
        (elbo, {"mean": X.double()}, TypeError, "mean must have output's dtype"),
        (elbo, {"logvar": X[:, :2]}, ValueError, r"logvar must have shape \(4, 6\); found \(4, 2\)"),
        (elbo, {"data": X[:, :2]}, ValueError, r"output must have shape \(samples \* n, ...\) for data"),
        (elbo, {"likelihood": "gaussian"}, ValueError, "output_logvar must be a tensor for likelihood 'gaussian'"),
        (elbo, {"output_logvar": X}, ValueError, "output_logvar must be None for likelihood 'bernoulli'"),
        (elbo, {"mask": X[:1] > 0}, ValueError, r"mask must have shape \(4, 6\); found \(1, 6\)"),
        (split, {"layout": "halves"}, ValueError, "layout must be one of chunked, interleaved; found 'halves'"),
        (split, {"weight": X[:3]}, ValueError, "weight must have an even number of rows"),
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
        (conv, {"padding": (1, 2, 3)}, ValueError, "padding must be an int, two of them or four"),
        (conv, {"weight": torch.zeros(6, 2, 3, 3)}, ValueError, r"weight must have shape \(6, 4, 3, 3\)"),
        (conv, {"dilation": 3}, ValueError, "x must be large enough for its weight"),
        (conv, {"residual": IMAGE}, ValueError, r"residual must have shape \(2, 6, 3, 3\); found \(2, 4, 5, 5\)"),
        (conv, {"residual": torch.zeros(2, 6, 3, 3).half()}, TypeError, "residual must have the output's dtype"),
        (moments, {"block": 0}, ValueError, "block must be at least 1; found 0"),
        (moments, {"block": 2.0}, TypeError, "block must be an int; found float"),
        (moments, {"weight": KERNEL[:, :2]}, ValueError, r"weight must have shape \(6, 4, 3, 3\)"),
        (image_bytes, {"scale": float("nan")}, ValueError, "scale must be a finite number; found nan"),
        (image_bytes, {"shift": float("inf")}, ValueError, "shift must be a finite number; found inf"),
        (image_bytes, {"bias": X[0, :4]}, ValueError, r"bias must have shape \(6,\)"),
        (bytes_of, {"x": X[0]}, ValueError, r"x must have at least 2 axes; found shape \(6,\)"),
        (bytes_of, {"x": X.long()}, TypeError, "x must be"),
        (bytes_of, {"scale": float("inf")}, ValueError, "scale must be a finite number; found inf"),
        (scored, {"data": IMAGE}, ValueError, r"data must have shape \(2, 6, 3, 3\); found \(2, 4, 5, 5\)"),
        (scored, {"data": torch.zeros(3, 6, 3, 3)}, ValueError, "x must have a multiple of data's 3 rows; found 2"),
        (scored, {"data": X}, ValueError, "data must have 4 axes"),
        (scored, {"mask": IMAGE}, TypeError, r"mask must be a torch\.bool tensor"),
        (scored, {"activation": "relu"}, ValueError, "activation must be 'identity' for likelihood 'bernoulli'"),
        (scored, {"likelihood": "poisson"}, ValueError, "likelihood must be one of bernoulli"),
        (scored, {"likelihood": "gaussian", "logvar": X}, ValueError, r"logvar must have shape \(\); found \(4, 6\)"),
        (transposed, {"residual": IMAGE}, ValueError, r"residual must have shape \(2, 6, 7, 7\)"),
        (transposed, {"output_padding": 1}, ValueError, "output_padding must be smaller than stride"),
        (transposed, {"weight": KERNEL}, ValueError, r"weight must have shape \(4, 4, 3, 3\)"),
        (transposed, {"padding": 9}, ValueError, "x must be large enough for its weight"),
        (norm, {"x": X}, ValueError, r"x must have 4 axes; found shape \(4, 6\)"),
        (norm, {"x": IMAGE.int()}, TypeError, r"x must be float32.*found torch\.int32"),
        (norm, {"groups": 3}, ValueError, "groups must divide x's channels, 4; found 3"),
        (norm, {"groups": 0}, ValueError, "groups must be at least 1; found 0"),
        (norm, {"groups": 2.0}, TypeError, "groups must be an int; found float"),
        (norm, {"eps": -1e-5}, ValueError, "eps must be a finite number of at least 0; found -1e-05"),
        (norm, {"eps": float("inf")}, ValueError, "eps must be a finite number"),
        (norm, {"eps": float("nan")}, ValueError, "eps must be a finite number"),
        (norm, {"weight": torch.zeros(2)}, ValueError, r"weight must have shape \(4,\); found \(2,\)"),
        (norm, {"bias": torch.zeros(4).long()}, TypeError, "bias must be float32"),
        (norm, {"bias": torch.zeros(4, device="meta")}, ValueError, "bias must be on x's device"),
        (norm, {"activation": "swish"}, ValueError, "activation must be one of"),
        (statistics, {"x": X}, ValueError, "x must have 4 axes"),
        (statistics, {"block": 0}, ValueError, "block must be at least 1; found 0"),
        (statistics, {"block": 2.0}, TypeError, "block must be an int; found float"),
        (merged, {"statistics": X.half()}, TypeError, r"float32 or float64 tensor; found torch\.float16"),
        (merged, {"statistics": None}, TypeError, "float32 or float64 tensor; found NoneType"),
        (merged, {"statistics": X}, ValueError, "statistics must have 4 axes"),
        (merged, {"statistics": IMAGE}, ValueError, r"statistics must have shape \(2, 4, 5, 2\) or \(2, 4, 5, 3\)"),
        (merged, {"statistics": torch.ones(2, 0, 4, 2)}, ValueError, "statistics must have at least one block"),
        (merged, {"pixels": 0}, ValueError, "pixels must be at least 1; found 0"),
        (merged, {"pixels": 31}, ValueError, "statistics must have 4 blocks for 31 pixels in blocks of 10; found 3"),
        (merged, {"block": 0}, ValueError, "block must be at least 1; found 0"),
        (merged, {"block": None}, ValueError, "exactly one of block and counts must be given; found neither"),
        (merged, {"counts": COUNTS}, ValueError, "exactly one of block and counts must be given; found both"),
        (merged, {"block": None, "counts": COUNTS.float()}, TypeError, r"int64 tensor; found torch\.float32"),
        (merged, {"block": None, "counts": COUNTS[:2]}, ValueError, r"counts must have shape \(3,\); found \(2,\)"),
        (merged, {"block": None, "counts": COUNTS.to("meta")}, ValueError, "counts must be on statistics' device"),
        (merged, {"groups": 3}, ValueError, "groups must divide statistics' channels, 4; found 3"),
        (merged, {"eps": -1.0}, ValueError, "eps must be a finite number of at least 0"),
        (merged, {"weight": X[0]}, ValueError, r"weight must have shape \(4,\); found \(6,\)"),
        (merged, {"bias": COUNTS}, TypeError, "bias must be float32"),
        (applied, {"x": X}, ValueError, "x must have 4 axes"),
        (applied, {"affine": torch.zeros(2, 2, 4)}, ValueError, r"affine must have shape \(2, 3, 4\)"),
        (applied, {"affine": torch.zeros(2, 3, 4).half()}, TypeError, r"affine must be torch\.float32 for x of"),
        (applied, {"x": IMAGE.double()}, TypeError, r"affine must be torch\.float64 for x of torch\.float64"),
        (applied, {"activation": "swish"}, ValueError, "activation must be one of"),
        (attend, {"q": X}, ValueError, "q must have 4 axes"),
        (attend, {"q": IMAGE.int()}, TypeError, r"q must be float32.*found torch\.int32"),
        (attend, {"k": X}, ValueError, "k must have 4 axes"),
        (attend, {"k": IMAGE.half()}, TypeError, r"k must have q's dtype, torch\.float32; found torch\.float16"),
        (attend, {"k": IMAGE[:, :2]}, ValueError, r"k must have shape \(2, 4, 5, 5\); found \(2, 2, 5, 5\)"),
        (attend, {"v": IMAGE[:1]}, ValueError, r"v must have shape \(2, 4, 5, 5\); found \(1, 4, 5, 5\)"),
        (attend, {"v": IMAGE[:, :, :4]}, ValueError, r"v must have shape \(2, 4, 5, 5\); found \(2, 4, 4, 5\)"),
        (attend, {"v": torch.zeros(2, 4, 5, 5, device="meta")}, ValueError, "v must be on q's device"),
        (attend, {"heads": 3}, ValueError, "heads must divide q's channels, 4; found 3"),
        (attend, {"heads": 4, "v": IMAGE[:, :2]}, ValueError, "heads must divide v's channels, 2; found 4"),
        (attend, {"q": IMAGE[:, :0], "k": IMAGE[:, :0]}, ValueError, "q must have at least one channel"),
        (attend, {"k": IMAGE[..., :0], "v": IMAGE[..., :0]}, ValueError, "k must have at least one pixel"),
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


def test_split_head_gives_views_in_order() -> None:
    merged = torch.arange(12.0).view(6, 2)
    mean, logvar = fastvae_kernels.split_head(merged, "chunked")
    assert (mean[:, 0].tolist(), logvar[:, 0].tolist()) == ([0, 2, 4], [6, 8, 10])
    mean, logvar = fastvae_kernels.split_head(merged, "interleaved")
    assert (mean[:, 0].tolist(), logvar[:, 0].tolist()) == ([0, 4, 8], [2, 6, 10])
    assert mean.untyped_storage().data_ptr() == merged.untyped_storage().data_ptr()


def test_gaussian_head_gives_the_posterior_when_asked() -> None:
    assert len(latent_head()) == 2
    assert [tuple(t.shape) for t in latent_head(posterior=True, seed=1, samples=3)] == [(3, 4, 4), (4,), (4, 4), (4, 4)]
