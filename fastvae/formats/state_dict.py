"""Any library's state dict plus a JSON spec written for it.

The weights are a ``.pt``/``.pth``/``.bin``/``.ckpt`` or plain ``.safetensors`` file; the spec names their tensors
(see ``docs/formats.md``). Either the spec is passed along, or a folder holds ``spec.json`` and one weights file.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fastvae.errors import InputError, WeightFormatError
from fastvae.formats._files import PathLike, read_regular_file
from fastvae.formats._weights import TORCH_SUFFIXES, WEIGHT_SUFFIXES, read_tensors
from fastvae.layers import BatchNorm, leaves
from fastvae.model import Model
from fastvae.spec import ModelSpec
from fastvae.spec_json import spec_from_json

SPEC_FILE = "spec.json"


def matches(path: Path) -> bool:
    """Whether ``path`` is a folder with ``spec.json``, or a weights file with a spec beside it."""
    return (path / SPEC_FILE).is_file() or path.suffix in TORCH_SUFFIXES


def read(path: Path, spec: ModelSpec | PathLike | None = None) -> Model:
    """The model made of the weights at ``path`` and ``spec``, not yet checked against each other.

    Args:
        path: a weights file, or a folder that holds exactly one (and ``spec.json`` where ``spec`` is None).
        spec: a ModelSpec or the path of one as JSON.

    Raises:
        InputError: no spec, no weights file, or several.
        WeightFormatError, UnsafeFileError: the spec or the weights cannot be read.
    """
    weights_path = _weights_file(path) if path.is_dir() else path
    if spec is None and path.is_dir():
        spec = path / SPEC_FILE
    if spec is None:
        raise InputError(f"{path}: plain weights need a spec; pass spec=, a ModelSpec or a JSON file (--spec)")
    if not isinstance(spec, ModelSpec):
        text = bytes(read_regular_file(spec, error=WeightFormatError))
        spec = spec_from_json(text, source=str(spec))
    return Model(spec, _without_counters(spec, read_tensors(weights_path)))


def _weights_file(folder: Path) -> Path:
    found = sorted(p for p in folder.iterdir() if p.suffix in WEIGHT_SUFFIXES and p.is_file())
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise InputError(f"{folder}: expected one weights file ({', '.join(WEIGHT_SUFFIXES)}), found {names}")
    return found[0]


def _without_counters(spec: ModelSpec, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors less PyTorch's ``num_batches_tracked``, which batch norm keeps but inference never reads."""
    norms = {layer.name for stack in spec.stacks() for layer in leaves(stack) if isinstance(layer, BatchNorm)}
    counters = {f"{name}.num_batches_tracked" for name in norms}
    return {name: tensor for name, tensor in tensors.items() if name not in counters}
