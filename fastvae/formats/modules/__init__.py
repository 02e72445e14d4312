"""Ordinary ``nn.Module``s as a model: traced by ``torch.export``, translated operator by operator.

Nothing depends on the classes of the modules, only on the ATen operators they call. What cannot be said in a
:class:`~fastvae.spec.ModelSpec` is an error that names the operator and the module it sits in.
:mod:`fastvae.conversion` compares the result with the modules themselves.
"""

from fastvae.formats.modules._asked import LikelihoodArgument
from fastvae.formats.modules._endings import unchanged
from fastvae.formats.modules._outputs import SCALES, Scale, pair_of
from fastvae.formats.modules._prior import PriorArgument, with_prior
from fastvae.formats.modules._trace import private_copy
from fastvae.formats.modules.translate import Translation, dtype_of, translate

__all__ = [
    "SCALES",
    "LikelihoodArgument",
    "PriorArgument",
    "Scale",
    "Translation",
    "dtype_of",
    "pair_of",
    "private_copy",
    "translate",
    "unchanged",
    "with_prior",
]
