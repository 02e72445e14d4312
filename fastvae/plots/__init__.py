"""Plots of what verbs return: arrays in, a matplotlib Figure out. Needs ``pip install 'fastvae-engine[plot]'``.

Nothing here touches pyplot or its global state; figures are drawn by whatever writes or shows them. ``save`` writes
one as PNG, SVG or PDF.
"""

from fastvae.plots._figure import SUFFIXES, save
from fastvae.plots.points import embedding, scores
from fastvae.plots.rows import Look, grid, reconstructions, traversal

__all__ = ["SUFFIXES", "Look", "embedding", "grid", "reconstructions", "save", "scores", "traversal"]
