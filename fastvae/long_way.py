"""Verbs over a caller's rows the long way: whatever kind, size and number they are, checked and in internal batches.

Arguments, results and errors are those of the verbs of :class:`fastvae.VAE`. The short way, for clean rows that may go
straight to a session, is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from torch import Tensor

from fastvae import noise
from fastvae.arrays import Array, check_missing, to_kind
from fastvae.errors import InputError
from fastvae.evidence import Estimator, LogLikelihood, estimate_block
from fastvae.imputation import Imputation, Imputer, impute_rows, with_diagnostics
from fastvae.plan import MEAN_VERBS, PIXEL_VERBS, pixel_shape
from fastvae.posterior import Posterior
from fastvae.scoring import Metric, score_block
from fastvae.streams import ahead as read_ahead
from fastvae.walk import Walker


def verb_for(verb: str, output: object) -> str:
    """The verb that gives the ``output`` of ``verb``: its numbers, or pixels.

    Raises:
        InputError: it has no such output.
    """
    if output == "mean":
        return verb
    if output != "uint8":
        raise InputError(f"output: expected 'mean' or 'uint8', got {output!r:.80}")
    return PIXEL_VERBS[verb]


def encode(walker: Walker, x: Array, verb: str, condition: Any, invalid: str) -> Posterior:
    """The approximate posterior; ``verb`` is the engine's."""
    engine = walker.engine
    with engine.in_use:
        rows = walker.rows("x", x, invalid=invalid)

        def compute(block: Tensor, vectors: Tensor | None, _: int, out: Sequence[Tensor] | None) -> Sequence[Tensor]:
            return engine.encode(block, vectors, out, verb=verb)

        shapes = [engine.spec.latent_shape] * 2
        mean, logvar = walker.walk(rows, compute, [verb], shapes, condition, invalid)
        return Posterior(rows.like(mean), rows.like(logvar), engine)


def encode_batches(
    encode: Callable[[Any, Any], Posterior], batches: Iterable[tuple[Any, ...]], ahead: int
) -> Generator[tuple[Any, Posterior]]:
    """``encode(x, condition)`` of each of ``batches``, with its ids.

    Raises:
        InputError: ``ahead`` or ``batches`` are none, at the call; a batch that is none, in its turn.
    """
    ahead = noise.check_count("ahead", ahead, most=1024)
    if not isinstance(batches, Iterable):
        raise InputError(f"batches: expected an iterator of (ids, x), got {type(batches).__name__}")

    def encoded() -> Generator[tuple[Any, Posterior]]:
        with closing(read_ahead(batches, ahead)) as items:
            for item in items:
                if not isinstance(item, tuple) or len(item) not in (2, 3):
                    raise InputError(f"batches: expected tuples (ids, x) or (ids, x, condition), got {item!r:.80}")
                yield item[0], encode(item[1], item[2] if len(item) == 3 else None)

    return encoded()


def embed(walker: Walker, x: Array, verb: str, condition: Any, invalid: str) -> Array:
    """The posterior means; ``verb`` is the engine's."""
    engine = walker.engine
    with engine.in_use:
        rows = walker.rows("x", x, invalid=invalid)
        one = partial(engine.embed, verb=verb)
        return rows.like(walker.map_one(rows, one, verb, engine.spec.latent_shape, condition, invalid))


def reconstruct(walker: Walker, x: Array, verb: str, condition: Any, invalid: str) -> Array:
    """E[x|z] at the posterior means; ``verb`` is the engine's, and may be one of pixels."""
    engine, pixels = walker.engine, verb in MEAN_VERBS
    if pixels and invalid != "raise":
        raise InputError(f"invalid: no byte shows a bad row; output='uint8' takes 'raise', got {invalid!r:.80}")
    with engine.in_use:
        rows = walker.rows("x", x, invalid=invalid)
        one, shape = partial(engine.reconstruct, verb=verb), engine.spec.input_shape
        shape = pixel_shape(shape) if pixels else shape
        result = walker.map_one(rows, one, verb, shape, condition, invalid, pixels=pixels)
        return rows.like(result if pixels else rows.unflatten(result))


def decode(walker: Walker, z: Array, verb: str, condition: Any) -> Array:
    """E[x|z]; ``verb`` is the engine's, and may be one of pixels."""
    engine, pixels = walker.engine, verb in MEAN_VERBS
    with engine.in_use:
        rows = walker.latents("z", z)
        one, shape = partial(engine.decode, verb=verb), engine.spec.input_shape
        shape = pixel_shape(shape) if pixels else shape
        return rows.like(walker.map_one(rows, one, verb, shape, condition, pixels=pixels))


def score(walker: Walker, x: Array, what: Metric, condition: Any, start: int, invalid: str) -> Array:
    """Scores of the metric ``what``."""
    engine = walker.engine
    with engine.in_use:
        rows = walker.rows("x", x, invalid=invalid)

        def compute(block: Tensor, vectors: Tensor | None, low: int, _: Sequence[Tensor] | None) -> tuple[Tensor]:
            return (score_block(engine, block, what, start=start + low, condition=vectors),)

        return rows.like(walker.walk(rows, compute, what.verbs, [()], condition, invalid)[0])


def log_likelihood(
    walker: Walker, x: Array, what: Estimator, condition: Any, start: int, invalid: str
) -> LogLikelihood:
    """Estimates of log p(x) by ``what``."""
    engine = walker.engine
    with engine.in_use:
        rows = walker.rows("x", x, invalid=invalid)

        def compute(block: Tensor, vectors: Tensor | None, low: int, _: Sequence[Tensor] | None) -> Sequence[Tensor]:
            return estimate_block(engine, block, what, start=start + low, condition=vectors)

        found = walker.walk(rows, compute, what.verbs, [(), (), ()], condition, invalid)
        return LogLikelihood(*map(rows.like, found))


def impute(
    walker: Walker, x: Array, mask: Array | None, what: Imputer, condition: Any, start: int
) -> tuple[Imputation, int]:
    """Imputations by ``what``, and the number of rows with something missing."""
    engine = walker.engine
    with engine.in_use:
        rows = walker.rows("x", check_missing(x, mask), missing=True)
        conditions = walker.conditions(condition, len(rows), "encode", "impute")
        result, trust, incomplete = impute_rows(engine, rows, conditions, what, start)
        values = to_kind(result[0] if what.n_imputations == 1 else result, x)
        return with_diagnostics(values, what, trust, incomplete, x), int(incomplete.sum())
