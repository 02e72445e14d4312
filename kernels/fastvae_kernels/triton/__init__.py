"""Triton kernels, one file per op: a jitted kernel, `launch` with its configuration given, and the op.

Imported only when an op is asked to run here, because importing Triton is slow and may be impossible.
"""
