"""The short ways from a caller's rows into the compiled kernels or sessions, for the verbs that have one."""

from __future__ import annotations

from fastvae.layers import Shape
from fastvae.likelihoods import UNIT_INTERVAL, OutputHead
from fastvae.plan import MEAN_VERBS, PLAIN_VERBS
from fastvae.runtime.batches import Batches
from fastvae.runtime.compiled import CompiledExecutor
from fastvae.runtime.compiled_call import CompiledCall
from fastvae.runtime.direct_call import DirectCall
from fastvae.runtime.executors import Executors
from fastvae.runtime.ort import OnnxExecutor
from fastvae.runtime.resolved import Resolved
from fastvae.runtime.resources import Resources
from fastvae.spec import ModelSpec
from fastvae_kernels.cpu import Values


class ShortWays:
    """One short way a verb, made when first asked for and kept in ``held``."""

    def __init__(
        self, executors: Executors, batches: Batches, head: OutputHead, how: Resolved, held: Resources
    ) -> None:
        self._executors, self._batches, self._head = executors, batches, head
        self._how, self._held = how, held

    def of(self, verb: str) -> CompiledCall | DirectCall | None:
        """The short way of a verb, None where there is none.

        Errors as :meth:`Executors.of`.
        """
        calls = self._held.direct
        try:
            return calls[verb]
        except KeyError:
            pass
        with self._held.lifetime:  # closing waits for it: nothing is kept after that
            made = calls[verb] = self._new(verb)
        return made

    def _new(self, verb: str) -> CompiledCall | DirectCall | None:
        executor = self._executors.of(verb)
        if not isinstance(executor, CompiledExecutor | OnnxExecutor):
            return None
        if isinstance(executor, OnnxExecutor) and self._how.batch_invariant:
            return None
        mean = MEAN_VERBS.get(verb, verb)
        plain, supports = PLAIN_VERBS.get(mean, mean), self._head.supports
        whole = supports == (UNIT_INTERVAL,)
        if plain not in ("decode", "generate") and supports and not whole:
            return None  # looked at more closely on the long way
        of_rows: Values = "unit interval" if whole else "finite"
        values: Values = "any" if plain == "generate" else "finite" if plain == "decode" else of_rows
        held, limit = self._held, self._batches.rows(verb)
        shape = _given(self._executors.model.spec, plain)
        if isinstance(executor, CompiledExecutor):
            return executor.direct(shape, limit, values, held.lifetime, held.results)
        return executor.direct(shape, limit, values, held.lifetime, held.results, self._how.sharing)


def _given(spec: ModelSpec, verb: str) -> Shape:
    """The shape of a row that a verb's plan is given."""
    return {"decode": spec.latent_shape, "generate": (spec.latent_dim,)}.get(verb, spec.input_shape)
