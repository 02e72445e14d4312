"""What each likelihood makes of a tile of entries on CPUs: the sums of its rows' scores, and gradients."""

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

from ..reference.elbo_loss import entry_gradients
from ..reference.gaussian_nll import squared_z_score

__all__ = ["SCORES", "Tile"]

# Factors, each from ½ to 1, of one product whose logarithm is taken: it stays far from the smallest number.
_FACTORS = 16
# Entries from which on that is worth more operations.
_MANY = 8192
# Nats of an entry from which on those logarithms' sum is taken at its word.
_CERTAIN = 2.0**-7
_PLAIN = 80.0  # exp(±80) is a normal float32


@dataclass(slots=True)
class Tile:
    """A rectangle of entries: operands [rows, columns] in the dtype to compute in, and where gradients go, or None.

    logvar may be shared by rows, [columns], or a scalar; of_logvar, [columns] then, takes sums over rows. weight: of an
    entry's score in the loss, a number or [rows, 1]. value: whether the sums of scores are wanted. scratch: two
    tensors as output, to compute in.
    """

    output: Tensor
    data: Tensor
    logvar: Tensor | None
    mask: Tensor | None
    weight: float | Tensor
    of_output: Tensor | None
    of_logvar: Tensor | None
    value: bool
    scratch: tuple[Tensor, Tensor]

    def masked(self, terms: Tensor) -> Tensor:
        """`terms` [rows, columns], in place, with 0 where the mask is False."""
        return terms if self.mask is None else terms.masked_fill_(~self.mask, 0)

    def write_output(self, gradient: Tensor) -> None:
        """The weighted gradient of the scores by output."""
        if self.of_output is not None:
            self.masked(torch.mul(gradient, self.weight, out=self.of_output))

    def write_logvar(self, square: Tensor, spare: Tensor) -> None:
        """The weighted gradient by logvar of a Gaussian's scores: ½ (1 - square)."""
        if self.of_logvar is None:
            return
        half = self.weight * 0.5
        shared = self.of_logvar.dim() < 2
        to = spare if shared else self.of_logvar
        if isinstance(half, float):
            torch.add(square.new_tensor(half), square, alpha=-half, out=to)
        else:
            torch.mul(1 - square, half, out=to)
        self.masked(to)
        if shared:
            torch.sum(to, 0, out=self.of_logvar)


def _tails(tile: Tile) -> Tensor:
    """Σ log(1 + exp(-|l|)) of each row, every term to within rounding."""
    e = torch.abs(tile.output, out=tile.scratch[0]).neg_().exp_()
    return tile.masked(e.log1p_()).sum(1)


def _joined_tails(tile: Tile, sigmoid: Tensor) -> Tensor:
    """The same of a tile of one row, from σ(l): 1 / (1 + exp(-|l|)) is the larger of σ and 1 - σ.

    One logarithm is taken of every _FACTORS of them. A term is right to 2**-24, and where that is not little, because
    nearly all are confident, they are computed one by one.
    """
    count = sigmoid.shape[1]
    if count < _MANY:
        return _tails(tile)
    whole = count - count % _FACTORS
    larger = torch.sub(1, sigmoid, out=tile.scratch[0])
    torch.maximum(larger, sigmoid, out=larger)
    tails = larger[:, :whole].view(_FACTORS, -1).prod(0).log_().sum() + larger[:, whole:].log_().sum()
    return -tails[None] if -tails > _CERTAIN * count else _tails(tile)


def _bernoulli(tile: Tile) -> Tensor | None:
    logits, x = tile.output, tile.data
    joined = tile.value and tile.mask is None and len(logits) == 1
    tails = None
    if tile.of_output is not None or joined:
        same = tile.of_output is not None and tile.of_output.dtype == logits.dtype
        sigmoid = torch.sigmoid(logits, out=tile.of_output if same else tile.scratch[1])
        tails = _joined_tails(tile, sigmoid) if joined else None
        if tile.of_output is not None:
            gradient = sigmoid.sub_(x)
            if not same or tile.mask is not None or isinstance(tile.weight, Tensor) or tile.weight != 1:
                tile.write_output(gradient)
    if not tile.value:
        return None
    tails = _tails(tile) if tails is None else tails
    linear = torch.clamp_min(logits, 0, out=tile.scratch[0]).addcmul_(logits, x, value=-1)
    return tails + tile.masked(linear).sum(1)


def _squared_error(tile: Tile) -> Tensor | None:
    d = torch.sub(tile.output, tile.data, out=tile.scratch[0])
    if tile.of_output is not None:
        tile.write_output(torch.mul(d, 2, out=tile.scratch[1]))
    return tile.masked(d.square_()).sum(1) if tile.value else None


def _gaussian(tile: Tile) -> Tensor | None:
    """From s = d exp(-logvar): the gradients are s by the mean and ½ (1 - d s) by the log-variance."""
    logvar = tile.logvar
    assert logvar is not None
    d, s = tile.scratch
    torch.sub(tile.output, tile.data, out=d)
    if not logvar.numel() or logvar.abs().max() < _PLAIN:
        if logvar.shape == d.shape:
            torch.neg(logvar, out=s).exp_().mul_(d)
        else:
            torch.mul(d, logvar.neg().exp_(), out=s)
        tile.write_output(s)
        d.mul_(s)
    else:
        tile.write_output(entry_gradients(tile.output, tile.data, "gaussian", logvar)[0])
        d.copy_(squared_z_score(d, logvar.expand_as(d)))
    tile.write_logvar(d, s)
    if not tile.value:
        return None
    return tile.masked(d.add_(logvar).add_(log(2 * pi))).sum(1).mul_(0.5)


SCORES = {"bernoulli": _bernoulli, "gaussian": _gaussian, "squared_error": _squared_error}
"""By likelihood: writes the gradients that a tile wants and, if it wants the value, returns the sums of its rows."""
