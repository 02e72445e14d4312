"""Maths that several Triton kernels share unchanged. Imports Triton, so only kernels import it."""
