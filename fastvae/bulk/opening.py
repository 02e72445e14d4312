"""From what a caller names to a job's folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastvae.bulk.folder import Folder
from fastvae.bulk.place import JobFolder
from fastvae.bulk.store_folder import StoreFolder
from fastvae.errors import InputError

LOCAL = ("file", "local")


def folder_path(name: str, value: Any) -> Path | str:
    """The argument ``name`` as a path, or as a URL; InputError if it can be neither."""
    if not isinstance(value, str | os.PathLike) or "\0" in os.fspath(value) or not os.fspath(value):
        raise InputError(f"{name}: expected a folder or a URL, got {value!r:.200}")
    text = os.fspath(value)
    if not is_url(text):
        return Path(value)
    kind, _, rest = text.partition("://")
    if kind in LOCAL:
        return Path(rest)
    return f"{kind}://{rest.rstrip('/')}"


def is_url(text: str) -> bool:
    """Whether a text names a place by a URL."""
    return "://" in text


def open_folder(path: str | os.PathLike[str]) -> JobFolder:
    """The folder of a job at a path or URL.

    Raises:
        UnsupportedError: a package for this kind of URL is not installed, or its puts are not whole and conditional.
        InputError: no such kind of URL, or one without a bucket.
    """
    found = folder_path("folder", path)
    return StoreFolder(found) if isinstance(found, str) else Folder(found)
