"""Checkpoints as people have them, each read into a Model; nothing downstream knows where one came from.

A format is a module with ``matches(path)`` and ``read(path)``; loading never executes anything a file holds.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastvae.errors import InputError
from fastvae.formats import diffusers, disentangling_vae, ldm, native, state_dict, taesd
from fastvae.formats._files import PathLike
from fastvae.model import DEFAULT_MAX_MEMORY, Model, check_model, memory_bytes
from fastvae.spec import ModelSpec

# In the order they are asked. The last two take any file of tensors that has a fastvae spec in it, or one beside it.
READERS = {
    "disentangling-vae": disentangling_vae,
    "diffusers": diffusers,
    "taesd": taesd,
    "ldm": ldm,
    "native": native,
    "state-dict": state_dict,
}
FORMATS = tuple(READERS)


def read_checkpoint(
    path: Path,
    *,
    format: str = "auto",
    spec: ModelSpec | PathLike | None = None,
    cast: bool = False,
    allow_nonfinite: bool = False,
    max_memory: int | str | None = None,
) -> Model:
    """Read and check the checkpoint at ``path``.

    Args:
        path: a file or a folder.
        format: one of FORMATS, or ``auto`` to recognise it.
        spec: for plain weights, their spec or the path of one as JSON; implies the format ``state-dict``.
        cast, allow_nonfinite: see :func:`fastvae.model.check_model`.
        max_memory: what the weights and a row's activations may take, DEFAULT_MAX_MEMORY if None; where it is given,
            images of any size are cut into tiles, and the weights alone count.

    Raises:
        InputError: no such path, an unknown format, nothing recognised, or another argument of the wrong kind.
        WeightFormatError, WeightMismatchError, UnsafeFileError, UnsupportedError: see the format's reader.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if spec is not None and not isinstance(spec, ModelSpec | str | os.PathLike):
        raise InputError(f"spec: expected a ModelSpec or the path of one as JSON, got {spec!r:.80}")
    most = DEFAULT_MAX_MEMORY if max_memory is None else memory_bytes(max_memory)
    name = detect(path, spec) if format == "auto" else format
    if not isinstance(name, str) or name not in READERS:
        raise InputError(f"format: expected 'auto' or one of {', '.join(FORMATS)}, got {format!r}")
    if spec is not None and name != "state-dict":
        raise InputError(f"spec: only the format 'state-dict' takes a spec, not {name!r}")
    model = state_dict.read(path, spec) if name == "state-dict" else READERS[name].read(path)
    return check_model(
        model,
        source=str(path),
        cast=cast,
        allow_nonfinite=allow_nonfinite,
        max_memory=most,
        tiled=max_memory is not None,
    )


def detect(path: Path, spec: ModelSpec | PathLike | None = None) -> str:
    """The name of the format of ``path``.

    Raises:
        InputError: none matches; the message says what was looked for.
    """
    if spec is not None:
        return "state-dict"
    for name, reader in READERS.items():
        if reader.matches(path):
            return name
    raise InputError(
        f"{path}: not recognised; expected a fastvae .safetensors file, a folder with model.pt and specs.json "
        "(disentangling-vae), with config.json and diffusion_pytorch_model.* (diffusers) or with NAME_encoder.pth and "
        "NAME_decoder.pth (taesd), a latent diffusion model's weights (ldm), or weights with a spec (a folder with "
        "spec.json, or spec=, --spec)"
    )
