"""Who is measured: fastvae, and what a user would run without it.

Each gets its inputs, and gives its results, as its users hold them: PyTorch's peers tensors; ONNX Runtime,
OpenVINO and fastvae NumPy arrays. All run in float32 on ``torch.get_num_threads()`` threads.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

import fastvae
from bench.cases import STEPS, Case, inputs
from bench.models import model
from bench.onnx_peers import onnxruntime_peer, openvino_peer
from bench.prepared import Call, Peer, Prepared, Result, arrays
from bench.torch_peers import channels_last_peer, compile_peer, eager_peer, tuned_compile_peer
from fastvae.runtime import Settings


@functools.lru_cache(maxsize=1)
def _vae(name: str) -> fastvae.VAE:
    return fastvae.VAE(model(name), Settings(device="cpu", threads=torch.get_num_threads()))


def fastvae_peer(case: Case) -> Prepared:
    """fastvae as loaded by default, on the CPU; ``generate`` draws its own noise, that of ``inputs``."""
    vae = _vae(case.model)
    x, z = (tensor.numpy() for tensor in inputs(case.model, case.rows))
    reverse = np.ascontiguousarray(z[::-1])

    def encode() -> Result:
        posterior = vae.encode(x)
        return posterior.mean, posterior.logvar

    calls: dict[str, Call] = {
        "generate": lambda: vae.generate(case.rows, seed=1),
        "encode": encode,
        "decode": lambda: vae.decode(z),
        "reconstruct": lambda: vae.reconstruct(x),
        "score": lambda: vae.score(x, "elbo"),
        "interpolate": lambda: vae.interpolate(z, reverse, STEPS, space="latent"),
    }
    return Prepared(calls[case.verb], calls[case.verb])


OURS, BASELINE = "fastvae", "eager"
PEERS: dict[str, Peer] = {
    OURS: fastvae_peer,
    BASELINE: eager_peer,
    "eager channels_last": channels_last_peer,
    "torch.compile": compile_peer,
    "torch.compile tuned": tuned_compile_peer,
    "ONNX Runtime": onnxruntime_peer,
    "OpenVINO": openvino_peer,
}

# float32 through at most 16 layers of inner products over at most 1,024 terms.
BUDGET = 16 * 1024**0.5 * 2.0**-24


def distance(found: Result, expected: Result) -> float:
    """How far one result is from another, relative to the largest magnitude of each array expected.

    Infinite where shapes differ; NaN where a value is.
    """
    pairs = list(zip(arrays(found), arrays(expected), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
