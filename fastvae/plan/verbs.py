"""What each verb of a model computes: the steps from its inputs to its outputs, every layer as it came."""

from __future__ import annotations

import math

from fastvae.errors import UnsupportedError
from fastvae.model import Model
from fastvae.plan.building import Building
from fastvae.plan.heads import LikelihoodSteps
from fastvae.plan.pixels import MEAN_VERBS, with_pixels
from fastvae.plan.plan import Plan
from fastvae.plan.scaled import PLAIN_VERBS, SCALED_VERBS, with_scaling
from fastvae.spec import PointHead

VERBS = (
    "encode",
    "embed",
    "decode",
    "parameters",
    "generate",
    "reconstruct",
    "score",
    "squared_error",
    "impute",
    "kl",
    "elbo",
    "distance",
)

# Those whose plans, of a model that fits images of any size, do so too: no step or constant knows a size.
SIZE_FREE_VERBS = (
    *("encode", "embed", "decode", "parameters", "reconstruct", *SCALED_VERBS.values()),
    *("decode_uint8", "decode_scaled_uint8", "reconstruct_uint8"),
)

# Clamped to the log-variance of a point.
POINT = {"parametrization": "logvar", "eps": 0.0, "minimum": -math.inf, "maximum": -math.inf}


def translate(model: Model, verb: str) -> Plan:
    """The plan of one verb as :func:`fastvae.plan.build_plan` has it before any pass; weights as they came.

    Raises:
        UnsupportedError: as :func:`fastvae.plan.build_plan`.
    """
    if verb in MEAN_VERBS:
        return with_pixels(translate(model, MEAN_VERBS[verb]), model.spec)
    if verb in PLAIN_VERBS:
        return with_scaling(_Verbs(model).plan(PLAIN_VERBS[verb]), model.spec)
    return _Verbs(model).plan(verb)


class _Verbs:
    """The verbs of a model, of which one is built."""

    def __init__(self, model: Model) -> None:
        self._spec = model.spec
        self._to = Building(model)
        self._likelihood = LikelihoodSteps(self._to, model.spec.likelihood)

    def plan(self, verb: str) -> Plan:
        outputs = getattr(self, f"_{verb}", None) if verb in VERBS else None
        if outputs is None:
            accepted = ", ".join((*VERBS, *PLAIN_VERBS, *MEAN_VERBS))
            raise UnsupportedError(f"verb: expected one of {accepted}, got {verb!r}")
        self._check_prior(verb)
        return self._to.plan(verb, outputs())

    def _check_prior(self, verb: str) -> None:
        """Refuse verbs that no plan computes for a prior other than N(0, I)."""
        spec = self._spec
        if verb in ("kl", "elbo") and spec.prior is not None:
            raise UnsupportedError(
                f"{verb}: the divergence from a {spec.prior.kind} has no closed form, and so no plan; VAE.score makes "
                "it of draws and the plans 'encode' and 'score'"
            )
        if verb == "generate" and (drawn := spec.sampler or spec.prior) is not None:
            raise UnsupportedError(
                f"generate: draws from a {drawn.kind} ({drawn.name!r}) are no step of a plan; take 'decode', whose "
                "input is z, and draw z from the mixture, whose tensors VAE.save writes"
            )

    def _encode(self) -> tuple[str, ...]:
        h = self._joined(self._rows(), encoder=True)
        h = self._to.stack(self._spec.encoder, h)
        if isinstance(self._spec.posterior, PointHead):
            mean = self._to.stack(self._spec.posterior.mean, h)
            return mean, self._to.step("logvar", (mean,), "logvar", self._to.shapes[mean], POINT)
        return self._to.head(self._spec.posterior, h, ("mean", "logvar"))

    def _embed(self) -> tuple[str, ...]:
        return self._encode()[:1]

    def _decode(self) -> tuple[str, ...]:
        return (self._output(self._latent()),)

    def _parameters(self) -> tuple[str, ...]:
        return self._decoder(self._latent())

    def _generate(self) -> tuple[str, ...]:
        noise = self._to.step("sample_normal", (), "noise", (self._spec.latent_dim,), {"dim": self._spec.latent_dim})
        z = self._to.step("reshape", (noise,), "z", self._spec.latent_shape, {"shape": self._spec.latent_shape})
        return (self._output(z),)

    def _reconstruct(self) -> tuple[str, ...]:
        return (self._output(self._encode()[0], "x"),)

    def _score(self) -> tuple[str, ...]:
        z, x = self._latent(), self._rows()
        return (self._likelihood.nll(self._decoder(z, x), x, None),)

    def _impute(self) -> tuple[str, ...]:
        z, x = self._latent(), self._rows()
        mask = self._to.input("mask", self._spec.input_shape)
        parameters = self._decoder(z, x)
        return self._likelihood.nll(parameters, x, mask), self._likelihood.mean(parameters)

    def _squared_error(self) -> tuple[str, ...]:
        z, x = self._latent(), self._rows()
        output = self._output(z, x)
        return (self._to.step("squared_error", (output, x), "squared_error", ()),)

    def _kl(self) -> tuple[str, ...]:
        return (self._to.step("kl", self._encode(), "kl", ()),)

    def _elbo(self) -> tuple[str, ...]:
        mean, logvar = self._encode()
        kl = self._to.step("kl", (mean, logvar), "kl", ())
        return self._likelihood.nll(self._decoder(mean, "x"), "x", None), kl

    def _distance(self) -> tuple[str, ...]:
        output = self._output(self._encode()[0], "x")
        return (self._to.step("squared_error", (output, "x"), "squared_error", ()),)

    def _latent(self) -> str:
        return self._to.input("z", self._spec.latent_shape)

    def _rows(self) -> str:
        return self._to.input("x", self._spec.input_shape)

    def _output(self, z: str, x: str | None = None) -> str:
        """E[x|z]."""
        return self._likelihood.mean(self._decoder(z, x))

    def _decoder(self, z: str, x: str | None = None) -> tuple[str, ...]:
        """The parameters of p(x|z) that depend on z; ``x`` are the rows, where the verb has some."""
        features = self._to.stack(self._spec.decoder, self._joined(z, encoder=False))
        return self._likelihood.parameters(features, x)

    def _joined(self, name: str, *, encoder: bool) -> str:
        condition = self._spec.condition
        if condition is None or not (condition.encoder if encoder else condition.decoder):
            return name
        return self._to.step("join", (name, self._to.condition()), None, condition.joined_shape(self._to.shapes[name]))
