"""What ``prior=`` may be, and the prior of a spec that it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily, MultivariateNormal, Normal

from fastvae.errors import InputError, UnsupportedError
from fastvae.heads import GaussianMixture, MixtureWeights, VampPrior
from fastvae.layers import Shape
from fastvae.model import Model

PriorArgument: TypeAlias = MixtureSameFamily | Tensor | np.ndarray[Any, Any] | Mapping[str, Any]
ACCEPTED = (
    "a torch.distributions.MixtureSameFamily of Independent(Normal(means, scales), 1), a mapping with 'means' and "
    "'logvars', or pseudo-inputs: a tensor, or a mapping with 'pseudo_inputs'; mappings may have 'weights' or 'logits'"
)
NAME = "prior"
WEIGHTS: dict[str, MixtureWeights] = {"weights": "probabilities", "logits": "logits"}


def with_prior(model: Model, argument: object) -> Model:
    """``model`` (in float64) with the prior that a caller means; itself for None, which is N(0, I).

    Raises:
        InputError: not one of the things ACCEPTED, or tensors of other shapes.
        UnsupportedError: a mixture whose components have full covariances.
    """
    if argument is None:
        return model
    given, spec = _tensors(argument), model.spec
    vamp = "pseudo_inputs" in given
    needed = {"pseudo_inputs"} if vamp else {"means", "logvars"}
    named = given.keys() - needed
    if not needed <= given.keys() or len(named) > 1 or not named <= WEIGHTS.keys():
        raise InputError(f"prior: expected {ACCEPTED}; got a mapping with {', '.join(map(repr, given)) or 'nothing'}")
    tensors = {name: _floats(name, values) for name, values in given.items()}
    components = len(tensors["pseudo_inputs" if vamp else "means"]) if all(t.ndim for t in tensors.values()) else 0
    weights: MixtureWeights = WEIGHTS[named.pop()] if named else "uniform"
    prior = (VampPrior if vamp else GaussianMixture)(max(1, components), NAME, weights)
    tensors = {f"{NAME}.{'weights' if name in WEIGHTS else name}": tensor for name, tensor in tensors.items()}
    for name, shape in prior.tensors(spec.latent_shape, spec.input_shape).items():
        if tuple(tensors[name].shape) != shape:
            raise InputError(f"prior: expected {name} of shape {_named(shape)}, got {tuple(tensors[name].shape)}")
    return Model(replace(spec, prior=prior), {**model.weights, **tensors})


def _named(shape: Shape) -> str:
    return f"(components, {', '.join(map(str, shape[1:]))})" if len(shape) > 1 else f"({shape[0]},)"


def _tensors(argument: object) -> dict[str, Any]:
    """The numbers of a prior by name."""
    if isinstance(argument, Mapping):
        return dict(argument)
    if isinstance(argument, Tensor | np.ndarray):
        return {"pseudo_inputs": argument}
    if isinstance(argument, MixtureSameFamily):
        components = argument.component_distribution
        if isinstance(components, MultivariateNormal):
            raise UnsupportedError(
                "prior: components with full covariances are not supported; diagonal ones are, and vae.fit_sampler "
                "fits full ones for generate to draw from"
            )
        if isinstance(components, Independent) and isinstance(components.base_dist, Normal):
            normal, logits = components.base_dist, argument.mixture_distribution.logits
            return {"means": normal.loc, "logvars": 2 * normal.scale.log(), "logits": logits}
    raise InputError(f"prior: expected {ACCEPTED}; got {argument!r:.80}")


def _floats(name: str, values: object) -> Tensor:
    """A tensor or an array as finite float64 on the CPU."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) and values.dtype.kind == "f" else values
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
        raise InputError(f"prior: {name} must be a tensor or an array of finite floats, got {values!r:.80}")
    return tensor.detach().cpu().double().contiguous()
