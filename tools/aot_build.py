"""One build of tools/aot.py: what is compiled, and what it must come out as."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Build", "Builder"]


@dataclass(frozen=True)
class Build:
    """One kernel as one configuration launches it.

    arguments: Triton types of the parameters that have none of their own, None for one that is absent. matrix: the
    precision of a product that must run on matrix instructions, or "". bulk: operands and result go through the
    tensor memory accelerator. load_bits, store_bits: the least widths promised. impossible: why the target cannot
    run this. extra: why it is compiled with --all only. target and kernel are filled in by the registry.
    """

    name: str
    arguments: dict[str, str | None]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int | None = None
    matrix: str = ""
    bulk: bool = False
    load_bits: int = 0
    store_bits: int = 0
    impossible: str = ""
    extra: str = ""
    target: str = ""
    kernel: str = ""

    @property
    def key(self) -> str:
        """What the baseline calls it."""
        return f"{self.target}/{self.kernel}/{self.name}"


Builder = Callable[[str], Iterator[Build]]
"""The builds of a kernel for a target."""
