"""Reads the JSON files beside weights: an object whose fields have the types their reader names."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastvae.errors import WeightFormatError
from fastvae.formats._files import read_regular_file

__all__ = ["Config", "naming", "read_json_object"]

# An index of 10,000 shards' tensors has some 2 MB. Parsed, a byte of JSON takes up to 30 bytes.
_MAX_BYTES = 4 * 2**20
# Sizes beyond it are nobody's, and Python refuses to print the products of much longer numbers.
_MAX_INTEGER = 2**31 - 1


def read_json_object(path: Path) -> dict[str, object]:
    """The JSON object in the file at ``path``.

    Raises:
        InputError: there is no readable file.
        WeightFormatError: it holds no JSON object, or one of more than 4 MiB.
    """
    content = read_regular_file(path, error=WeightFormatError)
    if len(content) > _MAX_BYTES:
        raise WeightFormatError(f"{path}: expected JSON of at most {_MAX_BYTES} bytes, found {len(content)}")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise WeightFormatError(f"{path}: expected JSON, found {error}") from error
    if not isinstance(document, dict):
        raise WeightFormatError(f"{path}: expected a JSON object, found a {type(document).__name__}")
    return document


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let a WeightFormatError from inside, which names a layer, name the file as well."""
    try:
        yield
    except WeightFormatError as error:
        raise WeightFormatError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Config:
    """Fields of the JSON object ``values`` read from ``path``; a missing one takes its default.

    Every method raises WeightFormatError where the field is not what it says.
    """

    path: Path
    values: Mapping[str, object]

    def integer(self, name: str, default: int) -> int:
        """A positive integer."""
        return self._positive(name, self.values.get(name, default))

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of positive integers, at least one."""
        return tuple(self._positive(name, item) for item in self._list(name, default))

    def boolean(self, name: str, default: bool) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise self._error(name, "true or false", value)
        return value

    def text(self, name: str, default: str) -> str:
        value = self.values.get(name, default)
        if not isinstance(value, str):
            raise self._error(name, "text", value)
        return value

    def texts(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """A list of texts, at least one."""
        items = self._list(name, default)
        for item in items:
            if not isinstance(item, str):
                raise self._error(name, "a list of texts", item)
        return tuple(str(item) for item in items)

    def numbers_as_text(self, defaults: Mapping[str, float | None]) -> dict[str, str]:
        """Finite numbers, or lists of them, as JSON by name; what is null is left out."""
        found = {}
        for name, default in defaults.items():
            value = self.values.get(name, default)
            if value is None:
                continue
            for item in value if isinstance(value, list | tuple) else [value]:
                if not isinstance(item, int | float) or isinstance(item, bool) or not math.isfinite(item):
                    raise self._error(name, "a finite number or a list of them", item)
            found[name] = json.dumps(value)
        return found

    def _list(self, name: str, default: tuple[object, ...]) -> tuple[object, ...]:
        value = self.values.get(name, default)
        if not isinstance(value, list | tuple) or not value:
            raise self._error(name, "a list with at least one item", value)
        return tuple(value)

    def _positive(self, name: str, value: object) -> int:
        if type(value) is not int or not 0 < value <= _MAX_INTEGER:
            raise self._error(name, f"an integer from 1 to {_MAX_INTEGER}", value)
        return value

    def _error(self, name: str, expected: str, found: object) -> WeightFormatError:
        shown = f"a {type(found).__name__}" if isinstance(found, list | dict) else f"{found!r:.80}"
        return WeightFormatError(f"{self.path}: {name}: expected {expected}, found {shown}")
