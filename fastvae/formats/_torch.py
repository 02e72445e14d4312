"""Reads what ``torch.save`` wrote, without ``torch.load`` and without running anything the file asks for."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch

from fastvae.errors import UnsafeFileError, WeightFormatError
from fastvae.formats._files import PathLike, read_regular_file
from fastvae.formats._pickle import Builder, interpret_pickle
from fastvae.formats._plain import check_plain
from fastvae.formats._storages import DTYPES, Storages, StorageType
from fastvae.formats._torch_zip import read_records

__all__ = ["read_torch", "state_dict_of"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_WRAPPERS = ("state_dict", "model_state_dict", "model")

# Everything that malformed bytes are known to raise in pickletools, struct, zipfile, zlib and torch.
_FROM_BELOW = (
    *(EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(MemoryError, RecursionError, NotImplementedError, RuntimeError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)
_STORAGE_DTYPES = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.CharStorage": torch.int8,
    "torch.ShortStorage": torch.int16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.storage.UntypedStorage": None,
}
_REFUSED_KINDS = {
    "sparse": "a sparse tensor",
    "nested": "a nested tensor",
    "_rebuild_q": "a quantised tensor",
    "QInt": "a quantised tensor",
    "QUInt": "a quantised tensor",
    "meta_tensor": "a meta tensor",
    "omplex": "a complex tensor",
}


def read_torch(path: PathLike) -> object:
    """Read the ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file at ``path``: zip archives and the older format.

    Returns the saved object as nested ``dict``, ``list`` and ``tuple`` of ``str``, ``int``, ``float``,
    ``bool``, ``None``, ``torch.dtype`` and dense tensors. An ``OrderedDict`` comes back as a ``dict``, a
    ``torch.Size`` as a ``tuple``, a ``torch.device`` as a ``str``, a parameter as a plain tensor. Tensors
    are on the CPU, have the dtypes and strides the file declares, do not require grad, and share memory
    exactly where the saved ones did.

    Raises ``InputError`` when there is no readable file at ``path``, and ``UnsafeFileError`` when it is not
    a regular file, asks for anything else, or departs from what ``torch.save`` writes.
    """
    data = read_regular_file(path, error=UnsafeFileError)
    try:
        value = _read_zip(data) if data.startswith(b"PK\x03\x04") else _read_legacy(data)
        check_plain(value, file_size=len(data))
    except _FROM_BELOW as cause:
        detail = str(cause) or type(cause).__name__
        raise UnsafeFileError(f"{path}: expected a file saved with torch.save(model.state_dict()); {detail}") from cause
    return value


def state_dict_of(value: object, path: PathLike) -> dict[str, torch.Tensor]:
    """Return the state dict in ``value``, which ``read_torch(path)`` gave.

    That is ``value`` itself, or what it holds under "state_dict", "model_state_dict" or "model".

    Raises ``WeightFormatError`` when there is none.
    """
    if isinstance(value, Mapping):
        for candidate in (value, *(value[name] for name in _WRAPPERS if name in value)):
            if _is_state_dict(candidate):
                return dict(candidate)
    wrappers = ", ".join(repr(name) for name in _WRAPPERS)
    raise WeightFormatError(
        f"{path}: expected a state dict of names to tensors, plain or under {wrappers}; found {_describe(value)}"
    )


def _is_state_dict(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(item, torch.Tensor) for key, item in value.items())
    )


def _describe(value: object) -> str:
    if not isinstance(value, Mapping):
        return f"a {type(value).__name__}"
    if not value:
        return "an empty dict"
    shown = [f"{key!r:.80}: {type(item).__name__}" for key, item in list(value.items())[:8]]
    return f"a dict of {len(value)} items ({', '.join(shown)}{', ...' if len(value) > 8 else ''})"


def _read_zip(data: bytes) -> object:
    records = read_records(data)
    if "constants.pkl" in records or any(name.startswith("code/") for name in records):
        raise ValueError("found a TorchScript archive, which holds code")
    if "data.pkl" not in records:
        raise ValueError(f"found a zip archive without data.pkl, holding {sorted(records)!r:.200}")
    byteorder = bytes(records.get("byteorder", b"little"))
    if byteorder != b"little":
        raise ValueError(f"expected little-endian tensors, found byte order {byteorder!r:.40}")
    storages = Storages(len(data))
    pickle = io.BytesIO(records["data.pkl"])
    value = interpret_pickle(pickle, _globals_for(storages), storages.load_persistent)
    _require_end(pickle.tell(), len(records["data.pkl"]))
    for key, _, nbytes in storages.items():
        if f"data/{key}" not in records:
            raise ValueError(f"expected a record of {nbytes} bytes for storage {key!r:.80}, found none")
        storages.fill(key, records[f"data/{key}"])
    return value


def _read_legacy(data: bytes) -> object:
    """Read five pickles (magic number, protocol, system, the object, storage keys), then the storages."""
    if not data.startswith(b"\x80"):
        raise ValueError(f"expected a zip archive or a pickle, found a file that begins with {data[:8]!r}")
    file = io.BytesIO(data)
    for expected, what in ((_MAGIC, "magic number"), (_PROTOCOL, "protocol version")):
        found = interpret_pickle(file, _refuse_global, _refuse_persistent)
        if found != expected or type(found) is not int:
            raise ValueError(f"expected PyTorch's {what}, found a pickle of something else")
    system = interpret_pickle(file, _refuse_global, _refuse_persistent)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("expected little-endian tensors, found another byte order or none")
    storages = Storages(len(data))
    value = interpret_pickle(file, _globals_for(storages), storages.load_persistent)
    keys = interpret_pickle(file, _refuse_global, _refuse_persistent)
    declared = {key: (numel, nbytes) for key, numel, nbytes in storages.items()}
    # The types first: hashing a tuple that shares its parts takes exponential time.
    known = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not isinstance(keys, list) or not known or sorted(keys) != sorted(declared):
        raise ValueError(f"expected the keys of the {len(declared)} storages in use, found others")
    view, position = memoryview(data), file.tell()
    for key in keys:
        numel, nbytes = declared[key]
        found = int.from_bytes(view[position : position + 8], "little", signed=True)
        if found != numel:
            raise ValueError(f"expected {numel} elements in storage {key!r:.80}, found {found}")
        storages.fill(key, view[position + 8 : position + 8 + nbytes])
        position += 8 + nbytes
    _require_end(position, len(data))
    return value


def _require_end(position: int, size: int) -> None:
    if position != size:
        raise ValueError(f"expected the data to end at byte {position}, found {size} bytes")


def _globals_for(storages: Storages) -> Callable[[str], object]:
    """Return the table of all globals a file may name; none of the functions is PyTorch's own."""

    def rebuild(storage: Any, offset: Any, size: Any, stride: Any) -> torch.Tensor:
        return storages.tensor(storage, offset, size, stride)

    def rebuild_v2(*args: Any) -> torch.Tensor:
        storage, offset, size, stride, _requires_grad, hooks, *metadata = args
        _require_plain(hooks, metadata)
        return storages.tensor(storage, offset, size, stride)

    def rebuild_v3(*args: Any) -> torch.Tensor:
        storage, offset, size, stride, _requires_grad, hooks, dtype, *metadata = args
        _require_plain(hooks, metadata)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"expected a tensor's dtype, found a {type(dtype).__name__}")
        return storages.tensor(storage, offset, size, stride, dtype)

    builders: dict[str, Callable[..., object]] = {
        "collections.OrderedDict": _build_ordered_dict,
        "torch.Size": _build_size,
        "torch.device": _build_device,
        "torch._utils._rebuild_tensor": rebuild,
        "torch._utils._rebuild_tensor_v2": rebuild_v2,
        "torch._utils._rebuild_tensor_v3": rebuild_v3,
        "torch._utils._rebuild_parameter": _build_parameter,
    }
    table: dict[str, object] = {name: Builder(name, build) for name, build in builders.items()}
    table.update((name, StorageType(name, dtype)) for name, dtype in _STORAGE_DTYPES.items())
    table.update((str(dtype), dtype) for dtype in DTYPES)
    return lambda name: table[name] if name in table else _refuse_global(name)


def _refuse_global(name: str) -> NoReturn:
    kinds = _REFUSED_KINDS.items() if name.startswith("torch.") else ()
    kind = next((f" ({kind})" for part, kind in kinds if part in name), "")
    raise ValueError(f"it asks for {name}{kind}, and only dense tensors in plain containers are accepted")


def _refuse_persistent(_: object) -> NoReturn:
    raise ValueError("expected plain values before and after the saved object, found a storage")


def _require_plain(hooks: object, metadata: list[object]) -> None:
    if hooks or len(metadata) > 1 or any(metadata):
        raise ValueError("expected tensors without hooks, conjugation or negation, found one with them")


def _build_ordered_dict(items: object = ()) -> dict[Any, Any]:
    """Build a ``dict`` from nothing, or from the list of pairs that Python 2 wrote."""
    if not isinstance(items, list | tuple):
        raise ValueError(f"expected an OrderedDict's items as a list, found a {type(items).__name__}")
    result = {}
    for key, value in items:
        if not isinstance(key, str) or key in result:
            raise ValueError(f"expected an OrderedDict of unlike strings, found a {type(key).__name__}")
        result[key] = value
    return result


def _build_size(sizes: object) -> tuple[int, ...]:
    if not isinstance(sizes, tuple) or any(type(size) is not int for size in sizes):
        raise ValueError(f"expected a torch.Size of integers, found a {type(sizes).__name__}")
    return sizes


def _build_device(kind: object, index: object = None) -> str:
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise ValueError("expected a torch.device's type and index, found something else")
    return kind if index is None else f"{kind}:{index}"


def _build_parameter(data: object, _requires_grad: object, hooks: object) -> torch.Tensor:
    _require_plain(hooks, [])
    if not isinstance(data, torch.Tensor):
        raise ValueError(f"expected a parameter's tensor, found a {type(data).__name__}")
    return data
