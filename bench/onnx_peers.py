"""Peers that run the user's own ONNX file: ``torch.onnx.export`` of the plain module, in ONNX Runtime and OpenVINO.

One file serves any number of rows. NumPy in and out; ``generate`` draws with NumPy. Both run in float32 on as many
threads as PyTorch; nothing else is changed from how they come.
"""

from __future__ import annotations

import functools
import importlib
import logging
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.cases import Case, inputs
from bench.models import model
from bench.prepared import AbsentError, Prepared
from bench.verb_modules import MODULES, verb_module

Rows: TypeAlias = NDArray[np.float32]
ROWS = torch.export.Dim("rows")


def onnxruntime_peer(case: Case) -> Prepared:
    """ONNX Runtime's CPU provider."""
    return _prepared(case, _onnxruntime_session(case.model, _network(case.verb), torch.get_num_threads()))


def openvino_peer(case: Case) -> Prepared:
    """OpenVINO's CPU device."""
    return _prepared(case, _openvino_request(case.model, _network(case.verb), torch.get_num_threads()))


def _network(verb: str) -> str:
    """The verb whose network ``verb`` runs."""
    return "decode" if verb == "generate" else verb


@functools.lru_cache(maxsize=len(MODULES))
def exported(name: str, verb: str) -> bytes:
    """The ONNX file of a verb of the model called ``name``, its rows dynamic."""
    spec = model(name).spec
    x, z = torch.zeros(2, *spec.input_shape), torch.zeros(2, *spec.latent_shape)
    given = {"decode": (z,), "interpolate": (z, z.clone())}.get(verb, (x,))
    return onnx_file(verb_module(name, verb), given, tuple({0: ROWS} for _ in given))


def onnx_file(module: nn.Module, given: tuple[Tensor, ...], shapes: tuple[dict[int, Any], ...] | None = None) -> bytes:
    """The ONNX file of a module for arguments as ``given``, but for axes that ``shapes`` makes dynamic.

    Raises:
        AbsentError: the exporter is not installed.
    """
    _required("onnx", "onnxscript")
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # asks for torchvision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own use of what PyTorch and Python deprecate
        program = torch.onnx.export(module, given, dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


@functools.lru_cache(maxsize=len(MODULES))
def _onnxruntime_session(name: str, verb: str, threads: int) -> Callable[..., list[Rows]]:
    _required("onnxruntime")
    return onnxruntime_session(exported(name, verb), threads)


def onnxruntime_session(file: bytes, threads: int) -> Callable[..., list[Rows]]:
    """A function that runs an ONNX file.

    Raises:
        AbsentError: ONNX Runtime is not installed.
    """
    (onnxruntime,) = _required("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*given: Rows) -> list[Rows]:
        results: list[Rows] = session.run(None, dict(zip(names, given, strict=True)))
        return results

    return run


@functools.lru_cache(maxsize=len(MODULES))
def _openvino_request(name: str, verb: str, threads: int) -> Callable[..., list[Rows]]:
    (openvino,) = _required("openvino")
    properties = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(exported(name, verb)), "CPU", properties)
    outputs = len(compiled.outputs)

    def run(*given: Rows) -> list[Rows]:
        results = compiled(given)
        return [results[i] for i in range(outputs)]

    return run


def _required(*packages: str) -> list[Any]:
    try:
        return [importlib.import_module(package) for package in packages]
    except ImportError as error:
        raise AbsentError(f"{error.name or error} is not installed") from error


def _prepared(case: Case, run: Callable[..., list[Rows]]) -> Prepared:
    x, z = (tensor.numpy() for tensor in inputs(case.model, case.rows))
    given: tuple[Rows, ...] = (z,) if case.verb in ("generate", "decode") else (x,)
    if case.verb == "interpolate":
        given = z, np.ascontiguousarray(z[::-1])

    def check() -> tuple[Rows, ...]:
        return tuple(run(*given))

    if case.verb != "generate":
        return Prepared(check, check)
    generator = np.random.default_rng(0)
    return Prepared(lambda: tuple(run(generator.standard_normal(z.shape, dtype=np.float32))), check)
