"""Hostile files by hand, and the check that a reader refuses them cheaply."""

import io
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fastvae.errors import FastVAEError


@contextmanager
def bounded(megabytes: float, seconds: float = 10.0) -> Iterator[None]:
    """Fail when the block takes longer, or allocates more memory through Python, than stated."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < seconds
    assert peak < megabytes * 1e6


def assert_refused(
    reader: Callable[[Path], object],
    error: type[FastVAEError],
    path: Path,
    match: str,
    megabytes: float = 2.0,
) -> None:
    """Expect ``error``, which names the file, within ``megabytes`` plus six times the file's size."""
    allowed = megabytes + 6e-6 * path.stat().st_size
    with bounded(allowed), pytest.raises(error, match=match) as caught:
        reader(path)
    assert str(caught.value).startswith(f"{path}: ")


class Storage:
    """Pickled as the persistent id of a storage; ``view`` as PyTorch before 1.6 added it."""

    def __init__(
        self,
        numel: Any,
        kind: Any = torch.FloatStorage,
        key: Any = "0",
        location: Any = "cpu",
        view: tuple[Any, ...] = (),
    ) -> None:
        self.identifier = ("storage", kind, key, location, numel, *view)


class Call:
    """Pickled as a call of ``function``."""

    def __init__(self, function: Any, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


def tensor(storage: Any, offset: Any, size: Any, stride: Any, hooks: Any = None, *metadata: Any) -> Call:
    """Pickled as a tensor, whatever the numbers."""
    hooks = OrderedDict() if hooks is None else hooks
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, hooks, *metadata)


def tensor_v3(storage: Storage, size: tuple[int, ...], dtype: object) -> Call:
    """Pickled as a tensor of one of the dtypes that have no storage class."""
    return Call(torch._utils._rebuild_tensor_v3, storage, 0, size, (1,), False, None, dtype)


def pickled(value: object, protocol: int = 2) -> bytes:
    """Pickle ``value``, with every ``Storage`` in it as a persistent id."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=protocol)
    pickler.persistent_id = lambda x: x.identifier if isinstance(x, Storage) else None  # type: ignore[method-assign]
    pickler.dump(value)
    return file.getvalue()


def zipped(raw: bytes, *storages: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    """An archive as torch.save lays it out, around the pickle ``raw``."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", raw)
        for index, storage in enumerate(storages):
            archive.writestr(f"archive/data/{index}", storage)
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


HEADERS = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))


def legacy(raw: bytes, keys: object = (), *storages: bytes) -> bytes:
    """A file as torch.save laid it out before 1.6, around the pickle ``raw``; storages of 4-byte elements."""
    body = b"".join(struct.pack("<q", len(storage) // 4) + storage for storage in storages)
    return HEADERS + raw + pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2) + body


def saved(value: object, **options: Any) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()
