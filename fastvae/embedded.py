"""The embedded models: small real ones that ship with the package, by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fastvae.errors import InputError
from fastvae.formats import native

FOLDER = Path(__file__).parent / "demo"


@dataclass(frozen=True)
class ModelCard:
    """An embedded model: its ``name`` for :func:`fastvae.load`, its file, and its card (text by field).

    The card says which data it was trained on, under which licence, by which command and seed, and how well
    it does on held-out data.
    """

    name: str
    path: Path
    card: dict[str, str]


def models() -> list[ModelCard]:
    """The embedded models and their cards, by name."""
    paths = sorted(FOLDER.glob("*.safetensors"))
    return [ModelCard(path.stem, path, dict(native.read(path).card)) for path in paths]


def resolve(source: str | os.PathLike[str]) -> Path:
    """The file or folder that ``source`` means: an embedded model by its name, else a path.

    Raises:
        InputError: neither is there.
    """
    embedded = {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}
    names = ", ".join(embedded)
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"source: expected a path or the name of an embedded model ({names}), got {source!r:.80}")
    path = embedded.get(os.fspath(source), Path(source))
    try:
        found = path.exists()
    except (OSError, ValueError):  # too long a name, a NUL in it
        found = False
    if not found:
        raise InputError(f"{os.fspath(source)!r:.200} is neither a file or folder nor an embedded model ({names})")
    return path
