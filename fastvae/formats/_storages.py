"""Builds tensors on the storages of a PyTorch file, after checking every number the file gives for them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fastvae.formats._shapes import checked_numel

__all__ = ["DTYPES", "MAX_RECORDS", "StorageType", "StorageView", "Storages"]

# Tensors, and storages, in one file: each costs some hundred bytes besides its data.
MAX_RECORDS = 12_000
_MAX_STRIDE = 2**48

DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)


@dataclass(frozen=True)
class StorageType:
    """Stands for a class such as ``torch.FloatStorage``; ``dtype`` is None for untyped bytes."""

    name: str
    dtype: torch.dtype | None


@dataclass
class _Root:
    """One storage of the file: ``buffer`` is uint8 [nbytes], uninitialised until ``filled``."""

    kind: StorageType
    dtype: torch.dtype | None
    buffer: torch.Tensor
    filled: bool = False


@dataclass(frozen=True)
class StorageView:
    """``nbytes`` bytes of a storage from byte ``start`` on."""

    root: _Root
    start: int
    nbytes: int


class Storages:
    """The storages of one file, allocated when the pickle declares them and filled when they are read."""

    def __init__(self, file_size: int) -> None:
        self._available = file_size
        self._roots: dict[str, _Root] = {}
        self._tensors = 0

    def load_persistent(self, identifier: object) -> StorageView:
        """Return the storage that a persistent id ("storage", type, key, location, numel, view) names.

        Raises ``ValueError`` when it is no such id, contradicts an earlier one, or declares more bytes than
        the file has left.
        """
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
            raise ValueError("expected a persistent id that names a storage, found something else")
        _, kind, key, location, numel, *rest = identifier
        if not isinstance(kind, StorageType) or not isinstance(key, str) or not isinstance(location, str):
            raise ValueError("expected a storage's type, key and location, found something else")
        if location == "meta":
            raise ValueError(f"expected storages with data, found storage {key!r:.80} on the meta device")
        nbytes = checked_numel([numel], _itemsize(kind.dtype)) * _itemsize(kind.dtype)
        root = self._roots.get(key) or self._declare(key, kind, nbytes)
        if root.kind != kind or root.buffer.numel() != nbytes:
            raise ValueError(f"expected one type and size for storage {key!r:.80}, found two")
        return _view(root, rest[0] if rest else None)

    def tensor(
        self, storage: object, offset: Any, size: object, stride: object, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Return the tensor of shape ``size`` that lies on ``storage`` from element ``offset`` on.

        ``dtype`` is required on untyped storages only. Raises ``ValueError`` unless the tensor lies wholly
        within the storage and has no more elements than it.
        """
        if not isinstance(storage, StorageView) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise ValueError("expected a tensor's storage, size and stride, found something else")
        self._tensors += 1
        if self._tensors > MAX_RECORDS:
            raise ValueError(f"expected at most {MAX_RECORDS} tensors, found more")
        root = storage.root
        dtype = dtype or root.dtype
        if dtype not in DTYPES or root.dtype not in (None, dtype):
            raise ValueError(f"expected one dtype per storage, found {dtype} on {root.dtype}")
        root.dtype = dtype
        numel = checked_numel(size, dtype.itemsize)
        capacity = storage.nbytes // dtype.itemsize
        if not all(type(value) is int and 0 <= value <= _MAX_STRIDE for value in (offset, *stride)):
            raise ValueError("expected integers from 0 to 2**48 as offset and strides, found others")
        if len(size) != len(stride):
            raise ValueError(f"expected a stride for each of {len(size)} dimensions, found {len(stride)}")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if numel else offset - 1
        if last >= capacity or numel > capacity:
            raise ValueError(
                f"expected a tensor within its storage of {capacity} elements, found size {size}, stride "
                f"{stride}, offset {offset}"
            )
        if storage.start % dtype.itemsize:
            raise ValueError(f"expected a storage view that starts on an element, found byte {storage.start}")
        start = storage.start // dtype.itemsize + offset
        return torch.empty(0, dtype=dtype).set_(root.buffer.untyped_storage(), start, size, stride)

    def items(self) -> Iterator[tuple[str, int, int]]:
        """Yield key, number of elements and number of bytes of every declared storage."""
        for key, root in self._roots.items():
            yield key, root.buffer.numel() // _itemsize(root.kind.dtype), root.buffer.numel()

    def fill(self, key: str, content: memoryview) -> None:
        """Copy the bytes of storage ``key`` to where its tensors lie; ``ValueError`` when they do not fit."""
        root = self._roots[key]
        if root.filled or len(content) != root.buffer.numel():
            raise ValueError(f"expected {root.buffer.numel()} bytes for storage {key!r:.80}, found {len(content)}")
        memoryview(root.buffer.numpy().data)[:] = content
        root.filled = True
        if root.dtype is torch.bool and len(content) and int(root.buffer.max()) > 1:
            raise ValueError(f"expected bool bytes of 0 or 1 in storage {key!r:.80}, found others")

    def _declare(self, key: str, kind: StorageType, nbytes: int) -> _Root:
        if nbytes > self._available:
            raise ValueError(f"expected storages no larger than the file, found {nbytes} bytes for {key!r:.80}")
        if len(self._roots) >= MAX_RECORDS:
            raise ValueError(f"expected at most {MAX_RECORDS} storages, found more")
        self._available -= nbytes
        root = _Root(kind, kind.dtype, torch.empty(nbytes, dtype=torch.uint8))
        self._roots[key] = root
        return root


def _itemsize(dtype: torch.dtype | None) -> int:
    return 1 if dtype is None else dtype.itemsize


def _view(root: _Root, view: object) -> StorageView:
    """Return the part of ``root`` that a legacy file's (key, offset, numel) describes, all of it for None."""
    nbytes, itemsize = root.buffer.numel(), _itemsize(root.kind.dtype)
    if view is None:
        return StorageView(root, 0, nbytes)
    if not isinstance(view, tuple) or len(view) != 3:
        raise ValueError("expected a storage view as key, offset and size, found something else")
    _, offset, numel = view
    if type(offset) is not int or type(numel) is not int or offset < 0 or numel < 0:
        raise ValueError("expected non-negative integers as a storage view's offset and size, found others")
    if (offset + numel) * itemsize > nbytes:
        raise ValueError(f"expected a view within {nbytes} bytes, found {numel} elements from {offset}")
    return StorageView(root, offset * itemsize, numel * itemsize)
