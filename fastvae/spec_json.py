"""ModelSpec to JSON and back, strictly: unknown or missing fields and wrong types are refused by path.

Every dataclass is an object whose ``kind`` names its class; the document itself also carries
``fastvae_spec``, the version of this encoding.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from fastvae import heads, layers, spec
from fastvae.errors import WeightFormatError
from fastvae.spec import ModelSpec

VERSION = 1
Json: TypeAlias = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


def spec_to_json(model: ModelSpec, *, indent: int | None = None) -> str:
    """The spec as a JSON document; equal specs give equal text."""
    return json.dumps({"fastvae_spec": VERSION, **_encode_object(model)}, indent=indent, sort_keys=True)


def spec_from_json(text: str | bytes, *, source: str = "spec") -> ModelSpec:
    """The spec a JSON document describes.

    Raises:
        WeightFormatError: not JSON, another version, or a field that is missing, unknown or of a wrong type;
            the message starts with ``source`` and the path of the field.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightFormatError(f"{source}: expected a JSON spec, found {error}") from error
    if not isinstance(document, dict) or "fastvae_spec" not in document:
        raise WeightFormatError(f"{source}: expected a JSON object with the field 'fastvae_spec': {VERSION}")
    version = document.pop("fastvae_spec")
    if version != VERSION or isinstance(version, bool):
        raise WeightFormatError(f"{source}: spec version {version!r} is not {VERSION}, the one this release reads")
    try:
        model = _decode(ModelSpec, document, source)
    except RecursionError as error:
        raise WeightFormatError(f"{source}: nested too deeply") from error
    if not isinstance(model, ModelSpec):
        raise WeightFormatError(f"{source}: expected an object of kind 'vae'")
    return model


def _encode(value: object) -> Json:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode_object(value)
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a spec cannot hold {type(value).__name__}")


def _encode_object(value: Any) -> dict[str, Json]:
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if not _left_out(f, value)}
    return {"kind": value.kind} | {key: _encode(item) for key, item in fields.items()}


def _left_out(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether JSON has no such field while it is the default."""
    return "left_out" in field.metadata and getattr(value, field.name) == field.default


def _decode(hint: Any, value: Json, path: str) -> Any:
    """``value`` as the type ``hint`` says."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, path)
    if origin is Literal:
        if value not in arguments:
            raise WeightFormatError(f"{path}: expected one of {', '.join(map(repr, arguments))}, found {value!r}")
        return value
    if origin is tuple:
        return _decode_tuple(arguments, value, path)
    if dataclasses.is_dataclass(hint):
        return _decode_object(hint, value, path)
    return _decode_scalar(hint, value, path)


def _decode_scalar(hint: type, value: Json, path: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint in (int, bool, str) and type(value) is hint:
        return value
    raise WeightFormatError(f"{path}: expected {hint.__name__}, found {value!r:.80}")


def _decode_tuple(arguments: tuple[Any, ...], value: Json, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise WeightFormatError(f"{path}: expected a list, found {value!r:.80}")
    if arguments[-1] is not Ellipsis and len(value) != len(arguments):
        raise WeightFormatError(f"{path}: expected {len(arguments)} values, found {len(value)}")
    return tuple(_decode(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value))


def _decode_union(arguments: tuple[Any, ...], value: Json, path: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    options = [hint for hint in arguments if hint is not type(None)]
    if len(options) == 1:
        return _decode(options[0], value, path)
    kinds = {hint.kind: hint for hint in options}
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise WeightFormatError(f"{path}: expected an object whose kind is one of {', '.join(kinds)}, found {kind!r}")
    return _decode_object(kinds[kind], value, path)


def _decode_object(cls: Any, value: Json, path: str) -> Any:
    if not isinstance(value, dict):
        raise WeightFormatError(f"{path}: expected an object of kind {cls.kind!r}, found {value!r:.80}")
    if value.get("kind") != cls.kind:
        raise WeightFormatError(f"{path}: expected kind {cls.kind!r}, found {value.get('kind')!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = value.keys() - fields.keys() - {"kind"}
    if unknown:
        raise WeightFormatError(f"{path}: unknown field {min(unknown)!r}; {cls.kind} has {', '.join(fields)}")
    missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in value]
    if missing:
        raise WeightFormatError(f"{path}: missing field {missing[0]!r}")
    hints = get_type_hints(cls, vars(heads) | vars(layers) | vars(spec))
    decoded = {n: _decode(hints[n], value[n], f"{path}.{n}") for n in fields if n in value}
    try:
        return cls(**decoded)
    except WeightFormatError as error:
        raise WeightFormatError(f"{path}: {error}") from error
