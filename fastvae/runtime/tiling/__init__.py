"""Images in bounded memory with the result they have without bounds: see docs/architecture.md, Exact tiling."""

from fastvae.runtime.tiling.bind import references, sessions
from fastvae.runtime.tiling.choose import Tiling, choose, fit, tile
from fastvae.runtime.tiling.costs import Costs, weight_bytes
from fastvae.runtime.tiling.executor import TiledExecutor

__all__ = ["Costs", "TiledExecutor", "Tiling", "choose", "fit", "references", "sessions", "tile", "weight_bytes"]
