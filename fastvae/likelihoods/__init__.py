"""Likelihoods at run time: the ops that score them, their means, draws from them, and the data they are for."""

from fastvae.likelihoods.heads import OutputHead, output_head
from fastvae.likelihoods.means import expectation
from fastvae.likelihoods.operands import OPERANDS, constants
from fastvae.likelihoods.support import UNIT_INTERVAL, Support

__all__ = ["OPERANDS", "UNIT_INTERVAL", "OutputHead", "Support", "constants", "expectation", "output_head"]
