"""Who decodes and encodes images: fastvae, and what a user of diffusers would run without it.

fastvae and ONNX Runtime take and return NumPy arrays, PyTorch's peers tensors. All run in float32 on
``torch.get_num_threads()`` threads, at the case's exact shapes.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastvae
from bench.image_models import ImageCase, autoencoder, image_input, image_module
from bench.onnx_peers import onnx_file, onnxruntime_session
from bench.peers import BASELINE, OURS
from bench.prepared import Call, Peer, Prepared, Result
from bench.torch_peers import compiled_before
from fastvae.spec import PointHead

# float32 through at most 40 layers, attention's four products among them, of inner products over at most 9 * 512 terms.
IMAGE_BUDGET = 40 * (9 * 512) ** 0.5 * 2.0**-24


@functools.lru_cache(maxsize=1)
def _vae(name: str, size: int, threads: int) -> fastvae.VAE:
    """The autoencoder as fastvae loads it from the folder that diffusers makes."""
    with tempfile.TemporaryDirectory() as folder:
        autoencoder(name, size).save_pretrained(folder)
        return fastvae.load(folder, device="cpu", threads=threads)


def fastvae_peer(case: ImageCase) -> Prepared:
    """fastvae as loaded by default, on the CPU."""
    vae = _vae(case.model, case.size, torch.get_num_threads())
    given = image_input(case).numpy()

    def encode() -> Result:
        posterior = vae.encode(given)
        return posterior.mean if isinstance(vae.spec.posterior, PointHead) else (posterior.mean, posterior.logvar)

    calls: dict[str, Call] = {"encode": encode, "decode": lambda: vae.decode(given)}
    return Prepared(calls[case.verb], calls[case.verb])


def eager_peer(case: ImageCase) -> Prepared:
    """diffusers' autoencoder under ``inference_mode``."""
    return _prepared(image_module(case), image_input(case))


def channels_last_peer(case: ImageCase) -> Prepared:
    """The same, weights and images in ``channels_last``."""
    module = copy.deepcopy(image_module(case)).to(memory_format=torch.channels_last)
    return _prepared(module, image_input(case).to(memory_format=torch.channels_last))


def onnxruntime_peer(case: ImageCase) -> Prepared:
    """The user's own export in ONNX Runtime's CPU provider."""
    given = image_input(case)
    run = onnxruntime_session(onnx_file(image_module(case), (given,)), torch.get_num_threads())

    def call() -> Result:
        results = tuple(run(given.numpy()))
        return results if len(results) > 1 else results[0]

    return Prepared(call, call)


def compile_peer(case: ImageCase) -> Prepared:
    """``torch.compile`` as it comes."""
    return compiled_before(_prepared(torch.compile(image_module(case), dynamic=False), image_input(case)))


def _prepared(run: Callable[..., Any], given: Tensor) -> Prepared:
    call = torch.inference_mode()(lambda: run(given))
    return Prepared(call, call)


IMAGE_PEERS: dict[str, Peer] = {
    OURS: fastvae_peer,
    BASELINE: eager_peer,
    "eager channels_last": channels_last_peer,
    "ONNX Runtime": onnxruntime_peer,
    "torch.compile": compile_peer,
}
# Compiling takes far longer than all else; asked for by name.
DEFAULT_PEERS = tuple(name for name in IMAGE_PEERS if name != "torch.compile")
