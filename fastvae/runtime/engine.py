"""The engine: one model's verbs on tensors, one internal batch at a time.

Everything above it (scoring, imputation, the public API) sees only these methods, ``batches`` and ``draws``; how a
plan is executed, in which precision, by which implementation and in which tiles is decided below.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from fastvae.likelihoods import output_head
from fastvae.model import Model
from fastvae.plan import (
    DECODERS,
    MEAN_VERBS,
    PIXEL_VERBS,
    SCALED_VERBS,
    Explanation,
    Plan,
    build_plan,
    check_scaling,
    explain_verb,
)
from fastvae.runtime.batches import Batches
from fastvae.runtime.draws import Draws
from fastvae.runtime.eight_bits import in_eight_bits
from fastvae.runtime.executor import Draw
from fastvae.runtime.executors import Executors
from fastvae.runtime.graphs import MOST_ROWS, CudaGraphs, GraphDevice
from fastvae.runtime.latents import prior
from fastvae.runtime.lifetime import Lifetime
from fastvae.runtime.resolved import Resolved, resolve
from fastvae.runtime.resources import Resources
from fastvae.runtime.results import Results
from fastvae.runtime.runner import Out, Runner
from fastvae.runtime.settings import Settings
from fastvae.runtime.short_ways import ShortWays
from fastvae.runtime.staging import Stages
from fastvae.spec import ModelSpec
from fastvae_kernels.parts import part_of

# Sizes of images, besides the model's own, whose engines are kept: the ones last used.
MOST_SIZES = 16


class Engine:
    """A model ready to run: its plans are built on first use, one per verb, and shared between threads.

    ``graphs`` is where plans are recorded as graphs; None takes the device's, unless the settings say no. ``of`` is the
    engine of the same model for images of another size, whose weights and sessions it shares.

    Raises:
        InputError: an unknown device or batch size.
        UnsupportedError: a precision or implementation that is unknown, or cannot run this model; scaled latents of a
            model that does not say how.
    """

    def __init__(
        self, model: Model, settings: Settings, *, graphs: GraphDevice | None = None, of: Engine | None = None
    ) -> None:
        if settings.scaled_latents:
            check_scaling(model.spec)
        self._begin(model, settings, resolve(settings, model), of, graphs)
        if settings.impl != "auto" and of is None and not self.how.fits_images:
            self.executors.of("reconstruct")

    def _begin(
        self, model: Model, settings: Settings, how: Resolved, of: Engine | None, graphs: GraphDevice | None = None
    ) -> None:
        """What belongs to this process: what it holds, and what finds, batches, runs and draws on that."""
        self.settings, self.how, self.spec, self._of = settings, how, model.spec, of
        self.device, self.dtype, self.precision, self.impl = how.device, how.dtype, how.precision, how.impl
        self.batch_invariant = how.batch_invariant
        self.head = output_head(model)
        self._sizes: dict[tuple[int, ...], Engine] = {}
        if graphs is None and how.graphs and how.device.type == "cuda":
            graphs = CudaGraphs(how.device)
        held = self._resources = Resources(how.device, graphs, Results() if how.arena else Results(0))
        self.executors: Executors = Executors(model, how, held, None if of is None else of.executors)
        self.batches = Batches(self.executors, how, held)
        self.runner = Runner(self.executors, how, held.numerics)
        self.draws = Draws(self.executors, self.runner, self.batches, how, held)
        self._short_ways = ShortWays(self.executors, self.batches, self.head, how, held)

    def __getstate__(self) -> tuple[Model, Settings, Resolved, Engine | None]:
        """Without what belongs to this process: a copy in another builds its own."""
        with self.in_use:
            return self.model, self.settings, self.how, self._of

    def __setstate__(self, state: tuple[Model, Settings, Resolved, Engine | None]) -> None:
        self._begin(*state)

    @property
    def model(self) -> Model:
        """The model; without its weights once closed."""
        return self.executors.model

    @property
    def in_use(self) -> Lifetime:
        """``with engine.in_use:`` is one caller at work, for whom closing waits."""
        return self._resources.lifetime

    @property
    def stages(self) -> Stages:
        """What carries rows of host memory to the device and back."""
        return self._resources.stages

    @property
    def results(self) -> Results:
        """Where the memory of large results comes from."""
        return self._resources.results

    def at(self, spec: ModelSpec) -> Engine:
        """The engine for images of the size of ``spec``, which is this one's spec but for that."""
        with self.in_use, self._resources.lock:
            found = self._sizes.pop(spec.input_shape, None)
            if found is None:
                found = Engine(replace(self.model, spec=spec), self.settings, of=self)
                if len(self._sizes) == MOST_SIZES:
                    del self._sizes[next(iter(self._sizes))]
            self._sizes[spec.input_shape] = found
            return found

    def close(self) -> None:
        """Free all memory, once callers inside have left; using it afterwards raises ClosedError."""
        for engine in list(self._sizes.values()):
            engine.close()
        self._resources.close()
        self.executors.forget()

    def for_caller(self, verb: str) -> str:
        """The verb whose plan runs for a caller's ``verb``: one of scaled latents where they are asked for.

        Scores, imputation and the prior have the model's own.
        """
        if verb in MEAN_VERBS:
            return PIXEL_VERBS[self.for_caller(MEAN_VERBS[verb])]
        return SCALED_VERBS.get(verb, verb) if self.settings.scaled_latents else verb

    def is_conditional(self, verb: str) -> bool:
        """Whether the plan of ``verb`` reads a condition."""
        return self.spec.condition is not None and "condition" in self.executors.of(verb).plan.inputs

    def explain(self, verb: str, rows: int, device: str) -> Explanation:
        """What ``verb`` runs at ``rows`` rows and should take on a device; ``auto`` is the engine's own.

        Errors as :func:`fastvae.plan.explain` and :func:`fastvae.plan.build_plan`.
        """
        own = "cpu" if self.device.type == "cpu" else part_of(self.device).target
        name = own if device == "auto" else str(device)
        eight_bits = self.executors.eight_bit_layers()

        def build(verb: str) -> Plan:
            plan = build_plan(
                self.model,
                verb,
                target="reference" if name.lower() == "cpu" else "triton",
                dtype=self.dtype,
                device="meta",  # nothing will run: shapes are enough
                batch_invariant=self.batch_invariant,
                tf32=self.precision == "tf32",
            )
            return in_eight_bits(plan, eight_bits)

        return explain_verb(self.spec, verb, build, rows, name, self.precision)

    def generate(
        self,
        rows: int,
        *,
        seed: int,
        start: int,
        condition: Tensor | None = None,
        out: Tensor | None = None,
        verb: str = "generate",
    ) -> Tensor:
        """E[x|z] for the latent samples of indices start to start + rows: (rows, *input_shape).

        ``verb`` may be ``generate_uint8``, for pixels.
        """
        # Noise is the same for any number of rows, so only the decoder runs in tiles; and no graph records a seed.
        graph = self._resources.graphs is not None and rows <= MOST_ROWS
        if self.batch_invariant or graph or self.how.decodes_samples:
            return self.decode(
                self.draws.for_samples(rows, seed=seed, start=start), condition, out, verb=DECODERS[verb]
            )
        draw = Draw(rows, seed, start, self.device, self.dtype)
        return self.runner.run(verb, rows, {"condition": condition}, draw, _one(out))[0]

    def encode(
        self, x: Tensor, condition: Tensor | None = None, out: Out = None, *, verb: str = "encode"
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (rows, *latent_shape); ``verb`` may be ``encode_scaled``."""
        mean, logvar = self.runner.run(verb, len(x), {"x": x, "condition": condition}, out=out)
        return mean, logvar

    def embed(
        self, x: Tensor, condition: Tensor | None = None, out: Tensor | None = None, *, verb: str = "embed"
    ) -> Tensor:
        """Mean of q(z|x): (rows, *latent_shape); ``verb`` may be ``embed_scaled``."""
        return self.runner.run(verb, len(x), {"x": x, "condition": condition}, out=_one(out))[0]

    def reconstruct(
        self, x: Tensor, condition: Tensor | None = None, out: Tensor | None = None, *, verb: str = "reconstruct"
    ) -> Tensor:
        """E[x|z] at the mean of q(z|x): (rows, *input_shape); ``verb`` may be ``reconstruct_uint8``, for pixels."""
        return self.runner.run(verb, len(x), {"x": x, "condition": condition}, out=_one(out))[0]

    def decode(
        self, z: Tensor, condition: Tensor | None = None, out: Tensor | None = None, *, verb: str = "decode"
    ) -> Tensor:
        """E[x|z]: (rows, *input_shape) for z of shape (rows, *latent_shape).

        ``verb`` may be ``decode_scaled``, and ``decode_uint8`` or ``decode_scaled_uint8`` for pixels.
        """
        return self.runner.run(verb, len(z), {"z": z, "condition": condition}, out=_one(out))[0]

    def parameters(self, z: Tensor, condition: Tensor | None = None) -> tuple[Tensor, ...]:
        """Parameters of p(x|z) for z of shape (rows, *latent_shape), as OutputHead reads them."""
        return self.runner.run("parameters", len(z), {"z": z, "condition": condition})

    def nll(self, z: Tensor, x: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """-log p(x|z) in nats: (samples, rows).

        ``z`` is (samples, rows, *latent_shape), ``x`` (rows, *input_shape).
        """
        return self.runner.run_samples("score", z, {"x": x, "condition": condition})[0]

    def squared_error(self, z: Tensor, x: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Sum of squared differences between x and E[x|z]: (samples, rows), for shapes as in :meth:`nll`."""
        return self.runner.run_samples("squared_error", z, {"x": x, "condition": condition})[0]

    def kl(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """KL(q(z|x) || N(0, I)) in nats, of a model with that prior: (rows,)."""
        return self.runner.run("kl", len(x), {"x": x, "condition": condition})[0]

    def elbo(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """-log p(x|z) at the mean z of q(z|x), and KL(q(z|x) || N(0, I)), in nats: each (rows,); as :meth:`kl`."""
        nll, kl = self.runner.run("elbo", len(x), {"x": x, "condition": condition})
        return nll, kl

    def distance(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Sum of squared differences between x and its reconstruction: (rows,)."""
        return self.runner.run("distance", len(x), {"x": x, "condition": condition})[0]

    def impute(self, z: Tensor, x: Tensor, *, mask: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """-log p(x|z) over the entries where ``mask`` (rows, *input_shape) is True, and E[x|z] of all.

        Shapes (samples, rows) and (samples, rows, *input_shape), for ``z`` and ``x`` as in :meth:`nll`.
        """
        nll, output = self.runner.run_samples("impute", z, {"x": x, "mask": mask, "condition": condition})
        return nll, output

    def direct(self, verb: str, x: object) -> list[NDArray[Any]] | None:
        """A verb's outputs for what a caller handed in, if it may go straight to a session; None if it may not.

        ``x`` are rows of the plan's only input.
        """
        if self.how.fits_images:  # another size may be run in another way
            own = self.spec.latent_shape if verb.startswith("decode") else self.spec.input_shape
            if tuple(getattr(x, "shape", ()))[1:] != own:
                return None
        call = self._short_ways.of(verb)
        return None if call is None else call(x)

    def generate_directly(self, rows: int, *, seed: int, start: int, verb: str = "generate") -> NDArray[Any] | None:
        """:meth:`generate` into host memory by the shortest way there is; None if it cannot be taken."""
        short = rows and self.impl == "onnxruntime" and not self.how.decodes_samples
        call = self._short_ways.of(verb) if short else None
        if call is None:
            return None
        dim = self.spec.latent_dim
        found = call.in_batches(rows, lambda low, high: prior(high - low, dim, seed=seed, start=start + low))
        return found[0] if found else None


def _one(out: Tensor | None) -> Out:
    return None if out is None else (out,)
