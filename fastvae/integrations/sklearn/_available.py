"""Imported before the rest: says what to install where scikit-learn is missing."""

from __future__ import annotations

from fastvae.files import needs

with needs("scikit-learn", "estimators", "sklearn"):
    import sklearn  # noqa: F401
