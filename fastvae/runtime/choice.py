"""Which implementation runs each op of a plan: one for all, and others for ops that are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

import fastvae_kernels
from fastvae.errors import UnsupportedError

IMPLEMENTATIONS = ("auto", "reference", "triton", "onnxruntime")
# What a row's bits may depend on the batch in.
NOT_INVARIANT = "library"


@dataclass(frozen=True)
class Choice:
    """``base`` runs every op that ``ops`` does not name another implementation for."""

    base: str
    ops: Mapping[str, str]

    @staticmethod
    def of(impl: str) -> Choice:
        """From text such as ``triton``, ``conv2d=library`` or ``triton,conv2d=library,attention=library``.

        Raises:
            UnsupportedError: it is none of IMPLEMENTATIONS with ops' names and implementations behind it.
        """
        parts = impl.split(",") if isinstance(impl, str) else [""]
        base = parts.pop(0) if "=" not in parts[0] else "auto"
        if base not in IMPLEMENTATIONS:
            accepted = ", ".join(map(repr, IMPLEMENTATIONS))
            raise UnsupportedError(f"impl: {impl!r} is not supported; accepted: {accepted}, and for ops 'op=name'")
        ops: dict[str, str] = {}
        for part in parts:
            op, _, name = part.partition("=")
            ops[op] = _known(impl, op, name)
        if ops and base == "onnxruntime":
            raise UnsupportedError(f"impl: {impl!r} names ops, but 'onnxruntime' runs a plan as a whole")
        return Choice(base, ops)

    def __str__(self) -> str:
        return ",".join([self.base, *(f"{op}={self.ops[op]}" for op in sorted(self.ops))])

    def __getitem__(self, op: str) -> str:
        """The implementation of ``op``."""
        return self.ops.get(op, self.base)

    def check(self, device: torch.device, *, batch_invariant: bool) -> None:
        """Refuse what cannot run on a device or keep a row's bits its own.

        Raises:
            UnsupportedError: an op's implementation is that.
        """
        for op, name in self.ops.items():
            if batch_invariant and name == NOT_INVARIANT:
                raise UnsupportedError(
                    f"impl: '{op}={name}' with batch_invariant: a row's bits may depend on its batch"
                )
            try:
                fastvae_kernels.resolve_impl(op, name, device)
            except fastvae_kernels.UnavailableError as error:
                raise UnsupportedError(f"impl: {error}") from error


def _known(impl: str, op: str, name: str) -> str:
    """The name of an implementation that exists of ``op``."""
    try:
        accepted = ("auto", *fastvae_kernels.implementations(op))
    except ValueError as error:
        raise UnsupportedError(f"impl: {impl!r} names no op of a plan: {error}") from error
    if name not in accepted:
        raise UnsupportedError(
            f"impl: {name!r} is no implementation of {op}; accepted: {', '.join(map(repr, accepted))}"
        )
    return name
