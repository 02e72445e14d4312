"""fastvae's own format: one ``.safetensors`` file whose metadata carries the spec, so one file is one model.

The metadata has one key, ``fastvae``: a JSON object with ``spec`` (see :mod:`fastvae.spec_json`) and
``card`` (text by name). One key, because safetensors does not keep the order of several: equal models
make equal bytes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import save

from fastvae.atomic import atomic_write
from fastvae.errors import InputError, WeightFormatError
from fastvae.formats._safetensors import SafetensorsFile, parse_safetensors, read_safetensors
from fastvae.model import Model
from fastvae.spec_json import spec_from_json, spec_to_json

KEY = "fastvae"


def matches(path: Path) -> bool:
    """Whether ``path`` is a safetensors file (the spec inside is only looked for when it is read)."""
    return path.suffix == ".safetensors" and not path.is_dir()


def read(path: Path) -> Model:
    """The model in a native file, not yet checked against its spec.

    Raises:
        WeightFormatError: not a safetensors file, or one without a fastvae spec.
    """
    return _model(read_safetensors(path), source=str(path))


def from_bytes(data: bytes, *, source: str) -> Model:
    """The model in the bytes of a native file, which messages call ``source``; as :func:`read`."""
    return _model(parse_safetensors(data, source=source), source=source)


def _model(file: SafetensorsFile, *, source: str) -> Model:
    if KEY not in file.metadata:
        raise WeightFormatError(
            f"{source}: expected a fastvae spec in the metadata under {KEY!r}; for plain weights pass spec= (--spec)"
        )
    try:
        document = json.loads(file.metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise WeightFormatError(f"{source}: metadata {KEY!r} is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("card"), dict):
        raise WeightFormatError(f"{source}: metadata {KEY!r} must be an object with the fields 'spec' and 'card'")
    card = document["card"]
    if not all(isinstance(value, str) for value in card.values()):
        raise WeightFormatError(f"{source}: the card in metadata {KEY!r} must hold text only")
    spec = spec_from_json(json.dumps(document.get("spec")), source=f"{source}: spec")
    return Model(spec, file.tensors, card)


def write(model: Model, path: str | os.PathLike[str]) -> None:
    """Write ``model`` as one file, atomically.

    Raises:
        InputError: the name does not end in ``.safetensors``.
        OutputError: the file cannot be written; nothing is left under its name.
    """
    named = isinstance(path, str | os.PathLike) and "\0" not in os.fspath(path)
    if not named or Path(path).suffix != ".safetensors":
        raise InputError(f"path: expected a name ending in .safetensors, got {path!r:.200}")
    data = to_bytes(model)
    with atomic_write(path) as file:
        file.write(data)


def to_bytes(model: Model) -> bytes:
    """``model`` as the bytes of a native file; equal models make equal bytes."""
    document = {"card": dict(model.card), "spec": json.loads(spec_to_json(model.spec))}
    tensors = {name: weight.detach().cpu().contiguous().clone() for name, weight in model.weights.items()}
    return save(tensors, {KEY: json.dumps(document, sort_keys=True)})
