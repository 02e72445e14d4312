"""The noise that draws from p(x|z) are made of: words of a row, as uniforms or as normals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor, device

import fastvae_kernels

# Words that are drawn together: no two parts of a row share them.
BLOCK = 4


@dataclass(frozen=True)
class Noise:
    """``words`` numbers for each of ``rows`` rows, the same for a row in any batch.

    Row ``i`` has the noise of index ``start + i``. ``first`` is where a part of a row begins.
    """

    rows: int
    words: int
    seed: int
    start: int
    stream: int
    device: device
    first: int = 0
    drawn: dict[str, Tensor] = field(default_factory=dict)

    def part(self, first: int) -> Noise:
        """The same noise for a part of the row that begins with word ``first``."""
        return replace(self, first=first)

    def uniforms(self, count: int, like: Tensor) -> tuple[Tensor, ...]:
        """``count`` uniforms in (0, 1), in float32, for each entry of ``like`` (rows, ...)."""
        return self._numbers("sample_uniform", count, like)

    def normals(self, like: Tensor) -> Tensor:
        """A standard normal, in float32, for each entry of ``like`` (rows, ...)."""
        return self._numbers("sample_normal", 1, like)[0]

    def _numbers(self, op: str, count: int, like: Tensor) -> tuple[Tensor, ...]:
        if op not in self.drawn:
            draw = getattr(fastvae_kernels, op)
            where = {"seed": self.seed, "start": self.start, "stream": self.stream, "device": self.device}
            self.drawn[op] = draw(self.rows, self.words, **where)
        size = like[:1].numel() if len(like) else 0
        own = self.drawn[op][:, self.first : self.first + count * size]
        return own.reshape(self.rows, count, *like.shape[1:]).unbind(1)


def whole_blocks(words: int) -> int:
    """``words`` rounded up, so that what follows them has blocks of its own."""
    return -(-words // BLOCK) * BLOCK
