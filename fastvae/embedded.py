"""The embedded models: small real ones that ship with the package, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


def embedded_path(name: str) -> Path | None:
    """The file of the embedded model ``name``, or None if there is none of that name."""
    return next((path for path in FOLDER.glob("*.safetensors") if path.stem == name), None)
