"""What a verb does besides plans where latents have a mixture: draws from it, and divergences from it by draws."""

from __future__ import annotations

from dataclasses import dataclass

from fastvae.heads import GaussianMixture
from fastvae.plan.pixels import DECODERS
from fastvae.priors import DRAWS
from fastvae.spec import ModelSpec

# Passes of a mixture's density over (components, rows, latents) in float64: deviations, scaled, squared, bounded.
PASSES = 4


@dataclass(frozen=True)
class Outside:
    """Work of PyTorch's own on a row: ``flops`` and ``bytes``, in so many ``kernels`` for all rows."""

    op: str
    shapes: str
    flops: int
    bytes: int
    kernels: int


def outside(spec: ModelSpec, verb: str, element_bytes: int) -> tuple[tuple[str, ...], Outside | None]:
    """The verbs whose plans ``verb`` runs, and what it does besides: a draw before them, or a divergence after them."""
    drawn = spec.sampler or spec.prior
    if verb in DECODERS and drawn is not None:
        full = isinstance(drawn, GaussianMixture) and drawn.covariance == "full"
        return (DECODERS[verb],), _draw(spec.latent_dim, full, element_bytes)
    if verb in ("kl", "elbo") and spec.prior is not None:
        verbs = ("encode",) if verb == "kl" else ("encode", "score")
        return verbs, _divergence(spec.latent_dim, spec.prior.components, element_bytes)
    return (verb,), None


def _draw(latents: int, full: bool, element_bytes: int) -> Outside:
    """Noise and a uniform, the mean and spread of the component that it chooses, and z of these."""
    spread = latents * latents if full else latents
    moved = 3 * element_bytes * latents + 4 * (1 + latents + spread)
    kernels = 4 + (3 * latents if full else 3)
    return Outside("draw_mixture", f"-> {latents}", 2 * spread, moved, kernels)


def _divergence(latents: int, components: int, element_bytes: int) -> Outside:
    """The mean of log q(z|x) - log p(z) over DRAWS draws of z."""
    flops = latents * (5 + (PASSES + 1) * components)
    moved = 3 * element_bytes * latents + 2 * 8 * PASSES * components * latents
    shapes = f"{latents} + {latents} -> 1"
    return Outside(f"kl_of_{DRAWS}_draws", shapes, DRAWS * flops, DRAWS * moved, DRAWS * (8 + PASSES))
