"""Ops as PyTorch has them, in their operands' own dtype: cuDNN's on CUDA, MIOpen's on AMD, oneDNN's on a CPU.

To be chosen by name where they are faster; which of its algorithms a library takes, and so a row's bits, may depend on
the batch.
"""

from .attention import attention
from .conv2d import conv2d, conv_transpose2d

__all__ = ["attention", "conv2d", "conv_transpose2d"]
