"""What the processes of workers are forked with; imported by their server alone."""

from __future__ import annotations

import contextlib
import gc

with contextlib.suppress(ImportError):
    import onnxruntime  # noqa: F401

    import fastvae.onnx
import fastvae.bulk.pool  # noqa: F401

# All of this stays: looking through it for garbage would copy the pages that forks share, and delay every end.
gc.freeze()
