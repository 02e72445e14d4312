"""What the processes of workers are forked with; imported by their server alone."""

from __future__ import annotations

import contextlib

from fastvae import processes

with processes.imports():
    with contextlib.suppress(ImportError):
        import onnxruntime  # noqa: F401

        import fastvae.onnx
    import fastvae.bulk.pool  # noqa: F401
