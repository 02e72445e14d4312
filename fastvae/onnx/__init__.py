"""Plans as ONNX models: what ONNX Runtime executes here, and what ``fastvae export`` writes for elsewhere.

Importing it needs the package ``onnx``.
"""

from fastvae.onnx.export import export
from fastvae.onnx.lower import NOISE, output_names, to_onnx

__all__ = ["NOISE", "export", "output_names", "to_onnx"]
