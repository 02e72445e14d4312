"""What a decoder's features mean and where a posterior comes from: plain data, parts of a ModelSpec."""

from typing import TypeAlias

from fastvae.heads.continuous import ContinuousBernoulli, Laplace, StudentT
from fastvae.heads.counts import Counts, Library, Link, Multinomial, NegativeBinomial, Poisson
from fastvae.heads.gaussian import Bernoulli, FixedGaussian, PerDimensionGaussian, PredictedGaussian
from fastvae.heads.mixed import Categorical, Mixed, OfSegment, Segment
from fastvae.heads.posterior import GaussianHead, Parametrization, PointHead
from fastvae.heads.prior import GaussianMixture, MixtureWeights, Prior, VampPrior
from fastvae.heads.sources import ByCondition, Fixed, Form, Parametric, PerDimension, Plain, Predicted, Source

Likelihood: TypeAlias = OfSegment | Multinomial | Mixed

__all__ = [
    "Bernoulli",
    "ByCondition",
    "Categorical",
    "ContinuousBernoulli",
    "Counts",
    "Fixed",
    "FixedGaussian",
    "Form",
    "GaussianHead",
    "GaussianMixture",
    "Laplace",
    "Library",
    "Likelihood",
    "Link",
    "Mixed",
    "MixtureWeights",
    "Multinomial",
    "NegativeBinomial",
    "OfSegment",
    "Parametric",
    "Parametrization",
    "PerDimension",
    "PerDimensionGaussian",
    "Plain",
    "PointHead",
    "Poisson",
    "Predicted",
    "PredictedGaussian",
    "Prior",
    "Segment",
    "Source",
    "StudentT",
    "VampPrior",
]
